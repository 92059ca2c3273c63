"""Ends the process when a handler holds the interpreter's lock in C; leaves what tells the next start how it ended.

A catastrophic regular expression never gives the lock back: no thread runs any more, the loop included, and no code in
Python could notice. Three things that need no lock can:
- faulthandler's timer, a thread in C: unless the loop puts it off in time, it writes every thread's stack into a
  preallocated file and ends the process with 1;
- the kernel's timer of processor time, whose signal comes to the thread that is using it: faulthandler notes that
  thread's stack each second, which is the evidence of who it was;
- a small mapping in memory that outlives the process and says who was running what; see slots.py.
All of it only while something runs: idle costs nothing. See docs/decisions/0004-watchdog.md. The same file takes the
stacks of a process that a signal ends (SIGSEGV and its like) or a handler's os._exit; see 0017-supervision.md.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` is this one with enums, which cost memory
import os
import time

from .slots import DENSE, NOTE_DENSE_NS, NOTE_GAP_NS, NOTE_NS, open_slots, set_event, set_name, start_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from nuclio_edge.core.loop import Loop
    from nuclio_edge.manifest.model import FunctionSpec

    from .slots import Left

_REPORT_SIZE = 16_384
GRACE_MS = 5_000
# Put off so many times in the limit: only a loop that stands still for the rest of it is taken for frozen.
_LOOKS = 4
_CPU_S = 1.0  # of processor time between two notes of who is using it
_exit = os._exit
_guarding: list[Watchdog | None] = []  # the one that leaves traces; empty as long as there never was one


class Watchdog:
    """The timer that ends a frozen process; `touch` is called when something starts to run, on the loop.

    `limit()` says in ms how long the loop may stand still, by the manifest of the moment.
    `trouble` is None, or why the next start will not know whose handler it was: the disk is full, say. The process is
    ended all the same, and the report goes to stderr if there is no file for it.
    """

    def __init__(self, loop: Loop, state_dir: str, limit: Callable[[], int]) -> None:
        self.loop = loop
        self._limit = limit
        self.report_path = report_path(state_dir)
        self._busy: Any = _never
        self._timer: Any = None
        self._touched = False
        self._noted = ""  # which function, and
        self._noted_at = -NOTE_DENSE_NS  # when an event was noted last, and
        self._noted_of: Any = None  # of which trigger, and
        self._noted_count = 0  # how many that had admitted then
        self._begun = 0  # when a function began to run last
        self._since: Any = [0]  # where since when, in the row of the loop's own thread
        self.slots, self.trouble = open_slots(state_dir)
        self._pid = 0
        self._file = -1
        self._in_file = True
        self._was_there = os.path.exists(self.report_path)
        try:
            self._file = os.open(self.report_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.posix_fallocate(self._file, 0, _REPORT_SIZE)
        except OSError as error:  # a full disk is no reason not to start
            self.trouble = f"{self.report_path}: {error.strerror}"
            self._in_file = False
            if self._file >= 0:
                os.close(self._file)
            self._file = os.dup(2)

    def last(self) -> tuple[bool, str, Left | None]:
        """Whether the last process ended otherwise than by itself, the report that it left, and its rows."""
        left = self.slots.left()
        if not self._in_file:
            return left is not None, "", left
        text = os.pread(self._file, 1 << 20, 0).replace(b"\0", b"").decode("utf-8", "replace")
        os.lseek(self._file, len(text), os.SEEK_SET)
        self._empty()
        return self._was_there or left is not None, text, left

    def guard(self, boot: str, kills: int) -> None:
        """Leave traces from now on: rows, and the stacks when a signal or os._exit ends the process.

        `boot` and `kills`, the kernel's count of processes killed for want of memory, are for the next start.
        """
        import faulthandler

        self.slots.begin(boot, kills)
        self._pid = os.getpid()
        if self._in_file:
            faulthandler.enable(self._file)
            os._exit = self._note_exit  # type: ignore[assignment]  # it does not return either
            if not _guarding:
                os.register_at_fork(after_in_child=_forked)
            _guarding[:] = [self]

    def disown(self) -> None:
        """The process is about to be ended on purpose: nobody is to be suspected. From any place, a signal's too."""
        self._unguard()
        self.slots.close()
        if self._in_file:
            _remove(self.report_path)

    def _unguard(self) -> None:
        """Leave no more traces."""
        import faulthandler

        if self._pid:
            self._pid = 0
            faulthandler.disable()
            os._exit = _exit
            _guarding[:] = [None]

    def _note_exit(self, status: int) -> None:
        if self._pid == os.getpid():
            import faulthandler

            os.write(self._file, b"os._exit(%d)\n" % status)
            faulthandler.dump_traceback(self._file, all_threads=False)
        _exit(status)

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

    def begin(self, row: Any, function: str, event: Any) -> None:
        """A function begins to run on the loop's own thread, with an event, or None to be initialised.

        The event is noted once in a millisecond, and less often while they come close together; see slots.py.
        """
        if row is not None:
            now = time.perf_counter_ns()
            if self._noted != function:  # else it stands there
                self._noted = function
                self._noted_at = now - NOTE_DENSE_NS
                set_name(row, function)
                self._since = start_of(row)
            if event is not None and (passed := now - self._noted_at) >= NOTE_NS:
                trigger = event._trigger
                count = trigger.admitted if trigger is not None else 0
                if (
                    passed >= NOTE_DENSE_NS
                    or now - self._begun >= NOTE_GAP_NS
                    or trigger is not self._noted_of
                    or count - self._noted_count < DENSE
                ):
                    self._noted_at, self._noted_of, self._noted_count = now, trigger, count
                    set_event(row, event)
            self._begun = now
            self._since[0] = now
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
        self._unguard()
        os.close(self._file)
        self._file = -1
        self.slots.close()
        _remove(self.report_path)

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


def report_path(state_dir: str) -> str:
    """Where a process leaves the stacks of its end."""
    return os.path.join(state_dir, "crash.txt")


def limit_ms(functions: Iterable[FunctionSpec]) -> int:
    """How long the loop may stand still: no call may hold the lock for longer than the shortest timeout, and then some.

    A function on the loop itself stops it for as long as it runs, and has its own timeout for that.
    """
    here = [function for function in functions if function.isolation != "process" and not function.disabled]
    shortest = min((function.timeout_ms for function in here), default=30_000)
    return max([shortest, *(f.timeout_ms for f in here if f.isolation == "inline")]) + GRACE_MS


def _never() -> bool:
    return False


def _forked() -> None:
    """In what a handler has forked: its end is not the processor's."""
    for one in _guarding:
        if one is not None:
            one._unguard()


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
