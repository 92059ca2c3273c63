"""The least that is an answer."""


def handler(context, event):
    return b"hello"
