"""What an event's time is worth, by clocks that a test sets; tests/system/test_clock_is_set.py has a kernel's."""

from __future__ import annotations

import marshal
import sys
from _thread import get_ident
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge import clock
from nuclio_edge.clock import CLOCK, FLOOR_MS, SET, SYNCED, UNSET
from nuclio_edge.core import port
from nuclio_edge.core.loop import Loop
from nuclio_edge.testing import Clock, make_event
from nuclio_edge.workers.process_calls import state_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nuclio_edge.core.event import Event

HOUR = 3_600_000
NOW = FLOOR_MS + 1000 * HOUR


class Trust:
    """What the kernel and the board say of the clock."""

    def __init__(self) -> None:
        self.synchronized = False
        self.battery = False


@pytest.fixture
def trust(monkeypatch: pytest.MonkeyPatch) -> Trust:
    made = Trust()
    monkeypatch.setattr(clock, "synchronized", lambda: made.synchronized)
    monkeypatch.setattr(clock, "has_battery_clock", lambda: made.battery)
    monkeypatch.setattr(CLOCK, "learnt", {})
    return made


@pytest.fixture
def time(trust: Trust) -> Iterator[Clock]:
    with Clock(wall=NOW) as made:
        yield made


def event() -> Event:
    made = make_event(b"x")
    made.timestamp_ms = port.now_ms()
    return made


def minutes(count: int, time: Clock) -> None:
    """Let time pass, with a look at the clocks now and then."""
    for _ in range(count):
        time.skip(60_000)
        CLOCK.look()


def test_an_event_has_the_time_of_both_clocks_the_boot_and_what_the_wall_clock_is_worth(
    time: Clock, trust: Trust
) -> None:
    trust.synchronized = True
    made = event()
    assert clock.stamp(made) == (NOW, time.ticks, CLOCK.boot, SYNCED)
    assert (made.monotonic_ms, made.boot_id, made.clock_quality) == (time.ticks, CLOCK.boot, SYNCED)
    assert len(CLOCK.boot) == 8


def test_the_events_of_one_millisecond_share_a_stamp(time: Clock) -> None:
    assert clock.stamp(event()) is clock.stamp(event())
    time.skip(1)
    assert clock.stamp(event())[1] == time.ticks


@pytest.mark.parametrize("jump", [5 * HOUR, -5 * HOUR])
def test_an_event_that_waited_while_the_clock_was_set_keeps_its_moment(time: Clock, jump: int) -> None:
    before, at = event(), time.ticks
    CLOCK.look()
    time.skip(60_000)
    time.wall += jump
    CLOCK.look()
    after = event()
    time.skip(10_000)
    assert clock.stamp(after)[1] == time.ticks - 10_000
    assert clock.stamp(before)[:2] == (before.timestamp_ms, at)


def test_a_clock_is_unset_below_the_date_of_this_program_and_without_a_battery_whatever_it_shows(
    time: Clock, trust: Trust
) -> None:
    assert event().clock_quality == UNSET  # systemd restored the time of the last shutdown, say
    CLOCK.forget()
    trust.battery = True
    assert event().clock_quality == SET
    CLOCK.forget()
    time.wall = FLOOR_MS - 1
    assert event().clock_quality == UNSET


def test_what_was_stamped_by_an_unset_clock_is_stamped_anew_once_it_is_set(time: Clock, trust: Trust) -> None:
    time.wall = 1_000  # 1970, as a Raspberry Pi without its battery
    early = clock.stamp(event())
    minutes(10, time)
    assert clock.restamp(*early) == (1_000, UNSET)  # a guess would look like a time
    time.wall = NOW
    trust.synchronized = True
    assert clock.restamp(*early) == (NOW - 600_000, SYNCED)
    assert clock.age_ms(*early) == 600_000


def test_what_was_set_by_hand_is_better_than_nothing_and_ntp_is_better_than_that(time: Clock, trust: Trust) -> None:
    unset = clock.stamp(event())
    time.skip(1000)
    time.wall += HOUR
    by_hand = clock.stamp(event())
    assert by_hand[3] == SET
    assert clock.restamp(*unset) == (NOW + HOUR, SET)
    time.skip(60_000)
    time.wall += 1234
    trust.synchronized = True
    assert clock.restamp(*unset) == (NOW + HOUR + 1234, SYNCED)
    assert clock.restamp(*by_hand) == (NOW + HOUR + 1000 + 1234, SYNCED)


def test_a_synchronized_stamp_stays_what_it_is_whoever_sets_the_clock(time: Clock, trust: Trust) -> None:
    trust.synchronized = True
    good = clock.stamp(event())
    time.skip(1000)
    time.wall -= 7 * HOUR  # by hand, and wrong: the kernel is told of it
    trust.synchronized = False
    assert event().clock_quality == SET
    assert clock.restamp(*good) == (NOW, SYNCED)
    assert clock.age_ms(*good) == 1000


def test_a_clock_that_is_synchronized_without_being_set_is_noticed_within_seconds(time: Clock, trust: Trust) -> None:
    unset = clock.stamp(event())
    trust.synchronized = True
    time.skip(11_000)
    assert event().clock_quality == SYNCED
    assert unset[3] == UNSET


def test_a_time_that_this_clock_cannot_have_shown_is_left_alone(time: Clock, trust: Trust) -> None:
    made = event()
    made.timestamp_ms = NOW + HOUR  # a sender's clock, that goes ahead
    foreign = clock.stamp(made)
    assert foreign[1] == -1
    trust.synchronized = True
    time.skip(11_000)
    assert clock.restamp(*foreign) == (NOW + HOUR, UNSET)


