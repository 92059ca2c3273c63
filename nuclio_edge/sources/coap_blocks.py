"""Bodies in blocks (RFC 7959): requests put together from theirs, replies handed out in ours. Bounded every way."""

from __future__ import annotations

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.sources import coap_formats as formats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.inbox import Budget
    from nuclio_edge.core.loop import Loop
    from nuclio_edge.sources.coap_peer import Peer
    from nuclio_edge.sources.coap_plan import Plan

LIFETIME_MS = 247_000  # EXCHANGE_LIFETIME: after that a peer does not go on
LIVELY_MS = 21_000  # a peer may go on after so long: three of its datagrams in a row lost (RFC 7252, 4.2: 3 + 6 + 12 s)
UPLOADS = 64
RENDERINGS = 64
_LOOK_MS = 30_000


class Upload:
    """A request's body on its way in."""

    __slots__ = ("body", "until")

    def __init__(self, until: int) -> None:
        self.body = bytearray()
        self.until = until


class Rendering:
    """A reply that is longer than a block, kept until the peer has fetched the rest."""

    __slots__ = ("body", "code", "etag", "options", "until")

    def __init__(self, code: int, options: list[tuple[int, bytes]], body: bytes, until: int) -> None:
        self.code = code
        self.options = options
        self.body = body
        self.etag = next((value for number, value in options if number == coap.ETAG), b"")
        self.until = until


class Blocks:
    """What is on its way in either direction, by peer and by what it asks for.

    A new beginning replaces what was there. Where there is no room the replies that are kept longest go, counted in
    `dropped`, then the uploads that stood still longest, in `unfinished`. One whose peer may still go on stays: who
    comes last is told to come again, or of many peers at once none would ever come to an end.
    """

    def __init__(self, loop: Loop, max_body: int, budget: Budget | None = None) -> None:
        self._loop = loop
        self._max_body = max_body
        self._most = 4 * max(max_body, 1 << 20)
        self._budget = budget  # the memory that they share with all inboxes
        if budget is not None:
            self._most = max(min(self._most, budget.limit // 4), max_body)
        self._uploads: dict[tuple[Any, ...], Upload] = {}
        self._renderings: dict[tuple[Any, ...], Rendering] = {}
        self._timer: Any = None
        self.held = 0  # bytes, both ways
        self.dropped = 0  # replies that were no longer kept when room was needed
        self.unfinished = 0  # uploads that their peers never finished, or that had to go

    def add(self, peer: Peer, plan: Plan, part: bytes) -> tuple[bytes | None, tuple[int, str] | None]:
        """Take a block of a request: (None, None) to go on, (body, None) whole, or (None, (code, text)) refused."""
        assert plan.block1 is not None  # noqa: S101 - that is why we are here
        number, more, size = plan.block1
        key = (peer.address, plan.code, plan.asked)
        upload = self._uploads.pop(key, None)
        if number == 0:
            if upload is not None:
                self._hold(-len(upload.body))
                self.unfinished += 1
            if not more:
                return (part, None) if len(part) <= self._max_body else (None, self._too_large())
            upload = Upload(0)
        elif upload is None or number * size != len(upload.body):
            if upload is not None:
                self._uploads[key] = upload
            return None, (formats.INCOMPLETE, "blocks are missing before this one")
        wrong = None
        if more and len(part) != size:
            wrong = formats.BAD_REQUEST, "a block that is not of its size"
        elif len(upload.body) + len(part) > self._max_body:
            wrong = self._too_large()
        elif not self._make_room(len(part)):
            wrong = formats.UNAVAILABLE, "too many bodies are on their way in"
        if wrong is not None:
            self._hold(-len(upload.body))
            return None, wrong
        upload.body += part
        self._hold(len(part))
        upload.until = self._loop.now + LIFETIME_MS
        self._uploads[key] = upload  # behind all others: they are in the order of their last blocks
        if more:
            self._watch()
            return None, None
        body = bytes(upload.body)
        self._forget(key)
        return body, None

    def keep(self, peer: Peer, plan: Plan, code: int, options: list[tuple[int, bytes]], body: bytes) -> None:
        """Keep a reply whose further blocks will be asked for."""
        key = (peer.address, plan.code, plan.asked)
        self._drop(key)
        while self._renderings and (len(self._renderings) >= RENDERINGS or self.held + len(body) > self._most):
            self._drop(next(iter(self._renderings)))
            self.dropped += 1
        self._renderings[key] = Rendering(code, options, body, self._loop.now + LIFETIME_MS)
        self._hold(len(body))
        self._watch()

    def find(self, peer: Peer, plan: Plan) -> Rendering | None:
        """The reply of which a further block is asked for, if it is still there."""
        found = self._renderings.get((peer.address, plan.code, plan.asked))
        if found is not None:
            found.until = self._loop.now + LIFETIME_MS
        return found

    def close(self) -> None:
        """Let go of everything."""
        self.unfinished += len(self._uploads)
        self._uploads.clear()
        self._renderings.clear()
        self._hold(-self.held)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hold(self, size: int) -> None:
        self.held += size
        if self._budget is not None:
            self._budget.used += size

    def _too_large(self) -> tuple[int, str]:
        return formats.TOO_LARGE, f"{self._max_body} bytes are taken at most"

    def _make_room(self, size: int) -> bool:
        """Let go of what may go until one more upload, and `size` bytes, find room; False if that is not enough."""
        while self._renderings and self.held + size > self._most:
            self._drop(next(iter(self._renderings)))
            self.dropped += 1
        stale = self._loop.now + LIFETIME_MS - LIVELY_MS
        while self._uploads and (len(self._uploads) >= UPLOADS or self.held + size > self._most):
            key, upload = next(iter(self._uploads.items()))
            if upload.until > stale:
                return False
            self._forget(key)
            self.unfinished += 1
        return self.held + size <= self._most

    def _forget(self, key: tuple[Any, ...]) -> None:
        upload = self._uploads.pop(key, None)
        if upload is not None:
            self._hold(-len(upload.body))

    def _drop(self, key: tuple[Any, ...]) -> None:
        gone = self._renderings.pop(key, None)
        if gone is not None:
            self._hold(-len(gone.body))

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(_LOOK_MS, self._look)

    def _look(self) -> None:
        """Let go of what nobody went on with."""
        self._timer = None
        now = self._loop.now
        for key in [key for key, upload in self._uploads.items() if upload.until <= now]:
            self._forget(key)
            self.unfinished += 1
        for key in [key for key, rendering in self._renderings.items() if rendering.until <= now]:
            self._drop(key)
        if self._uploads or self._renderings:
            self._watch()
