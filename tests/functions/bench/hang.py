"""Waits for longer than its timeout, as on a device that does not answer."""

import time


def handler(context, event):
    time.sleep(1.5)
