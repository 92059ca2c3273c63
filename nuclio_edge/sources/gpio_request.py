"""Lines that are held together: one request to the kernel, its descriptor, and what each line is there for."""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque

from nuclio_edge.sources.gpio_line import AwayError, LineConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.sources.gpio_event import GpioEvent
    from nuclio_edge.sources.gpio_line import Chips
    from nuclio_edge.sources.gpio_place import Place


class Line:
    """One line of a source: how it is requested, and who wants its edges.

    `name` is what handlers call it, `about` the keywords of its LineConfig. `value` is what an output drives, also when
    its chip comes back.
    """

    __slots__ = (
        "about", "derived", "direction", "exact", "falling", "frequency", "name", "names", "offset", "place", "request",
        "rising", "seen", "shutdown", "value",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        place: Place,
        direction: str,
        about: dict[str, Any],
        *,
        value: float = 0,
        shutdown: float | None = None,
        frequency: int = 0,
    ) -> None:
        self.name = name
        self.names = (name, place.pin)
        self.place = place
        self.direction = direction
        self.about = about
        self.value = value
        self.shutdown = shutdown
        self.frequency = frequency
        self.offset = -1
        self.request: Any = None
        self.rising: tuple[Trigger, ...] = ()
        self.falling: tuple[Trigger, ...] = ()
        self.derived: tuple[Any, ...] = ()  # counters and buttons
        self.exact = (
            False  # a counter counts what this line is asked for: the kernel's numbers tell it what was dropped
        )
        self.seen = 0  # the line_seqno of the last edge

    def config(self, *, realtime: bool) -> LineConfig:
        """As it is requested now."""
        value = int(self.value >= 0.5)
        return LineConfig(
            self.place.pin, self.offset, direction=self.direction, value=value, realtime=realtime, **self.about
        )


class Request:
    """Lines of one chip and one direction. `set` and `get` come from any thread, the rest from the loop's."""

    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines
        self.reads = lines[0].direction == "in"
        self.by_offset: dict[int, Line] = {}
        self.handle: Any = None
        self.seqno = 0
        self.listening = False
        self.kept: deque[GpioEvent] = deque()  # events for which there was no room
        self.rest = b""  # records behind them that were read already
        self.away = "is not open"
        self._lock = allocate_lock()  # a set on another thread must not meet a descriptor that is another file's by now
        for line in lines:
            line.request = self

    def open(self, chips: Chips, consumer: str, realtime: bool) -> None:
        """Take the lines; AwayError says why not."""
        first = self.lines[0]
        where = first.place
        chip = chips.open_chip(where.chip, where.pin if where.offset is None else None)
        try:
            for line in self.lines:
                offset = line.place.offset if line.place.offset is not None else chip.find(line.place.pin)
                if offset is None:
                    raise AwayError(f"{chip.label} has no line {line.place.pin!r}")
                line.offset = offset
                line.seen = 0
            handle = chip.request([line.config(realtime=realtime) for line in self.lines], consumer)
        finally:
            chip.close()
        self.by_offset = {line.offset: line for line in self.lines}
        self.seqno = 0
        with self._lock:
            self.handle = handle

    def get(self, line: Line) -> int:
        """A line's value now."""
        bit = 1 << self.lines.index(line)
        with self._lock:
            if self.handle is None:
                raise AwayError(f"{line.name}: {self.away}")
            return int(self.handle.get(bit) != 0)

    def set(self, line: Line, value: float) -> None:
        """Drive a line."""
        bit = 1 << self.lines.index(line)
        with self._lock:
            line.value = value
            if self.handle is None:
                raise AwayError(f"{line.name}: {self.away}")
            self.handle.set(bit, bit if value else 0)

    def close(self, *, leave: bool = False) -> None:
        """Give the lines back, outputs with their `shutdown` value; `leave`: the chip is gone already."""
        with self._lock:
            handle, self.handle = self.handle, None
            if handle is None:
                return
            mask = bits = 0
            for at, line in enumerate(self.lines):
                if not self.reads and line.shutdown is not None:
                    mask |= 1 << at
                    bits |= bool(line.shutdown) << at
            if mask and not leave:
                try:
                    handle.set(mask, bits)
                except OSError:
                    pass  # it went at this moment
            handle.close()


class PwmRequest:
    """One line that pulses; the same to the source as a Request."""

    reads = False
    listening = False
    rest = b""

    def __init__(self, line: Line, facts: Any) -> None:
        self.lines = [line]
        self.handle: Any = None
        self.kept: deque[GpioEvent] = deque()
        self.away = "is not open"
        self._facts = facts
        self._lock = allocate_lock()
        line.request = self

    def open(self, chips: Chips, consumer: str, realtime: bool) -> None:
        """Take the channel."""
        line = self.lines[0]
        handle = chips.open_pwm(line.place, self._facts)
        try:
            handle.set(line.value, line.frequency)
        except OSError as error:
            handle.close()
            raise AwayError(f"{line.name}: {error.strerror}: {error.filename or ''}") from None
        with self._lock:
            self.handle = handle

    def get(self, line: Line) -> float:
        """Its duty, 0 to 1."""
        return line.value

    def set(self, line: Line, value: float) -> None:
        """Pulse with this duty."""
        with self._lock:
            line.value = value
            if self.handle is None:
                raise AwayError(f"{line.name}: {self.away}")
            self.handle.set(value, line.frequency)

    def close(self, *, leave: bool = False) -> None:
        """Give the channel back; with a `shutdown` duty it is left pulsing so."""
        with self._lock:
            handle, self.handle = self.handle, None
            if handle is not None:
                handle.close()
