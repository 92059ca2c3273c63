def handler(context, event):
    door = event.path.rpartition("/")[2]
    opened = event.get_field("open")
    if not isinstance(opened, bool):
        return context.Response(status_code=400, body='"open" is true or false')
    context.bindings["broker"].publish(f"doors/{door}", "open" if opened else "closed", qos=1, retain=True)
    context.logger.info_with("door", "name", door, "open", opened)
    return None
