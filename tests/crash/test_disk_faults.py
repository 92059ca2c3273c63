"""A disk that is full, cannot be written, fails to sync, or a process without descriptors: nothing stored is lost."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.loop import Loop
from nuclio_edge.spool.disk import Disk
from nuclio_edge.spool.spool import AGAIN_MS, FULL, Spool
from nuclio_edge.testing.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = bytes(1000)
OPEN: list[Bench] = []


class FailingDisk(Disk):
    """The real one, whose operations fail as `fail` says: name -> (errno, how often)."""

    def __init__(self) -> None:
        self.fail: dict[str, tuple[int, int]] = {}

    def _may(self, name: str) -> None:
        code, left = self.fail.get(name, (0, 0))
        if left:
            self.fail[name] = (code, left - 1)
            raise OSError(code, os.strerror(code))

    def create(self, path: str) -> int:
        self._may("create")
        return super().create(path)

    def open(self, path: str, *, write: bool = False) -> int:
        self._may("open")
        return super().open(path, write=write)

    def write(self, descriptor: int, data: bytes, at: int) -> None:
        self._may("write")
        super().write(descriptor, data, at)

    def sync(self, descriptor: int) -> None:
        self._may("sync")
        super().sync(descriptor)


class BadPage(Disk):
    """One that cannot read one page of every file."""

    def read(self, descriptor: int, size: int, at: int) -> bytes:
        if at <= 8192 < at + size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(descriptor, size, at)


class Bench:
    """A spool whose clock stands still, so that it tries again when the test says so."""

    def __init__(self, folder: Path, disk: Disk | None = None, **more: Any) -> None:
        OPEN.append(self)
        self.clock = Clock()
        self.clock.__enter__()
        self.folder = folder
        self.troubles: list[str] = []
        self.gaps: list[tuple[int, ...]] = []
        self.stored: list[int] = []
        self.refused: list[OSError] = []
        self.loop = Loop()
        self.spool = Spool(
            self.loop,
            str(folder),
            disk=disk,
            on_trouble=self.troubles.append,
            on_gap=lambda *gap: self.gaps.append(gap[2:]),
            **more,
        )
        self.spool.open()

    def append(self, count: int = 1, **more: Any) -> list[int]:
        """Append, commit and wait for what comes of it; the ids."""
        before = len(self.stored) + len(self.refused)
        ids: list[int] = []
        for _ in range(count):
            place = len(ids)

            def done(error: OSError | None, place: int = place) -> None:
                if error is None:
                    self.stored.append(ids[place])
                else:
                    self.refused.append(error)

            ids.append(self.spool.append(1, "a", BODY, done, **more))
        self.spool.commit_soon()
        while len(self.stored) + len(self.refused) < before + count:
            self.loop.turn(100)
        return ids

    def pending(self) -> list[int]:
        return [record.id for record in self.spool.records(limit=1 << 40)]

    def wait_for_the_next_attempt(self) -> None:
        self.clock.skip(60_001)

    def let_it_try(self) -> None:
        """The next attempt, with nothing to store."""
        self.wait_for_the_next_attempt()
        self.loop.turn(0)
        while self.spool._writer._open:
            self.loop.turn(100)

    def close(self) -> None:
        self.give_back()
        assert self.spool.differences() == []

    def give_back(self) -> None:
        if self in OPEN:
            OPEN.remove(self)
            self.spool.close()
            self.loop.close()
            self.clock.__exit__()


@pytest.fixture(autouse=True)
def _leave_none_open() -> Iterator[None]:
    yield
    while OPEN:
        OPEN[-1].give_back()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB, real and ours."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no right to mount: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_full_disk_appends_are_refused_and_what_is_stored_stays(small_disk: Path) -> None:
    bench = Bench(small_disk / "spool", size=16 << 20)  # segments of 1 MiB
    while not bench.refused:
        bench.append(50)
    assert {error.errno for error in bench.refused} == {errno.ENOSPC}
    assert len(bench.troubles) == 1
    assert "No space left" in bench.troubles[0]
    assert bench.pending() == bench.stored
    assert bench.gaps == []
    # Room is made by settling, without a new file.
    bench.wait_for_the_next_attempt()
    for number in bench.stored[:-10]:
        bench.spool.settle(number)
    kept = bench.stored[-10:]
    bench.refused.clear()
    for _ in range(5):
        kept += bench.append(1)
        bench.clock.skip(60_001)
    assert bench.refused == []
    assert bench.troubles[1:] == [""]
    assert bench.pending() == kept
    bench.close()
    again = Bench(small_disk / "spool", size=16 << 20)
    assert again.pending() == kept
    assert again.spool.recovery.adjusted == 0
    again.close()


def test_a_read_only_disk_is_read_and_appends_are_refused(small_disk: Path) -> None:
    bench = Bench(small_disk / "spool", size=4 << 20)
    kept = bench.append(20)
    bench.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    bench = Bench(small_disk / "spool", size=4 << 20)
    assert bench.pending() == kept
    bench.append(3)
    assert [error.errno for error in bench.refused] == [errno.EROFS] * 3
    assert len(bench.troubles) == 1
    bench.append(3)  # at once, without trying
    assert bench.spool.refused == {"EROFS": 6}
    assert len(bench.troubles) == 1
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    bench.wait_for_the_next_attempt()
    kept += bench.append(3)
    assert bench.troubles[1:] == [""]
    assert bench.pending() == kept
    bench.close()


def test_without_a_folder_it_starts_and_refuses(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    bench = Bench(small_disk / "spool", size=4 << 20)
    bench.append(1)
    assert [error.errno for error in bench.refused] == [errno.EROFS]
    assert len(bench.troubles) == 1
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    bench.wait_for_the_next_attempt()
    kept = bench.append(1)
    assert bench.pending() == kept
    bench.close()


def test_a_folder_that_cannot_be_read_is_not_written_until_it_can(tmp_path: Path) -> None:
    disk = FailingDisk()
    bench = Bench(tmp_path, disk, size=4 << 20)
    kept = bench.append(5)
    bench.close()
    disk.fail["open"] = (errno.EMFILE, 1)
    bench = Bench(tmp_path, disk, size=4 << 20)
    assert len(bench.troubles) == 1
    bench.append(2)
    bench.wait_for_the_next_attempt()
    bench.append(1)  # finds out what there is
    assert len(bench.refused) == 3
    kept += bench.append(2)
    assert bench.troubles[1:] == [""]
    assert bench.pending() == kept
    assert kept == sorted(set(kept))
    bench.close()


@pytest.mark.parametrize("operation", ["create", "write", "sync"])
def test_that_a_disk_works_again_is_found_out_without_anything_to_store(tmp_path: Path, operation: str) -> None:
    disk = FailingDisk()
    bench = Bench(tmp_path, disk, size=4 << 20)
    kept = bench.append(5)
    disk.fail = {"sync": (errno.EIO, 1000), "create": (errno.EIO, 1000)}
    bench.append(1)
    assert len(bench.troubles) == 1
    disk.fail = {operation: (errno.EIO, 1000)}
    for _ in range(3):
        bench.let_it_try()
    assert len(bench.troubles) == 1
    assert "probe.seg" not in os.listdir(tmp_path)
    disk.fail.clear()
    bench.wait_for_the_next_attempt()
    while bench.spool.trouble:
        bench.loop.turn(100)
    assert bench.troubles[1:] == [""]
    written = bench.spool.written
    bench.wait_for_the_next_attempt()
    bench.loop.turn(0)
    assert bench.spool._timer is None  # at rest again
    assert bench.spool.written == written
    assert "probe.seg" not in os.listdir(tmp_path)
    assert bench.pending() == kept
    bench.close()


def test_a_full_disk_works_again_when_there_is_room_for_a_segment(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=2500k", str(small_disk)], check=True)
    bench = Bench(small_disk / "spool", size=16 << 20)  # segments of 1 MiB
    while not bench.refused:
        bench.append(50)
    (small_disk / "other").write_bytes(bytes(4096))  # there is room for that
    for _ in range(3):
        bench.let_it_try()
    assert len(bench.troubles) == 1
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    bench.wait_for_the_next_attempt()
    while bench.spool.trouble:
        bench.loop.turn(100)
    assert sorted(os.listdir(small_disk / "spool")) == ["0000.seg", "0001.seg"]
    refused = len(bench.refused)
    bench.append(50)  # at once, in the next file
    assert len(bench.refused) == refused
    assert bench.troubles[1:] == [""]
    bench.close()


def test_a_spool_whose_folder_could_not_be_made_is_open_as_soon_as_it_can(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    bench = Bench(small_disk / "spool", size=4 << 20)
    assert len(bench.troubles) == 1
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    bench.wait_for_the_next_attempt()
    while bench.spool.trouble:
        bench.loop.turn(100)
    assert bench.append(1) == bench.pending()
    assert bench.refused == []
    bench.close()


def test_what_a_power_cut_leaves_of_a_probe_is_removed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, size=4 << 20)
    kept = bench.append(5)
    bench.close()
    (tmp_path / "probe.seg").write_bytes(bytes(4096))
    bench = Bench(tmp_path, size=4 << 20)
    assert bench.pending() == kept
    bench.append(1)
    bench.close()
    assert os.listdir(tmp_path) == ["0000.seg"]


def test_pages_that_cannot_be_read_are_lost_and_nothing_else(tmp_path: Path) -> None:
    bench = Bench(tmp_path, size=4 << 20)
    kept = bench.append(20)
    bench.close()
    bench = Bench(tmp_path, BadPage(), size=4 << 20)
    found = bench.pending()
    assert set(found) < set(kept)
    assert len(found) >= 14
    assert bench.troubles == []
    assert bench.spool.recovery.damaged == 1
    assert bench.spool.recovery.unreadable
    bench.close()


@pytest.mark.parametrize("operation", ["sync", "write"])
def test_after_an_error_of_a_sync_or_a_write_the_group_goes_into_another_file(tmp_path: Path, operation: str) -> None:
    disk = FailingDisk()
    bench = Bench(tmp_path, disk, size=4 << 20)
    kept = bench.append(20)
    disk.fail[operation] = (errno.EIO, 1)
    kept += bench.append(20)
    kept += bench.append(20)
    assert bench.refused == []
    assert bench.spool.broken == 1
    assert bench.troubles == []
    assert bench.pending() == kept
    assert sorted(os.listdir(tmp_path)) == ["0000.seg", "0001.seg"]
    bench.close()
    again = Bench(tmp_path, size=4 << 20)
    assert again.pending() == kept
    assert again.spool.recovery.adjusted == 0
    again.close()


def test_a_file_that_failed_is_never_written_again(tmp_path: Path) -> None:
    disk = FailingDisk()
    bench = Bench(tmp_path, disk, size=1 << 20)
    for number in bench.append(20):
        bench.spool.settle(number)
    disk.fail["sync"] = (errno.EIO, 1)
    bench.append(1)
    with (tmp_path / "0000.seg").open("rb") as broken:  # so that nothing else gets its inode
        before = broken.read()
        for _ in range(60):
            for number in bench.append(20):
                bench.spool.settle(number)
        broken.seek(0)
        assert broken.read() == before
        assert os.fstat(broken.fileno()).st_nlink == 0
    bench.close()


def test_a_disk_that_fails_for_good_refuses_says_so_once_and_is_tried_again(tmp_path: Path) -> None:
    disk = FailingDisk()
    bench = Bench(tmp_path, disk, size=4 << 20)
    kept = bench.append(5)
    disk.fail = {"sync": (errno.EIO, 1000), "create": (errno.EIO, 1000)}
    settled = kept.pop(0)
    bench.spool.settle(settled)
    bench.append(5)
    bench.clock.skip(AGAIN_MS + 1)
    bench.append(5)
    assert len(bench.refused) == 10
    assert len(bench.troubles) == 1
    disk.fail.clear()
    bench.wait_for_the_next_attempt()
    kept += bench.append(5)
    assert bench.troubles[1:] == [""]
    bench.close()
    again = Bench(tmp_path, size=4 << 20)
    found = again.pending()
    assert set(kept) <= set(found)  # of what was refused some may be there: the kernel has it, and nobody was told
    assert settled not in found  # and the settle was not forgotten
    again.close()


def test_a_record_that_settles_others_leaves_them_pending_when_it_cannot_be_stored(tmp_path: Path) -> None:
    disk = FailingDisk()
    bench = Bench(tmp_path, disk, size=4 << 20)
    kept = bench.append(3)
    disk.fail = {"sync": (errno.EIO, 1000), "create": (errno.ENOSPC, 1000)}
    bench.append(1, settles=kept[:2])
    assert len(bench.refused) == 1
    assert bench.pending() == kept
    bench.close()


def test_a_disk_that_does_not_keep_up_bounds_what_waits_for_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, size=64 << 20)
    told: list[Any] = []
    for _ in range(6000):  # in one turn: nothing can be written meanwhile
        bench.spool.append(1, "a", BODY, told.append)
    assert bench.spool.groups()[1].size <= FULL + 2 * len(BODY)
    bench.spool.commit_soon()
    while len(told) < 6000:
        bench.loop.turn(100)
    refused = [error.errno for error in told if error is not None]
    assert set(refused) == {errno.ENOBUFS}
    assert len(bench.pending()) == 6000 - len(refused)
    bench.close()


def test_without_descriptors_what_is_open_is_used_and_the_rest_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, size=1 << 20)  # segments of 128 KiB
    bench.append(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
    try:
        bench.append(50)
        assert bench.refused == []
        while not bench.refused:
            bench.append(50)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {error.errno for error in bench.refused} == {errno.EMFILE}
    assert bench.pending() == bench.stored
    bench.wait_for_the_next_attempt()
    bench.append(5)
    assert bench.pending() == bench.stored
    bench.close()
