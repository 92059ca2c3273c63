import email
import json
import math
import time


def handler(context, event):
    return json.MINE, hasattr(time, "sleep"), hasattr(email, "message_from_string"), hasattr(math, "pi")
