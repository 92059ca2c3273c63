"""What an event's time is worth: wall time, the kernel's boot clock, the boot's id, how far the wall clock is trusted.

A device without a battery clock begins every boot with a wrong time and learns the right one later, or never. The boot
clock (CLOCK_BOOTTIME) always knows how long ago something was. So both are kept, and what is sent or stored later is
stamped anew: the event's time on the boot clock, plus what the wall clock is ahead of the boot clock by now.

An event carries only the wall time that its source gave it; the rest is worked out when it is asked for, from the few
moments at which the wall clock was set while this process ran. The kernel reports those (timerfd_create(2),
TFD_TIMER_CANCEL_ON_SET): nothing is done per event, nothing polled, nobody woken. docs/time.md says what it means.

Use `stamp`, `restamp` and `age_ms`. They are the loop's, but for `stamp`, which a handler may ask for on its thread.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock, get_ident, start_new_thread

from .core import port
from .core.event import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .core.loop import Loop

    Stamp = tuple[int, int, str, str]

UNSET, SET, SYNCED = QUALITIES = ("unset", "set", "synced")  # the better, the later
# No clock that shows less was ever set: 2026-01-01. systemd takes the date of its own build for the same purpose.
FLOOR_MS = 1_767_225_600_000
_SLEWED_MS = 1_000  # so much may a clock be slewed between two looks without having been set
_MOMENTS = 32  # settings of the clock that are remembered
_BOOTS = 16  # boots that are
_ASK_MS = 10_000  # between two questions to the kernel about the clock's quality
_APART_MS = 5  # so far may readings of two clocks be apart
_CLOCK_REALTIME, _ABSTIME_CANCEL_ON_SET = 0, 3
_TIME_ERROR = 5  # adjtimex(2): not synchronized
_TIMEX_SIZE = 256  # struct timex has 208 bytes at most
TIMESYNCD = "/run/systemd/timesync/synchronized"  # there as soon as it has set the clock in this boot
_NOTHING = (-1, -1, "", "")
_filtered: list[bool] = []


def stamp(event: Event) -> Stamp:
    """When it was: (wall_ms, mono_ms, boot, quality).

    `wall_ms` is `event.timestamp_ms`. `mono_ms` is the same moment on that boot's clock (CLOCK_BOOTTIME, which goes on
    while the device sleeps); -1 when the time is none of this device's clock: it then stays as it is for ever. `boot`
    is 8 hex digits, of the kernel's boot, not of the process. `quality` is what the wall clock was worth at that
    moment: "unset" (nobody knows), "set" (by a battery clock or by somebody) or "synced" (the kernel is told the time
    by NTP or the like). An event of an earlier process has the stamp that was given to `keep`.
    The clocks are looked at once a millisecond at most: events of one turn share a tuple. Never raises.
    """
    return CLOCK.stamp(event)


def restamp(wall_ms: int, mono_ms: int, boot: str, quality: str) -> tuple[int, str]:
    """(wall_ms, quality) of a stamp as they are known now, for what is sent or stored later.

    Better only when the clock has become better: in the same boot, or later in that boot, which is remembered over
    the next ones. Otherwise what it was, "unset" included: a guess would look like a time. Order is never made of
    this: two events of which one has been stamped anew may stand in another order by it; records keep theirs.
    """
    return CLOCK.restamp(wall_ms, mono_ms, boot, quality)


def age_ms(wall_ms: int, mono_ms: int, boot: str, quality: str) -> int | None:
    """How long ago a stamp was, never negative: what an expiry goes by.

    Within one boot whatever happened to the wall clock; over boots by the wall clock if it was set both times; None
    when nobody knows: let it live, and count from now.
    """
    return CLOCK.age_ms(wall_ms, mono_ms, boot, quality)


def present() -> Stamp:
    """The stamp of this moment, for what is no event."""
    now, moment = CLOCK.look()
    return now + moment.lead, now, CLOCK.boot, moment.quality


def keep(event: Event, wall_ms: int, mono_ms: int, boot: str, quality: str) -> None:
    """Give an event the stamp with which it was stored."""
    wall = Stamped(wall_ms)
    wall.stamp = (wall_ms, mono_ms, boot, quality)
    event.timestamp_ms = wall


class Stamped(int):
    """A wall time that brings its stamp along: the `timestamp_ms` of an event of an earlier process."""

    stamp: Stamp


class Moment:
    """From `since` on (boot clock) the wall clock was `lead` ahead of the boot clock, and worth `quality`."""

    __slots__ = ("lead", "quality", "since")

    def __init__(self, since: int, lead: int, quality: str) -> None:
        self.since = since
        self.lead = lead
        self.quality = quality


class Clock:
    """The clock of this process: `CLOCK`, which lives as long as it, and is open while a processor is."""

    def __init__(self) -> None:
        self.boot = _boot_id()
        self.listeners: list[Callable[[], Any]] = []  # called on the loop when the wall clock was set
        self.learnt: dict[str, tuple[int, str]] = {}  # boot -> (lead, quality): what was right in the end
        self._moments: list[Moment] = []
        self._asked = 0
        self._was_set = False  # by somebody, while this process ran
        self._cached: Stamp = _NOTHING
        self._loop: Loop | None = None
        self._path = ""
        self._timer = -1
        self._writing = allocate_lock()

    def open(self, loop: Loop, state_dir: str) -> None:
        """Begin; the kernel is asked to report settings of the clock with the first stamp, not before."""
        self.close()
        self._loop = loop
        self._path = os.path.join(state_dir, "boots")
        self.forget()
        self.learnt = _read_boots(self._path)

    def forget(self) -> None:
        """Know nothing of what the clocks were before."""
        self._moments = []
        self._was_set = False
        self._cached = _NOTHING

    def close(self) -> None:
        """Have nothing reported any more; idempotent."""
        if self._writing.acquire(timeout=2):
            self._writing.release()
        if self._timer >= 0:
            if self._loop is not None:
                self._loop.remove(self._timer)
            os.close(self._timer)
            self._timer = -1
        self._loop = None
        self._path = ""
        self.listeners = []

    def stamp(self, event: Event) -> Stamp:
        """See the function of this name."""
        wall = event.timestamp_ms
        cached = self._cached
        if type(wall) is Stamped:
            return wall.stamp
        if wall == cached[0]:
            return cached
        until, moment = self.look()
        made: Stamp = (wall, -1, self.boot, moment.quality)
        # The latest moment at which the clock can have shown this: wrong only for an event that waited for its stamp
        # longer than the clock was set back by.
        for moment in reversed(self._moments):
            mono = wall - moment.lead
            if moment.since - _APART_MS <= mono <= until + _APART_MS:
                made = (wall, max(mono, 0), self.boot, moment.quality)
                break
            until = moment.since
        self._cached = made
        return made

    def restamp(self, wall: int, mono: int, boot: str, quality: str) -> tuple[int, str]:
        """See the function of this name."""
        if mono < 0 or quality == SYNCED:
            return wall, quality
        if boot == self.boot:
            _, moment = self.look()
            lead, now = moment.lead, moment.quality
        else:
            lead, now = self.learnt.get(boot, (0, UNSET))
        return (mono + lead, now) if _better(now, quality) else (wall, quality)

    def age_ms(self, wall: int, mono: int, boot: str, quality: str) -> int | None:
        """See the function of this name."""
        now, moment = self.look()
        if boot == self.boot and mono >= 0:
            return max(now - mono, 0)
        wall, quality = self.restamp(wall, mono, boot, quality)
        if UNSET in (quality, moment.quality):
            return None
        return max(now + moment.lead - wall, 0)

    def look(self) -> tuple[int, Moment]:
        """What the boot clock says, and how the wall clock stands to it at present."""
        now, lead = _read_clocks()
        if not self._moments:
            self._moments.append(Moment(0, lead, UNSET))
            self._moments[0].quality = self._quality(now, lead)
            self._watch()
        moment = self._moments[-1]
        if abs(lead - moment.lead) > _SLEWED_MS:
            return now, self._begin(now, lead, by_step=True)
        moment.lead = lead
        if now - self._asked > _ASK_MS and self._quality(now, lead) != moment.quality:
            moment = self._begin(now, lead)
        return now, moment

    def _begin(self, now: int, lead: int, *, by_step: bool = False) -> Moment:
        """Note that the clock was set, or that it is worth something else from now on."""
        self._cached = _NOTHING
        self._was_set |= by_step
        moment = Moment(now, lead, self._quality(now, lead))
        self._moments.append(moment)
        del self._moments[:-_MOMENTS]
        return moment

    def _quality(self, now: int, lead: int) -> str:
        """What the wall clock is worth now; what is learnt by it is kept for the boots to come."""
        self._asked = now
        known, said = self.learnt.get(self.boot, (0, UNSET))
        if now + lead < FLOOR_MS:
            return UNSET
        if synchronized():
            quality = SYNCED
        elif self._was_set or has_battery_clock() or (said != UNSET and abs(lead - known) <= _SLEWED_MS):
            quality = SET
        else:
            return UNSET
        if _better(quality, said):
            self._learn(lead, quality)
        return quality

    def _learn(self, lead: int, quality: str) -> None:
        """Once or twice in a boot: what its clock was in the end is written down, for what it stamped before that."""
        self.learnt[self.boot] = lead, quality
        for old in list(self.learnt)[:-_BOOTS]:
            del self.learnt[old]
        if self._path and self._writing.acquire(False):
            text = "".join(f"{boot} {lead} {quality}\n" for boot, (lead, quality) in self.learnt.items())
            try:
                start_new_thread(self._write, (self._path, text))
            except RuntimeError:  # no thread to be had: the next process of this boot writes it
                self._writing.release()

    def _write(self, path: str, text: str) -> None:
        from .durable import replace_file

        try:
            replace_file(path, text.encode())
        except OSError:
            pass  # a full disk: what is waiting keeps its mark
        finally:
            self._writing.release()

    def _watch(self) -> None:
        """Have the kernel report when the clock is set; without that (an old kernel) looks find it out."""
        loop = self._loop
        if loop is None or self._timer >= 0:
            return
        if get_ident() != loop.thread:
            loop.post(self._watch)
            return
        self._timer = _timer_of_settings()
        if self._timer >= 0:
            loop.add(self._timer, self._on_set)

    def _on_set(self, _mask: int) -> None:
        try:
            os.read(self._timer, 8)
        except OSError:
            pass  # ECANCELED: that is the report, and it is set up again by having been read
        now, lead = _read_clocks()
        if abs(lead - self._moments[-1].lead) > _APART_MS:  # not after a sleep, by which both have gone on
            self._begin(now, lead, by_step=True)
        for call in self.listeners:
            call()


def boot_ms() -> int:
    """The boot clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def synchronized() -> bool:
    """Whether the kernel says that something keeps its clock right: NTP, PTP, GPS. adjtimex(2), which needs no rights.

    timesyncd, chrony (with `rtcsync`, as Debian has it) and ntpd all tell it; it ceases some 9 hours after the last
    one did, and when somebody sets the clock by hand. Where asking might be deadly only timesyncd's mark is looked at.
    """
    if _is_filtered():
        return os.path.exists(TIMESYNCD)
    import ctypes

    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_SIZE))
    except (OSError, AttributeError):
        state = -1
    if state < 0:  # a sandbox forbids the question
        return os.path.exists(TIMESYNCD)
    return bool(state != _TIME_ERROR)


