"""The sensor source: numbers that are read on a schedule, from files of the kernel or by a function of the user's.

Laws: the first reading comes at once, the next ones keep its phase; a round that is not over when the next is due
takes its place. A sensor that blocks, fails or vanishes stops no other; each trouble is counted every time, said once,
and its end too. With `min_change`, a reading is an event only when it has moved so far from the last one that was.
"""

from __future__ import annotations

import os.path
from fnmatch import fnmatchcase
from math import isfinite

from nuclio_edge.core import port
from nuclio_edge.core.event import Event
from nuclio_edge.sources.sensor_file import MOST, ReadingError, find, read_number, sensor_name
from nuclio_edge.sources.sensor_params import OUTPUT, PARAMS, TRIGGER, when_full
from nuclio_edge.sources.sensor_round import LISTING, Rounds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.schema import Fields, Values
    from nuclio_edge.sim.pins import SimBoard


class SensorEvent(Event):
    """A reading: fields value, unit and sensor, or those that the reader returned. `topic` is the sensor's name."""

    __slots__ = ()

    def __init__(self, trigger: Trigger | None, path: str, name: str, body: bytes, wall: int) -> None:
        self._trigger = trigger
        self._token = None
        self.path = path
        self.topic = name
        self.raw_body = body
        self.timestamp_ms = wall

    _lazy = {**Event._lazy, "content_type": "application/json"}  # noqa: RUF012 - the class's table, as Event has it


def to_parts(event: SensorEvent) -> tuple[int, bytes, bytes]:
    """What `stored` keeps beside body and time: path and name, of which a file's need not be UTF-8."""
    return 0, (event.path or "").encode("utf-8", "surrogatepass"), (event.topic or "").encode("utf-8", "surrogatepass")


def from_parts(trigger: Trigger | None, _first: int, path: bytes, name: bytes, body: bytes, wall: int) -> SensorEvent:
    """The event of what was kept of it."""
    texts = path.decode("utf-8", "surrogatepass"), name.decode("utf-8", "surrogatepass")
    return SensorEvent(trigger, *texts, body, wall)


