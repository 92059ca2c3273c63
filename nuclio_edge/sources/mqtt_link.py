"""One connection on the loop: one large read and one write a turn, a budget for each drain, pings, and pausing."""

from __future__ import annotations

from nuclio_edge.core.mqtt_codec import ProtocolError, Reader
from nuclio_edge.core.mqtt_compose import disconnect
from nuclio_edge.core.port import IN, OUT, TICKS_PER_MS, clock
from nuclio_edge.sources.mqtt_outage import CLOSED, FAILED, RESET, SILENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from nuclio_edge.core.loop import Loop, Timer

    class Sink(Protocol):
        """Who the link tells what arrived; each returns true to stop the drain after this packet."""

        def on_publish(self, first: int, topic: bytes, packet_id: int, props: bytes, body: bytes, /) -> Any:
            """A PUBLISH."""

        def on_packet(self, first: int, rest: bytes, /) -> Any:
            """Any other packet."""

        def on_oversize(self, first: int, topic: bytes, packet_id: int, size: int, /) -> Any:
            """A PUBLISH that was thrown away."""

        def on_lost(self, why: str, how: str, /) -> None:
            """The connection has ended; `how` as mqtt_outage has it."""

        def on_broken(self, error: Exception, /) -> None:
            """A packet was malformed."""


BUDGET = 512  # packets a turn, about a millisecond: other sources wait no longer …
FIRST = 16  # … and where inline handlers take longer, fewer: by what so many have taken …
TURN_TICKS = 2 * TICKS_PER_MS  # … for this long
HUNG_UP = 0x38  # of poll(2): error, hang-up, not open
LARGEST_READ = 262_144
_SMALLEST_READ = 16_384
PONG_MS = 20_000  # an answer to a ping takes no longer, or the connection is dead; the keepalive, if that is shorter
_PINGREQ = b"\xc0\x00"


