"""The spool's contract, on real files and with its real thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.loop import Loop
from nuclio_edge.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Bench:
    """A spool, its loop, and what its `done` calls told, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[Any] = []
        self.open()

    def open(self, **more: Any) -> None:
        self.loop = Loop()
        self.spool = Spool(self.loop, str(self.folder), **more)
        self.spool.open()

    def append(self, payload: Any, key: str = "a", **more: Any) -> int:
        return self.spool.append(1, key, payload, lambda error: self.told.append(error or payload), **more)

    def until(self, told: int) -> None:
        while len(self.told) < told:
            self.loop.turn(1000)

    def close(self) -> None:
        self.spool.close()
        self.loop.close()

    def again(self, **more: Any) -> None:
        self.close()
        self.open(**more)

    def payloads(self) -> list[bytes]:
        return [record.payload for record in self.spool.records(limit=1 << 30)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "spool")
    yield made
    made.close()
    assert made.spool.differences() == []


def test_what_is_told_as_durable_is_there_after_a_restart_in_order(bench: Bench) -> None:
    ids = [bench.append(b"%d" % number, key=f"key{number % 3}") for number in range(100)]
    assert bench.told == []
    bench.until(100)
    assert ids == sorted(ids)
    assert bench.told == [b"%d" % number for number in range(100)]
    bench.again()
    found = bench.spool.records(limit=1 << 30)
    assert [(one.id, one.key, one.payload) for one in found] == [
        (ids[number], f"key{number % 3}", b"%d" % number) for number in range(100)
    ]
    assert bench.append(b"next") > ids[-1]


def test_what_comes_and_goes_between_two_commits_is_never_written(bench: Bench) -> None:
    ids = [bench.append(b"%d" % number) for number in range(10)]
    for number in ids:
        assert bench.spool.settle(number)
        assert not bench.spool.settle(number)
    bench.until(10)
    assert bench.told == [b"%d" % number for number in range(10)]
    assert bench.spool.written == 0
    assert list(bench.folder.iterdir()) == []
    assert bench.spool.totals() == {"appended": 10, "settled": 10, "gap": 0, "pending": 0}


def test_a_record_settled_before_its_commit_is_told_with_those_before_it(bench: Bench) -> None:
    bench.append(b"first")
    second = bench.append(b"second")
    bench.spool.settle(second)
    bench.loop.turn(0)
    assert bench.told == []
    bench.until(2)
    assert bench.told == [b"first", b"second"]
    assert bench.payloads() == [b"first"]


def test_a_settled_record_does_not_come_back(bench: Bench) -> None:
    ids = [bench.append(b"%d" % number) for number in range(10)]
    bench.until(10)
    for number in ids[::2]:
        assert bench.spool.settle(number)
    assert bench.payloads() == [b"1", b"3", b"5", b"7", b"9"]
    bench.again()
    assert bench.payloads() == [b"1", b"3", b"5", b"7", b"9"]
    assert bench.spool.totals() == {"appended": 10, "settled": 5, "gap": 0, "pending": 5}


def test_one_record_settles_others_and_is_there_instead(bench: Bench) -> None:
    ids = [bench.append(b"%d" % number) for number in range(3)]
    bench.until(3)
    bench.append([b"out", b"put"], key="outbox", settles=ids[:2], urgent=True)
    bench.until(4)
    bench.again()
    assert bench.payloads() == [b"2", b"output"]


def test_a_payload_that_is_a_call_is_called_only_if_it_is_written(bench: Bench) -> None:
    made = []

    def payload(text: bytes) -> Any:
        return lambda: made.append(text) or [text, b"!"]  # type: ignore[func-returns-value]

    gone = bench.append(payload(b"gone"), size=5)
    bench.append(payload(b"kept"), size=5)
    bench.spool.settle(gone)
    bench.until(2)
    assert made == [b"kept"]
    bench.again()
    assert bench.payloads() == [b"kept!"]


def test_an_urgent_record_takes_all_before_it_along_at_the_end_of_the_turn(bench: Bench) -> None:
    bench.again(flush_ms=3_600_000)
    bench.append(b"first")
    bench.append(b"second", urgent=True)
    bench.until(2)
    assert bench.spool.commits == 1


def test_records_are_read_one_by_one_wherever_they_are(bench: Bench) -> None:
    durable = bench.append(b"durable")
    bench.until(1)
    present = bench.append(b"present")
    for number, payload in ((durable, b"durable"), (present, b"present")):
        found = bench.spool.read(number)
        assert found is not None
        assert found.payload == payload
    bench.spool.settle(durable)
    assert bench.spool.read(durable) is None
    assert bench.spool.read(present + 1) is None
