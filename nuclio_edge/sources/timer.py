"""The timer source: events at fixed intervals or by cron expressions.

Laws: no tick comes early; ticks that could not come in time (the device slept, the clock jumped ahead) collapse into
one; an interval follows the monotonic clock and keeps its phase; a cron expression follows the wall clock, wherever
that is set to (timer_cron). Every trigger has a deadline of its own in the loop's heap, so thousands cost no more than
what they tick; an `every = "1h"` wakes the device once an hour, all cron expressions together once a minute.
"""

from __future__ import annotations

from nuclio_edge.core import port
from nuclio_edge.core.event import Event
from nuclio_edge.manifest.problems import quote
from nuclio_edge.manifest.schema import Field, separately

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, ClassVar

    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.schema import Fields, Values
    from nuclio_edge.registry import Fault


class TimerEvent(Event):
    """A tick: `timestamp` is the time at which it was due, body and headers are those of the trigger."""

    __slots__ = ()

    def __init__(self, trigger: Trigger | None, due_ms: int) -> None:
        self._trigger = trigger
        self._token = None
        self.timestamp_ms = due_ms

    _lazy = {  # noqa: RUF012 - the class's table, as Event has it
        **Event._lazy,
        "raw_body": lambda event: event._trigger.address.body.encode(),
        "headers": lambda event: dict(event._trigger.address.headers),
        "content_type": lambda event: event._trigger.spec.content_type or "",
    }


def to_parts(event: TimerEvent) -> tuple[int, bytes, bytes]:
    """What `stored` keeps beside body and time: the headers, so that a change of the manifest does not alter it."""
    headers = event.headers
    if not headers:
        return 0, b"", b""
    from nuclio_edge.core import msgpack  # here, as its library is loaded with it

    return 0, b"", msgpack.pack(headers)


def from_parts(
    trigger: Trigger | None, _first: int, _address: bytes, rest: bytes, body: bytes, wall: int
) -> TimerEvent:
    """The event of what was kept of it."""
    from nuclio_edge.core import msgpack

    event = TimerEvent(trigger, wall)
    event.raw_body = body
    event.headers = msgpack.unpack(rest) if rest else {}
    if trigger is None:
        event.content_type = ""
    return event


class Interval:
    """When an `every` is due: at its beginning plus 1, 2, 3 … times the interval, by the monotonic clock."""

    __slots__ = ("_interval", "_next", "missed")

    def __init__(self, interval_ms: int) -> None:
        self._interval = interval_ms
        self._next = port.ticks_ms() + interval_ms
        self.missed = 0

    def wait_until(self) -> int:
        """The time, by `ticks_ms`, at which to look again."""
        return self._next

    def take(self) -> int | None:
        """The wall time (ms) of the tick that is due, the missed ones collapsed into the first of them; else None."""
        late = port.ticks_ms() - self._next
        if late < 0:
            return None
        skipped = late // self._interval
        self.missed += skipped
        self._next += (skipped + 1) * self._interval
        return port.now_ms() - late


