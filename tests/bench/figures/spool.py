"""The spool beside sqlite3: durable enqueue, bytes that the disk takes, recovery, a week without a network, rest."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from nuclio_edge.core.loop import Loop
from nuclio_edge.spool.spool import Spool
from nuclio_edge.testing.clock import Clock
from nuclio_edge.workers.carriers import SWITCH_S
from tests.crash.spool_trial import use
from tests.crash.test_power_cuts import try_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bench.bench import Bench

BODY = os.urandom(200)
GROUP = 64
LARGE_GROUP = 512
EVENT = 1
LAZY = "lazy_itable_init=0,lazy_journal_init=0"  # else the kernel goes on making the file system while we measure


def run(bench: Bench) -> None:
    """Every bar of the spool."""
    enqueue(bench)
    device(bench)
    recovery(bench)
    week(bench)
    rest(bench)
    images(bench)


def opened(folder: Path, **more: Any) -> tuple[Loop, Spool]:
    """A spool and its loop."""
    loop = Loop()
    spool = Spool(loop, str(folder), **more)
    spool.open()
    return loop, spool


class Stored:
    """Counts what is durable; `wait` until so many are."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.count = 0

    def __call__(self, error: OSError | None) -> None:
        assert error is None, error
        self.count += 1

    def wait(self, count: int) -> None:
        while self.count < count:
            self._loop.turn(1000)


def enqueue(bench: Bench) -> None:
    """Events of 200 bytes in groups, each durable when it is told so; 512 are what comes while a group is synced."""
    sys.setswitchinterval(SWITCH_S)  # as the processor has it
    say = bench.report.value
    for size in (GROUP, LARGE_GROUP):
        groups = bench.many(2000) * GROUP // size
        found = bench.interleave(
            {
                "spool": lambda size=size, groups=groups: spool_groups(bench.folder(), groups, size),  # type: ignore[misc]
                "settled": lambda size=size, groups=groups: spool_groups(bench.folder(), groups, size, settle=True),  # type: ignore[misc]
                "new files": lambda size=size, groups=groups: spool_groups(bench.folder(), groups, size, fresh=True),  # type: ignore[misc]
                "sqlite3": lambda size=size, groups=groups: sqlite_groups(bench.folder(), groups // 10, size),  # type: ignore[misc]
            }
        )
        what = f"groups of {size}"
        most = 1e6 / 150_000 if size == LARGE_GROUP else None
        say(f"durable enqueue, {what}: wall", found["spool"]["wall"], "us/event", bar=most)
        say(f"durable enqueue, {what}: CPU", found["spool"]["cpu"], "us/event")
        say("the same, each settled in the next group: wall", found["settled"]["wall"], "us/event")
        say(f"sqlite3, WAL, FULL, {what}: wall", found["sqlite3"]["wall"], "us/event")
        say(f"sqlite3, WAL, FULL, {what}: CPU", found["sqlite3"]["cpu"], "us/event")
        bench.ratio(f"ours to sqlite3's, {what}, wall", found, "spool", "sqlite3", "wall", bar=0.1)
        say("fdatasync alone, of as many bytes", [bare_sync(bench.folder(), size) for _ in range(5)], "us/event")
        say("bytes at write(2) per payload byte", found["spool"]["bytes"], "x", bar=1.25)
        say("the same, settled too", found["settled"]["bytes"], "x", bar=1.25)
        say("the same, a file's first life", found["new files"]["bytes"], "x", bar=1.25)
    say(
        "skipped: came and went between two commits, CPU",
        [skipped(bench.folder(), bench.many(2000)) for _ in range(5)],
        "us/event",
    )


def bare_sync(folder: Path, size: int) -> float:
    """What the disk takes for a group of events, by itself."""
    block = os.urandom(size * 222)
    descriptor = os.open(folder / "bare", os.O_RDWR | os.O_CREAT)
    try:
        os.write(descriptor, bytes(len(block) * 8))
        os.fsync(descriptor)
        took = []
        for number in range(100):
            os.pwrite(descriptor, block, number % 8 * len(block))
            begin = time.perf_counter()
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - begin)
    finally:
        os.close(descriptor)
    return sorted(took)[50] * 1e6 / size


