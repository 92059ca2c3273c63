"""Bodies in blocks (RFC 7959): requests put together from theirs, replies handed out in ours. Bounded every way."""

from __future__ import annotations

from collections import Counter

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
    """A request's body on its way in, the `number`-th that was begun; `begun` and `touched` by the loop's clock."""

    __slots__ = ("begun", "body", "number", "touched")

    def __init__(self, number: int, now: int) -> None:
        self.body = bytearray()
        self.number = number
        self.begun = self.touched = now

    def may_go_on(self, now: int) -> bool:
        """Whether its peer may still be at it; nobody is for longer than an exchange may take."""
        return now - self.touched < LIVELY_MS and now - self.begun < LIFETIME_MS


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

    A new beginning replaces what was there. Where there is no room there go, as far as that helps: the uploads that
    stood still longest and those that take too long, counted in `unfinished`; the replies that are kept longest, in
    `dropped`; then, of the host that has most uploads, the one that was begun last, which is told to come again. So
    of many peers at once some come to an end, and none keeps others out.
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
        self._begun = 0  # uploads
        self.held = 0  # bytes, both ways
        self.dropped = 0  # replies that were no longer kept when room was needed
        self.unfinished = 0  # uploads that their peers never finished, or that had to go

    def add(self, peer: Peer, plan: Plan, part: bytes) -> tuple[bytes | None, tuple[int, str] | None]:
        """Take a block of a request: (None, None) to go on, (body, None) whole, or (None, (code, text)) refused."""
        assert plan.block1 is not None  # noqa: S101 - that is why we are here
        number, more, size = plan.block1
        key = (peer.address, plan.code, plan.asked)
        now = self._loop.now
        upload = self._uploads.get(key)
        if number == 0:
            again = upload
            if again is not None:
                self._forget(key)
                self.unfinished += 1
            if not more:
                return (part, None) if len(part) <= self._max_body else (None, self._too_large())
            self._begun += 1
            upload = Upload(self._begun, now)
            if again is not None:
                upload.begun = again.begun  # who begins again and again comes no further
        elif upload is None or number * size != len(upload.body):
            return None, (formats.INCOMPLETE, "blocks are missing before this one")
        wrong = None
        if more and len(part) != size:
            wrong = formats.BAD_REQUEST, "a block that is not of its size"
        elif len(upload.body) + len(part) > self._max_body:
            wrong = self._too_large()
        elif not self._make_room(key, upload, len(part)):
            wrong = formats.UNAVAILABLE, "too many bodies are on their way in"
        if wrong is not None:
            self.unfinished += key in self._uploads
            self._forget(key)
            return None, wrong
        upload.body += part
        self._hold(len(part))
        upload.touched = now
        self._uploads.pop(key, None)
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

    def _make_room(self, key: tuple[Any, ...], upload: Upload, size: int) -> bool:
        """Make room for another block of an upload, new or not; False, with nothing gone, if it is its turn to go."""
        over = len(self._uploads) + (key not in self._uploads) - UPLOADS
        need = self.held + size - self._most
        if over <= 0 and need <= 0:
            return True
        now = self._loop.now
        left = {**self._uploads, key: upload}
        doomed = [other for other, one in left.items() if one is not upload and not one.may_go_on(now)]
        replies = sum(len(rendering.body) for rendering in self._renderings.values())
        going = []
        while over > 0 or need > replies:
            victim = doomed.pop(0) if doomed else self._last_come(left)
            if victim == key:
                return False
            going.append(victim)
            over -= 1
            need -= len(left.pop(victim).body)
        for victim in going:
            self._forget(victim)
            self.unfinished += 1
        while self.held + size > self._most:
            self._drop(next(iter(self._renderings)))
            self.dropped += 1
        return True

    def _last_come(self, uploads: dict[tuple[Any, ...], Upload]) -> tuple[Any, ...]:
        """Of the host that has most uploads, or of all where several have as many, the one that was begun last."""
        hosts = Counter(key[0][0] for key in uploads)
        most = max(hosts.values())
        return max((key for key in uploads if hosts[key[0][0]] == most), key=lambda key: uploads[key].number)

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
        for key in [key for key, upload in self._uploads.items() if now - upload.touched >= LIFETIME_MS]:
            self._forget(key)
            self.unfinished += 1
        for key in [key for key, rendering in self._renderings.items() if rendering.until <= now]:
            self._drop(key)
        if self._uploads or self._renderings:
            self._watch()
