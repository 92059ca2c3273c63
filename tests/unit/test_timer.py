"""The timer source: intervals by the monotonic clock, cron expressions by a wall clock that anybody may set."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge.core.loop import Loop
from nuclio_edge.logs import Log
from nuclio_edge.manifest import load
from nuclio_edge.manifest.schema import values
from nuclio_edge.processor import Processor
from nuclio_edge.sources.timer import Interval, TimerSource
from nuclio_edge.sources.timer_cron import CORRECTION_MS, LOOK_MS, Cron, LocalZone, fault
from nuclio_edge.testing import Clock
from nuclio_edge.testing.rig import Function, Host, filled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NOON = int(datetime(2025, 6, 11, 12, tzinfo=timezone.utc).timestamp() * 1000)  # a Wednesday
# Central Europe's rules in a form that needs no database of time zones.
BERLIN = "CET-1CEST,M3.5.0/2,M10.5.0/3"


@pytest.fixture
def clock() -> Iterator[Clock]:
    with Clock(wall=NOON) as clock:
        yield clock


@pytest.fixture
def berlin() -> Iterator[LocalZone]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = BERLIN
    time.tzset()
    yield LocalZone()
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


def runs(cron: Cron, clock: Clock, ms: int) -> list[int]:
    """The due times of the ticks of so long a time, looked at whenever the schedule asks for it."""
    end = clock.ticks + ms
    due = []
    while (at := cron.wait_until()) <= end:
        clock.skip(at - clock.ticks)
        tick = cron.take()
        if tick is not None:
            assert tick <= clock.wall, "a tick came early"
            due.append(tick)
    clock.skip(end - clock.ticks)
    return due


def local(text: str, zone: LocalZone, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp() * 1000)


# -- intervals --------------------------------------------------------------------------------------------------------


@given(interval=st.integers(1, 2 * HOUR), pauses=st.lists(st.integers(0, 10 * HOUR), max_size=30))
def test_an_interval_keeps_its_phase_is_never_early_and_makes_one_of_what_it_missed(
    interval: int, pauses: list[int]
) -> None:
    with Clock() as clock:
        begin = clock.ticks
        schedule = Interval(interval)
        taken = 0
        for pause in pauses:
            clock.skip(pause)
            due_before = (clock.ticks - begin) // interval
            tick = schedule.take()
            assert (tick is not None) == (due_before > taken + schedule.missed)
            if tick is not None:
                taken += 1
                assert tick <= clock.wall
                assert (tick - clock.wall + clock.ticks - begin) % interval == 0
                assert schedule.take() is None
            assert taken + schedule.missed == due_before
            assert schedule.wait_until() > clock.ticks
            assert (schedule.wait_until() - begin) % interval == 0


def test_an_interval_does_not_care_about_the_wall_clock(clock: Clock) -> None:
    schedule = Interval(1000)
    clock.wall -= 10 * DAY
    clock.skip(999)
    assert schedule.take() is None
    clock.skip(1)
    assert schedule.take() == clock.wall


# -- cron -------------------------------------------------------------------------------------------------------------


def utc(expression: str) -> Cron:
    return Cron(expression, timezone.utc)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("*/15 * * * *", ["12:15", "12:30", "12:45", "13:00"]),
        ("7 * * * *", ["12:07", "13:07", "14:07"]),
        ("30 13,15 * * *", ["13:30", "15:30"]),
        ("0 0 13 * *", ["13 00:00"]),
        ("0 0 * * FRI", ["13 00:00", "20 00:00"]),
        ("0 0 L * *", ["30 00:00"]),
        ("10,40 12 * 6 *", ["12:10", "12:40", "12 12:10"]),
        ("30 0 12 * * *", ["12 12:00", "13 12:00"]),  # six fields begin with seconds: 12:00:30
    ],
)
def test_a_cron_expression_means_what_crontab_says(clock: Clock, expression: str, expected: list[str]) -> None:
    clock.wall += 31_000
    came = [datetime.fromtimestamp(due / 1000, timezone.utc) for due in runs(utc(expression), clock, 20 * DAY)]
    shown = [
        f"{when:%H:%M}" if len(text) == 5 else f"{when:%-d %H:%M}" for text, when in zip(expected, came, strict=False)
    ]
    assert shown == expected
    assert len(set(came)) == len(came)


def test_the_last_day_of_a_month_comes_in_every_month(clock: Clock) -> None:
    came = [datetime.fromtimestamp(due / 1000, timezone.utc).date() for due in runs(utc("0 0 L * *"), clock, 400 * DAY)]
    assert [(day.month, day.day) for day in came[:10]] == [
        (6, 30), (7, 31), (8, 31), (9, 30), (10, 31), (11, 30), (12, 31), (1, 31), (2, 28), (3, 31),
    ]  # fmt: skip


def test_the_31st_comes_only_where_there_is_one(clock: Clock) -> None:
    came = [datetime.fromtimestamp(due / 1000, timezone.utc).month for due in runs(utc("0 0 31 * *"), clock, 365 * DAY)]
    assert came == [7, 8, 10, 12, 1, 3, 5]


@given(start=st.integers(0, 3 * DAY), minutes=st.integers(1, 59), hours=st.sampled_from(["*", "*/2", "1-5,13"]))
def test_ticks_of_a_clock_that_is_left_alone_come_at_their_minute_each_once(
    start: int, minutes: int, hours: str
) -> None:
    with Clock(wall=NOON + start) as clock:
        cron = utc(f"*/{minutes} {hours} * * *")
        came = runs(cron, clock, 2 * DAY)
        assert cron.missed == 0
        allowed = {"*": range(24), "*/2": range(0, 24, 2), "1-5,13": (1, 2, 3, 4, 5, 13)}[hours]
        first = -(-(NOON + start + 1) // MINUTE) * MINUTE
        expected = [
            at
            for at in range(first, NOON + start + 2 * DAY + 1, MINUTE)
            if at // MINUTE % 60 % minutes == 0 and at // HOUR % 24 in allowed
        ]
        assert came == expected


JUMPS = st.lists(
    st.tuples(st.integers(0, 3 * HOUR), st.integers(-40 * HOUR, 40 * HOUR) | st.integers(-15 * MINUTE, 15 * MINUTE)),
    min_size=1,
    max_size=8,
)


@given(jumps=JUMPS, every=st.sampled_from([1, 5, 30]))
def test_no_jump_of_the_clock_stops_a_cron_or_runs_a_minute_twice(jumps: list[tuple[int, int]], every: int) -> None:
    with Clock(wall=NOON + 12_345) as clock:
        cron = utc(f"*/{every} * * * *")
        ran: list[int] = []  # since the clock was last set back for more than a correction
        for quiet, jump in jumps:
            before = clock.wall
            came = runs(cron, clock, quiet)
            for due in came:
                assert due not in ran, "a minute ran twice, and the clock was only corrected"
                ran.append(due)
                assert due % (every * MINUTE) == 0
            # Between two jumps it ticks as if nothing had been, but for what a correction has to wait for.
            settled = quiet - LOOK_MS - CORRECTION_MS - every * MINUTE
            assert len(came) >= settled // (every * MINUTE), (before, quiet, came)
            clock.wall += jump
            if ran and clock.wall < ran[-1] - CORRECTION_MS:
                ran.clear()


def test_a_clock_that_jumps_ahead_makes_one_tick_of_what_it_skipped(clock: Clock) -> None:
    cron = utc("*/5 * * * *")
    clock.wall += 8 * HOUR
    assert runs(cron, clock, 2 * MINUTE) == [NOON + 5 * MINUTE]
    assert cron.missed == 1
    assert runs(cron, clock, 4 * MINUTE) == [NOON + 8 * HOUR + 5 * MINUTE]


def test_a_clock_set_back_by_hours_goes_on_within_a_minute_and_a_period(clock: Clock) -> None:
    cron = utc("*/5 * * * *")
    runs(cron, clock, 6 * MINUTE)
    clock.wall -= 5 * HOUR
    assert runs(cron, clock, 5 * MINUTE) == [NOON - 5 * HOUR + 10 * MINUTE]


def test_a_clock_set_back_by_minutes_does_not_run_them_again(clock: Clock) -> None:
    cron = utc("*/5 * * * *")
    assert runs(cron, clock, 6 * MINUTE) == [NOON + 5 * MINUTE]
    clock.wall -= 3 * MINUTE
    assert runs(cron, clock, 6 * MINUTE) == []
    assert runs(cron, clock, MINUTE) == [NOON + 10 * MINUTE]


def test_a_correction_finds_what_it_brings_back_into_the_future(clock: Clock) -> None:
    clock.wall += 30_000
    cron = utc("0 * * * *")  # waits for 13:00
    clock.wall -= MINUTE
    assert runs(cron, clock, 2 * MINUTE) == [NOON]


def test_a_year_of_hours_is_waited_for_in_looks_of_a_minute_in_one_turn(clock: Clock) -> None:
    crons = [utc(expression) for expression in ("0 0 1 1 *", "0 3 * * MON", "30 15 24 12 *")]
    for _ in range(10):
        at = {cron.wait_until() for cron in crons}
        assert len(at) == 1, "they do not look together"
        assert 0 < at.pop() - clock.ticks <= LOOK_MS
        clock.skip(crons[0].wait_until() - clock.ticks)
        assert [cron.take() for cron in crons] == [None] * 3


def test_in_spring_what_the_clock_skips_comes_at_the_end_of_the_gap(clock: Clock, berlin: LocalZone) -> None:
    clock.wall = local("2025-03-29 12:00", berlin)
    assert runs(Cron("30 2 * * *"), clock, 2 * DAY) == [
        local("2025-03-30 03:00", berlin),
        local("2025-03-31 02:30", berlin),
    ]


def test_in_spring_a_star_goes_on_every_real_half_hour(clock: Clock, berlin: LocalZone) -> None:
    clock.wall = begin = local("2025-03-30 00:59", berlin)
    assert runs(Cron("*/30 * * * *"), clock, 2 * HOUR) == [begin + MINUTE + k * 30 * MINUTE for k in range(4)]


def test_in_autumn_a_fixed_time_comes_once_and_a_star_in_both_hours(clock: Clock, berlin: LocalZone) -> None:
    clock.wall = begin = local("2025-10-26 01:59", berlin)
    assert runs(Cron("30 2 * * *"), clock, 5 * HOUR) == [local("2025-10-26 02:30", berlin)]
    clock.wall = begin
    assert runs(Cron("30 * * * *"), clock, 2 * HOUR) == [begin + 31 * MINUTE, begin + 91 * MINUTE]


def test_in_autumn_a_start_in_the_second_pass_does_not_run_the_first_one(clock: Clock, berlin: LocalZone) -> None:
    clock.wall = local("2025-10-26 02:10", berlin, fold=1)
    assert runs(Cron("30 2 * * *"), clock, 26 * HOUR) == [local("2025-10-27 02:30", berlin)]


@given(st.datetimes(datetime(2000, 1, 1), datetime(2037, 12, 1)))  # noqa: DTZ001 - hypothesis wants naive bounds
def test_the_local_zone_is_that_of_the_c_library(when: datetime) -> None:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    try:
        theirs = when.replace(tzinfo=timezone.utc).astimezone(ZoneInfo("Europe/Berlin"))
        ours = when.replace(tzinfo=timezone.utc).astimezone(LocalZone())
        assert (ours.replace(tzinfo=None), ours.fold, ours.utcoffset()) == (
            theirs.replace(tzinfo=None), theirs.fold, theirs.utcoffset(),
        )  # fmt: skip
        for fold in (0, 1):
            assert (
                when.replace(tzinfo=LocalZone(), fold=fold).utcoffset()
                == when.replace(tzinfo=ZoneInfo("Europe/Berlin"), fold=fold).utcoffset()
            )
    finally:
        os.environ.pop("TZ")
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("* * * *", "Wrong number of fields"),
        ("61 * * * *", "Bad minute"),
        ("0 0 30 2 *", "Bad day-of-month"),
        ("0 0 1-7,29 2 MON#6", "Bad day-of-week"),
        ("", "Wrong number of fields"),
    ],
)
def test_what_is_no_cron_expression_is_told(expression: str, why: str) -> None:
    assert fault(expression) == why
    assert fault("*/5 8-18 * * MON-FRI") is None


# -- the source -------------------------------------------------------------------------------------------------------


class World:
    """A timer source, its loop and its functions, on the clock of the test."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.loop = Loop()
        self.host = Host(self.loop, "")
        self.source = TimerSource("clock", values((), {}), self.host)
        self.functions: list[Function] = []

    def function(self, name: str = "", *, size: int = 1024, holds: bool = False, **address: Any) -> Function:
        function = Function(self, name or f"f{len(self.functions)}", holds=holds, size=size)  # type: ignore[arg-type]
        function.listen(address)
        self.functions.append(function)
        return function

    @property
    def rig(self) -> Any:
        return self.source and type("rig", (), {"source": TimerSource})

    def route(self) -> None:
        self.source.routes([trigger for function in self.functions for trigger in function.triggers])

    def pass_(self, ms: int) -> None:
        self.clock.advance(ms, self.loop)
        source = self.source
        assert source.received == source.routed + sum(source.rejected.values())


