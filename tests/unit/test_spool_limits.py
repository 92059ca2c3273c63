"""A spool stays within its limits, and accounts for what that costs."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.loop import Loop
from nuclio_edge.spool.budget import ASKED_MS, DAY_MS, Budget
from nuclio_edge.spool.spool import Spool
from nuclio_edge.testing.clock import Clock
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = bytes(1000)
MIB = 1 << 20


class Bench:
    """A spool whose clock stands still."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.stored = 0
        self.gaps: list[tuple[Any, ...]] = []
        self.errors: list[OSError] = []

    def open(self, **more: Any) -> Spool:
        self.loop = Loop()
        self.spool = Spool(self.loop, str(self.folder), on_gap=lambda *gap: self.gaps.append(gap), **more)
        self.spool.open()
        return self.spool

    def _done(self, error: OSError | None) -> None:
        self.stored += 1
        if error is not None:
            self.errors.append(error)

    def append(self, count: int = 1, key: str = "a", body: bytes = BODY, kind: int = 1) -> list[int]:
        """Append, commit, and wait."""
        before = self.stored
        ids = [self.spool.append(kind, key, body, self._done) for _ in range(count)]
        self.spool.commit_soon()
        while self.stored < before + count:
            self.loop.turn(1000)
        return ids

    def pending(self) -> list[int]:
        return [record.id for record in self.spool.records(limit=1 << 40)]

    def used(self) -> int:
        return sum(path.stat().st_blocks * 512 for path in self.folder.iterdir())

    def close(self) -> None:
        self.spool.close()
        assert self.spool.differences() == []
        self.loop.close()

    def again(self, **more: Any) -> Spool:
        self.close()
        return self.open(**more)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "spool")
    with made.clock:
        yield made
        made.close()


def test_it_is_never_above_its_limit_and_what_is_given_up_is_counted_by_key(bench: Bench) -> None:
    bench.open(size=2 * MIB)
    appended = {"a": 0, "b": 0}
    for step in range(120):
        key = "ab"[step % 2]
        appended[key] += len(bench.append(50, key))
        assert bench.used() <= 2 * MIB
        if step == 60:
            bench.again(size=2 * MIB)
    kept = bench.spool.records(limit=1 << 40)
    given_up = {key: sum(gap[2] for gap in bench.gaps if gap[1] == key) for key in "ab"}
    assert sum(given_up.values())
    for key in "ab":
        assert appended[key] == given_up[key] + sum(record.key == key for record in kept)
    bench.again(size=2 * MIB)
    for lane in bench.spool.log.lanes:
        assert (lane.appended, lane.gap) == (appended[str(lane.key)], given_up[str(lane.key)])
    assert bench.spool.recovery.adjusted == 0
    # The oldest went: what is kept has no hole.
    ids = [record.id for record in kept]
    assert ids == list(range(ids[0], ids[-1] + 1))
    assert all(last < ids[0] for _, _, _, _, last in bench.gaps)


def test_a_few_records_that_stay_do_not_hold_up_the_others(bench: Bench) -> None:
    bench.open(size=2 * MIB)
    staying = bench.append(3, "stays")
    for _ in range(200):
        for number in bench.append(40):
            bench.spool.settle(number)
    assert bench.gaps == []
    assert bench.spool.room.copied >= 3
    assert bench.pending() == staying
    assert len(bench.spool.log.segments) <= 5
    bench.again(size=2 * MIB)
    assert bench.pending() == staying


def test_files_are_recycled_so_that_a_disk_sees_the_same_blocks(bench: Bench) -> None:
    bench.open(size=16 * MIB)
    for _ in range(200):
        for number in bench.append(50):
            bench.spool.settle(number)
    assert len(list(bench.folder.iterdir())) <= 4


def test_records_older_than_the_limit_are_given_up_a_segment_at_a_time(bench: Bench) -> None:
    bench.open(size=2 * MIB, max_age_ms=3_600_000)
    old = bench.append(300)
    bench.clock.skip(3_000_000)
    bench.append(50)
    assert bench.gaps == []
    bench.clock.skip(3_000_000)
    bench.append(1)
    bench.append(1)
    assert sum(gap[2] for gap in bench.gaps) >= 100
    assert all(gap[4] <= old[-1] for gap in bench.gaps)


def test_a_record_that_is_too_large_is_refused_and_the_others_are_not(bench: Bench) -> None:
    bench.open(size=2 * MIB)
    spool = bench.spool
    told: list[Any] = []
    spool.append(1, "a", b"before", told.append)
    spool.append(1, "a", bytes(spool.log.largest() + 1), told.append)
    spool.append(1, "a", bytes(spool.log.largest()), told.append, urgent=True)
    while len(told) < 3:
        bench.loop.turn(1000)
    assert [error and error.errno for error in told] == [None, errno.EFBIG, None]
    assert spool.totals()["appended"] == 2


