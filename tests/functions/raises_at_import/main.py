import helper


def handler(context, event):
    pass
