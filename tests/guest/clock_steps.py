"""Runs in a virtual machine as root: the kernel's clock is set by hours while a processor works."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from nuclio_edge import clock
from nuclio_edge.clock import CLOCK
from nuclio_edge.logs import Log
from nuclio_edge.manifest import load
from nuclio_edge.processor import Processor
from nuclio_edge.sources import timer_cron
from tests.guest.sentences import run

HOUR = 3600
MANIFEST = """
[device]
state_dir = "/tmp/state"
[function.ticks]
handler = "ticks.py"
timeout = "2s"
[[function.ticks.trigger]]
every = "100ms"
retry = { attempts = 2, backoff = "200ms" }
[function.hourly]
handler = "hourly.py"
[[function.hourly.trigger]]
cron = "30 * * * *"
"""
TICKS = """
import time
seen = []
def handler(context, event):
    seen.append((event._attempt, time.monotonic(), event))
    if not event._attempt and len(seen) % 3 == 0:
        raise ValueError("again")
"""
HOURLY = """
seen = []
def handler(context, event):
    seen.append(event.timestamp_ms)
"""
NOON = 1_800_000_000 // 86400 * 86400 + 12 * HOUR


def begin() -> tuple[Processor, Any, Any]:
    """A processor that ticks, and what its two functions have seen."""
    timer_cron.LOOK_MS = 500  # the minute after which a cron expression looks at the clock is too long for a test
    folder = Path("/tmp/functions")
    folder.mkdir()
    (folder / "edge.toml").write_text(MANIFEST)
    (folder / "ticks.py").write_text(TICKS)
    (folder / "hourly.py").write_text(HOURLY)
    os.makedirs("/tmp/state")
    manifest = load(str(folder / "edge.toml"))
    processor = Processor(manifest, Log(), guarded=True)
    processor.open()
    turn(processor, lambda: processor.ready, "ready")
    ticks, hourly = (processor.functions[name].handler.__globals__["seen"] for name in ("ticks", "hourly"))
    return processor, ticks, hourly


def turn(processor: Processor, condition: Any, what: str) -> None:
    """Turn the loop until something is so."""
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain for {what}")
        processor.loop.turn(100)


def set_to(seconds: float) -> None:
    """Set the clock of this machine."""
    time.clock_settime(time.CLOCK_REALTIME, seconds)


def the_kernel_tells_when_the_clock_is_set_and_an_event_of_before_is_put_at_its_moment() -> Any:
    early = SEEN[-1][2]
    early_at = clock.boot_ms()
    clock.stamp(early)
    told: list[float] = []
    CLOCK.listeners.append(lambda: told.append(time.monotonic()))
    count = len(CLOCK._moments)
    set_to(NOON + 5 * HOUR)
    turn(PROCESSOR, lambda: told, "the kernel's report")
    assert len(CLOCK._moments) == count + 1
    CLOCK._cached = clock._NOTHING
    wall, mono, boot, _ = clock.stamp(early)
    assert wall == early.timestamp_ms
    assert -5000 < mono - early_at <= 0, (mono, early_at)
    assert boot == CLOCK.boot
    set_to(NOON - 4 * HOUR)
    turn(PROCESSOR, lambda: len(told) == 2, "the second report")
    CLOCK._cached = clock._NOTHING
    assert clock.stamp(early)[1] == mono
    before = len(SEEN)  # of what came at the very moment nobody can tell which clock it was made by
    turn(PROCESSOR, lambda: sum(not attempt for attempt, _, _ in SEEN[before:]) >= 3, "ticks")
    fresh = [event for attempt, _, event in SEEN[before:] if not attempt][-1]
    assert abs(clock.stamp(fresh)[1] - clock.boot_ms()) < 5000
    return {"moments": len(CLOCK._moments)}


def what_was_stamped_before_the_clock_was_set_is_stamped_anew_afterwards() -> None:
    unset = (1000, clock.boot_ms() - 2000, CLOCK.boot, clock.UNSET)
    wall, quality = clock.restamp(*unset)
    assert quality == clock.SET
    assert abs(wall - (time.time() - 2) * 1000) < 2000
    assert 2000 <= clock.age_ms(*unset) < 20_000  # type: ignore[operator]  # it is known


def an_interval_keeps_its_pace_while_the_clock_is_set_by_hours() -> Any:
    del SEEN[:]
    for hours in (5, -9, 30, -30):
        before = len(SEEN)
        set_to(time.time() + hours * HOUR)
        turn(PROCESSOR, lambda before=before: len(SEEN) >= before + 8, "ticks")
    first = [at for attempt, at, _ in SEEN if not attempt]
    gaps = [after - before for before, after in zip(first, first[1:])]  # noqa: B905, RUF007 - neighbours
    assert max(gaps) < 10
    assert sum(gap < 0.02 for gap in gaps) <= len(gaps) // 2  # no burst of what an hour would have brought
    assert any(attempt for attempt, _, _ in SEEN)  # retries came after their back-off
    return {"ticks": len(first), "longest_gap": round(max(gaps), 2)}


def a_cron_expression_follows_the_clock_ahead_and_back() -> Any:
    del HOURLY_SEEN[:]
    early = NOON - 48 * HOUR
    set_to(early + 29 * 60 + 58)
    turn(PROCESSOR, lambda: len(HOURLY_SEEN) == 1, "half past twelve")
    set_to(early + 5 * HOUR)  # over four half hours: one tick
    turn(PROCESSOR, lambda: len(HOURLY_SEEN) == 2, "the tick of all that was skipped")
    set_to(early - 3 * HOUR + 29 * 60 + 58)
    turn(PROCESSOR, lambda: len(HOURLY_SEEN) == 3, "half past nine")
    expected = [early + 1800, early + HOUR + 1800, early - 3 * HOUR + 1800]
    assert [at * 1000 for at in expected] == HOURLY_SEEN, [at / 1000 - NOON for at in HOURLY_SEEN]


def the_ledger_balances_and_the_stop_is_clean() -> Any:
    PROCESSOR.stop()
    code = PROCESSOR.run()
    assert code == 0, code
    assert not PROCESSOR.tally().wrong
    return PROCESSOR.tally().as_dict()


SENTENCES = (
    the_kernel_tells_when_the_clock_is_set_and_an_event_of_before_is_put_at_its_moment,
    what_was_stamped_before_the_clock_was_set_is_stamped_anew_afterwards,
    an_interval_keeps_its_pace_while_the_clock_is_set_by_hours,
    a_cron_expression_follows_the_clock_ahead_and_back,
    the_ledger_balances_and_the_stop_is_clean,
)

if __name__ == "__main__":
    set_to(NOON)
    PROCESSOR, SEEN, HOURLY_SEEN = begin()
    turn(PROCESSOR, lambda: SEEN, "a tick")
    raise SystemExit(run(*SENTENCES))
