"""Keeps rooms warm: a Tasmota sensor's temperature in, ON or OFF for the room's heater plug out."""

import os

MILD = 18.0  # outdoors, from here on nobody needs to heat


def init_context(context):
    context.user_data.heats = {}  # room -> whether its heater is on
    context.user_data.outdoor = None


def handler(context, event):
    state = context.user_data
    if event.topic == "sensors/outdoor/temperature":  # "7.8": a plain number
        state.outdoor = event.body and float(event.body)
        context.logger.info_with(f"{state.outdoor:.1f} °C outdoors", "topic", event.topic)
        return

    room = event.topic.split("/")[1]  # tele/livingroom/SENSOR
    sensor = event.get_field("AM2301")  # {"Temperature": 19.4, "Humidity": 41.0}
    if sensor is None:
        return  # an energy meter, say
    temperature = sensor["Temperature"]
    mild = state.outdoor is not None and state.outdoor >= MILD

    heat = state.heats.get(room)
    if temperature >= float(os.environ["HIGH"]) or mild:
        wanted = False
    elif temperature <= float(os.environ["LOW"]):
        wanted = True
    else:
        wanted = bool(heat)  # between the two everything stays as it is

    said = f"{room} {temperature:.1f} °C"
    if wanted == heat:
        context.logger.info_with(said, "topic", event.topic)
        return
    command = f"cmnd/{room}-heater/POWER"
    context.bindings["broker"].publish(command, "ON" if wanted else "OFF")
    state.heats[room] = wanted
    context.logger.info_with(said, "topic", event.topic, "command", command, "payload", "ON" if wanted else "OFF")
