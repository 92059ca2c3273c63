def handler(context, event):
    value = (1,
    return value
