"""Gives back what came."""


def handler(context, event):
    return event.body
