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
from nuclio_edge.sources.http_exchange import Exchange, exchange_of
from nuclio_edge.sources.http_head import Refusal
from nuclio_edge.sources.http_intake import Intake
from nuclio_edge.sources.http_limits import BODY, HEAD, IDLE, LINGER, due

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.sources.http_head import Head
    from nuclio_edge.sources.http_server import Server

PIPELINE = 16  # requests in flight on one connection
READ = 16 * 1024

HIGH = 256 * 1024  # bytes of answers that wait for the client; from there on nothing more is read, or pulled
SILENT_MS = 1000

_HANG_UP = 0x18  # EPOLLERR | EPOLLHUP


class Connection:
    """A client that is connected; `origin` is who, by "http" or "https", and whom TLS has shown it to be."""

    # fmt: off
    __slots__ = (
        "_ahead",
        "_blocked_since",
        "_intake",
        "_interest",
        "_loop",
        "_moved",
        "_recv",
        "_respond",
        "_seen",
        "_send",
        "_since",
        "_sock",
        "_state",
        "ends",
        "flight",
        "origin",
        "out",
        "reading",
        "sending",
        "server",
        "stalled",
    )
    # fmt: on

    def __init__(self, server: Server, sock: Any, peer: str, scheme: str = "http") -> None:
        self.server = server
        self._sock = sock
        self._recv = sock.recv
        self._send = sock.send
        self._loop = server.loop
        self._respond = server.respond
        self._seen = server.heads.whole.get
        self.origin = (peer, scheme, "")
        self.flight: deque[Exchange] = deque()
        self.out: list[bytes] = []  # what this turn has answered
        self.sending = b""  # what the kernel had no room for
        self.reading = False  # within `_ready`: answers wait for its end
        self.ends = False  # nothing more is taken; it is closed when everything is answered
        self.stalled = False  # the respondent has no room: the newest request waits
        self._intake = Intake(server.heads, server.max_body, server.hold)
        self._state = HEAD  # a first request is expected sooner than a second one
        self._interest = IN
        self._since = server.loop.now
        self._moved = 0  # bytes since then, of what has to make progress
        self._blocked_since = 0
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
        head = self._seen(data)
        if head is not None and self._state == IDLE and not self.flight:  # one request, seen before, and no more
            exchange = Exchange()  # `exchange_of`, spelled out
            exchange.connection = self
            exchange.head = head
            exchange.body = exchange.waiting = b""
            exchange.plain = head.plain
            exchange.ended = exchange.closes = False
            exchange.note = exchange.on_room = None
            if not head.keep_alive:
                exchange.closes = self.ends = True
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
        intake = self._intake
        intake.buffer = intake.buffer + data if intake.buffer else data
        self.reading = True
        self._parse()
        self.reading = False
        self._flush()

    def _parse(self) -> None:
        """Make requests of what has been read, as far as there is room for them."""
        intake = self._intake
        try:
            while intake.buffer and not self.ends and not self.stalled and len(self.flight) < PIPELINE:
                if self.out and not self.has_room():
                    return
                before = intake.head
                found = intake.next()
                if found is None:
                    self._wait(before)
                    return
                self._request(*found)
        except Refusal as refusal:
            self._refuse(refusal.status, refusal.why, refusal.head)

    def _wait(self, before: Head | None) -> None:
        """A request is not whole yet; `before` is whose body was already on its way."""
        head = self._intake.head
        if head is None:
            if self._state == IDLE and self._intake.buffer:
                self._enter(HEAD)
        elif head is not before:
            self._enter(BODY)
            if head.expects and not self._intake.held:
                self._welcome(head)

    def _welcome(self, head: Head) -> None:
        """Answer `Expect: 100-continue`: yes, or the refusal that would follow anyhow."""
        refused = self.server.foresee(head)
        if refused is not None:
            self._intake.drop()
            exchange = exchange_of(self, head, b"")
            exchange.closes = True
            exchange.plain = False
            self.ends = True
            self.flight.append(exchange)
            refused(exchange)
        elif not self.flight:  # else it is not its turn: nothing may go between two answers; the client goes on anyhow
            self.out.append(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _request(self, head: Head, body: bytes) -> None:
        """Hand a whole request over."""
        self.flight.append(exchange := exchange_of(self, head, body))
        self._state = IDLE
        self._since = self._loop.now
        if exchange.closes:
            self.ends = True
        self._respond(exchange)

    def _refuse(self, status: int, why: str, head: Head | None = None) -> None:
        """Answer what is no request, or one that is not taken; in its turn, and as the last."""
        exchange = exchange_of(self, head or self.server.no_head, b"")
        exchange.closes = True
        self.ends = True
        self._forget()
        self.flight.append(exchange)
        self.server.refused(status)
        exchange.answer(status, "text/plain", why.encode())

    def _eof(self) -> None:
        """The client sends nothing more; it may still want the answers."""
        if not self.flight and not self.out and not self.sending:
            self.lost()
            return
        self._forget()
        self.ends = True
        self._want()

    # -- writing ------------------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether the client takes what it is sent."""
        return len(self.sending) + sum(map(len, self.out)) < HIGH

    def alone(self, data: bytes) -> bool:
        """Send a whole answer at once, if nothing is before, behind or beside it; False when it has to be queued."""
        if len(self.flight) != 1 or self.reading or self.ends or self.sending or self.out or self._intake.buffer:
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
            if self._intake.buffer and not self.ends and not self.stalled and len(self.flight) < PIPELINE:
                before = len(self._intake.buffer)
                self.reading = True
                self._parse()
                self.reading = False
                if self.out or (self._intake.buffer and len(self._intake.buffer) != before):
                    continue
            break
        if self.ends and not self.flight:
            self._finish()
        elif self._sock is not None:
            self._want()

    def _block(self, sent: int) -> None:
        """The client does not read as fast as it is answered."""
        if sent or not self._blocked_since:  # the kernel asks for more only when a third of its buffer is free
            self._blocked_since = self._loop.now
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
            if wanted & IN and not self._interest & IN:  # for the time without reading the client is not to blame
                self._since = self.server.loop.now
                self._moved = 0
            self._interest = wanted
            self.server.loop.modify(self._sock, bool(wanted & IN), bool(wanted & OUT))
        self.server.watch(self.deadline())

    # -- limits and the end -------------------------------------------------------------------------------------------

    def deadline(self) -> int:
        """When it has to have got on, by `ticks_ms`."""
        if self._blocked_since:
            return self._blocked_since + self.server.write_timeout
        reads = bool(self._interest & IN)
        return due(self.server, self._state, self._since, self._moved, reads=reads, answering=bool(self.flight))

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
        """Whether nothing is asked for, or nothing has come for a second since it was opened."""
        silent = self._state == HEAD and self._loop.now - self._since >= SILENT_MS
        return (silent or self._state == IDLE) and not (self.flight or self._intake.buffer or self.sending)

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
        self._forget()
        self.ends = True
        if self.flight:
            self.flight[-1].closes = True
            self.flight[-1].plain = False
        self._want()

    def abort(self) -> None:
        """Send what there is, and break off."""
        self._flush()
        self.lost()

    def lost(self) -> None:
        """Close at once, whatever is in flight: its answers go nowhere."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._forget()
        self.server.loop.remove(sock)
        self._close(sock)
        flight, self.flight = self.flight, deque()
        self.ends = True
        self.out = []
        self.sending = b""
        _cut_off(flight)
        self.server.gone(self)

    def _close(self, sock: Any) -> None:
        sock.close()

    def _finish(self) -> None:
        """Everything is answered: say so, and read on for a moment."""
        if self._state == LINGER or self._sock is None:
            return
        self._forget()
        self._enter(LINGER)
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

    def _forget(self) -> None:
        """Nothing more is made of what has been read."""
        intake = self._intake
        if intake.head is not None:
            self.server.count("cut off")
        intake.drop()
        intake.buffer = b""


def _cut_off(flight: deque[Exchange]) -> None:
    """Tell those that are answering that nobody hears them any more."""
    for exchange in flight:
        exchange.connection = None
        if exchange.on_room is not None:
            exchange.on_room()
