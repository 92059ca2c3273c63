"""When a cron expression is due, by a wall clock that may be set at any time; imported when a trigger has one.

Laws: a wait looks at the clock every minute, so a clock that was set is noticed within one; a jump ahead makes one
tick of all that it skipped; a clock set back does not make the expression wait for its old future; a minute that has
run runs again only after the clock was set back by more than CORRECTION_MS before the last one. Summer time is Debian
cron's: a fixed time that the clock skips comes at the end of the gap, one that it repeats comes the first time; `*`
runs in both hours.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone, tzinfo

from cronsim import CronSim, CronSimError

from nuclio_edge.core import port
from nuclio_edge.manifest.problems import quote

# How often a waiting expression looks at the clock. All look in the same turn: one wake-up a minute, however many.
LOOK_MS = 60_000
# A clock set back by no more than this was corrected: what ran already does not run again.
CORRECTION_MS = 600_000
_NEVER = 1 << 62


class Cron:
    """One expression, by the device's wall clock and time zone."""

    __slots__ = ("_expression", "_last", "_next", "_seen", "_zone", "missed")

    def __init__(self, expression: str, zone: tzinfo | None = None) -> None:
        self._expression = expression
        self._zone = zone or LocalZone()
        self._last = 0  # the due time of the last tick
        self._seen = port.now_ms()  # the clock at the last look; `_next` is the first due time after it
        self._next = self._after(self._seen)
        self.missed = 0  # times at which several ticks collapsed into one

    def wait_until(self) -> int:
        """The time, by `ticks_ms`, at which to look again."""
        ticks = port.ticks_ms()
        return min(ticks + max(self._next - port.now_ms(), 0), (ticks // LOOK_MS + 1) * LOOK_MS)

    def take(self) -> int | None:
        """The wall time (ms) of the tick that is due, the missed ones collapsed into the first of them; else None."""
        now = port.now_ms()
        if now < self._seen:  # the clock was set back. If it only lost a part of what passed, `_next` is right still
            if now < self._last - CORRECTION_MS:
                self._last = 0
            self._next = self._after(max(now, self._last))
        self._seen = now
        if now < self._next:
            return None
        due = self._last = self._next
        self._next = self._after(due)
        if self._next <= now:
            self.missed += 1
            self._next = self._after(now)
        return due

    def _after(self, wall_ms: int) -> int:
        time.tzset()  # else the C library would not notice another /etc/localtime
        start = datetime.fromtimestamp(wall_ms // 1000, self._zone)
        for when in CronSim(self._expression, start):
            due = int(when.timestamp() * 1000)
            if due > wall_ms:  # within a repeated hour cronsim offers its first pass, which is over
                return due
        return _NEVER


class LocalZone(tzinfo):
    """The device's time zone as the C library has it: $TZ in every form, else /etc/localtime, else UTC.

    zoneinfo knows only named zones, and needs its database on the device.
    """

    def utcoffset(self, when: datetime | None) -> timedelta:
        """The offset at a local time; `fold` chooses the pass of a repeated hour (PEP 495)."""
        if when is None:
            return timedelta(0)
        local = when.replace(tzinfo=None)
        return local - (_EPOCH + timedelta(seconds=local.timestamp()))

    def dst(self, when: datetime | None) -> timedelta | None:
        """Not told: the offset has it in."""
        return None

    def tzname(self, when: datetime | None) -> str:
        """The zone is the device's."""
        return "local"

    def fromutc(self, when: datetime) -> datetime:
        """The local time of a point in UTC."""
        seconds = (when.replace(tzinfo=None) - _EPOCH).total_seconds()
        return datetime.fromtimestamp(seconds).replace(tzinfo=self)  # noqa: DTZ006 - the C library's local time is the point


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - naive, as what it is compared with


def fault(expression: str) -> str | None:
    """Say why this is no cron expression, or none that ever comes; else None."""
    try:
        next(CronSim(expression, datetime.now(timezone.utc)))
    except CronSimError as error:
        return str(error)
    except StopIteration:
        return "it never comes"
    return None


def meant(expression: str) -> str | None:
    """Say what to write for one of the words that other crons have in the place of an expression; None for no such."""
    word, _, rest = expression.strip().lower().partition(" ")
    if word == "@every":
        return f"write every = {quote(rest.strip() or '5m')}"
    return f"write cron = {quote(_WORDS[word])}" if word in _WORDS else None


_WORDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
