"""The timer source: events at fixed intervals or by cron expressions.

Laws: ticks that could not come in time (the device slept, the clock jumped ahead) collapse into one; an interval
follows the monotonic clock and keeps its phase; a cron expression follows the wall clock of the device's time zone,
wherever that clock is set to, and no minute runs twice because it was set back a little.
"""

from __future__ import annotations

from nuclio_edge.core.event import Event
from nuclio_edge.core.port import now_ms, ticks_ms
from nuclio_edge.manifest.problems import quote
from nuclio_edge.manifest.schema import Field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import tzinfo
    from typing import Any, ClassVar

    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.schema import Fields, Values
    from nuclio_edge.registry import Fault

# How often a waiting cron expression looks at the wall clock: a clock that was set is noticed within this time.
LOOK_MS = 60_000
# A clock set back by no more than this is a correction: what ran already does not run again.
CORRECTION_MS = 600_000


class TimerEvent(Event):
    """A tick: `timestamp` is the time at which it was due, body and headers are those of the trigger."""

    __slots__ = ()

    def __init__(self, trigger: Trigger, due_ms: int) -> None:
        self._trigger = trigger
        self._token = None
        self.timestamp_ms = due_ms

    _lazy = {
        **Event._lazy,
        "raw_body": lambda event: event._trigger.address.body.encode(),
        "headers": lambda event: dict(event._trigger.address.headers),
        "content_type": lambda event: event._trigger.spec.content_type or "",
    }


class Schedule:
    """When one trigger is due next; `take` gives the tick that is due, with the missed ones collapsed into it."""

    __slots__ = ("_cron", "_interval", "_last", "_next", "_offset", "_zone", "missed")

    def __init__(self, address: Values, base: int, zone: Callable[[], tzinfo]) -> None:
        self._interval: int | None = address.every
        self._cron: str | None = address.cron
        self._zone = zone
        self._last = 0  # the wall time for which a cron expression ran last
        self._offset = now_ms() - ticks_ms()
        self._next = base + self._interval if self._interval else self._after(now_ms())
        self.missed = 0

    def wait_until(self) -> int:
        """The time, by `ticks_ms`, at which to look again."""
        if self._interval:
            return self._next
        return ticks_ms() + min(max(self._next - now_ms(), 0), LOOK_MS)

    def take(self) -> int | None:
        """The wall time of the tick that is due, or None when it is not time yet."""
        if self._interval:
            late = ticks_ms() - self._next
            if late < 0:
                return None
            due = now_ms() - late
            skipped = late // self._interval
            self.missed += skipped
            self._next += (skipped + 1) * self._interval
            return due
        now = now_ms()
        offset = now - ticks_ms()
        jump, self._offset = offset - self._offset, offset
        if jump < -CORRECTION_MS:
            self._last = 0
            self._next = self._after(now)
        if now < self._next:
            if jump < 0:
                self._next = self._after(max(now, self._last))
            return None
        due = self._next
        self._last = max(due, self._last)
        following = self._after(due)
        if following <= now:  # ticks were missed: one run stands for all of them
            self.missed += 1
            following = self._after(now)
        self._next = following
        return due

    def _after(self, wall_ms: int) -> int:
        from datetime import datetime

        from cronsim import CronSim

        start = datetime.fromtimestamp(wall_ms / 1000, self._zone())
        return int(next(CronSim(self._cron or "", start)).timestamp() * 1000)


def local_zone() -> tzinfo:
    """The device's time zone with its summer time rules: $TZ, else /etc/localtime, else UTC."""
    import os
    from datetime import timezone
    from zoneinfo import ZoneInfo

    name = os.environ.get("TZ", "").lstrip(":")
    if not name:
        try:
            name = os.readlink("/etc/localtime").partition("zoneinfo/")[2]
        except OSError:
            name = ""
    try:
        return ZoneInfo(name) if name else timezone.utc
    except (ValueError, OSError, KeyError):
        return timezone.utc


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
        """One of the two schedules, and one that cronsim can read."""
        if (address.every is None) == (address.cron is None):
            yield "every" if address.cron is None else "cron", "either every or cron is expected", None
        if address.cron is not None:
            from datetime import datetime, timezone

            from cronsim import CronSim, CronSimError

            try:
                CronSim(address.cron, datetime.now(timezone.utc))
            except CronSimError as error:
                message = f"{quote(address.cron)} is not a cron expression: {error}"
                yield "cron", message, 'minute hour day month weekday, e.g. "*/5 * * * *"'

    @staticmethod
    def when_full(address: Values) -> str:  # noqa: ARG004 - the hook's shape
        """A tick that finds the queue full is one too many."""
        return "drop-newest"

    def __init__(self, name: str, params: Values, host: Any) -> None:
        self.name = name
        self.params = params
        self.state = "closed"
        self.received = self.routed = self.unrouted = 0
        self.rejected: dict[str, int] = {}
        self._loop = host.loop
        self._schedules: dict[Trigger, Schedule] = {}
        self._kept: dict[Trigger, TimerEvent] = {}  # ticks that found no room: one a trigger
        self._timer: Any = None
        self._base = ticks_ms()

    def routes(self, triggers: list[Trigger]) -> None:
        """Follow these schedules; those of triggers that stay go on undisturbed, by their address."""
        going = {trigger.ledger_id: (trigger, schedule) for trigger, schedule in self._schedules.items()}
        self._schedules = {}
        for trigger in triggers:
            old = going.get(trigger.ledger_id)
            same = old is not None and old[0].address == trigger.address
            self._schedules[trigger] = (
                old[1] if old is not None and same else Schedule(trigger.address, ticks_ms(), local_zone)
            )
        if self.state == "open":
            self._arm()

    def open(self) -> None:
        """Begin to tick."""
        self.state = "open"
        self._arm()

    def settle(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """Nobody waits for the outcome of a tick."""

    def stop_receiving(self) -> None:
        """Tick no more."""
        self.state = "closed"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Give the timer back."""
        self.stop_receiving()
        self._schedules = {}

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._schedules:
            self._timer = self._loop.call_at(min(s.wait_until() for s in self._schedules.values()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        for trigger, schedule in list(self._schedules.items()):
            due = schedule.take()
            if due is not None:
                self.received += 1
                self._submit(trigger, TimerEvent(trigger, due))
        if self.state == "open":
            self._arm()

    def _submit(self, trigger: Trigger, event: TimerEvent) -> None:
        if trigger in self._kept:  # the tick before it still waits for room: this one collapses into it
            self.rejected["collapsed"] = self.rejected.get("collapsed", 0) + 1
        elif trigger.submit(event):
            self.routed += 1
        else:
            self._kept[trigger] = event
            self.received -= 1  # counted again when it is submitted again
            trigger.on_room(lambda: self._resubmit(trigger))

    def _resubmit(self, trigger: Trigger) -> None:
        event = self._kept.pop(trigger)
        self.received += 1
        self._submit(trigger, event)
