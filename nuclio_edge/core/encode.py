"""What any value that a handler returns becomes; imported when the first value has somewhere to go.

Law: after `to_response` the body is bytes (or a generator, for sources that stream), the status is an int
of 100..599, and nothing a handler returned can raise any more. The table is Nuclio's, except that None is
an empty body, a list is one JSON array and ExceptionWithResponse is honoured.
"""

from . import port
from .port import const
from .response import JSON, TEXT, ExceptionWithResponse, Response
from .worker import ENCODER, status_of

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from typing import Any

    from .event import Event
    from .inbox import Trigger


class Unencodable(Response):
    """The 500 that stands in for a value that cannot be sent; its body says which part, and why."""


class Sealed:
    """A response that a worker has made of what its handler returned, so that nothing can change it any more."""

    __slots__ = ("response",)

    def __init__(self, response: Response) -> None:
        self.response = response


def seal(value: "Any", wanted: bool) -> "Any":
    """What is noted in the place of a returned value, which its handler may change before the loop looks.

    `wanted`: whether it goes anywhere. If not only its status counts: None for a good one. What a bad one says is for
    the log.
    """
    if wanted:
        return Sealed(to_response(value))
    return to_response(value) if status_of(value) >= 400 else None


def seal_answers(value: "Any") -> "Any":
    """The same for a handler of batches, of whose answers each event takes its own."""
    if isinstance(value, list) and any(isinstance(one, Response) for one in value):
        return [to_response(one) for one in value if isinstance(one, Response)]
    return None if value is None else to_response(value)


def _generate() -> "Any":
    yield


# MicroPython has no name for it, and coroutines are of this type there.
_Generator = type(_generate())


def to_response(value: "Any") -> Response:
    """Whatever a handler returned (or the ExceptionWithResponse it raised), as a Response with a body of bytes.

    Never raises: what cannot be encoded gives an `Unencodable` with status 500. The handler's own Response, which
    it may return again, is not changed.
    """
    try:
        kind = type(value)
        if kind is dict:
            body, content_type = to_json(value), JSON
        elif kind is str:
            body, content_type = value.encode(), TEXT
        elif kind is bytes:
            body, content_type = value, TEXT
        else:
            return _of_another(value)
        # Made empty and filled in place: a third of what a call of its `__init__` costs.
        answer: Response = object.__new__(Response)
        answer.headers = {}
        answer.body = body
        answer.content_type = content_type
        answer.status_code = 200
        answer.event_id = None
        return answer
    except BaseException as error:  # noqa: BLE001 - a value's own methods may raise anything, SystemExit too
        try:
            text = str(error).encode()
        except BaseException:  # noqa: BLE001 - as above
            text = b"it raises"
        return Unencodable(None, b"the handler's answer cannot be encoded: " + text, None, 500)


def tell(trigger: "Trigger", event: "Event", response: Response) -> None:
    """Give an answer to each output of the function; one that raises keeps it from no other, nor from the source."""
    for send in trigger.function.outputs:
        try:
            send(response, event)
        except Exception as error:  # noqa: BLE001 - whatever an output raises
            trigger.loop.on_error(error, send)


def _of_another(value: "Any") -> Response:
    if type(value) is Sealed:
        return value.response
    if isinstance(value, (Response, ExceptionWithResponse)):
        return _from_response(value)
    status = 200
    if isinstance(value, tuple) and len(value) == 2:
        status = _status(value[0])
        value = value[1]
        if value is not None and not isinstance(value, str):
            return Response(None, to_json(value), JSON, status)
    elif isinstance(value, (dict, list)):
        return Response(None, to_json(value), JSON)
    elif isinstance(value, bytearray):
        value = str(value)
    return Response(None, _bytes(value), None, status)


def _from_response(value: "Any") -> Response:
    body = value.body
    content_type = value.content_type
    if isinstance(body, dict) or (isinstance(body, list) and content_type == JSON):
        body = to_json(body)
        if not isinstance(content_type, str) or not content_type.endswith("+json"):  # a CloudEvent, a problem …
            content_type = JSON
    if content_type is not None and not isinstance(content_type, str):
        raise ValueError("content_type is a %s, not text" % type(content_type).__name__)
    answer = Response(None, _bytes(body), content_type, _status(value.status_code))
    if isinstance(value, Response):
        answer.event_id = value.event_id
        if value.headers:
            answer.headers = _headers(value.headers)
    return answer


def _bytes(value: "Any") -> "Any":
    if isinstance(value, bytes):
        return value
    if value is None:
        return b""
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, _Generator) or hasattr(value, "__anext__"):
        return value
    return str(value).encode()


def _status(value: "Any") -> int:
    try:
        status = int(value)
    except (TypeError, ValueError):
        status = 0
    if not 100 <= status <= 599:
        what = value if isinstance(value, int) else "of type " + type(value).__name__  # what text says may be a secret
        raise ValueError("status %s is not a number of 100 to 599" % (what,))
    return status


def _headers(headers: "Any") -> "dict[str, str]":
    """The headers with every value as text, spelled as JSON does: proxies and Go's ParseBool read "true"."""
    kept = {}
    for key in headers:
        value = headers[key]
        if value is not None:
            text = value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
            for char in "\r\n\0":
                if char in key or char in text:
                    raise ValueError("header %r holds a line break or NUL" % key)
            kept[key] = text
    return kept


def _to_json(value: "Any") -> bytes:
    return port.json_dumps(value).encode()


# Value as JSON in UTF-8; what JSON cannot say as `plain` tells, which raises the ValueErrors too. Shorter on CPython.
to_json = getattr(port, "json_bytes", _to_json)

ENCODER.extend((to_response, tell))
