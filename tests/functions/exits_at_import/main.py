import sys

sys.exit(3)


def handler(context, event):
    pass
