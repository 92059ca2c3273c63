"""A spool on a model's disk: what it promised up to each operation, and whether a disk after a power cut keeps it."""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING, Any

from nuclio_edge.core.loop import Loop
from nuclio_edge.spool.spool import Spool
from nuclio_edge.spool.writer import Hand, Job
from tests.crash.model import ModelDisk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.crash.model import Image

FOLDER = "spool"
SIZE = 8 << 10  # four segments of 2 KiB
KIND = 1
LOG = 2  # a kind that has a reader
BY_ITSELF, BY_RECORD = 0, 1  # what is counted of each that is settled


class StepWriter:
    """The writer without its thread: a job is done when the test says so."""

    def __init__(self, disk: Any) -> None:
        self._hand = Hand(disk)
        self.jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def step(self) -> bool:
        """Do one job; false when there is none."""
        if not self.jobs:
            return False
        job = self.jobs.popleft()
        self._hand.do(job)
        job.then(job)
        return True

    def wait(self) -> None:
        self.step()

    def close(self) -> None:
        while self.step():
            pass
        self._hand.close()


class Trial:
    """A spool that is used, and a ledger of what it was told and what it told: notes between the disk's operations."""

    def __init__(self, disk: ModelDisk, **more: Any) -> None:
        self.disk = disk
        self.loop = Loop()
        self.writer = StepWriter(disk)
        self.spool = Spool(
            self.loop,
            FOLDER,
            **{"size": SIZE, "flush_ms": 3_600_000, "on_gap": self._gap, **more},
            disk=disk,  # type: ignore[arg-type]  # has its methods
            writer=self.writer,
        )
        self.spool.log.random = random.Random(len(disk.start)).randbytes
        self.spool.log.rows_size = 1 << 20  # segments this small have no room for the worst names
        self.payloads: dict[int, tuple[int, int | str, bytes]] = {}
        self.settled: set[int] = set()  # that it was told of
        self.together: dict[int, list[int]] = {}  # id of a record -> ids that it settles
        self.spool.open()
        # What was there when it was opened is promised from then on.
        for record in self.pending():
            self.payloads[record.id] = (record.kind, record.key, record.payload)
            disk.note("stored", record.id)

    def pending(self) -> list[Any]:
        return self.spool.records(limit=1 << 40)

    def append(self, key: int | str, payload: bytes, kind: int = KIND, settles: Iterable[int] = ()) -> int:
        those = list(settles)
        number: int
        unwritten = [one for one in those if one >= self.spool._group.first]

        def done(error: OSError | None) -> None:
            if error is None and number not in self.settled:
                self.disk.note("stored", number)

        tallies = [(self.payloads[one][0], self.payloads[one][1], BY_RECORD, 1) for one in those]
        number = self.spool.append(kind, key, payload, done, settles=those, tallies=tallies)
        self.payloads[number] = (kind, key, payload)
        for one in unwritten:  # never was, and what it was to settle is settled by this one
            self.settled.add(one)
            self.disk.note("settle", one)
            those += self.together.pop(one, [])
        those = [one for one in those if one not in unwritten]
        if those:
            self.together[number] = those
            self.disk.note("together", number, tuple(those))
        return number

    def settle(self, number: int) -> bool:
        if self.spool.settle(number):
            kind, key, _ = self.payloads[number]
            self.spool.tallies.add(kind, key, BY_ITSELF, 1)
            self.settled.add(number)
            self.disk.note("settle", number)
            return True
        return False

    def turn(self) -> None:
        self.loop.turn(0)

    def commit(self) -> None:
        """Hand over what there is, unless something is on its way."""
        self.spool.commit_soon()
        self.turn()

    def land(self) -> None:
        """Let the writer do what it has to do; what was settled when it got the job is settled for ever."""
        before = frozenset() if self._waits() else frozenset(self.settled)
        commits = self.spool.commits
        if self.writer.step() and self.spool.commits > commits:
            self.disk.note("gone", before)

    def _waits(self) -> bool:
        return bool(self.spool._settling.waiting)

    def _gap(self, _kind: int, _key: int | str, count: int, first: int, last: int) -> None:
        self.disk.note("gap", first, last, count)

    def close(self) -> None:
        """End it as a power cut would: nothing is written."""
        self.writer._hand.close()
        self.loop.close()


