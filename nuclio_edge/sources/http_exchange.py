"""One request and its answer, in its place in the order of the connection it came on.

An answer is given once: whole by `answer`, or in parts by `begin`, `write`, `end`. It goes out when those before it
have. After the connection is gone all of them do nothing.
"""

from __future__ import annotations

from nuclio_edge.sources.http_reply import BODILESS, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from nuclio_edge.sources.http_connection import Connection
    from nuclio_edge.sources.http_head import Head

# How the parts of an answer are told apart on the wire.
_WHOLE, _CHUNKED, _UNTIL_CLOSE, _NOTHING = range(4)


class Exchange:
    """A request that waits for its answer. `head` and `body` are the request's; `note` is for whoever answers."""

    __slots__ = ("_parts", "body", "closes", "connection", "ended", "head", "note", "on_room", "plain", "waiting")

    if TYPE_CHECKING:
        body: bytes
        closes: bool
        connection: Connection | None  # None once it is gone
        ended: bool
        head: Head
        note: Any
        on_room: Callable[[], Any] | None  # of an answer in parts: called when there is room for more
        plain: bool  # nothing keeps the answer from being of the usual kind
        waiting: bytes  # what may not go out yet, since an earlier answer has not

    # Made empty, without a call of Python code (150 ns against 300), and filled by `exchange_of` or the connection.
    __init__ = object.__init__

    def answer(
        self, status: int, content_type: str | None = None, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """Give the whole answer; ValueError, with nothing sent, when a header or the content type cannot be sent."""
        connection = self.connection
        if connection is None or self.ended:
            return
        server = connection.server
        replies = server.replies
        if replies.second != server.loop.wall // 1000:
            replies.renew(server.loop.wall)
        head = self.head
        if headers or self.closes or status in BODILESS or not head.minor:
            start = replies.first(status) + fields(headers or {}, content_type)
            start += self._connection()
            if status in BODILESS:
                data = start + b"\r\n"
                body = b""
            else:
                data = b"%bContent-Length: %d\r\n\r\n" % (start, len(body))
        else:
            kind = (status, content_type, len(body))
            data = replies.known.get(kind) or replies.usual(*kind)
        if head.method != "HEAD":
            data += body
        self.ended = True
        if self.closes or not connection.alone(data):
            self.waiting += data
            connection.advance(self)

    def begin(self, status: int, content_type: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Begin an answer whose length is not known; ValueError as in `answer`."""
        connection = self.connection
        if connection is None:
            return
        server = connection.server
        server.replies.renew(server.loop.wall)
        start = server.replies.first(status) + fields(headers or {}, content_type)
        if self.head.method == "HEAD" or status in BODILESS:
            self._parts = _NOTHING
        elif self.head.minor:
            self._parts = _CHUNKED
            start += b"Transfer-Encoding: chunked\r\n"
        else:
            self._parts = _UNTIL_CLOSE
            self.closes = True
        self.waiting += start + self._connection() + b"\r\n"
        connection.advance(self)

    def write(self, part: bytes) -> bool:
        """Send a part on its way; whether there is room for more: if not, wait for `on_room`."""
        connection = self.connection
        if connection is None:
            return True
        if part and self._parts != _NOTHING:
            self.waiting += b"%x\r\n%b\r\n" % (len(part), part) if self._parts == _CHUNKED else part
            connection.advance(self)
        return not self.waiting and connection.has_room()

    def end(self) -> None:
        """The answer is whole."""
        connection = self.connection
        if connection is None:
            return
        if self._parts == _CHUNKED:
            self.waiting += b"0\r\n\r\n"
        self.ended = True
        connection.advance(self)

    def abort(self) -> None:
        """The answer that has begun will never be whole: the client is to notice, so the connection breaks off."""
        if self.connection is not None:
            self.connection.abort()

    def _connection(self) -> bytes:
        if self.closes:
            return b"Connection: close\r\n"
        return b"" if self.head.minor else b"Connection: keep-alive\r\n"


def exchange_of(connection: Connection, head: Head, body: bytes) -> Exchange:
    """The exchange of a request that is whole; the connection's inner loop spells it out."""
    made: Exchange = Exchange()
    made.connection = connection
    made.head = head
    made.body = body
    made.closes = not head.keep_alive
    made.plain = head.plain
    made.waiting = b""
    made.ended = False
    made.note = made.on_room = None
    return made
