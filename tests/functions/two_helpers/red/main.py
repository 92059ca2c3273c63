import helper


def handler(context, event):
    return helper.NAME


def lazily(context, event):
    from helper import later

    return later()
