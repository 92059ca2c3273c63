"""The answer of a handler; what any other returned value becomes one by is in encode.py."""

from . import port
from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from typing import Any

TEXT = "text/plain"
JSON = "application/json"


class Response:
    """What a handler answers with; also reachable as context.Response.

    body may be anything until `to_response` has made it bytes. A header's value may be str, int, float or bool;
    None leaves the header out. event_id matches an answer to its event in a batch.
    """

    __slots__ = port.slots("headers body content_type status_code event_id")

    def __init__(
        self,
        headers: "dict[str, Any] | None" = None,
        body: "Any" = None,
        content_type: "str | None" = None,
        status_code: int = 200,
        event_id: "str | None" = None,
    ) -> None:
        self.headers = headers or {}
        self.body = body
        self.content_type = content_type or TEXT
        self.status_code = status_code
        self.event_id = event_id

    def ensure_no_ack(self) -> None:
        """Ask the stream's source not to mark this event as done (explicit acknowledgement)."""
        self.headers["x-nuclio-stream-no-ack"] = True

    def __repr__(self) -> str:
        return "Response(%r, %r, %r, %r)" % (self.headers, self.body, self.content_type, self.status_code)


class ExceptionWithResponse(OSError):  # noqa: N818 - the SDK's name
    """Raised by a handler to answer with a status and a body of its own."""

    def __init__(self, status_code: int, body: "Any" = None, content_type: "str | None" = None) -> None:
        super().__init__(status_code, body)
        self.status_code = status_code
        self.body = body
        self.content_type = content_type
