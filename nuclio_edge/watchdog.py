"""Ends the process when a handler holds the interpreter's lock in C, and tells the next start whose handler it was.

A catastrophic regular expression never gives the lock back: no thread runs any more, the loop included, and no code in
Python could notice. Three things that need no lock can:
- faulthandler's timer, a thread in C: unless the loop puts it off in time, it writes every thread's stack into a
  preallocated file and ends the process with 1;
- the kernel's timer of processor time, whose signal comes to the thread that is using it: faulthandler notes that
  thread's stack each second, which is the evidence of who it was;
- a small shared mapping (in memory, /dev/shm, where there is one: it changes with every event and must not wear flash
  out) that outlives the process and says who was running since when.
All of it only while something runs: idle costs nothing. See docs/decisions/0004-watchdog.md.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` is this one with enums, which cost memory
import mmap
import os
import stat
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from .core.loop import Loop
    from .manifest.model import FunctionSpec

ROWS = 64  # threads whose work is noted; those beyond are watched, not named
_NAME = 120
_ROW = struct.Struct(f"=q{_NAME}s")  # start in ns of perf_counter, 0 when idle; function
_REPORT_SIZE = 16_384
GRACE_MS = 5_000
# Put off so many times in the limit: only a loop that stands still for the rest of it is taken for frozen.
_LOOKS = 4
_CPU_S = 1.0  # of processor time between two notes of who is using it
_EVIDENCE = "Stack (most recent call first):\n"  # faulthandler's heading of such a note
_VERDICT = "Timeout ("  # and of the report of a process that was ended


class Slots:
    """Who is running what, in a mapping that outlives the process (without a path: that does not).

    Each row has one writer at a time.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._map = self._open() if path else mmap.mmap(-1, ROWS * _ROW.size)
        view = memoryview(self._map)
        self._rows = [view[row * _ROW.size : (row + 1) * _ROW.size] for row in range(ROWS)]
        self._free = self._rows[::-1]

    def _open(self) -> mmap.mmap:
        path = self.path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise PermissionError(f"{path} is not ours alone")
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, ROWS * _ROW.size)
            os.posix_fallocate(descriptor, 0, ROWS * _ROW.size)  # else a full memory shows as SIGBUS at the first write
            return mmap.mmap(descriptor, ROWS * _ROW.size)
        finally:
            os.close(descriptor)

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
        except OSError:
            pass


