"""Tallies of the spool: durable exactly together with what they count, whatever happens in between."""

from __future__ import annotations

import shutil
from random import Random
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nuclio_edge.core.loop import Loop
from nuclio_edge.spool.spool import Spool
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVENT, DEAD = 1, 3
HANDLED, FAILED = 0, 1


class Disk:
    """A spool in a folder, opened and closed; `cut` is what a power cut leaves of it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.options = options
        self.open()

    def open(self) -> None:
        self.loop = Loop()
        self.spool = Spool(self.loop, str(self.folder / "spool"), size=1 << 20, **self.options)
        self.spool.open()

    def close(self) -> None:
        self.spool.close()
        self.loop.close()

    def flush(self) -> None:
        """Have all that is in the present group written."""
        done: list[Any] = []
        number = self.spool.append(9, "marker", b"x", done.append, urgent=True)
        self.until(lambda: done)
        assert done == [None]
        self.spool.settle(number)

    def until(self, condition: Callable[[], Any]) -> None:
        """Turn the loop until the condition is true."""

        def turned() -> Any:
            self.loop.turn(10)
            return condition()

        wait_until(turned)

    def copy(self, to: Path) -> Path:
        """The files as they are now."""
        shutil.copytree(self.folder / "spool", to / "spool")
        return to


def test_a_tally_is_there_after_a_restart(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.spool.tallies.add(EVENT, "f", HANDLED, 3)
    disk.spool.tallies.add(EVENT, "f", HANDLED, 4)
    disk.spool.tallies.add(EVENT, "f", FAILED, 1)
    disk.flush()
    assert disk.spool.tallies.of(EVENT, "f") == {HANDLED: 7, FAILED: 1}
    disk.close()
    disk.open()
    assert disk.spool.tallies.of(EVENT, "f") == {HANDLED: 7, FAILED: 1}
    disk.spool.tallies.add(EVENT, "f", HANDLED, 1)
    disk.close()
    disk.open()
    assert disk.spool.tallies.of(EVENT, "f") == {HANDLED: 8, FAILED: 1}
    disk.close()


def test_nothing_is_written_for_the_sake_of_a_tally_until_the_end(tmp_path: Path) -> None:
    disk = Disk(tmp_path, flush_ms=1)
    disk.flush()
    disk.until(lambda: disk.spool.commits >= 1)
    for _ in range(50):
        disk.loop.turn(1)
    before = disk.spool.written
    disk.spool.tallies.add(EVENT, "f", HANDLED, 1)
    for _ in range(50):
        disk.loop.turn(1)
    assert disk.spool.written == before
    disk.close()
    assert disk.spool.written > before


def test_no_file_is_made_for_a_tally(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.spool.tallies.add(EVENT, "f", HANDLED, 1)
    disk.close()
    assert not list((tmp_path / "spool").iterdir())


def test_a_tally_that_changes_while_it_is_written_is_written_again(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.spool.tallies.add(EVENT, "f", HANDLED, 1)
    disk.spool.append(EVENT, "f", b"x", urgent=True)
    disk.loop.turn(0)  # handed over
    disk.spool.tallies.add(EVENT, "f", HANDLED, 1)
    disk.flush()
    disk.close()
    disk.open()
    assert disk.spool.tallies.of(EVENT, "f") == {HANDLED: 2}
    disk.close()


def test_what_a_record_counts_is_undone_when_it_cannot_be_stored(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.flush()
    refused: list[Any] = []
    disk.spool.append(DEAD, "f", b"x" * (1 << 20), refused.append, urgent=True, tallies=[(EVENT, "f", FAILED, 1)])
    disk.spool.append(DEAD, "f", b"x", urgent=True, tallies=[(EVENT, "f", FAILED, 1)])
    disk.until(lambda: refused)
    disk.flush()
    assert isinstance(refused[0], OSError)
    assert disk.spool.tallies.of(EVENT, "f") == {FAILED: 1}
    disk.close()
    disk.open()
    assert disk.spool.tallies.of(EVENT, "f") == {FAILED: 1}
    disk.close()


def test_tallies_outlive_the_segments_in_which_they_were_written(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.spool.tallies.add(EVENT, "f", HANDLED, 5)
    for _ in range(60):  # several times the size of the whole spool
        number = disk.spool.append(EVENT, "g", b"x" * 30_000)
        disk.flush()
        disk.spool.settle(number)
    disk.close()
    disk.open()
    assert disk.spool.tallies.of(EVENT, "f") == {HANDLED: 5}
    disk.close()


def test_there_is_room_for_a_bounded_number_of_tallies_and_none_is_lost_for_another(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    taken = [key for key in range(4000) if disk.spool.tallies.add(EVENT, "f", key, 1)]
    assert len(taken) == 64
    disk.flush()
    disk.close()
    disk.open()
    assert disk.spool.tallies.of(EVENT, "f") == dict.fromkeys(taken, 1)
    disk.close()


class Events:
    """Events by way of a spool, as delivery uses it; what became of each is known outside, too."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.stored: dict[int, str] = {}  # id -> state

    def arrive(self) -> None:
        self.stored[self.disk.spool.append(EVENT, "f", b"payload")] = "pending"

    def handle(self, which: int) -> None:
        number = self._pick(which)
        if number:
            self.stored[number] = "handled"
            self.disk.spool.settle(number)
            self.disk.spool.tallies.add(EVENT, "f", HANDLED, 1)

    def bury(self, which: int) -> None:
        number = self._pick(which)
        if number:
            self.stored[number] = "failed"
            self.disk.spool.append(DEAD, "f", b"letter", settles=[number], tallies=[(EVENT, "f", FAILED, 1)])

    def _pick(self, which: int) -> int:
        pending = [number for number, state in self.stored.items() if state == "pending"]
        return pending[which % len(pending)] if pending else 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.just(0)),
        st.tuples(st.sampled_from(["handle", "bury"]), st.integers(0, 30)),
        st.tuples(st.sampled_from(["flush", "turn"]), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=60)