class SensorSource:
    """One path or one reader."""

    kind = "sensor"
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
        self.unchanged = 0  # readings within the dead band: no events
        self.skipped = 0  # rounds whose time came while another one was going on
        self._loop = host.loop
        self._routes: list[Trigger] = []
        self._kept: dict[tuple[str, str], SensorEvent] = {}  # the newest without room, by trigger and path
        self._names: dict[str, str] = {}  # path -> name, of the last round
        self._trouble: dict[str, str] = {}  # path -> what was said of it
        self._last: dict[str, tuple[Any, int]] = {}  # path -> the last event's value, and when
        self._good = 0  # readings of this round
        self._found_count = 0
        self._first = True  # no round has found its sensors yet
        self._next = 0
        self._timer: Any = None
        self._reader: Any = None
        self._pattern: str = params.path or ""
        self._sim: SimBoard | None = None  # while it is open, when its path is a simulated one
        if params.reader is not None:
            from nuclio_edge.sources.sensor_reader import Reader

            self._reader = Reader(name, params, host.device)
        self._rounds = Rounds(
            host.loop, params.timeout, self._list, self._read, self._found, self._took, self._hangs, self._over
        )

    def routes(self, triggers: list[Trigger]) -> None:
        """Send readings to these triggers; what found no room yet goes to the new versions."""
        self._routes = triggers
        here = {trigger.ledger_id: trigger for trigger in triggers}
        for key, event in list(self._kept.items()):
            old: Any = event._trigger
            if old.ledger_id in here:
                event._trigger = here[old.ledger_id]
                event._trigger.on_room(self._room)
            else:
                del self._kept[key]
                old.turn_away(event, "closed")

    def open(self) -> None:
        """Read, now and from now on."""
        if self.params.path is not None and self.params.path.startswith("sim:"):
            self._simulate(self.params.path)
        self._next = port.ticks_ms()
        self._become("connecting")
        self._due()

    def settle(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """Nobody waits for the outcome of a reading."""

    def stop_receiving(self) -> None:
        """Read no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._rounds.close()
        kept, self._kept = self._kept, {}
        for event in kept.values():
            old: Any = event._trigger
            old.turn_away(event, "closed")

    def close(self) -> None:
        """Give the bus back; a read that hangs keeps its thread until it returns."""
        self.stop_receiving()
        if self._reader is not None:
            self._reader.close()
        if self._sim is not None:
            from nuclio_edge import sim

            self._sim.sensors.remove(os.path.basename(self._pattern))
            self._sim = None
            sim.detach(self.host)
        self._become("closed")

    def _simulate(self, path: str) -> None:
        """Read what the simulated board has under this name."""
        from nuclio_edge import sim

        self._sim = sim.attach(self.host)
        name = path.partition(":")[2]
        self._sim.sensors.append(name)
        self._pattern = os.path.join(self._sim.folder, name)

    def _due(self) -> None:
        now = port.ticks_ms()
        every = self.params.every
        self._next += every * (1 + max(0, now - self._next) // every)
        self._timer = self._loop.call_at(self._next, self._due)
        if self._rounds.busy:
            self.skipped += 1
        else:
            self._good = 0
            self._rounds.begin()

    def _list(self) -> list[str]:
        """On the round's thread: the files, or the one reader."""
        if self._reader is not None:
            return [self._reader.where]
        paths = find(self._pattern)
        self._found_count = len(paths)
        return paths[:MOST]

    def _read(self, path: str) -> Any:
        """On the round's thread: (name, what was read)."""
        if self._reader is not None:
            return self.name, self._reader.read()
        return sensor_name(self._pattern, path) or self.name, read_number(path, self.params.match)

    def _found(self, paths: list[str]) -> None:
        """Look who is gone, and who is one too many. At the start that there is something to read is good enough."""
        if paths and self._first:
            self._become("open")
        self._first = False
        for path in [path for path in self._names if path not in paths]:
            self._say(path, "it is gone")
            del self._names[path]
            self._last.pop(path, None)
        if not paths:
            self._say(self._pattern, "no file fits the path")
        elif self._pattern not in paths and self._found_count <= MOST:
            self._heal(self._pattern)
        if self._found_count > MOST:
            self._say(self._pattern, f"{self._found_count} files fit the path; the first {MOST} are read")

    def _took(self, path: str, result: Any) -> None:
        if isinstance(result, BaseException):
            reason = result.reason if isinstance(result, ReadingError) else self._reader.reason(result)
            self._reject(reason)
            self._say(path, str(result) or type(result).__name__)
            self._names.setdefault(path, path)
            return
        name, raw = result
        try:
            value, body = self._shape(name, raw)
        except (TypeError, ValueError) as error:
            self._reject("unparsable")
            self._say(path, str(error))
            return
        self._names[path] = name
        self._heal(path)
        self._good += 1
        if self.state == "connecting":
            self._become("open")
        if self._is_new(path, value):
            self._hand_in(path, name, body)
        else:
            self.unchanged += 1

    def _shape(self, name: str, raw: Any) -> tuple[Any, bytes]:
        """What is compared, and the event's body; TypeError or ValueError for what a reader should not return."""
        if isinstance(raw, dict):
            for field in raw.values():
                _check_finite(field)
            return raw, port.json_dumps(raw).encode()
        if isinstance(raw, bool) or not isinstance(raw, (int, float)):
            raise TypeError(f"a reader returns a number or a dict, not {type(raw).__name__}")
        _check_finite(raw)
        # Nine decimals are beyond any sensor, and 21562 * 0.001 is 21.562, not 21.562000000000001.
        value = round(raw * self.params.scale + self.params.offset, 9)
        fields = {"value": value, "unit": self.params.unit, "sensor": name}
        return value, port.json_dumps({key: field for key, field in fields.items() if field != ""}).encode()

    def _is_new(self, path: str, value: Any) -> bool:
        """Whether it is beyond the dead band, or the last event too long ago; and if so, the one to compare with."""
        band, now = self.params.min_change, port.ticks_ms()
        if band and path in self._last:
            last, when = self._last[path]
            quiet = self.params.max_silence
            if not _moved(last, value, band) and (quiet is None or now - when < quiet):
                return False
        self._last[path] = value, now
        return True

    def _hand_in(self, path: str, name: str, body: bytes) -> None:
        self.received += 1
        functions: list[Any] = []
        for trigger in self._routes:
            address: Any = trigger.address
            wanted = address.sensor
            if trigger.function in functions or (wanted is not None and not fnmatchcase(name, wanted)):
                continue
            functions.append(trigger.function)
            event = SensorEvent(trigger, path, name, body, self._loop.wall)
            key = trigger.ledger_id, path
            if key in self._kept:  # the newer reading takes the place of the one that still waits
                trigger.turn_away(self._kept[key], "collapsed")
                self._kept[key] = event
            elif not trigger.submit(event):
                self._kept[key] = event
                trigger.on_room(self._room)
        if functions:
            self.routed += 1
        else:
            self.unrouted += 1

    def _room(self) -> None:
        full: list[Any] = []  # none of them holds up the others
        for key, event in list(self._kept.items()):
            trigger: Any = event._trigger
            if trigger in full:
                continue
            if trigger.submit(event):
                del self._kept[key]
            else:
                full.append(trigger)
                trigger.on_room(self._room)

    def _hangs(self, path: str) -> None:
        self._reject("blocked")
        if path == LISTING:
            self._say(self._pattern, "looking for files takes too long")
        else:
            self._say(path, f"a read takes longer than {self.params.timeout} ms; it is left out until it returns")

    def _over(self) -> None:
        """A round's end: with nothing read at all, the source is as a broker that is away."""
        if self.state != "closed":
            self._become("open" if self._good else "connecting")

    def _say(self, path: str, what: str) -> None:
        if self._trouble.get(path) != what and (path in self._trouble or len(self._trouble) < 2 * MOST):
            self._trouble[path] = what
            self.host.log.warn_with("no reading", "source", self.name, "sensor", path, "error", what)

    def _heal(self, path: str) -> None:
        if self._trouble.pop(path, None) is not None:
            self.host.log.info_with("reads again", "source", self.name, "sensor", path)

    def _reject(self, reason: str) -> None:
        """Count a reading that becomes no event."""
        self.received += 1
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def _become(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.host.state_changed(self)


def _check_finite(value: Any) -> None:
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{value} is no reading")


def _moved(last: Any, value: Any, band: float) -> bool:
    """Whether a value, or any number of a dict, is further than the dead band from what it was."""
    if not isinstance(value, dict) or not isinstance(last, dict):
        return isinstance(value, dict) or isinstance(last, dict) or abs(value - last) >= band
    if value.keys() != last.keys():
        return True
    for key, new in value.items():
        old = last[key]
        if isinstance(new, (int, float)) and isinstance(old, (int, float)):
            if abs(new - old) >= band:
                return True
        elif new != old:
            return True
    return False
