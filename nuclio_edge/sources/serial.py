"""The serial source: frames of a UART, a USB adapter or a pseudo-terminal as events, bytes of handlers sent.

Laws: a port that is away or goes away (a read says so by nothing at all or by EIO) is opened again by its path, for
ever, with growing pauses, and each outage is said once. Noise harms nothing but the frame it hits, and is counted. When
functions have no room and want to be waited for (`when_full = "block"`), reading stops and the driver's buffer fills;
what that drops is counted where the driver counts it.
"""

from __future__ import annotations

import os
from collections import deque

from nuclio_edge.core.event import Event
from nuclio_edge.errors import SourceError
from nuclio_edge.jitter import up_to
from nuclio_edge.sources import serial_port as ports
from nuclio_edge.sources.serial_params import OUTPUT, PARAMS, TRIGGER, framing, when_full
from nuclio_edge.sources.serial_write import SerialBinding, Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.schema import Fields, Values
    from nuclio_edge.sim.ports import SimPort

READ = 65536  # bytes a wake-up; a tty holds 4 KiB
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 250, 15_000  # between two looks for a port that is away
# A UART wakes its reader for every few bytes. In the middle of a frame the next look waits, so that more comes
# together: at 921,600 baud 10 ms are 920 bytes of the 4 KiB that a tty holds. Measured at that rate, CPU for a line of
# 80 bytes in pieces of a millisecond, and of 16 bytes: 57 and 123 µs without, 38 and 40 with 5 ms, 22 and 23 with 10.
REST_MS, REST_BYTES = 10, 1024
IN, OUT, HUNG_UP = 1, 4, 0x38  # of poll(2); the last: error, hang-up, not open


class SerialEvent(Event):
    """A frame. `path` is the device as the manifest names it."""

    __slots__ = ()

    def __init__(self, trigger: Trigger | None, body: bytes, wall: int) -> None:
        self._trigger = trigger
        self._token = None
        self.raw_body = body
        self.timestamp_ms = wall

    _lazy = {  # noqa: RUF012 - the class's table, as Event has it
        **Event._lazy,
        "content_type": lambda event: event._trigger.spec.content_type or "",
        "path": lambda event: event._trigger.source.params.device,
        "source_address": lambda event: event.path,
    }


def to_parts(event: SerialEvent) -> tuple[int, bytes, bytes]:
    """What `stored` keeps beside body and time: nothing, the rest is the trigger's."""
    return 0, b"", b""


def from_parts(
    trigger: Trigger | None, _first: int, _address: bytes, _rest: bytes, body: bytes, wall: int
) -> SerialEvent:
    """The event of what was kept of it."""
    event = SerialEvent(trigger, body, wall)
    if trigger is None:
        event.path = event.content_type = ""
    return event


