import nuclio_sdk
import nuclio_sdk.event
from nuclio_sdk import Event, ExceptionWithResponse, Response


def init_context(context):
    context.user_data.seen = []


def handler(context, event):
    context.user_data.seen.append(event.body)
    if event.body == b"stop":
        raise ExceptionWithResponse(409, "stopped")
    return nuclio_sdk.Response(body={"seen": len(context.user_data.seen)}, headers={"n": 1}, status_code=201)
