def handler(context, event):
    return event.body


def other(context, event):
    return None
