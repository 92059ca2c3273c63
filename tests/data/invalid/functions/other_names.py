RATE = 1


def main(context, event):
    return 1


def cleanup(context, event):
    return 1


def _private(context, event):
    return 1