class Link:
    """The fast path: reads and writes itself, gives paho what is no PUBLISH.

    Loop thread only. After `close` it calls nobody. `queued` are the bytes that wait to be written.
    """

    def __init__(self, loop: Loop, sock: Any, sink: Sink, *, v5: bool, max_packet: int, alias_max: int) -> None:
        self.loop = loop
        self.sock = sock
        self.sink = sink
        self.v5 = v5
        self.closed = False
        self.paused = False
        self.queued = 0
        self.read_at = loop.now  # when what is told now was read
        self.reader = Reader(v5, max_packet, alias_max)
        self._fd: int = sock.fileno()
        self._pending = getattr(sock, "pending", None)
        self._size = _SMALLEST_READ
        self._scheduled = False  # the rest of a read waits for its next turn
        self._deaf = False  # hung up while paused, so taken off the loop: it would report that without end
        self._out: list[bytes] = []
        self._left: Any = b""  # what the socket did not take
        self._flushing = False
        self._mute = False  # the broker has closed: nothing can be written any more
        self._keepalive_ms = 0
        self._timer: Timer | None = None
        self._ping_at = 0
        self._last_in = self._last_out = loop.now
        loop.add(self._fd, self._ready)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _ready(self, mask: int) -> None:
        if mask & OUT and self._left:
            self._send(self._left)
            if not self._left and not self.closed:
                self._watch()
                self.flush()
        if mask & IN and not self.closed:
            if self.paused:
                if mask & HUNG_UP:  # which epoll tells unasked, again and again
                    self._deaf = True
                    self.loop.remove(self._fd)
            elif not self._scheduled:
                self._read()

    def _read(self) -> None:
        if self.closed or self.paused:
            return
        try:
            data = self.sock.recv(self._size)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error.strerror or str(error), RESET if isinstance(error, ConnectionError) else FAILED)
            return
        size = len(data)
        if size == 0:
            self._lost("the broker closed the connection", RESET if self._mute else CLOSED)
            return
        if size == self._size:
            self._size = LARGEST_READ
        elif size * 16 < self._size:
            self._size = _SMALLEST_READ
        self._last_in = self.read_at = self.loop.now
        self.reader.feed(data)
        self._drain()

    def _drain(self) -> None:
        self._scheduled = False
        if self.closed or self.paused:
            return
        sink = self.sink
        reader = self.reader
        before = reader.told
        begun = clock()
        try:
            more = reader.drain(FIRST, sink.on_publish, sink.on_packet, sink.on_oversize)
            if more and not self.closed and not self.paused:
                left = min(TURN_TICKS * FIRST // (clock() - begun + 1), BUDGET) - FIRST
                if left > 0:
                    more = reader.drain(left, sink.on_publish, sink.on_packet, sink.on_oversize)
        except ProtocolError as error:
            sink.on_broken(error)
            return
        except Exception:
            if not self.closed and not self.paused:
                self._go_on()  # one that goes wrong does not keep those behind it
            raise
        if self.closed or self.paused:
            return
        told = reader.told - before
        if told > 1:
            several = self.loop.poller.several
            several[self._fd] = several.get(self._fd, 0) + told
        if more:
            self._go_on()
        elif self._pending is not None and self._pending():
            self.loop.call_soon(self._read)  # decrypted already: no poll would show it

    def pause(self) -> None:
        """Read nothing more for now; pings go on, and their answers are not waited for."""
        if not self.paused and not self.closed:
            self.paused = True
            self._watch()

    def resume(self) -> None:
        """Go on with what was read, then read again."""
        if self.paused and not self.closed:
            self.paused = False
            self._last_in = self.loop.now
            self._ping_at = 0
            if self._deaf:
                self._deaf = False
                self.loop.add(self._fd, self._ready, write=bool(self._left))
            else:
                self._watch()
            self._go_on()

    def _go_on(self) -> None:
        self._scheduled = True
        self.loop.call_soon(self._drain)

    def _watch(self) -> None:
        if not self._deaf:
            self.loop.modify(self._fd, not self.paused, bool(self._left))

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write whole packets when the turn ends, together with all others of this turn."""
        if self.closed or self._mute:
            return
        self._out.append(data)
        self.queued += len(data)
        if not self._flushing:
            self._flushing = True
            self.loop.at_turn_end(self.flush)

    def flush(self) -> None:
        """Write what waits."""
        self._flushing = False
        out = self._out
        if self.closed or not out or self._left:
            return
        data = b"".join(out) if len(out) > 1 else out[0]
        out.clear()
        self._send(data)
        if self._left:
            self._watch()

    def _send(self, data: Any) -> None:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if self.paused or not isinstance(error, (BrokenPipeError, ConnectionResetError)):
                self._lost(error.strerror or str(error), RESET)
                return
            # What the broker said before it closed lies unread, such as its reason. Reading finds the end.
            self._mute = True
            self._out.clear()
            self._left = b""
            self.queued = 0
            return
        self._last_out = self.loop.now
        self.queued -= sent
        self._left = memoryview(data)[sent:] if sent < len(data) else b""

    # -- staying alive ------------------------------------------------------------------------------------------------

    def keep_alive(self, keepalive_ms: int) -> None:
        """Ping after that much silence from now on; 0: never."""
        self._keepalive_ms = keepalive_ms
        self._tick()

    def ping(self) -> None:
        """Ask for an answer now, without waiting for it."""
        self.write(_PINGREQ)

    def _tick(self) -> None:
        self._cancel()
        period = self._keepalive_ms
        if self.closed or not period:
            return
        now = self.loop.now
        pong = min(period, PONG_MS)
        if self.paused:
            self._last_in = now  # what the broker said lies unread: its silence says nothing
        if self._ping_at and self._last_in >= self._ping_at:
            self._ping_at = 0
        if self._ping_at and now - self._ping_at >= pong:
            self._lost(f"no answer to a ping within {pong // 1000} s", SILENT)
            return
        if not self._ping_at and (now - self._last_out >= period or now - self._last_in >= period):
            self.write(_PINGREQ)
            self._ping_at = now
        due = self._ping_at + pong if self._ping_at else min(self._last_in, self._last_out) + period
        self._timer = self.loop.call_at(due, self._tick)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- ending -------------------------------------------------------------------------------------------------------

    def _lost(self, why: str, how: str) -> None:
        if not self.closed:
            self.sink.on_lost(why, how)

    def say_goodbye(self, reason: int = 0) -> None:
        """Write what waits and a DISCONNECT, as far as the socket takes it at once."""
        if not self.closed:
            self._out.append(disconnect(self.v5, reason))
            self.flush()

    def close(self) -> None:
        """Let go of the socket and the timer; idempotent."""
        if self.closed:
            return
        self.closed = True
        self._cancel()
        if not self._deaf:
            self.loop.remove(self._fd)
        self.sock.close()
        self._out.clear()
        self._left = b""
