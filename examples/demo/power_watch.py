"""Switches off what draws too much power for too long: Shelly devices in, commands and alarms out."""

import os


def init_context(context):
    context.user_data.over = {}  # device -> readings above the limit in a row


def handler(context, event):
    if event.trigger.name == "gen1":  # shellies/washer/relay/0/power: "1840.55"
        device = event.topic.split("/")[1]
        power = float(event.body)
        command, payload = f"shellies/{device}/relay/0/command", "off"
    else:  # pump/events/rpc: {"method": "NotifyStatus", "params": {"switch:0": {"apower": 310.2}}}
        device = event.topic.split("/")[0]
        power = event.get_field("params", {}).get("switch:0", {}).get("apower")
        if power is None:
            return None
        command = f"{device}/rpc"
        payload = {"id": 1, "src": "nuclio-edge", "method": "Switch.Set", "params": {"id": 0, "on": False}}

    over = context.user_data.over
    over[device] = over.get(device, 0) + 1 if power > float(os.environ["LIMIT"]) else 0
    said = f"{device} {power:.0f} W"
    if over[device] < int(os.environ["READINGS"]):
        context.logger.info_with(said, "topic", event.topic)
        return None

    over[device] = 0
    context.bindings["broker"].publish(command, payload)
    context.logger.warn_with(said, "topic", event.topic, "command", command, "payload", payload)
    return {"device": device, "power": power, "switched": "off"}  # to the output: alarms/power
