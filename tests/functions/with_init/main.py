from . import GREETING


def handler(context, event):
    return GREETING