def _is_filtered() -> bool:
    """Whether this is a service of systemd with a filter of system calls.

    @system-service has no adjtimex in it, and SystemCallFilter= kills who calls what is not, unless told otherwise.
    Filters of containers answer with an error.
    """
    if not _filtered:
        try:
            _filtered.append("INVOCATION_ID" in os.environ and "\nSeccomp:\t2\n" in _read("/proc/self/status"))
        except OSError:
            _filtered.append(False)
    return _filtered[0]


def has_battery_clock() -> bool:
    """Whether the kernel took its time from a clock that goes on without power, and that shows a time that can be.

    The Raspberry Pi 5 has one whose battery is bought apart: it begins with 1970.
    """
    try:
        for name in os.listdir("/sys/class/rtc"):
            folder = f"/sys/class/rtc/{name}"
            if _read(f"{folder}/hctosys") == "1" and int(_read(f"{folder}/since_epoch")) * 1000 >= FLOOR_MS:
                return True
    except (OSError, ValueError):
        pass
    return os.uname().machine in ("x86_64", "i686", "i586")  # they read it before there are drivers


def _better(one: str, other: str) -> bool:
    return QUALITIES.index(one) > QUALITIES.index(other)


def _read_clocks() -> tuple[int, int]:
    """The boot clock, and what the wall clock is ahead of it; read again when something came between."""
    for _ in range(3):
        now = boot_ms()
        lead = port.now_ms() - now
        if boot_ms() - now <= 1:
            break
    return now, lead