class Ticking:
    """One trigger with its schedule, its place in the loop's heap, and the tick for which there was no room."""

    __slots__ = ("kept", "schedule", "source", "timer", "trigger")

    def __init__(self, source: TimerSource, trigger: Trigger, schedule: Any) -> None:
        self.source = source
        self.trigger = trigger
        self.schedule = schedule
        self.timer: Any = None
        self.kept: TimerEvent | None = None

    def arm(self) -> None:
        """Wait for the next tick."""
        self.stop()
        self.timer = self.source.loop.call_at(self.schedule.wait_until(), self._look)

    def stop(self) -> None:
        """Wait no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _look(self) -> None:
        due = self.schedule.take()
        self.arm()
        if due is not None:
            if self.kept is None:
                self.submit(TimerEvent(self.trigger, due))
            else:  # the tick before it still waits for room: this one collapses into it
                self.source.received += 1
                self.source.reject("collapsed")

    def submit(self, event: TimerEvent) -> None:
        """Hand the tick in, or keep it until there is room; it counts when it has found some."""
        self.kept = event
        if self.trigger.submit(event):
            self.kept = None
            self.source.received += 1
            self.source.routed += 1
        else:
            self.trigger.on_room(self._again)

    def _again(self) -> None:
        if self.kept is not None:
            self.submit(self.kept)

    def drop(self) -> None:
        """Tick no more; a tick that found no room is counted."""
        self.stop()
        if self.kept is not None:
            self.kept = None
            self.source.received += 1
            self.source.reject("closed")


def _check_schedule(address: Values) -> Iterator[Fault]:
    if (address.every is None) == (address.cron is None):
        yield "every" if address.cron is None else "cron", "either every or cron is expected", None


def _check_cron(address: Values) -> Iterator[Fault]:
    if address.cron is None:
        return
    from nuclio_edge.sources.timer_cron import fault, meant

    wrong = fault(address.cron)
    if wrong:
        message = f"{quote(address.cron)} is not a cron expression: {wrong}"
        yield "cron", message, meant(address.cron) or 'minute hour day month weekday, e.g. "*/5 * * * *"'


class TimerSource:
    """The clock: needs no table in the manifest."""

    kind = "timer"
    replies = False
    acks = False

    PARAMS: ClassVar[Fields] = {}
    TRIGGER: ClassVar[Fields] = {
        "every": Field("duration", minimum=1, doc='an interval, e.g. "30s"'),
        "cron": Field("string", minimum=1, doc='or a cron expression, e.g. "*/5 * * * *"'),
        "body": Field("string", "", doc="of the event"),
        "headers": Field("map", {}, of=Field("string"), doc="of the event"),
    }
    OUTPUT: ClassVar[Fields | None] = None  # no output goes to a clock

    @staticmethod
    def check_trigger(address: Values) -> Iterator[Fault]:
        """One of the two schedules, and one that cronsim can read and that comes at all."""
        yield from separately(address, _check_schedule, _check_cron)

    @staticmethod
    def when_full(address: Values) -> str:  # noqa: ARG004 - the hook's shape
        """A tick that finds the queue full is one too many."""
        return "drop-newest"

    def __init__(self, name: str, params: Values, host: Any) -> None:
        self.name = name
        self.params = params
        self.host = host
        self.loop = host.loop
        self.state = "closed"
        self.received = self.routed = self.unrouted = 0
        self.rejected: dict[str, int] = {}
        self._ticking: dict[str, Ticking] = {}  # by ledger id

    def routes(self, triggers: list[Trigger]) -> None:
        """Follow these schedules; one whose address stays the same goes on undisturbed, whoever handles it now."""
        before, self._ticking = self._ticking, {}
        for trigger in triggers:
            old = before.get(trigger.ledger_id)
            if old is None or old.trigger.address != trigger.address:
                self._ticking[trigger.ledger_id] = ticking = Ticking(self, trigger, _schedule(trigger.address))
                if self.state == "open":
                    ticking.arm()
                continue
            del before[trigger.ledger_id]
            self._ticking[trigger.ledger_id] = old
            if old.trigger is not trigger:
                old.trigger = trigger
                if old.kept is not None:  # its function was replaced: the new one may have room
                    old.submit(TimerEvent(trigger, old.kept.timestamp_ms))
        for gone in before.values():
            gone.drop()

    def open(self) -> None:
        """Begin to tick."""
        self._set_state("open")
        for ticking in self._ticking.values():
            ticking.arm()

    def settle(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """Nobody waits for the outcome of a tick."""

    def stop_receiving(self) -> None:
        """Tick no more."""
        for ticking in self._ticking.values():
            ticking.drop()
        self._set_state("closed")

    def close(self) -> None:
        """Give the timers back."""
        self.stop_receiving()
        self._ticking = {}

    def reject(self, reason: str) -> None:
        """Count a tick that becomes no event."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def _set_state(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.host.state_changed(self)


def _schedule(address: Any) -> Any:
    if address.every is not None:
        return Interval(address.every)
    from nuclio_edge.sources.timer_cron import Cron

    return Cron(address.cron)