class SerialSource:
    """One port."""

    kind = "serial"
    replies = False
    acks = False

    PARAMS: ClassVar[Fields] = PARAMS
    TRIGGER: ClassVar[Fields] = TRIGGER
    OUTPUT: ClassVar[Fields | None] = OUTPUT
    when_full = staticmethod(when_full)

    def __init__(self, name: str, params: Values, host: Any) -> None:
        self.name = name
        self.params = params
        self.host = host
        self.state = "closed"
        self.received = self.routed = self.unrouted = 0
        self.rejected: dict[str, int] = {}
        self.overruns = 0  # bytes that the driver dropped while we had the port, where it counts them
        self.outages = 0
        self._loop = host.loop
        self._routes: list[tuple[tuple[bytes, ...], Trigger]] = []
        self._kept: deque[SerialEvent] = deque()  # frames that found no room; reading stands still meanwhile
        self._fd = -1
        self._reading = False
        self._resting: Any = None  # the timer of a pause in the middle of a frame
        self._rest_ms = max(1, min(REST_MS, REST_BYTES * 10_000 // params.baud))
        self._deaf = False  # not registered with the loop, though open
        self._wanted = False  # open() was called, and neither stop_receiving() nor close()
        self._overruns_before = 0
        self._pause_ms = FIRST_PAUSE_MS
        self._said = ""
        self._retry: Any = None
        self._quiet: Any = None  # the timer of the silence that the framing waits for
        self._last_read = 0
        self._frames = framing(params, self._reject)
        self._sim: SimPort | None = None  # while it is open, when the port is a simulated one
        self._writer = Writer(name, host.loop, params.write_buffer, self._watch, self._gone)

    def routes(self, triggers: list[Trigger]) -> None:
        """Send frames to these triggers; what found no room yet goes to the new versions."""
        self._routes = [(tuple(p.encode("latin-1") for p in _prefix(t)), t) for t in triggers]
        here = {trigger.ledger_id: trigger for trigger in triggers}
        kept, self._kept = self._kept, deque()
        for event in kept:
            old: Any = event._trigger
            if old.ledger_id in here:
                event._trigger = here[old.ledger_id]
                self._kept.append(event)
            else:
                old.turn_away(event, "closed")
        if kept:
            self._loop.call_soon(self._room)

    def open(self) -> None:
        """Begin to look for the port."""
        self._wanted = True
        self._try()

    def settle(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """Nobody waits for the outcome of a frame."""

    def binding(self, context: Context) -> SerialBinding:
        """What a handler gets as `context.bindings[name]`."""
        return SerialBinding(self._writer, context)

    def send(self, output: Values, response: Response, event: Event) -> None:
        """Send a returned value; counted when it cannot be."""
        try:
            self._writer.put(response.body + output.append.encode())
        except SourceError as error:
            self.host.log.warn_with("not sent", "source", self.name, "error", str(error))

    def sent(self) -> bool:
        """Whether the driver has sent everything that handlers have written."""
        return not self._writer.held and (self._fd < 0 or not ports.unsent(self._fd))

    def stop_receiving(self) -> None:
        """Read no more; what was written still goes out."""
        self._wanted = False
        self._cancel()
        self._watch()
        while self._kept:
            event: Any = self._kept.popleft()
            event._trigger.turn_away(event, "closed")

    def close(self) -> None:
        """Give the port back."""
        self.stop_receiving()
        self._drop_port("closed")
        if self._sim is not None:
            from nuclio_edge import sim

            self._sim.close()
            self._sim = None
            sim.detach(self.host)
        self._become("closed")

    def _try(self) -> None:
        self._retry = None
        try:
            self._fd, ignored = ports.open_port(self._path(), self.params)
        except SourceError as error:
            self._say(error)
            self._become("connecting")
            pause = self._pause_ms
            self._pause_ms = min(2 * pause, LONGEST_PAUSE_MS)
            self._retry = self._loop.call_later(pause // 2 + up_to(pause // 2), self._try)
            return
        if ignored:
            self.host.log.warn_with("the port does not do all that is asked", "source", self.name, "ignored", ignored)
        if self._said:
            self.host.log.info_with("the port is there", "source", self.name)
        self._said = ""
        self._pause_ms = FIRST_PAUSE_MS
        self._overruns_before = ports.overruns(self._fd)
        self._writer.opened(self._fd)
        self._reading = not self._kept
        self._deaf = False
        self._loop.add(self._fd, self._ready, self._reading)
        self._become("open")

    def _path(self) -> str:
        """The first path of the board's port that exists, or the device as it is."""
        device: str = self.params.device
        if device.startswith("/"):
            return device
        if device.startswith("sim:"):
            return self._simulated(device)
        from nuclio_edge import board
        from nuclio_edge.board_detect import GENERIC

        profile = board.load(getattr(self.host.device, "board", GENERIC))
        port = profile.serial.get(device)
        if port is None:
            from nuclio_edge.manifest.problems import listed

            there = listed(profile.serial) or "none"
            raise SourceError(f"board {profile.id} has no serial port {device}", f"by name there is {there}")
        for path in port.paths:
            if path.startswith("sim:"):
                return self._simulated(path)
            if os.path.exists(path):
                return path
        raise SourceError(f"none of {', '.join(port.paths)} is there", port.note or None)

    def _simulated(self, device: str) -> str:
        """The pseudo-terminal that the simulated board makes for a name."""
        if self._sim is None:
            from nuclio_edge import sim

            self._sim = sim.attach(self.host).port(device.partition(":")[2])
        return self._sim.open()

    def _say(self, error: SourceError) -> None:
        if self._said != error.message:
            hint = ("hint", error.hint) if error.hint else ()
            self.host.log.warn_with("no port, trying again", "source", self.name, "error", error.message, *hint)
            self._said = error.message

    def _ready(self, mask: int) -> None:
        if mask & OUT and self._writer.waits:
            self._writer.flush()
        if self._fd < 0:
            return
        if self._reading:
            if mask & IN:
                self._read()
        elif mask & HUNG_UP:
            # Unplugged while functions have no room: the poller would say so all the time, a read says it later.
            self._loop.remove(self._fd)
            self._deaf = True

    def _read(self) -> None:
        rested = self._resting is not None
        if rested:
            self._resting.cancel()
            self._resting = None
        if not self._reading:
            return
        try:
            data = os.read(self._fd, READ)
        except BlockingIOError:
            self._watch()
            return
        except OSError:
            data = b""
        if not data:
            self._gone()
            return
        loop = self._loop
        self._last_read = loop.now
        frames = self._frames.feed(data)
        if frames:
            if len(frames) > 1:
                loop.poller.several[self._fd] = 1
            self._hand_in(frames)
        quiet = self._frames.quiet_ms
        if quiet and self._quiet is None:
            self._quiet = loop.call_later(quiet, self._silence)
        rest = self._reading and (self._frames.tail or not frames) and not 0 < quiet < 4 * REST_MS
        if rest:
            self._resting = loop.call_later(self._rest_ms, self._read)
        if rest != rested:
            self._watch()

    def _silence(self) -> None:
        """One timer follows the stream: it looks when the last byte came, and waits for what is left."""
        self._quiet = None
        left = self._last_read + self._frames.quiet_ms - self._loop.now
        if left > 0:
            self._quiet = self._loop.call_later(left, self._silence)
            return
        self._hand_in(self._frames.silence())

    def _hand_in(self, frames: list[bytes]) -> None:
        wall = self._loop.wall
        routes = self._routes
        for frame in frames:
            self.received += 1
            functions: list[Any] = []
            for prefixes, trigger in routes:
                if trigger.function not in functions and (not prefixes or frame.startswith(prefixes)):
                    functions.append(trigger.function)
                    event = SerialEvent(trigger, frame, wall)
                    if self._kept or not trigger.submit(event):
                        self._keep(event)
            if functions:
                self.routed += 1
            else:
                self.unrouted += 1

    def _keep(self, event: SerialEvent) -> None:
        """No room: keep it, in order, and read no more; what was read already is the most that gathers here."""
        self._kept.append(event)
        if len(self._kept) == 1:
            self._watch()
            trigger: Any = event._trigger
            trigger.on_room(self._room)

    def _room(self) -> None:
        while self._kept:
            trigger: Any = self._kept[0]._trigger
            if not trigger.submit(self._kept[0]):
                trigger.on_room(self._room)
                return
            self._kept.popleft()
        self._count_overruns()
        self._watch()

    def _watch(self) -> None:
        """Listen for what is of interest now."""
        self._reading = self._wanted and not self._kept
        if self._fd < 0:
            return
        if not self._deaf:
            self._loop.modify(self._fd, self._reading and self._resting is None, self._writer.waits)
        elif self._reading:
            self._deaf = False
            self._loop.add(self._fd, self._ready)

    def _gone(self) -> None:
        """The port is unplugged: forget it and look for it again."""
        self.outages += 1
        self._drop_port("away")
        if self._wanted:
            self._say(SourceError(f"{self.params.device} is gone"))
            self._become("connecting")
            self._retry = self._loop.call_later(self._pause_ms, self._try)

    def _drop_port(self, reason: str) -> None:
        self._cancel()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._loop.remove(fd)
            self._writer.closed(reason)
            ports.close_port(fd)
            for frame in self._frames.silence():  # with gap: the last one was whole, perhaps
                if self._wanted:
                    self._hand_in([frame])
                else:
                    self._reject("partial")

    def _cancel(self) -> None:
        for timer in (self._retry, self._quiet, self._resting):
            if timer is not None:
                timer.cancel()
        self._retry = self._quiet = self._resting = None

    def _count_overruns(self) -> None:
        if self._fd >= 0:
            now = ports.overruns(self._fd)
            self.overruns += max(0, now - self._overruns_before)
            self._overruns_before = now

    def _reject(self, reason: str) -> None:
        """Count what becomes no event."""
        self.received += 1
        self.rejected[reason] = self.rejected.get(reason, 0) + 1
        self._count_overruns()

    def _become(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.host.state_changed(self)


def _prefix(trigger: Any) -> tuple[str, ...]:
    prefixes: tuple[str, ...] = trigger.address.prefix
    return prefixes
