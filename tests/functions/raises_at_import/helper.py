import json


def read():
    return json.loads("{")


SETTINGS = read()