def spool_groups(
    folder: Path, groups: int, each: int = GROUP, *, settle: bool = False, fresh: bool = False
) -> dict[str, float]:
    """Groups one after another, one on its way while the next collects; in recycled files unless `fresh`.

    The spool has room for all of them: to give something up is another act.
    """
    size = max(groups * each * 300, 8 << 20)
    loop, spool = opened(folder, size=size, flush_ms=60_000)
    stored = Stored(loop)
    try:
        if not fresh:
            for _ in range(size >> 14):  # until every file was written once
                ids = [spool.append(EVENT, "warm", bytes(1000), stored) for _ in range(16)]
                spool.commit_soon()
                stored.wait(stored.count + len(ids))
                for number in ids:
                    spool.settle(number)
        before, written, begin = stored.count, spool.written, time.perf_counter()
        cpu = time.process_time()
        last: list[int] = []
        for group in range(groups):
            ids = [spool.append(EVENT, "a", BODY, stored) for _ in range(each)]
            if settle:
                for number in last:
                    spool.settle(number)
                last = ids
            spool.commit_soon()
            loop.turn(0)
            stored.wait(before + group * each)  # all but the one that was just handed over
        stored.wait(before + groups * each)
        events = groups * each
        return {
            "wall": (time.perf_counter() - begin) * 1e6 / events,
            "cpu": (time.process_time() - cpu) * 1e6 / events,
            "bytes": (spool.written - written) / events / len(BODY),
        }
    finally:
        spool.close()
        loop.close()


def skipped(folder: Path, groups: int) -> float:
    """CPU of an event that is settled before its group is written."""
    loop, spool = opened(folder)
    stored = Stored(loop)
    begin = time.process_time()
    for _ in range(groups):
        for number in [spool.append(EVENT, "a", BODY, stored) for _ in range(GROUP)]:
            spool.settle(number)
        loop.turn(0)
    cpu = (time.process_time() - begin) * 1e6 / groups / GROUP
    assert stored.count == groups * GROUP
    assert spool.written == 0
    spool.close()
    loop.close()
    return cpu


def sqlite_groups(folder: Path, groups: int, each: int = GROUP) -> dict[str, float]:
    """The same with a table: a row an event, as each comes, and a commit after each group."""
    database = sqlite3.connect(folder / "queue.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE queue (id INTEGER PRIMARY KEY, kind INTEGER, key TEXT, body BLOB)")
    begin, cpu = time.perf_counter(), time.process_time()
    for _ in range(groups):
        database.execute("BEGIN")
        for _ in range(each):
            database.execute("INSERT INTO queue (kind, key, body) VALUES (?, ?, ?)", (EVENT, "a", BODY))
        database.execute("COMMIT")
    events = groups * each
    wall, cpu = (time.perf_counter() - begin) * 1e6 / events, (time.process_time() - cpu) * 1e6 / events
    database.close()
    return {"wall": wall, "cpu": cpu}


def device(bench: Bench) -> None:
    """One event a second, durable within one: what a disk with ext4 of its own has to take; and for a bare file."""
    seconds = bench.many(60)
    with ExitStack() as mounted:
        try:
            ours, bare = (mounted.enter_context(file_system(bench.folder())) for _ in range(2))
        except OSError as error:
            bench.report.missing("bytes at the block device", str(error))
            return
        loop, spool = opened(ours / "spool", size=16 << 20, flush_ms=1000)
        stored = Stored(loop)
        spool.append(EVENT, "a", BODY, stored, urgent=True)
        stored.wait(1)
        descriptor = os.open(bare / "file", os.O_RDWR | os.O_CREAT)
        os.write(descriptor, bytes(1 << 20))  # written once, as a segment
        os.fsync(descriptor)
        os.sync()
        before, begin = [sectors(ours), sectors(bare)], time.monotonic()
        for second in range(seconds):
            spool.append(EVENT, "a", BODY, stored)
            os.pwrite(descriptor, BODY, second * len(BODY))
            os.fdatasync(descriptor)
            while (left := begin + second + 1 - time.monotonic()) > 0:
                loop.turn(max(1, int(left * 1000)))
        stored.wait(seconds + 1)
        payload = seconds * len(BODY)
        taken = [(sectors(disk) - was) * 512 / payload for disk, was in zip((ours, bare), before, strict=True)]
        os.close(descriptor)
        spool.close()
        loop.close()
    bench.report.value("bytes at the block device, 1 event/s, per payload byte", [taken[0]], "x", bar=25)
    bench.report.value("the same of a bare file, a write and an fdatasync a second", [taken[1]], "x")