@pytest.fixture
def world(clock: Clock) -> Iterator[World]:
    world = World(clock)
    yield world
    world.source.close()
    assert not [timer for _, _, timer in world.loop._timers if timer.call is not None]
    world.loop.close()


def test_a_tick_tells_when_it_was_due_and_what_its_trigger_says(world: World) -> None:
    function = world.function(every=1000, body='{"a": 1}', headers={"x": "y"})
    world.route()
    world.source.open()
    world.pass_(1000)
    [event] = function.arrived
    assert (event.timestamp_ms, event.raw_body, event.headers) == (NOON + 1000, b'{"a": 1}', {"x": "y"})
    assert event.fields == {"a": 1}
    assert (event.trigger.kind, event.trigger.name, event.path) == ("timer", "clock", "/")


def test_thousands_of_timers_tick_each_at_its_time_and_only_then(world: World) -> None:
    for number in range(3000):
        world.function(every=1000 + number)
    world.route()
    world.source.open()
    world.pass_(2000)
    due = [2000 // (1000 + number) for number in range(3000)]
    assert [len(function.arrived) for function in world.functions] == due
    assert world.loop.wakeups <= 1001 + 2  # one for each distinct time, not one for each timer


def test_an_hourly_interval_wakes_the_device_once_an_hour_and_a_cron_once_a_minute(world: World) -> None:
    world.function(every=HOUR)
    world.route()
    world.source.open()
    before = world.loop.wakeups
    world.pass_(24 * HOUR)
    assert world.loop.wakeups - before <= 24 + 1
    for number in range(50):
        world.function(cron=f"{number} 3 * * *")
    world.route()
    before = world.loop.wakeups
    world.pass_(10 * HOUR)
    assert world.loop.wakeups - before <= 10 * 60 + 10 + 50 + 1


def test_a_schedule_that_stays_in_the_manifest_keeps_its_phase(world: World) -> None:
    world.function("a", every=1000)
    world.route()
    world.source.open()
    world.pass_(600)
    world.functions.clear()
    new = world.function("a", every=1000)
    other = world.function("b", every=1000)
    world.route()
    world.pass_(400)
    assert (len(new.arrived), len(other.arrived)) == (1, 0)
    world.functions.remove(new)
    changed = world.function("a", every=300)
    world.route()
    world.pass_(600)
    assert (len(new.arrived), len(changed.arrived), len(other.arrived)) == (1, 2, 1)


def test_a_tick_without_room_waits_and_the_next_ones_collapse_into_it(world: World) -> None:
    function = world.function(every=1000, size=2, holds=True)
    world.route()
    world.source.open()
    world.pass_(5000)
    assert len(function.arrived) == 2
    assert world.source.rejected == {"collapsed": 2}
    function.finish()
    function.finish()
    world.pass_(1)
    assert [event.timestamp_ms - NOON for event in function.arrived] == [1000, 2000, 3000]
    assert (world.source.received, world.source.routed) == (5, 3)


def test_a_tick_that_waits_goes_to_the_new_version_of_its_function(world: World) -> None:
    old = world.function("a", every=1000, size=1, holds=True)
    world.route()
    world.source.open()
    world.pass_(2000)
    assert len(old.arrived) == 1
    world.functions.clear()
    new = world.function("a", every=1000)
    world.route()
    assert [event.timestamp_ms - NOON for event in new.arrived] == [2000]
    old.finish()
    world.pass_(1)
    assert (len(old.arrived), len(new.arrived)) == (1, 1)


def test_a_tick_that_waits_for_a_function_that_goes_is_counted(world: World) -> None:
    world.function(every=1000, size=1, holds=True)
    world.route()
    world.source.open()
    world.pass_(2000)
    world.functions.clear()
    world.source.routes([])
    assert world.source.rejected == {"closed": 1}


def test_a_device_that_slept_ticks_once_and_goes_on_in_phase(world: World) -> None:
    function = world.function(every=1000)
    world.route()
    world.source.open()
    world.clock.skip(10_500)
    world.pass_(0)
    assert [event.timestamp_ms - NOON for event in function.arrived] == [1000]
    world.pass_(500)
    assert [event.timestamp_ms - NOON for event in function.arrived] == [1000, 11_000]


def test_a_manifest_needs_no_table_for_the_clock(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "f.py").write_text("def handler(context, event):\n    context.env\n")
    (tmp_path / "edge.toml").write_text(
        f'[device]\nstate_dir = "{tmp_path}/state"\n[function.f]\nhandler = "f.py"\nisolation = "inline"\n'
        '[[function.f.trigger]]\nevery = "30s"\n[[function.f.trigger]]\ncron = "0 0 * * *"\n'
    )
    processor = Processor(load(str(tmp_path / "edge.toml")), Log())
    processor.open()
    clock.advance(DAY, processor.loop)
    assert [trigger.handled for trigger in processor.functions["f"].triggers] == [DAY // 30_000, 1]
    processor.stop()
    clock.advance(1000, processor.loop)
    assert not processor.sources
    processor.loop.close()


def test_no_manifest_without_cron_loads_cronsim() -> None:
    program = (
        "import sys; from nuclio_edge.sources.timer import TimerSource; from nuclio_edge.testing.rig import filled\n"
        "address = filled(TimerSource.TRIGGER, {'every': 5}); list(TimerSource.check_trigger(address))\n"
        "print([name for name in ('cronsim', 'datetime', 'zoneinfo') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_of_every_and_cron_exactly_one_is_expected() -> None:
    def faults(**address: Any) -> list[str]:
        return [key for key, _, _ in TimerSource.check_trigger(filled(TimerSource.TRIGGER, address))]

    assert faults(every=5) == faults(cron="* * * * *") == []
    assert faults() == ["every"]
    assert faults(every=5, cron="* * * * *") == ["cron"]
    assert faults(cron="nonsense") == ["cron"]
