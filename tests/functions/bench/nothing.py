"""Does nothing."""


def handler(context, event):
    pass