class Promise:
    """What a disk must hold, after the notes that were fed.

    `before` is what was promised by a process that an earlier cut ended: a record that it had begun to write may come
    to be whole when the next one writes the same bytes over the part that was missing. It was appended, if never told.
    """

    def __init__(self, trial: Trial, before: Promise | None = None) -> None:
        self._payloads: list[dict[int, Any]] = [trial.payloads, *(before._payloads if before else ())]
        self._before = before.together if before else {}
        self.stored: set[int] = set()
        self.settled: set[int] = set(before.settled) if before else set()
        self.gone: set[int] = set()
        self.gaps: list[tuple[int, int]] = list(before.gaps) if before else []
        self.together: dict[int, tuple[int, ...]] = {}

    def feed(self, note: tuple[Any, ...]) -> None:
        """One note more comes before the cut."""
        if note[1] == "stored":
            self.stored.add(note[2])
        elif note[1] == "settle":
            self.settled.add(note[2])
        elif note[1] == "gone":
            self.gone |= note[2]
        elif note[1] == "gap":
            self.gaps.append((note[2], note[3]))
        elif note[1] == "together":
            self.together[note[2]] = note[3]

    def broken_by(self, image: Image) -> str:
        """What of the promise this disk does not keep; "" when it keeps it all and the spool can be used again."""
        trial = Trial(ModelDisk(image))
        try:
            return self._wrong(trial) or _goes_on(trial)
        finally:
            trial.close()

    def _wrong(self, trial: Trial) -> str:
        spool = trial.spool
        if spool.trouble:
            return f"it does not start: {spool.trouble}"
        found = {record.id: (record.kind, record.key, record.payload) for record in trial.pending()}
        for number, content in found.items():
            if not any(payloads.get(number) == content for payloads in self._payloads):
                return f"{number} is invented: {content}"
        again = found.keys() & self.gone
        if again:
            return f"settled for certain, and there again: {sorted(again)}"
        by: dict[int, list[int]] = {}
        for number, those in self.together.items():
            for one in those:
                by.setdefault(one, []).append(number)
                if number in found and one in found:
                    return f"{number} is there, and {one} that it settles"

        for number, those in self._before.items():
            for one in those:
                by.setdefault(one, []).append(number)

        def is_kept(number: int) -> bool:
            """There, or with good reason not: it was settled, given up, or another record stands for it."""
            if number in found or number in self.settled or self._in_gap(number):
                return True
            return any(map(is_kept, by.get(number, ())))

        for number in self.stored:
            if not is_kept(number):
                return f"{number} was stored and is lost (settled by {by.get(number)})"
        if spool.differences():
            return f"the ledger is wrong: {spool.differences()}"
        for lane in spool.log.lanes:
            counted = sum(spool.tallies.of(lane.kind, lane.key).values())
            if lane.kind == KIND and counted != lane.settled:
                return f"{lane.key}: {lane.settled} are settled, {counted} were counted when they were"
        if spool.recovery.adjusted or spool.recovery.lost:
            return f"counters had to be corrected by {spool.recovery.adjusted}, {spool.recovery.lost} segments missing"
        if found and spool.recovery.next <= max(found):
            return "an id would be given twice"
        return ""

    def _in_gap(self, number: int) -> bool:
        return any(first <= number <= last for first, last in self.gaps)


