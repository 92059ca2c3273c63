def handler(context, event):
    pins = context.bindings["pins"]
    if event.press == "hold":
        pins.set("relay", 0)
        on = 0
    else:
        on = pins.toggle("relay")
    context.logger.info_with("light", "press", event.press, "on", on)
