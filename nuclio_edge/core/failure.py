"""What a failed call comes to: an answer for who asked, and perhaps another attempt; imported at the first failure."""

from .encode import to_response
from .port import const
from .response import JSON, ExceptionWithResponse, Response

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from typing import Any

    from .event import Event
    from .inbox import Trigger


class HandlerTimeout(BaseException):
    """A handler went past its function's `timeout`; raised into its thread, and the reason of the event's failure.

    Not an Exception: a handler that retries everything in a loop would swallow it.
    """


def error_response(error: BaseException, function: "Any" = None) -> Response:
    """What a requester gets for an exception: Nuclio's 500, 408 for a timeout, or what the exception itself brings.

    The text of the 500 is ours, and shows no more than the log: where the function has secrets, `masked` hides them.
    """
    if isinstance(error, ExceptionWithResponse):
        answer = to_response(Response(None, error.body, error.content_type, error.status_code))
        if isinstance(answer.body, bytes):
            return answer
        return to_response(Response(status_code=500, body="an exception's body cannot come in parts"))
    if isinstance(error, HandlerTimeout):
        # Spelled out: the first JSON imports what makes it, with orjson 38 ms, in which the loop stands still.
        return Response(None, b'{"error":"handler timed out"}', JSON, 408)
    try:
        text = str(error)
        text = type(error).__name__ + (": " + text if text else "")
    except BaseException:  # noqa: BLE001 - its __str__ is the user's code, and runs on the loop
        text = "one that cannot be told: its __str__ raises"
    masked = getattr(function, "masked", None)  # a board has no secrets to hide
    if masked is not None:
        text = masked(text)
    return to_response(Response(status_code=500, body="Exception caught in handler - " + text))


def again(trigger: "Trigger", event: "Event", error: "BaseException | None", status: int, result: "Any" = None) -> bool:
    """Have a failed event tried again after a pause, if attempts are left and its function may; whether it will be."""
    attempt = event._attempt + 1
    if attempt >= trigger.attempts or not trigger.function.may_retry():
        return False
    event._attempt = attempt
    trigger.retried += 1
    delay = trigger.backoff_ms << (attempt - 1) if attempt < 32 else trigger.max_backoff_ms
    delay = min(delay, trigger.max_backoff_ms)
    trigger.function.on_retry(event, error, delay, status, result)
    who = trigger.box if hasattr(trigger.box, "again") else trigger.function.runner  # batches are collected anew
    trigger.loop.call_later(delay, lambda: who.again(event))
    return True