class Watchdog:
    """The timer that ends a frozen process; `touch` is called when something starts to run, on the loop.

    `limit()` says in ms how long the loop may stand still, by the manifest of the moment.
    `trouble` is None, or why the next start will not know whose handler it was: the disk is full, say. The process is
    ended all the same, and the report goes to stderr if there is no file for it.
    """

    def __init__(self, loop: Loop, state_dir: str, limit: Callable[[], int]) -> None:
        self.loop = loop
        self._limit = limit
        self.trouble: str | None = None
        self.report_path = os.path.join(state_dir, "crash.txt")
        self._busy: Any = _never
        self._timer: Any = None
        self._touched = False
        self._noted = ""  # which function, and
        self._since: Any = [0]  # where since when, in the row of the loop's own thread
        for path in (slots_path(state_dir), os.path.join(state_dir, "running"), ""):
            try:
                self.slots = Slots(path)
                break
            except OSError as error:  # somebody else's file, or no room: there is another place
                trouble = f"{path}: {error.strerror}"
        if not self.slots.path:
            self.trouble = trouble
        self._file = -1
        self._in_file = True
        try:
            self._file = os.open(self.report_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.posix_fallocate(self._file, 0, _REPORT_SIZE)
        except OSError as error:  # a full disk is no reason not to start
            self.trouble = f"{self.report_path}: {error.strerror}"
            self._in_file = False
            if self._file >= 0:
                os.close(self._file)
            self._file = os.dup(2)

    def last(self) -> tuple[str, list[str]]:
        """What an earlier process left: its report (kept as crash.last.txt), and the functions that were running then.

        The report is empty when it was not the watchdog that ended it; a process that was killed leaves names only.
        """
        running = self.slots.running()
        self.slots.clear()
        if not self._in_file:
            return "", running
        text = os.pread(self._file, 1 << 20, 0).replace(b"\0", b"").decode("utf-8", "replace")
        os.lseek(self._file, len(text), os.SEEK_SET)
        self._empty()
        if _VERDICT not in text:
            text = ""
        else:
            try:
                with open(f"{self.report_path[:-4]}.last.txt", "w", encoding="utf-8") as kept:
                    kept.write(text)
            except OSError as error:
                self.trouble = f"{self.report_path[:-4]}.last.txt: {error.strerror}"
        return text, running

    def watch(self, busy: Any) -> None:
        """Ask `busy()` whether a handler is running when it is to be decided whether to go on watching."""
        self._busy = busy

    def touch(self) -> None:
        """Something begins to run: watch from now on."""
        self._touched = True
        if self._timer is None:
            self._put_off()

    def renew(self) -> None:
        """The limit has changed: watch with the new one from now on, if anything runs."""
        if self._timer is not None:
            self._timer.cancel()
            self._touched = False  # by what has ended; `busy` knows of everything else
            self._look()

    def stand_still(self, stop: Callable[[], Any]) -> None:
        """Stop the process by `stop()`, which returns when it is continued: that time is nobody's."""
        if self._timer is not None:
            self._disarm()
        stop()
        if self._timer is not None:
            self._arm(self._limit())

    def begin(self, row: Any, function: str) -> None:
        """A function begins to run on the loop's own thread."""
        if row is not None:
            if self._noted != function:  # else it stands there: noting it anew would be 1 us of every turn
                self._noted = function
                set_name(row, function)
                self._since = start_of(row)
            self._since[0] = time.perf_counter_ns()
        self._touched = True
        if self._timer is None:
            self._put_off()

    def end(self, row: Any) -> None:
        """The loop's thread is the processor's again."""
        if row is not None:
            self._since[0] = 0

    def close(self) -> None:
        """Watch no more; the empty report goes. Idempotent."""
        if self._file < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._disarm()
        os.close(self._file)
        self._file = -1
        self.slots.close()
        try:
            os.unlink(self.report_path)
        except OSError:
            pass

    def _put_off(self) -> None:
        """Begin the time anew; a new thread of faulthandler's, hence a few times in the limit and not per event."""
        limit = self._limit()
        self._timer = self.loop.call_later(limit // _LOOKS, self._look)
        self._empty()
        self._arm(limit)

    def _arm(self, limit: int) -> None:
        import faulthandler

        # The file is given each time: it is what an earlier note may have been written to.
        faulthandler.dump_traceback_later(limit / 1000, exit=True, file=self._file)
        faulthandler.register(_signal.SIGPROF, file=self._file, all_threads=False)
        _signal.setitimer(_signal.ITIMER_PROF, _CPU_S, _CPU_S)

    def _look(self) -> None:
        if self._touched or self._busy():
            self._touched = False
            self._put_off()
        else:
            self._timer = None
            self._disarm()

    def _disarm(self) -> None:
        import faulthandler

        faulthandler.cancel_dump_traceback_later()
        _signal.setitimer(_signal.ITIMER_PROF, 0)
        # The handler stays until the process ends: SIGPROF that is on its way would end it otherwise.

    def _empty(self) -> None:
        """Take back what was noted, without touching a file into which nothing was written."""
        if self._in_file and os.lseek(self._file, 0, os.SEEK_CUR):
            os.ftruncate(self._file, _REPORT_SIZE)
            os.pwrite(self._file, bytes(_REPORT_SIZE), 0)
            os.lseek(self._file, 0, os.SEEK_SET)


def limit_ms(functions: Iterable[FunctionSpec]) -> int:
    """How long the loop may stand still: no call may hold the lock for longer than the shortest timeout, and then some.

    A function on the loop itself stops it for as long as it runs, and has its own timeout for that.
    """
    here = [function for function in functions if function.isolation != "process" and not function.disabled]
    shortest = min((function.timeout_ms for function in here), default=30_000)
    return max([shortest, *(f.timeout_ms for f in here if f.isolation == "inline")]) + GRACE_MS


def culprit(report: str, running: list[str], functions: Mapping[str, FunctionSpec]) -> tuple[str | None, str]:
    """Who froze the process, by name, and how that is known.

    The evidence is the last note of who used the processor: the function whose file is in that stack. Without it (a
    call that waits with the lock held, a process that was stopped) it is the function that began last.
    """
    notes = report.split(_EVIDENCE)[1:]
    evidence = notes[-1].partition(_VERDICT)[0] if notes else ""
    if not notes:
        return (running[0] if running else None), "no thread used the processor; it began last"
    for name in running:
        function = functions.get(name)
        if function is not None and f'"{_shown(function.file or "")}"' in evidence:
            return name, "its code was using the processor"
    for name in running:
        function = functions.get(name)
        if function is not None and f'"{_shown(function.path)}{os.sep}' in evidence:
            return name, "its folder's code was using the processor"
    return (running[0] if running else None), "it began last"


def _shown(path: str) -> str:
    """A path as faulthandler writes it."""
    return path.encode("ascii", "backslashreplace").decode()


def slots_path(state_dir: str) -> str:
    """Where the mapping of a state directory is: in memory if possible, else in the directory itself."""
    if os.path.isdir("/dev/shm"):  # noqa: S108 - opened without following links, and only if it is ours
        key = 0x811C9DC5  # FNV-1a, 32 bits: a module that has a checksum is 0.15 MB
        for byte in os.fsencode(os.path.realpath(state_dir)):
            key = (key ^ byte) * 0x01000193 & 0xFFFFFFFF
        return f"/dev/shm/nuclio-edge-{os.geteuid()}-{key:08x}"  # noqa: S108 - as above
    return os.path.join(state_dir, "running")


def set_name(row: Any, function: str) -> None:
    """Note whose function a thread runs from now on."""
    raw = function.encode()[:_NAME]
    row[8 : 8 + _NAME] = raw + bytes(_NAME - len(raw))


def start_of(row: Any) -> Any:
    """The start time of a row, as something to assign to: `view[0] = ns`."""
    return row[:8].cast("q")


def _never() -> bool:
    return False
