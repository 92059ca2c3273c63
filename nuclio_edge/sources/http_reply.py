"""The head of a response: status, headers and length -> bytes; the usual ones are made once a second.

Which bytes follow is not for handlers to say: Content-Length, Transfer-Encoding, Connection and the like of theirs are
left out; the connection sets its own.
"""

from __future__ import annotations

import re
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

REASONS = {
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content", 301: "Moved Permanently",
    302: "Found", 303: "See Other", 304: "Not Modified", 307: "Temporary Redirect", 308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    406: "Not Acceptable", 408: "Request Timeout", 409: "Conflict", 410: "Gone", 411: "Length Required",
    412: "Precondition Failed", 413: "Content Too Large", 415: "Unsupported Media Type", 417: "Expectation Failed",
    418: "I'm a teapot", 422: "Unprocessable Content", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip
BODILESS = (204, 304)

_REMEMBERED = 64
_NO_CLOCK = 1_577_836_800_000  # 2020: a clock that shows an earlier time was never set, and no Date is sent
_OURS = frozenset((
    "connection", "content-length", "date", "keep-alive", "proxy-connection", "server", "te", "trailer",
    "transfer-encoding", "upgrade",
))  # fmt: skip
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Replies:
    """The beginnings of response heads, up to where the length follows; valid within one second of the wall clock."""

    __slots__ = ("_date", "_starts", "known", "second")

    def __init__(self) -> None:
        self.second = -1
        self._date = b""
        # (status, content type, length) -> a whole head; for the source's inner loop
        self.known: dict[tuple[int, str | None, int], bytes] = {}
        self._starts: dict[tuple[int, str | None], bytes] = {}  # up to the length

    def renew(self, wall_ms: int) -> None:
        """Another second has begun."""
        self.second = wall_ms // 1000
        self._date = _date(self.second) if wall_ms > _NO_CLOCK else b""
        self.known.clear()
        self._starts.clear()

    def usual(self, status: int, content_type: str | None, length: int) -> bytes:
        """The head of a response that has no other header; ValueError when the content type cannot be sent."""
        made = self.likely(status, content_type, length)
        if made is not None:
            return made
        start = self.first(status) + _content_type(content_type) + b"Content-Length: "
        if status != 503 and not (content_type or "").startswith("application/cloudevents"):
            if len(self._starts) >= _REMEMBERED:
                self._starts.clear()
            self._starts[status, content_type] = start
        return b"%b%d\r\n\r\n" % (start, length)

    def likely(self, status: int, content_type: str | None, length: int) -> bytes | None:
        """The head, if one of its kind was sent in this second and needs no other header.

        Never of a 503, which wants Retry-After, nor of a CloudEvent, which has its attributes.
        """
        made = self.known.get((status, content_type, length))
        if made is None:
            start = self._starts.get((status, content_type))
            if start is not None:
                made = b"%b%d\r\n\r\n" % (start, length)
                if len(self.known) >= _REMEMBERED:
                    self.known.clear()
                self.known[status, content_type, length] = made
        return made

    def first(self, status: int) -> bytes:
        """The status line, Server and Date."""
        line = f"HTTP/1.1 {status} {REASONS.get(status, '')}\r\nServer: nuclio-edge\r\n"
        return line.encode() + self._date


def fields(headers: Mapping[str, str], content_type: str | None) -> bytes:
    """A handler's headers as lines; ValueError names the one that cannot be sent.

    A Content-Type among them wins over `content_type`.
    """
    lines = []
    for name, value in headers.items():
        low = name.lower()
        if low in _OURS:
            continue
        if low == "content-type":
            content_type = None
        lines.append(_line(name, value))
    return _content_type(content_type) + b"".join(lines)


def _content_type(content_type: str | None) -> bytes:
    return b"" if content_type is None else _line("Content-Type", content_type)


def _line(name: str, value: str) -> bytes:
    raw = value.encode()
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(raw):
        raise ValueError(f"the header {name!r} cannot be sent: its name or value holds what HTTP does not allow")
    return b"%b: %b\r\n" % (name.encode(), raw)


def _date(second: int) -> bytes:
    """The Date line (RFC 9110, 5.6.7), whatever the locale."""
    t = time.gmtime(second)
    day = f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year}"
    return f"Date: {day} {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT\r\n".encode()
