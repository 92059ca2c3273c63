"""The bytes of one connection -> whole requests, in any pieces and without I/O."""

from __future__ import annotations

from nuclio_edge.sources.http_chunked import Chunked
from nuclio_edge.sources.http_head import CHUNKED, MAX_HEAD, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nuclio_edge.sources.http_head import Head, Heads


class Intake:
    """Feed `buffer`, then ask for `next` until it has no more.

    `head` is that of a body on its way in, of which `held` bytes are there; `hold(size)` is asked for each more, and
    its False makes a Refusal. After a Refusal no more can be read.
    """

    __slots__ = ("_body", "_heads", "_hold", "_left", "_max_body", "_parts", "buffer", "head", "held")

    def __init__(self, heads: Heads, max_body: int, hold: Callable[[int], bool]) -> None:
        self.buffer = b""
        self.head: Head | None = None
        self.held = 0
        self._heads = heads
        self._max_body = max_body
        self._hold = hold
        self._parts: list[bytes] = []
        self._left = 0
        self._body: Chunked | None = None

    def next(self) -> tuple[Head, bytes] | None:
        """The next request, None when it is not whole yet; Refusal when it never will be one."""
        if self.head is None:
            head = self._take_head()
            if head is None:
                return None
            if not head.length:
                return head, b""
            if head.length > self._max_body:
                raise Refusal(413, f"the body is longer than {self._max_body} bytes", head)
            data = self.buffer
            if 0 < head.length <= len(data):
                self.buffer = data[head.length :]
                return head, data[: head.length]
            self.head = head
            self._left = head.length
            self._body = Chunked(self._max_body) if head.length == CHUNKED else None
        if not self.buffer:
            return None
        body = self._take_length() if self._body is None else self._take_chunks(self._body)
        if body is None:
            return None
        head = self.head
        self.drop()
        return head, body

    def drop(self) -> None:
        """Forget the body that is on its way in."""
        if self.held:
            self._hold(-self.held)
            self.held = 0
        self._parts = []
        self.head = self._body = None

    def _take_head(self) -> Head | None:
        data = self.buffer
        end = data.find(b"\r\n\r\n", 0, MAX_HEAD) + 4
        if end == 3:
            if len(data) >= MAX_HEAD:
                raise Refusal(431, f"a head has {MAX_HEAD} bytes at most")
            if data.count(b"\n") != data.count(b"\r\n"):  # no whole head has that: more of it need not be waited for
                raise Refusal(400, "a line does not end as it should")
            return None
        self.buffer = data[end:]
        return self._heads.head(data if end == len(data) else data[:end])

    def _take_length(self) -> bytes | None:
        data = self.buffer
        piece = data if len(data) <= self._left else data[: self._left]
        self.buffer = data[len(piece) :]
        self._parts.append(piece)
        self._left -= len(piece)
        self._count(len(piece))
        return None if self._left else b"".join(self._parts)

    def _take_chunks(self, body: Chunked) -> bytes | None:
        before = len(body.body)
        self.buffer = self.buffer[body.take(self.buffer, 0) :]
        self._count(len(body.body) - before)
        return bytes(body.body) if body.done else None

    def _count(self, size: int) -> None:
        self.held += size
        if not self._hold(size):
            raise Refusal(503, "no memory for the body at present", self.head)