def _goes_on(trial: Trial) -> str:
    """Whether the spool can be used after the cut."""
    kept = {record.id for record in trial.pending()}
    settled = min(kept, default=0)
    if settled:
        trial.settle(settled)
    number = trial.append("after", b"the cut")
    for _ in range(4):
        trial.commit()
        trial.land()
    again = Trial(ModelDisk(trial.disk.image()))
    try:
        found = {record.id for record in again.pending()}
        if number not in found:
            return f"{number}, appended after the cut, is not there"
        if settled in found:
            return f"{settled}, settled after the cut, is there again"
        if again.spool.differences() or again.spool.recovery.adjusted:
            return f"the ledger is wrong after the cut: {again.spool.differences()}"
        return ""
    finally:
        again.close()


def use(trial: Trial, seed: int, steps: int) -> None:
    """Use a spool in every way, by the seed."""
    chance = random.Random(seed)
    keys: list[int | str] = ["function.a.trigger[0]", 7, "b"]
    reader = trial.spool.reader("shipper", LOG)
    for _ in range(steps):
        what = chance.random()
        pending = [number for number in trial.payloads if number not in trial.settled]
        if what < 0.45:
            payload = bytes([chance.randrange(256)]) * chance.choice((0, 5, 40, 90, 300))
            trial.append(chance.choice(keys), payload, LOG if chance.random() < 0.15 else KIND)
        elif what < 0.7 and pending:
            trial.settle(
                chance.choice(pending[-6:]) if chance.random() < 0.4 else pending[chance.randrange(len(pending))]
            )
        elif what < 0.75 and len(pending) > 2:
            those = [number for number in chance.sample(pending, 2) if trial.payloads[number][0] == KIND]
            those = [number for number in those if trial.spool.read(number) is not None]
            trial.append("outbox", b"out" * chance.randrange(20), settles=those)
        elif what < 0.78:
            records = reader.next(100)
            if records:
                for record in records:
                    trial.settled.add(record.id)
                    trial.disk.note("settle", record.id)
                reader.advance(records[-1].id)
        elif what < 0.9:
            trial.commit()
        else:
            trial.land()
    for _ in range(3):
        trial.commit()
        trial.land()


def use_with_stragglers(trial: Trial, seed: int, steps: int) -> None:
    """Let a few records stay while many come and go behind them, each commit by itself."""
    chance = random.Random(seed)
    staying = [trial.append("stays", b"%d" % number) for number in range(3)]
    for step in range(steps):
        number = trial.append("goes", bytes([step]) * 280)
        trial.commit()
        trial.land()
        trial.settle(number)
        if chance.random() < 0.3:
            trial.commit()
        if step > steps // 2 and staying and chance.random() < 0.1:
            trial.settle(staying.pop())
        while chance.random() < 0.7 and trial.writer.jobs:
            trial.land()
    for _ in range(3):
        trial.commit()
        trial.land()


def use_in_large_groups(trial: Trial, seed: int, steps: int) -> None:
    """Append more at a time than a segment holds, and settle it all, or nearly."""
    chance = random.Random(seed)
    for _ in range(steps // 10):
        ids = [trial.append("a", bytes([step]) * chance.choice((40, 300))) for step in range(chance.randrange(1, 16))]
        trial.commit()
        while trial.writer.jobs or trial.spool.groups()[1].lanes:
            trial.commit()
            trial.land()
        for number in ids:  # of even seeds all, so that nothing before the next group is needed
            if seed % 2 == 0 or chance.random() < 0.95:
                trial.settle(number)


def use_when_full(trial: Trial, seed: int, steps: int) -> None:
    """Settle the oldest records while they are about to be given up, by themselves and by records that come instead."""
    chance = random.Random(seed)
    for step in range(steps // 4):
        for _ in range(3):
            trial.append("a", bytes([step]) * 150)
        oldest = [record.id for record in trial.spool.records(limit=600) if record.id < trial.spool.groups()[1].first]
        if chance.random() < 0.7:
            for number in oldest[:1]:
                trial.settle(number)
        for number in oldest[1:3]:
            trial.append(f"outbox {step // 6}", b"out", settles=[number])
        trial.commit()
        while trial.writer.jobs:
            trial.land()