def _timer_of_settings() -> int:
    """A timerfd that becomes readable when the wall clock is set; -1 when there is none to be had."""
    import ctypes

    libc = ctypes.CDLL(None)
    try:
        timer: int = libc.timerfd_create(_CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)  # its flags are open's
    except AttributeError:
        return -1
    if timer < 0:
        return -1
    # struct itimerspec: no interval; expires when the seconds of a C long are used up, which is never.
    never = (ctypes.c_long * 4)(0, 0, (1 << (8 * ctypes.sizeof(ctypes.c_long) - 2)) - 1, 0)
    if libc.timerfd_settime(timer, _ABSTIME_CANCEL_ON_SET, never, None) < 0:
        os.close(timer)
        return -1
    return timer


def _boot_id() -> str:
    try:
        return _read("/proc/sys/kernel/random/boot_id")[:8]
    except OSError:
        return port.boot  # no /proc: every process is a boot of its own


def _read_boots(path: str) -> dict[str, tuple[int, str]]:
    """What earlier processes learnt; a line that cannot be read is left out."""
    found: dict[str, tuple[int, str]] = {}
    try:
        lines = _read(path).splitlines()
    except (OSError, UnicodeError):
        return found
    for line in lines[-_BOOTS:]:
        try:
            boot, lead, quality = line.split()
            if quality in QUALITIES:
                found[boot] = int(lead), quality
        except ValueError:
            continue
    return found


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read(8192).strip()


CLOCK = Clock()
Event._stamped = property(CLOCK.stamp, lambda event, made: keep(event, *made))  # type: ignore[attr-defined]
# Attributes of events wherever there is a kernel that knows all this: not on a microcontroller.
for _name, _at in (("monotonic_ms", 1), ("boot_id", 2), ("clock_quality", 3)):
    setattr(Event, _name, property(lambda event, at=_at: CLOCK.stamp(event)[at]))  # type: ignore[misc]  # bound at once
