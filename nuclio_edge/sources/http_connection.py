"""One client's connection: bytes in, requests to `server.respond`, answers out in the order of the requests.

Laws:
- A request is told when it is whole, body included. Up to PIPELINE of them are in flight at a time; then nothing more
  is read until the oldest is answered. One write for all that a wake-up has answered.
- Every state has its limit (`deadline`): the first byte, the head, the body's progress, idleness, the client's reading.
  Bodies and heads are bounded; whatever breaks a rule is answered once and then the connection ends.
- It ends by shutting its sending side and reading on for a moment, so that the client sees the answer and no reset.
- It knows nothing of events: `server.respond(exchange)` answers now or later. Everything runs on the loop's thread.
"""

from __future__ import annotations

from collections import deque

from nuclio_edge.core.port import IN, OUT
from nuclio_edge.sources.http_chunked import Chunked
from nuclio_edge.sources.http_exchange import Exchange
from nuclio_edge.sources.http_head import CHUNKED, MAX_HEAD, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.sources.http_head import Head
    from nuclio_edge.sources.http_server import Server

PIPELINE = 16  # requests in flight on one connection
READ = 16 * 1024
READ_BODY = 256 * 1024
HIGH = 256 * 1024  # bytes of answers that wait for the client; from there on nothing more is read, or pulled
LINGER_MS = 2000
LEAST_RATE = 500  # bytes a second that a body, or a client's reading, has to make on the average
FOREVER = 1 << 62

IDLE, HEAD, BODY, FLIGHT, LINGER = range(5)

_HANG_UP = 0x18  # EPOLLERR | EPOLLHUP