def test_a_record_that_is_too_large_says_nothing_of_the_disk_and_is_told_once(bench: Bench) -> None:
    troubles: list[str] = []
    notices: list[str] = []
    spool = bench.open(size=2 * MIB, on_trouble=troubles.append, on_notice=notices.append)
    large = bytes(spool.log.largest() + 1)
    for _ in range(3):
        bench.append(1, body=large)
    assert [error.errno for error in bench.errors] == [errno.EFBIG] * 3
    kept = bench.append(1)
    bench.append(2, body=large)
    spool.settle(kept[0])
    bench.append(1, body=large)
    assert troubles == []
    assert spool.trouble == ""
    assert spool.refused == {"EFBIG": 6}
    assert len(notices) == 1
    assert f"{len(large)} bytes, and a record of this spool has {spool.log.largest()} at most" in notices[0]
    kept = bench.append(3)
    assert bench.pending() == kept


def test_what_there_is_is_on_disk_when_finish_returns_and_the_spool_goes_on(bench: Bench) -> None:
    spool = bench.open(size=2 * MIB)
    told: list[Any] = []
    for _ in range(300):
        spool.append(1, "a", BODY, told.append)
    spool.finish()
    assert told == [None] * 300
    spool.finish()
    kept = bench.append(1)
    assert bench.pending()[-1:] == kept


def test_a_smaller_limit_holds_after_a_restart(bench: Bench) -> None:
    bench.open(size=32 * MIB)
    for _ in range(10):
        bench.append(1000)
    bench.again(size=2 * MIB)
    for _ in range(12):
        bench.append(20)
    wait_until(lambda: bench.loop.turn(10) or bench.used() <= 2 * MIB)  # type: ignore[func-returns-value]
    assert bench.spool.totals()["appended"] == 10_240
    assert bench.spool.totals()["pending"] == len(bench.pending())


def test_an_idle_spool_writes_nothing_and_wakes_nobody(bench: Bench) -> None:
    bench.open()
    bench.append(10)
    for number in bench.append(10):
        bench.spool.settle(number)
    bench.clock.advance(10_000, bench.loop)
    while bench.spool.groups()[0] is not None:
        bench.loop.turn(1000)
    written, commits = bench.spool.written, bench.spool.commits
    assert bench.loop._wait_ms(3_600_000) == 3_600_000
    bench.clock.advance(3_600_000, bench.loop)
    assert (bench.spool.written, bench.spool.commits) == (written, commits)


def test_readers_are_independent_and_go_on_where_they_were(bench: Bench) -> None:
    spool = bench.open()
    first, second = spool.reader("first", 2), spool.reader("second", 2)
    ids = bench.append(10, kind=2)
    other = bench.append(1, kind=1)
    assert [record.id for record in first.next()] == ids
    first.advance(ids[6])
    second.advance(ids[2])
    assert bench.pending() == [*ids[3:], *other]
    spool = bench.again()
    assert spool.reader("first", 2).at == ids[6]
    second = spool.reader("second", 2)
    assert [record.id for record in second.next()] == ids[3:]
    second.close()
    assert bench.pending() == [*ids[7:], *other]
    spool = bench.again()
    spool.reader("first", 2).advance(ids[-1])
    assert bench.pending() == other


def test_a_reader_is_told_how_many_records_it_has_missed(bench: Bench) -> None:
    reader = bench.open(size=2 * MIB).reader("slow", 2)
    appended = 0
    while not bench.gaps:
        appended += len(bench.append(50, kind=2))
    assert reader.gap == sum(gap[2] for gap in bench.gaps)
    assert reader.gap + len(bench.pending()) == appended


def test_records_are_fetched_without_the_loop_waiting_for_the_disk(bench: Bench) -> None:
    bench.open()
    ids = bench.append(100)
    found: list[int] = []
    told: list[Any] = []
    while len(found) < 100:
        bench.spool.fetch(found[-1] if found else 0, 20_000, lambda *what: told.append(what))
        assert not told
        while not told:
            bench.loop.turn(1000)
        records, error = told.pop()
        assert error is None
        found += [record.id for record in records]
    assert found == ids


def test_a_budget_of_writes_is_kept_over_a_day_and_nobody_waits_for_ever() -> None:
    now = 0
    budget = Budget(50 * MIB, now)
    waits = []
    spent = 0
    while now < DAY_MS:  # a record a second that nobody settles, flushed after 200 ms if the budget allows
        wait = budget.wait(200, now)
        waits.append(wait)
        now += wait + 800
        size = 4096 * (1 + wait * 222 // 1000 // 4096)
        budget.spend(size, now)
        spent += size
    assert waits[0] == 200
    assert max(waits) <= 30_000
    assert budget.stretched
    assert spent <= 50 * MIB
    budget.level = -MIB
    assert budget.hold(now) == ASKED_MS
    assert budget.hold(now + ASKED_MS) == 0


def test_a_spool_with_a_small_budget_flushes_seldom_and_remembers_what_it_has_spent(bench: Bench) -> None:
    spool = bench.open(writes_per_day=MIB, flush_ms=200, size=2 * MIB)
    assert spool.budget is not None
    for _ in range(100):
        spool.append(1, "a", b"x")
        bench.clock.advance(1000, bench.loop)
        while spool.groups()[0] is not None:
            bench.loop.turn(1000)
    assert spool.budget.stretched
    assert spool.commits < 60
    level = spool.budget.level
    spool = bench.again(writes_per_day=MIB, flush_ms=200, size=2 * MIB)
    assert spool.budget is not None
    assert spool.budget.level <= MIB / 8
    assert level < MIB / 8
