"""Simulated pins: levels, bias, edges with debounce, outputs that can be watched, wires from pin to pin.

What a request's descriptor brings are the kernel's records (gpio_v2_line_event), through a pipe, so that the source
reads both worlds by the same code. As in the kernel a reader that is too slow loses the oldest records, and the
sequence numbers show it. A wire that nobody drives has the level of its bias, else that of before. Any thread may
drive pins; debouncing needs a loop (`SimBoard.loop`), on which a level is taken over once it has held.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from _thread import RLock
from fcntl import ioctl

from nuclio_edge.board import load
from nuclio_edge.core import port
from nuclio_edge.sim.ports import SimPort
from nuclio_edge.sim.sensors import SimSensor, watched
from nuclio_edge.sources.gpio_line import (
    ACTIVE_LOW,
    BIASES,
    FALLING,
    OUTPUT,
    REALTIME,
    RISING,
    AwayError,
    BusyError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from nuclio_edge.board import Board
    from nuclio_edge.core.loop import Loop
    from nuclio_edge.sources.gpio_line import LineConfig
    from nuclio_edge.sources.gpio_place import Place

LABEL = "sim"
BUFFER = 1024  # records that a reader may be behind, as many as the kernel keeps
KEPT = 10_000  # changes of a pin that are remembered for assert_states
_EVENT = struct.Struct("=QIIII24x")
_FIONREAD = 0x541B
_PULL_UP, _PULL_DOWN = BIASES["pull-up"], BIASES["pull-down"]


class SimPin:
    """One pin as the world sees it: `level` is that of the wire, whoever drives it."""

    def __init__(self, board: SimBoard, offset: int, name: str) -> None:
        self.board = board
        self.offset = offset
        self.name = name
        self.level = 0
        self.states: list[int] = []  # every level since clear_states(), the present one included
        self.duty: float | None = None  # of pwm
        self.frequency = 0
        self._driven: int | None = None  # by the world
        self._wired: list[SimPin] = []
        self._taken: SimLines | None = None
        self._config: LineConfig | None = None
        self._seen = 0  # the level after debouncing
        self._seqno = 0
        self._settling: Any = None  # the timer of a debounce
        self.clear_states()

    # -- for tests and people -----------------------------------------------------------------------------------------

    def drive_high(self) -> None:
        """Put a high level on the wire."""
        self.drive(1)

    def drive_low(self) -> None:
        """Put a low level on the wire."""
        self.drive(0)

    def drive(self, level: int | None) -> None:
        """Drive the wire; None lets go of it."""
        with self.board.lock:
            self._driven = None if level is None else int(bool(level))
            self.board.settle(self)

    def press(self) -> None:
        """Do what a button does that connects to the rail against the pull: away from the level of rest."""
        self.drive(0 if self._config is not None and self._config.flags & _PULL_UP else 1)

    def release(self) -> None:
        """Let go of the button."""
        self.drive(None if self._config is not None and self._config.flags & (_PULL_UP | _PULL_DOWN) else 0)

    def connect(self, other: SimPin) -> None:
        """A wire from this pin to another one: what one drives the other one has."""
        with self.board.lock:
            self._wired.append(other)
            other._wired.append(self)
            self.board.settle(self)

    @property
    def consumer(self) -> str:
        """Who holds it; "" when it is free."""
        return self._taken.consumer if self._taken is not None else ""

    @property
    def is_output(self) -> bool:
        """Whether somebody holds it as an output."""
        return self._config is not None and bool(self._config.flags & OUTPUT)

    def clear_states(self) -> None:
        """Forget the levels of the past."""
        self.states = [self.level]

    def assert_states(self, expected: Sequence[int | bool]) -> None:
        """Raise AssertionError unless these were the levels since `clear_states`, the first one included."""
        wanted = [int(level) for level in expected]
        if self.states != wanted:
            raise AssertionError(f"{self.name} had the levels {self.states}, not {wanted}")

    # -- for the board ------------------------------------------------------------------------------------------------

    def _pull(self) -> tuple[int, int | None]:
        """(strength, level) of what this pin puts on its wire."""
        config = self._config
        if config is not None and config.flags & OUTPUT:
            value = config.value ^ bool(config.flags & ACTIVE_LOW)
            open_drain, open_source = config.flags & 1 << 6, config.flags & 1 << 7
            if not (open_drain and value) and not (open_source and not value):
                return 3, value
        if self._driven is not None:
            return 2, self._driven
        if config is not None and config.flags & (_PULL_UP | _PULL_DOWN):
            return 1, int(bool(config.flags & _PULL_UP))
        return 0, None


class SimBoard:
    """The pins, ports and sensors of a simulated board, by name; also the `Chips` of its sources.

    `folder` is where the sensors' files are.
    """

    def __init__(self, facts: Board | None = None, loop: Loop | None = None, folder: str = "sim") -> None:
        self.facts = facts if facts is not None else load("sim")
        self.lock = RLock()
        self.loop = loop
        self.now_ns: Callable[[], int] = time.monotonic_ns  # what stamps edges, unless a request wants the wall clock
        names = {pin.offset: pin.name for pin in self.facts.pins.values()}
        count = max(chip.lines for chip in self.facts.chips.values())
        self.pins = [SimPin(self, offset, names.get(offset, f"GPIO{offset}")) for offset in range(count)]
        self.present = True
        self.watchers: list[Callable[[SimPin], Any]] = []
        self.ports: dict[str, SimPort] = {}
        self.port_watchers: list[Callable[[SimPort, bytes], Any]] = []  # of what handlers write
        self.folder = folder
        self.sensors: list[str] = []  # what its sources read: names, or patterns of them
        self._granted: list[SimLines] = []

    def pin(self, name: str | int) -> SimPin:
        """The pin by any of its names ("GPIO17", "pin 11"), or by its line; LookupError when there is none."""
        if isinstance(name, str):
            found = self.facts.find_pin(name)
            offset = found.offset if found is not None else -1
        else:
            offset = name
        if not 0 <= offset < len(self.pins):
            raise LookupError(f"the simulated board has no pin {name!r}; GPIO17 and pin 11 are some of its names")
        return self.pins[offset]

    def port(self, name: str) -> SimPort:
        """The serial port that a manifest calls "sim:NAME", also before it is opened."""
        if name not in self.ports:
            self.ports[name] = SimPort(self, name)
        return self.ports[name]

    def sensor(self, name: str) -> SimSensor:
        """The sensor that a manifest calls "sim:NAME", or by a pattern for it."""
        return SimSensor(self, name)

    def set_sensors(self) -> list[str]:
        """The sensors that were set, of those that its sources read."""
        there = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        return [name for name in sorted(there) if not name.startswith(".") and watched(self.sensors, name)]

    def unplug(self) -> None:
        """Take the chip away, as a USB adapter goes: every request ends."""
        with self.lock:
            self.present = False
            for lines in list(self._granted):
                lines.cut()

    def plug(self) -> None:
        """Bring it back."""
        self.present = True

    def open_chip(self, wanted: Any, line: str | None = None) -> SimBoard:
        """The board's only chip, whatever it is called; AwayError while it is unplugged."""
        if not self.present:
            raise AwayError(f"there is no {wanted}: the simulated board is unplugged")
        if line is not None and self.find(line) is None:
            raise AwayError(f"there is no line {line!r}")
        return self

    label = LABEL
    name = "sim"

    @property
    def lines(self) -> int:
        """How many lines there are."""
        return len(self.pins)

    def find(self, line: str) -> int | None:
        """The offset of a line."""
        try:
            return self.pin(line).offset
        except LookupError:
            return None

    def request(self, lines: Sequence[LineConfig], consumer: str) -> SimLines:
        """Take pins."""
        with self.lock:
            if not self.present:
                raise AwayError("the simulated board is unplugged")
            for line in lines:
                if not 0 <= line.offset < len(self.pins):
                    raise AwayError(f"{line.pin}: the simulated board has {len(self.pins)} lines")
                pin = self.pins[line.offset]
                if pin._taken is not None:
                    raise BusyError(f"{line.pin} (line {line.offset} of {LABEL}) is used by {pin.consumer}")
            granted = SimLines(self, lines, consumer)
            self._granted.append(granted)
            for line in lines:
                pin = self.pins[line.offset]
                pin._taken, pin._config, pin._seqno = granted, line, 0
            for line in lines:
                self.settle(self.pins[line.offset], quiet=True)
            return granted

    def close(self) -> None:
        """A chip gives nothing back here."""

    def open_pwm(self, place: Place, facts: Any) -> SimPwm:
        """The PWM of a pin; every simulated pin has one."""
        if not self.present:
            raise AwayError("the simulated board is unplugged")
        return SimPwm(self.pin(place.pin if place.offset is None else place.offset))

    def settle(self, pin: SimPin, *, quiet: bool = False) -> None:
        """Find the level of a pin's wire and tell the pins on it; the lock is held."""
        wire = [pin]
        for one in wire:
            wire += [other for other in one._wired if other not in wire]
        _, level = max((one._pull() for one in wire), key=lambda pull: pull[0])
        for one in wire:
            before = one.level
            one.level = before if level is None else level
            if one.level != before:
                one.states.append(one.level)
                del one.states[:-KEPT]
                for watcher in self.watchers:
                    watcher(one)
            if quiet and one is pin:
                one._seen = one.level  # what was before the request is no edge
            elif one._taken is not None:
                self._sense(one)

    def release(self, lines: SimLines) -> None:
        """Give the pins of a request back; the lock is held."""
        if lines in self._granted:
            self._granted.remove(lines)
        for pin in self.pins:
            if pin._taken is lines:
                if pin._settling is not None:
                    pin._settling.cancel()
                    pin._settling = None
                pin._taken = pin._config = None
                self.settle(pin)

    def _sense(self, pin: SimPin) -> None:
        """An input's level may have changed: an edge now, or after its debounce."""
        config = pin._config
        if config is None or config.flags & OUTPUT:
            return
        if not config.debounce_us:
            if pin.level != pin._seen:
                self._edge(pin, config)
        elif self.loop is not None:
            self.loop.post(lambda: self._debounce(pin))

    def _debounce(self, pin: SimPin) -> None:
        """On the loop: (re)start the time for which the level must hold."""
        with self.lock:
            if pin._settling is not None:
                pin._settling.cancel()
                pin._settling = None
            config = pin._config
            if self.loop is not None and config is not None and pin.level != pin._seen:
                pin._settling = self.loop.call_later(-(-config.debounce_us // 1000), lambda: self._held(pin))

    def _held(self, pin: SimPin) -> None:
        with self.lock:
            pin._settling = None
            if pin._config is not None and pin.level != pin._seen:
                self._edge(pin, pin._config)

    def _edge(self, pin: SimPin, config: LineConfig) -> None:
        pin._seen = pin.level
        rising = bool(pin.level) != bool(config.flags & ACTIVE_LOW)
        if config.flags & (RISING if rising else FALLING):
            pin._seqno += 1
            stamp = port.now_ms() * 1_000_000 if config.flags & REALTIME else self.now_ns()
            if pin._taken is not None:
                pin._taken.record(stamp, 1 if rising else 2, pin.offset, pin._seqno)


class SimLines:
    """Granted pins: what KernelLines is to the kernel's."""

    def __init__(self, board: SimBoard, lines: Sequence[LineConfig], consumer: str) -> None:
        self.consumer = consumer
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._board = board
        self._lines = list(lines)
        self._seqno = 0

    def get(self, mask: int) -> int:
        """The values of the lines in `mask`."""
        bits = 0
        with self._board.lock:
            self._check()
            for at, line in enumerate(self._lines):
                if mask >> at & 1 and self._board.pins[line.offset].level != bool(line.flags & ACTIVE_LOW):
                    bits |= 1 << at
        return bits

    def set(self, mask: int, bits: int) -> None:
        """Drive the lines in `mask`."""
        with self._board.lock:
            self._check()
            for at, line in enumerate(self._lines):
                if mask >> at & 1:
                    line.value = bits >> at & 1
                    self._board.settle(self._board.pins[line.offset])

    def record(self, stamp: int, edge: int, offset: int, line_seqno: int) -> None:
        """Write a record; the oldest one makes room for it when the reader is too far behind."""
        if self._write < 0:
            return
        self._seqno += 1
        waiting = bytearray(4)
        ioctl(self.fd, _FIONREAD, waiting)
        try:
            if struct.unpack("=i", waiting)[0] >= BUFFER * _EVENT.size:
                os.read(self.fd, _EVENT.size)
            os.write(self._write, _EVENT.pack(stamp, edge, offset, self._seqno & 0xFFFFFFFF, line_seqno & 0xFFFFFFFF))
        except BlockingIOError:
            pass  # the reader took it meanwhile; or a pipe smaller than the kernel's usual one: the gap tells

    def cut(self) -> None:
        """The chip is gone: the reader finds the end."""
        self._board.release(self)
        if self._write >= 0:
            os.close(self._write)
            self._write = -1

    def close(self) -> None:
        """Give the pins back."""
        with self._board.lock:
            self.cut()
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1

    def _check(self) -> None:
        if self._write < 0:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


class SimPwm:
    """What gpio_pwm.Pwm is to a real one."""

    def __init__(self, pin: SimPin) -> None:
        self._pin = pin

    def set(self, duty: float, frequency: int) -> None:
        """Have this duty from now on."""
        self._pin.duty = duty
        self._pin.frequency = frequency
        for watcher in self._pin.board.watchers:
            watcher(self._pin)

    def close(self) -> None:
        """Pulse no more."""
        self._pin.duty = None
