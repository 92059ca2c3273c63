import os
from os import environ

AT_IMPORT = os.environ.get("GREETING")


def handler(context, event):
    return AT_IMPORT, environ["GREETING"], os.getenv("NUCLIO_FUNCTION_NAME"), "PATH" in os.environ
