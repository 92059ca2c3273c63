"""Ends the process when a handler holds the interpreter's lock in C, and tells the next start whose handler it was.

A catastrophic regular expression never gives the lock back: no thread runs any more, the loop included, and no code in
Python could notice. faulthandler's timer can, being a thread in C that needs no lock: unless the loop puts it off in
time, it writes every thread's stack into a preallocated file and ends the process. Who was running stands in a small
shared mapping (in memory, /dev/shm, where there is one: it changes with every event and must not wear flash out), which
outlives the process. Of several handlers the one that began last is blamed: the others had let go of the lock before it
took it. See docs/decisions/0003-watchdog.md.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .core.loop import Loop

ROWS = 64  # threads whose work is noted; those beyond are watched, not named
_NAME = 120
_ROW = struct.Struct(f"=q{_NAME}s")  # start in ns of perf_counter, 0 when idle; function
_REPORT_SIZE = 16_384
GRACE_MS = 5_000


class Slots:
    """Who is running what, in a mapping that outlives the process; each row has one writer at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise PermissionError(f"{path} belongs to somebody else")
            os.ftruncate(descriptor, ROWS * _ROW.size)
            self._map = mmap.mmap(descriptor, ROWS * _ROW.size)
        finally:
            os.close(descriptor)
        view = memoryview(self._map)
        self._rows = [view[row * _ROW.size : (row + 1) * _ROW.size] for row in range(ROWS)]
        self._free = self._rows[::-1]

    def running(self) -> list[str]:
        """The functions that were running, the one that began last first."""
        rows = [_ROW.unpack_from(self._map, row * _ROW.size) for row in range(ROWS)]
        busy = sorted(((start, name) for start, name in rows if start), reverse=True)
        return [name.rstrip(b"\0").decode("utf-8", "replace") for _, name in busy]

    def clear(self) -> None:
        """Nobody is running."""
        self._map[:] = bytes(len(self._map))

    def take(self) -> Any:
        """A row for one thread: a memoryview of which [0] is the start time; None when all are taken."""
        return self._free.pop() if self._free else None

    def give_back(self, row: Any) -> None:
        """Free a row whose thread has ended."""
        row[:] = bytes(len(row))
        self._free.append(row)

    def close(self) -> None:
        """Remove the mapping: the process ends as it should (the memory goes with it)."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass


class Watchdog:
    """The timer that ends a frozen process; `touch` is called when something starts to run, on the loop."""

    def __init__(self, loop: Loop, state_dir: str, limit_ms: int) -> None:
        self.loop = loop
        self.slots = Slots(slots_path(state_dir))
        self.limit_ms = limit_ms + GRACE_MS
        self.report_path = os.path.join(state_dir, "crash.txt")
        self._busy: Any = _never
        self._timer: Any = None
        self._touched = False
        self._file = open(self.report_path, "r+b" if os.path.exists(self.report_path) else "w+b")  # noqa: SIM115 - held open for faulthandler
        os.posix_fallocate(self._file.fileno(), 0, _REPORT_SIZE)

    def last(self) -> tuple[str, list[str]]:
        """What an earlier process left: its report (kept as crash.last.txt), and the functions that were running then.

        Both empty when it ended as it should; a process that was killed leaves no report, but names.
        """
        running = self.slots.running()
        self.slots.clear()
        self._file.seek(0)
        text = self._file.read(_REPORT_SIZE).rstrip(b"\0").decode("utf-8", "replace")
        if text:
            with open(os.path.join(os.path.dirname(self.report_path), "crash.last.txt"), "w", encoding="utf-8") as kept:
                kept.write(text)
            self._file.seek(0)
            self._file.write(bytes(_REPORT_SIZE))
            self._file.flush()
        return text, running

    def watch(self, busy: Any) -> None:
        """Ask `busy()` whether a handler is running when it is to be decided whether to go on watching."""
        self._busy = busy

    def touch(self) -> None:
        """Something begins to run: watch from now on."""
        self._touched = True
        if self._timer is None:
            self._put_off()

    def begin(self, row: Any, function: str) -> None:
        """A function begins to run on the loop's own thread."""
        if row is not None:
            set_name(row, function)
            start_of(row)[0] = time.perf_counter_ns()
        self.touch()

    def end(self, row: Any) -> None:
        """The loop's thread is the processor's again."""
        if row is not None:
            start_of(row)[0] = 0

    def close(self) -> None:
        """Watch no more; the empty report goes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            _faulthandler().cancel_dump_traceback_later()
        self._file.close()
        self.slots.close()
        try:
            os.unlink(self.report_path)
        except FileNotFoundError:
            pass

    def _put_off(self) -> None:
        """Begin the time anew: a new thread of faulthandler's, so this is done twice in the limit, not per event."""
        self._file.seek(0)
        _faulthandler().dump_traceback_later(self.limit_ms / 1000, exit=True, file=self._file)
        self._timer = self.loop.call_later(self.limit_ms // 2, self._look)

    def _look(self) -> None:
        if self._touched or self._busy():
            self._touched = False
            self._put_off()
        else:
            self._timer = None
            _faulthandler().cancel_dump_traceback_later()


def slots_path(state_dir: str) -> str:
    """Where the mapping of a state directory is: in memory if possible, else in the directory itself."""
    from binascii import crc32

    if os.path.isdir("/dev/shm"):  # noqa: S108 - opened without following links, and only if it is ours
        key = crc32(os.path.realpath(state_dir).encode())
        return f"/dev/shm/nuclio-edge-{os.geteuid()}-{key:08x}"  # noqa: S108 - as above
    return os.path.join(state_dir, "running")


def set_name(row: Any, function: str) -> None:
    """Note whose function a thread runs from now on."""
    raw = function.encode()[:_NAME]
    row[8 : 8 + _NAME] = raw + bytes(_NAME - len(raw))


def start_of(row: Any) -> Any:
    """The start time of a row, as something to assign to: `view[0] = ns`."""
    return row[:8].cast("q")


def _faulthandler() -> Any:
    import faulthandler

    return faulthandler


def _never() -> bool:
    return False