class Connection:
    """A client that is connected; `peer` is who, `scheme` "http" or "https", `identity` whom TLS has shown it to be."""

    __slots__ = (
        "_ahead", "_blocked_since", "_body", "_buffer", "_head", "_interest", "_left", "_loop", "_moved", "_parts", "_recv",
        "_respond", "_send", "_sent", "_since", "_sock", "_state", "_whole", "ends", "flight", "held", "identity", "origin", "out", "reading",
        "scheme", "sending", "server", "stalled",
    )  # fmt: skip

    def __init__(self, server: Server, sock: Any, peer: str, scheme: str = "http") -> None:
        self.server = server
        self._sock = sock
        self._recv = sock.recv
        self._send = sock.send
        self._loop = server.loop
        self._respond = server.respond
        self._whole = server.heads.whole
        self.origin = (peer, scheme, "")
        self.flight: deque[Exchange] = deque()
        self.out: list[bytes] = []  # what this turn has answered
        self.sending = b""  # what the kernel had no room for
        self.reading = False  # within `_ready`: answers wait for its end
        self.ends = False  # nothing more is taken; it is closed when everything is answered
        self.stalled = False  # the respondent has no room: the newest request waits
        self.held = 0  # bytes of a body on its way in, as counted by the server
        self._buffer = b""
        self._state = HEAD  # a first request is expected sooner than a second one
        self._head: Head | None = None
        self._parts: list[bytes] = []
        self._left = 0
        self._body: Chunked | None = None
        self._interest = IN
        self._since = server.loop.now
        self._moved = 0  # bytes since then, of what has to make progress
        self._blocked_since = 0
        self._sent = 0  # bytes since then
        self._ahead = False  # a `_flush` is due when the turn ends

    def attach(self) -> None:
        """Begin."""
        self.server.loop.add(self._sock, self._ready)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _ready(self, mask: int) -> None:
        if mask != IN:
            self._other(mask)
            return
        try:
            data = self._recv(READ)
        except OSError as error:
            self._failed(error)
            return
        if self._state == IDLE and data in self._whole and not self.flight:  # one request, seen before, and no more
            self._since = self._loop.now
            exchange = Exchange(self, self._whole[data], b"")
            if exchange.closes:
                self.ends = True
            self.flight.append(exchange)
            self._respond(exchange)
            if self.stalled:
                self._want()
        else:
            self._take(data)

    def _other(self, mask: int) -> None:
        """Anything but a plain wish to be read."""
        if mask & OUT and (self.sending or self.out):
            self._flush()
        if self._sock is None:
            return
        if mask & _HANG_UP and not self._interest & IN:
            self.lost()
        elif mask & IN and self._interest & IN:
            self._ready(IN)

    def _failed(self, error: OSError) -> None:
        """The socket gave an error: none that matters, or the end."""
        if not isinstance(error, BlockingIOError):
            self.lost()

    def _take(self, data: bytes) -> None:
        """Bytes that are no memorised request."""
        if not data:
            self._eof()
            return
        if self._state == LINGER:
            return
        self._moved += len(data)
        self._buffer = self._buffer + data if self._buffer else data
        self.reading = True
        self._parse()
        self.reading = False
        self._flush()

    def _parse(self) -> None:
        """Make requests of what has been read, as far as there is room for them."""
        try:
            while self._buffer and not self.ends and not self.stalled and len(self.flight) < PIPELINE:
                if self.out and not self.has_room():
                    break
                if not (self._next_body() if self._head is not None else self._next_head()):
                    break
        except Refusal as refusal:
            self._refuse(refusal.status, refusal.why)

    def _next_head(self) -> bool:
        """Take a head off the buffer; False when there is none yet."""
        data = self._buffer
        if data[:1] in (b"\r", b"\n"):  # an empty line before a request is read over (RFC 9112, 2.2)
            if data[:2] == b"\r":
                return False
            if data[:2] != b"\r\n":
                raise Refusal(400, "the first line is no request")
            data = self._buffer = data[2:]
            if data[:1] in (b"\r", b"\n"):
                raise Refusal(400, "the first line is no request")
            return bool(data)
        end = data.find(b"\r\n\r\n", 0, MAX_HEAD) + 4
        if end == 3:
            if len(data) >= MAX_HEAD:
                raise Refusal(431, f"a head has {MAX_HEAD} bytes at most")
            if b"\n" in data and _broken(data):
                raise Refusal(400, "a line does not end as it should")
            if self._state == IDLE:
                self._enter(HEAD)
            return False
        server = self.server
        head = server.heads.head(data if end == len(data) else data[:end])
        self._buffer = data[end:]
        if not head.length:
            self._request(head, b"")
            return True
        if head.length > server.max_body:
            self._refuse(413, f"the body is longer than {server.max_body} bytes", head)
            return False
        if head.length > 0 and len(data) - end >= head.length:  # whole already
            end = head.length
            self._request(head, self._buffer[:end])
            self._buffer = self._buffer[end:]
            return True
        if head.expects and not self._buffer and not self._welcome(head):
            return False
        self._head = head
        self._left = head.length
        self._body = Chunked(server.max_body) if head.length == CHUNKED else None
        self._enter(BODY)
        self._moved = 0
        return True

    def _welcome(self, head: Head) -> bool:
        """Answer `Expect: 100-continue`: yes, or the refusal that would follow anyhow."""
        refused = self.server.foresee(head)
        if refused is not None:
            exchange = Exchange(self, head, b"")
            exchange.closes = True
            self.ends = True
            self.flight.append(exchange)
            refused(exchange)
            return False
        if self.flight:  # its turn has not come: nothing may be sent between two answers; the client goes on by itself
            return True
        self.out.append(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _next_body(self) -> bool:
        head = self._head
        data = self._buffer
        body: bytes
        if self._body is not None:
            before = len(self._body.body)
            at = self._body.take(data, 0)
            self._hold(len(self._body.body) - before)
            self._buffer = data[at:]
            if not self._body.done:
                return False
            body = bytes(self._body.body)
        else:
            piece = data if len(data) <= self._left else data[: self._left]
            self._buffer = data[len(piece) :]
            self._parts.append(piece)
            self._left -= len(piece)
            self._hold(len(piece))
            if self._left:
                return False
            body = b"".join(self._parts)
        self._head = self._body = None
        self._parts = []
        self._release()
        self._state = IDLE
        self._request(head, body)  # type: ignore[arg-type]  # there is one, or we were not here
        return True

    def _request(self, head: Head, body: bytes) -> None:
        """Hand a whole request over."""
        self.flight.append(exchange := Exchange(self, head, body))
        self._state = IDLE
        self._since = self.server.loop.now
        if exchange.closes:
            self.ends = True
        self.server.respond(exchange)

    def _refuse(self, status: int, why: str, head: Head | None = None) -> None:
        """Answer what is no request, or one that is not taken; in its turn, and as the last."""
        exchange = Exchange(self, head or self.server.no_head, b"")
        exchange.closes = True
        self.ends = True
        self._drop_body()
        self.flight.append(exchange)
        self.server.refused(status)
        exchange.answer(status, "text/plain", why.encode())

    def _eof(self) -> None:
        """The client sends nothing more; it may still want the answers."""
        if not self.flight and not self.out and not self.sending:
            self.lost()
            return
        self._drop_body()
        self.ends = True
        self._buffer = b""
        self._want()

    # -- writing ------------------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether the client takes what it is sent."""
        return len(self.sending) + sum(map(len, self.out)) < HIGH

    def alone(self, exchange: Exchange, data: bytes) -> bool:
        """Send a whole answer at once, if nothing is before, behind or beside it; False when it has to be queued."""
        if len(self.flight) != 1 or self.reading or self.ends or self.sending or self.out or self._buffer:
            return False
        self.flight.clear()
        self._since = self._loop.now
        try:
            sent = self._send(data)
        except OSError:
            sent = 0  # `_flush` meets it again
        if sent != len(data):
            self.out.append(data[sent:] if sent else data)
            self._flush()
        elif self._interest != IN:
            self._want()
        return True

    def advance(self, exchange: Exchange) -> None:
        """Part of an answer is there: send it if its turn has come, and those behind it that are whole."""
        flight = self.flight
        if flight[0] is not exchange:
            return
        while flight:
            first = flight[0]
            if first.waiting:
                self.out.append(first.waiting)
                first.waiting = b""
            if not first.ended:
                break
            flight.popleft()
            if first.closes:
                self.ends = True
                self._abandon_rest()
        if not self.reading:
            self.answered()

    def answered(self) -> None:
        """There is something to be sent, by others than the reader: at the end of the turn, with whatever comes."""
        if not self._ahead:
            self._ahead = True
            self.server.loop.at_turn_end(self._turn_end)

    def _turn_end(self) -> None:
        self._ahead = False
        if self._sock is not None:
            self._flush()

    def _flush(self) -> None:
        """Send what there is, then see what that allows."""
        while True:
            if self.out:
                self.sending = b"".join((self.sending, *self.out)) if self.sending or len(self.out) > 1 else self.out[0]
                self.out = []
            if self.sending:
                try:
                    sent = self._send(self.sending)
                except OSError as error:
                    self._failed(error)
                    if self._sock is None:
                        return
                    sent = 0
                if sent:
                    self.sending = self.sending[sent:]
                if self.sending:
                    self._block(sent)
                    return
                self._blocked_since = 0
            if self.flight:
                first = self.flight[0]
                if first.on_room is not None:
                    first.on_room()
                    if self.out:
                        continue
            if self._buffer and not self.ends and not self.stalled and len(self.flight) < PIPELINE:
                before = len(self._buffer)
                self.reading = True
                self._parse()
                self.reading = False
                if self.out or (self._buffer and len(self._buffer) != before):
                    continue
            break
        if self.ends and not self.flight:
            self._finish()
        elif self._sock is not None:
            self._want()

    def _block(self, sent: int) -> None:
        """The client does not read as fast as it is answered."""
        now = self.server.loop.now
        if not self._blocked_since:
            self._blocked_since = now
            self._sent = 0
        self._sent += sent
        self._want()

    def _want(self) -> None:
        """Watch the socket for what can be done with it now."""
        if self._sock is None:
            return
        if self._state == LINGER:
            wanted = IN
        else:
            full = self.ends or self.stalled or len(self.flight) >= PIPELINE
            wanted = (0 if full or len(self.sending) >= HIGH else IN) | (OUT if self.sending else 0)
        if wanted != self._interest:
            if (
                wanted & IN and not self._interest & IN
            ):  # the client is not to blame for the time in which we did not read
                self._since = self.server.loop.now
                self._moved = 0
            self._interest = wanted
            self.server.loop.modify(self._sock, bool(wanted & IN), bool(wanted & OUT))
        self.server.watch(self.deadline())

    # -- limits and the end -------------------------------------------------------------------------------------------

    def deadline(self) -> int:
        """When it has to have got on, by `ticks_ms`."""
        server = self.server
        if self._blocked_since:
            return self._blocked_since + server.write_timeout + self._sent * 1000 // LEAST_RATE
        state = self._state
        if state == LINGER:
            return self._since + LINGER_MS
        if self.flight and not self._interest & IN:
            return FOREVER  # the function's own timeout
        if state == BODY:
            return self._since + server.body_timeout + self._moved * 1000 // LEAST_RATE
        if state == HEAD:
            return self._since + server.header_timeout
        if self.flight:
            return FOREVER
        return self._since + server.idle_timeout

    def expire(self) -> None:
        """Its deadline has passed."""
        if self._state in (HEAD, BODY) and not self._blocked_since and not self.ends:
            self.server.count("timeout")
            self._refuse(408, "the request did not come in time")
            self._flush()
        else:
            if self._blocked_since:
                self.server.count("stalled")
            self.lost()

    def idle(self) -> bool:
        """Whether nothing is asked for."""
        return self._state == IDLE and not self.flight and not self._buffer and not self.sending

    def resume(self) -> None:
        """The respondent has room again."""
        if self.stalled:
            self.stalled = False
            if self._sock is not None and not self.reading:
                self._flush()

    def retire(self) -> None:
        """Take nothing more; what is in flight is still answered."""
        if self._sock is None:
            return
        if not self.flight and not self.sending and not self.out:
            self.lost()
            return
        self._drop_body()
        self._buffer = b""
        self.ends = True
        if self.flight:
            self.flight[-1].closes = True
            self.flight[-1].plain = False
        self._want()

    def lost(self) -> None:
        """Close at once, whatever is in flight: its answers go nowhere."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._drop_body()
        self.server.loop.remove(sock)
        self._close(sock)
        flight, self.flight = self.flight, deque()
        self.ends = True
        self.out = []
        self.sending = self._buffer = b""
        _cut_off(flight)
        self.server.gone(self)

    def _close(self, sock: Any) -> None:
        sock.close()

    def _finish(self) -> None:
        """Everything is answered: say so, and read on for a moment."""
        if self._state == LINGER or self._sock is None:
            return
        self._enter(LINGER)
        self._buffer = b""
        try:
            self._shut(self._sock)
        except OSError:
            self.lost()
            return
        self._want()

    def _shut(self, sock: Any) -> None:
        sock.shutdown(1)  # SHUT_WR

    def _abandon_rest(self) -> None:
        """An answer that closes is the last: what came behind it will not be answered."""
        flight, self.flight = self.flight, deque()
        _cut_off(flight)

    def _enter(self, state: int) -> None:
        self._state = state
        self._since = self.server.loop.now
        self._moved = 0
        self.server.watch(self.deadline())

    def _hold(self, size: int) -> None:
        self.held += size
        if not self.server.hold(size):
            raise Refusal(503, "no memory for the body at present")

    def _release(self) -> None:
        self.server.hold(-self.held)
        self.held = 0

    def _drop_body(self) -> None:
        if self.held:
            self._release()
        self._parts = []
        self._head = self._body = None


def _cut_off(flight: deque[Exchange]) -> None:
    """Tell those that are answering that nobody hears them any more."""
    for exchange in flight:
        exchange.connection = None
        if exchange.on_room is not None:
            exchange.on_room()


def _broken(data: bytes) -> bool:
    """Whether a head that is not whole holds a line end that no whole one may: then no more of it need be waited for."""
    return data.count(b"\n") != data.count(b"\r\n")