@contextmanager
def file_system(folder: Path) -> Iterator[Path]:
    """An ext4 of its own, mounted at a folder; OSError where that cannot be."""
    image = folder.with_suffix(".disk")
    with image.open("wb") as file:
        file.truncate(64 << 20)
    for command in (
        ["mkfs.ext4", "-q", "-F", "-b", "4096", "-E", LAZY, str(image)],
        ["mount", "-o", "loop", str(image), str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.decode().strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def sectors(folder: Path) -> int:
    """Sectors that were written to the disk on which a folder is."""
    number = os.stat(folder).st_dev
    with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat", encoding="ascii") as stat:
        return int(stat.read().split()[6])


def recovery(bench: Bench) -> None:
    """64 MiB of pending records of 250 bytes, and every second one settled."""
    folder = bench.folder()
    loop, spool = opened(folder)
    stored = Stored(loop)
    ids: list[int] = []
    while spool.log.has_file():
        ids += [spool.append(EVENT, "a", bytes(228), stored) for _ in range(1000)]
        stored.wait(len(ids))
    spool.close()
    loop.close()
    times, memory = [], []
    for _ in range(bench.runs):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.perf_counter()
        loop, spool = opened(folder)
        times.append(time.perf_counter() - begin)
        memory.append((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        count = spool.totals()["pending"]
        spool.close()
        loop.close()
    bench.report.value(f"recovery of 64 MiB, {count:,} records pending", times, "s", bar=0.5)
    bench.report.value("memory that it took at most", memory, "MiB")


def week(bench: Bench) -> None:
    """604,800 seconds with one event each and no network, in a spool of 16 MiB."""
    folder = bench.folder()
    events = bench.many(604_800)
    gaps: list[int] = []
    largest = 0
    with Clock() as clock:
        loop, spool = opened(folder, size=16 << 20, on_gap=lambda _kind, _key, count, _first, _last: gaps.append(count))
        stored = Stored(loop)
        for event in range(events):
            spool.append(EVENT, "a", BODY, stored)
            if event % 60 == 59:  # a minute in one go: the clock skips, the disk does not
                clock.skip(60_000)
                spool.commit_soon()
                stored.wait(event + 1)
                if event % 6000 == 5999:
                    largest = max(largest, usage(folder))
        stored.wait(events)
        totals = spool.totals()
        spool.close()
        loop.close()
        again, spool = opened(folder, size=16 << 20)
        after = spool.totals()
        there = len(spool.records(limit=1 << 40))
        spool.close()
        again.close()
    wrong = abs(totals["appended"] - events) + abs(sum(gaps) + there - events) + abs(after["gap"] - sum(gaps))
    bench.report.value("a week offline: most that was on disk", [largest / (1 << 20)], "MiB", bar=16)
    bench.report.value("a week offline: events that do not add up", [wrong], "events", bar=0)
    bench.report.say(f"  ({events:,} appended, {there:,} kept, {sum(gaps):,} in {len(gaps)} gaps)")


def usage(folder: Path) -> int:
    """Bytes on disk of all files of a folder."""
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def rest(bench: Bench) -> None:
    """A minute in which nothing happens, with records pending."""
    loop, spool = opened(bench.folder(), flush_ms=100)
    stored = Stored(loop)
    spool.append(EVENT, "a", BODY, stored)
    stored.wait(1)
    loop.turn(200)
    before, wakeups = written(), loop.wakeups
    end = time.monotonic() + bench.many(60)
    while (left := end - time.monotonic()) > 0:
        loop.turn(max(1, int(left * 1000)))
    bench.report.value("an idle minute: bytes written", [written() - before], "bytes", bar=0)
    bench.report.value("an idle minute: wake-ups", [loop.wakeups - wakeups - 1], "", bar=0)
    spool.close()
    loop.close()


def written() -> int:
    """Bytes that this process caused to be written."""
    with open("/proc/self/io", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def images(bench: Bench) -> None:
    """What the model of power cuts finds; tests/crash has more of it."""
    count = try_all(use, 0, bench.many(120))
    bench.report.value(f"power cuts: bad disk images of {count.images:,}", [count.bad], "", bar=0)
    dishonest = try_all(use, 1, bench.many(120), honest=False)
    bench.report.say(f"  (without fsync: {dishonest.bad} bad of the first {dishonest.images:,})")
