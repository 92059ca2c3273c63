import os

LOW, HIGH = float(os.environ["LOW"]), float(os.environ["HIGH"])


def init_context(context):
    context.user_data.celsius = None


def handler(context, event):
    pins = context.bindings["pins"]
    if event.trigger.kind == "http":
        return {"celsius": context.user_data.celsius, "heating": bool(pins.get("relay"))}
    celsius = context.user_data.celsius = event.get_field("value")
    if celsius < LOW:
        pins.set("relay", 1)
    elif celsius > HIGH:
        pins.set("relay", 0)
    context.logger.info_with("measured", "sensor", event.topic, "celsius", celsius)
    return None