def test_the_boot_in_which_the_clock_was_learnt_late_is_remembered_in_the_next_ones(
    time: Clock, trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop()
    try:
        loop.thread = get_ident()
        CLOCK.open(loop, str(tmp_path))
        time.wall = 5_000
        early = clock.stamp(event())
        time.skip(20_000)
        time.wall, trust.synchronized = NOW, True
        assert clock.stamp(event())[3] == SYNCED
        wait_until((tmp_path / "boots").exists, "the boot to be written down")
        CLOCK.close()
        monkeypatch.setattr(CLOCK, "boot", "0000beef")
        time.ticks, time.wall, trust.synchronized = 10, 77, False  # the power was cut
        CLOCK.open(loop, str(tmp_path))
        assert clock.restamp(*early) == (NOW - 20_000, SYNCED)
        assert clock.age_ms(*early) is None  # nobody knows how long it was off
        other = clock.stamp(event())
        assert clock.restamp(*other) == (77, UNSET)
        time.skip(11_000)
        time.wall, trust.synchronized = NOW + HOUR, True
        assert clock.age_ms(*early) == HOUR + 20_000
    finally:
        CLOCK.close()
        loop.close()


def test_a_battery_clock_is_trusted_over_boots(time: Clock, trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    trust.battery = True
    stamp = clock.stamp(event())
    monkeypatch.setattr(CLOCK, "boot", "0000beef")
    time.ticks = 10
    time.wall += HOUR
    CLOCK.forget()
    assert clock.restamp(*stamp) == (NOW, SET)
    assert clock.age_ms(*stamp) == HOUR


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"abc\n1 2\nabcd x synced\nabcd 5 excellent\nabcd 7 set extra\n"])
def test_a_damaged_record_of_boots_is_no_reason_not_to_start(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "boots").write_bytes(text + b"\n0123abcd 42 synced")
    known = clock._read_boots(str(tmp_path / "boots"))
    assert known == ({} if text[:1] == b"\xff" else {"0123abcd": (42, SYNCED)})


def test_a_full_disk_keeps_nobody_from_knowing_the_time(time: Clock, trust: Trust) -> None:
    loop = Loop()
    try:
        loop.thread = get_ident()
        CLOCK.open(loop, "/proc/self")  # where no file can be made
        trust.synchronized = True
        assert clock.stamp(event())[3] == SYNCED
    finally:
        CLOCK.close()
        loop.close()
    assert time.wall == NOW


def test_an_event_of_an_earlier_process_keeps_its_stamp_into_a_worker_process_as_well(time: Clock) -> None:
    made = event()
    clock.keep(made, 12, 34, "0000beef", SET)
    assert clock.stamp(made) == (12, 34, "0000beef", SET)
    assert (made.timestamp_ms, made.boot_id) == (12, "0000beef")
    assert str(made.timestamp).startswith("1970-01-01")
    kind, state = state_of(made)
    there: Any = make_event(b"")
    for name, value in marshal.loads(marshal.dumps(state)).items():
        setattr(there, name, value)
    assert clock.stamp(there) == (12, 34, "0000beef", SET)
    assert kind
    time.skip(1)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("wait"), st.integers(1, 100_000)),
            st.tuples(st.just("set"), st.integers(-10 * HOUR, 10 * HOUR)),
            st.tuples(st.just("event"), st.just(0)),
            st.tuples(st.just("stamp"), st.just(0)),
        ),
        max_size=30,
    )
)
def test_an_event_is_put_at_its_moment_however_often_the_clock_is_set_before_it_is_stamped(
    steps: list[tuple[str, int]],
) -> None:
    with Clock(wall=NOW) as time:
        waiting: list[tuple[Event, int, int]] = []  # event, its moment, by how much the clock was set ahead since
        for what, amount in [*steps, ("stamp", 0)]:
            if what == "wait":
                time.skip(amount)
            elif what == "set" and abs(amount) > clock._SLEWED_MS:
                CLOCK.look()
                time.wall += amount
                CLOCK.look()  # the kernel tells
                # Set back, the clock will show the event's time again: if that is before it is stamped, nobody knows.
                waiting = [(made, moment, ahead + amount) for made, moment, ahead in waiting if ahead + amount > 0]
            elif what == "event":
                waiting.append((event(), time.ticks, 0))
            elif what == "stamp":
                assert [clock.stamp(made)[1] for made, _, _ in waiting] == [moment for _, moment, _ in waiting]


@pytest.mark.parametrize("invocation", [None, "0123"])
def test_the_kernel_is_not_asked_where_the_question_kills(
    invocation: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(clock, "_filtered", [])
    monkeypatch.setattr(clock, "TIMESYNCD", str(tmp_path / "synchronized"))
    monkeypatch.setattr(clock, "_read", lambda _path: "Name:\tpython\nSeccomp:\t2\nSeccomp_filters:\t3\n")
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    if invocation is not None:
        monkeypatch.setenv("INVOCATION_ID", invocation)
        monkeypatch.setitem(sys.modules, "ctypes", None)  # importing it would fail
        assert not clock.synchronized()
        (tmp_path / "synchronized").touch()
        assert clock.synchronized()
    assert clock._is_filtered() == (invocation is not None)
