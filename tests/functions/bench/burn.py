"""Burns CPU in Python for as many seconds as the event says."""

import time


def handler(context, event):
    end = time.monotonic() + float(event.body)
    total = 0
    while time.monotonic() < end:
        for i in range(1000):
            total += i
