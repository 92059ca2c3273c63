"""Light where somebody moves: a Zigbee2MQTT motion sensor in, the lamp of the same room out."""

import os


def handler(context, event):
    device = event.topic.split("/")[1]  # zigbee2mqtt/hall_motion
    occupied = event.get_field("occupancy")
    if occupied is None or not device.endswith("_motion"):
        return  # lamps report on the same level
    dark = event.get_field("illuminance", 0) < int(os.environ["DARK"])
    said = f"{device} {'sees motion' if occupied else 'sees nobody'}, {event.get_field('illuminance')} lx"
    if occupied and not dark:
        context.logger.info_with(said, "topic", event.topic)
        return

    command = f"zigbee2mqtt/{device.removesuffix('_motion')}_lamp/set"
    payload = {"state": "ON", "brightness": 180} if occupied else {"state": "OFF"}
    context.bindings["broker"].publish(command, payload)
    context.logger.info_with(said, "topic", event.topic, "command", command, "payload", payload)
