import sys


def handler(context, event):
    return "handled"


if __name__ == "__main__":
    sys.exit(handler(None, None))
