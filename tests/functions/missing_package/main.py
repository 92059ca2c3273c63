import bme280_that_nobody_has


def handler(context, event):
    pass