@given(STEPS, st.integers(0, 1 << 32))
def test_after_a_power_cut_every_event_on_disk_is_pending_or_counted_and_never_both(
    tmp_path_factory: Any, steps: list[tuple[str, int]], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    disk = Disk(folder)
    events = Events(disk)
    for step, which in steps:
        if step == "flush":
            disk.flush()
        elif step == "turn":
            disk.loop.turn(0)
        elif step == "arrive":
            events.arrive()
        else:
            getattr(events, step)(which)
    while disk.spool.groups()[0] is not None:
        disk.loop.turn(10)
    cut = disk.copy(tmp_path_factory.mktemp("cut"))
    tear(cut, Random(seed))
    appended = disk.spool.log.lanes.by_key[EVENT, "f"].appended if (EVENT, "f") in disk.spool.log.lanes.by_key else 0
    disk.close()
    again = Disk(cut)
    lane = again.spool.log.lanes.by_key.get((EVENT, "f"))
    counts = again.spool.tallies.of(EVENT, "f")
    counted = counts.get(HANDLED, 0) + counts.get(FAILED, 0)
    letters = len(again.spool.records(0, 1 << 20, DEAD))
    if lane is not None:
        assert lane.appended == lane.settled + lane.gap + lane.pending
        assert counted == lane.settled, "what is settled is counted, what is counted is settled"
        assert lane.appended <= appended
    else:
        assert not counted
    assert letters == counts.get(FAILED, 0), "a dead letter is counted as one, and none that is not there"
    again.close()
    shutil.rmtree(folder)
    shutil.rmtree(cut)


def tear(folder: Path, random: Random) -> None:
    """Take the end of what was written last away, as a power cut may: anywhere, also inside a record."""
    for path in sorted((folder / "spool").glob("*.seg")):
        data = path.read_bytes()
        body = data[64:-64].rstrip(b"\0")
        if body and random.random() < 0.7:
            keep = 64 + random.randrange(len(body) + 1)
            path.write_bytes(data[:keep] + bytes(len(data) - 64 - keep) + data[-64:])
