"""What the processor has to do with who runs it: signals, systemd's notifications, the lock of the state directory."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` is this one with enums, which cost memory
import errno
import os
import time

from nuclio_edge.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from nuclio_edge.core.loop import Loop

LOCK_FILE = "processor.pid"
# timeout(1) signals its child and then the group that both are in: no person is this fast, so it is one signal.
TOGETHER_S = 0.05
_environ = os.environ  # whatever a handler puts in its place: it must not keep the stop from its turn


class Signals:
    """SIGTERM, SIGINT and SIGHUP as calls on the loop, until `close`; made and closed on the main thread.

    The first SIGTERM or SIGINT calls `stop`, each SIGHUP `reload`. A second SIGTERM or SIGINT calls `abort` at once,
    even while the loop is busy with something else: that one must not return.

    A descriptor written to by the C part of the interpreter wakes the loop. A handler alone would not: a signal that
    comes just before the loop begins to wait would be seen only when that wait ends.

    A function on the loop's own thread could take them away, and the processor would hear no stop any more. It gets the
    ValueError that Python raises for the same call on any other thread, where all other functions run.
    """

    def __init__(
        self, loop: Loop, stop: Callable[[], Any], reload: Callable[[], Any], abort: Callable[[], Any]
    ) -> None:
        self._loop = loop
        self._stop = stop
        self._reload = reload
        self._abort = abort
        self.typed = False  # whether the last one to end us was Ctrl-C, which a terminal shows as ^C
        self._first = 0.0
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before_wake = _signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._set, self._wake = _signal.signal, _signal.set_wakeup_fd
        self._before = {
            _signal.SIGTERM: _signal.signal(_signal.SIGTERM, self._end),
            _signal.SIGINT: _signal.signal(_signal.SIGINT, self._end),
            _signal.SIGHUP: _signal.signal(_signal.SIGHUP, _pass),
        }
        _signal.signal, _signal.set_wakeup_fd = self._refuse_signal, self._refuse_wake
        loop.add(self._read, self._take)

    def on_terminal_stop(self, call: Callable[[], Any]) -> None:
        """Call this for Ctrl-Z, on the main thread; it has to stop the process itself."""
        self._before[_signal.SIGTSTP] = self._set(_signal.SIGTSTP, lambda _number, _frame: call())

    def close(self) -> None:
        """Give the signals back to whom they belonged; idempotent."""
        _signal.signal, _signal.set_wakeup_fd = self._set, self._wake
        for number, handler in self._before.items():
            _signal.signal(number, handler if handler is not None else _signal.SIG_DFL)
        self._before = {}
        if self._read >= 0:
            _signal.set_wakeup_fd(self._before_wake)
            self._loop.remove(self._read)
            os.close(self._read)
            os.close(self._write)
            self._read = self._write = -1

    def _refuse_signal(self, number: int, handler: Any) -> Any:
        if number in self._before or number == _signal.SIGPROF:  # that one is the watchdog's
            _refuse_functions()
        return self._set(number, handler)

    def _refuse_wake(self, *arguments: Any, **named: Any) -> Any:
        _refuse_functions()
        return self._wake(*arguments, **named)

    def _end(self, number: int, frame: FrameType | None) -> None:
        # Runs between two bytecodes of the main thread, whatever that is doing.
        now = time.monotonic()
        self.typed = number == _signal.SIGINT
        if self._first and now - self._first > TOGETHER_S:
            self._abort()
        self._first = self._first or now

    def _take(self, mask: int) -> None:
        try:
            numbers = os.read(self._read, 4096)
        except BlockingIOError:
            return
        if _signal.SIGTERM in numbers or _signal.SIGINT in numbers:
            self._stop()
        elif _signal.SIGHUP in numbers:
            self._reload()


def _refuse_functions() -> None:
    from nuclio_edge.functions import running

    if running.current() is not None:
        raise ValueError("this signal is the processor's: functions cannot have it")


def stop_process() -> None:
    """Stop this process as Ctrl-Z does; returns when it is continued."""
    os.kill(os.getpid(), _signal.SIGSTOP)


def notify(state: str) -> bool:
    """Tell systemd (sd_notify(3)), e.g. "READY=1"; whether anybody was there to be told. Never raises, never waits."""
    address = _environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    import socket

    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
    except OSError:
        return False
    return True


def ready(status: str) -> bool:
    """Say that everything runs, and how, in one line for `systemctl status`."""
    return notify(f"READY=1\nSTATUS={status}")


def stopping(limit_ms: int) -> bool:
    """Say that the stop has begun, and how long it may take, whatever TimeoutStopSec= says."""
    return notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={limit_ms * 1000}\nSTATUS=stopping")


def reloading() -> bool:
    """Say that a reload has begun; `ready` ends it. systemd wants to know when (Type=notify-reload)."""
    return notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_ms() -> int:
    """How often systemd wants to hear from this very process (sd_watchdog_enabled(3)); 0 when it does not."""
    pid = _environ.get("WATCHDOG_PID")
    if pid is not None and pid != str(os.getpid()):
        return 0  # meant for a parent that hands its environment on
    try:
        return max(int(_environ.get("WATCHDOG_USEC", "0")) // 1000, 0)
    except ValueError:
        return 0


_PLAINLY: dict[type[OSError], str] = {
    FileExistsError: "there is a file",
    NotADirectoryError: "a file stands where a folder has to",
}
# The disk cannot be written: no reason not to start. That we may not write there, or that it is no folder, is one.
_NOT_WRITABLE = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO)


class StateLock:
    """The hold of one processor on a state directory: another one would mix up what both keep there.

    The lock is the kernel's and ends with the process, however that ends; what a handler forks gives its copy up. The
    pid in the file is for people; where the disk cannot be written it is not there, and `trouble` says why. `writable`:
    the file could be opened for writing. On a directory that is read-only, or full, and in which no processor ever was,
    there is no file to be locked: it is not `held` then, and nothing may be kept there, as another processor would not
    be noticed.
    Raises StateError, naming the pid, when another process has it, and when the directory is none, or not ours.
    """

    def __init__(self, folder: str) -> None:
        self._fd = -1
        self.writable = False
        self.trouble: str | None = None  # why the file does not name the pid
        try:
            self._open(folder)
            self._lock()
        except OSError as error:
            if isinstance(error, BlockingIOError):
                raise self._is_held(folder) from None
            self._give_up()
            why = _PLAINLY.get(type(error), error.strerror)
            raise StateError(
                f"the state directory {folder} cannot be used: {why}", "write state_dir in [device]"
            ) from None
        if self.held:
            os.register_at_fork(after_in_child=self._give_up)

    @property
    def held(self) -> bool:
        """Whether no other processor can begin to use the directory."""
        return self._fd >= 0

    def _open(self, folder: str) -> None:
        path = os.path.join(folder, LOCK_FILE)
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644)
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            self.trouble = error.strerror
            try:
                self._fd = os.open(path, os.O_RDONLY | flags)
            except FileNotFoundError:
                pass  # not held

    def _is_held(self, folder: str) -> StateError:
        # On a disk that cannot be written the file names an earlier one.
        pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() if self.trouble is None else ""
        self._give_up()
        return StateError(
            f"the state directory {folder} is held by the processor with pid {pid or '(unknown)'}",
            "end that one, or write another state_dir in [device]",
        )

    def _lock(self) -> None:
        import fcntl

        if not self.held:
            return
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if self.trouble is None:
            self.writable = True
            try:
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
            except OSError as error:
                self.trouble = error.strerror  # the disk is full: no reason not to start, and the lock holds

    def release(self) -> None:
        """Let others have it; idempotent. The file stays: removing it would let two hold two files of one name."""
        try:
            if self.writable and self.held:
                os.ftruncate(self._fd, 0)
        except OSError:
            pass  # the disk has become read-only
        finally:
            self._give_up()

    def _give_up(self) -> None:
        """Close the descriptor: in a forked child that ends nothing, as the parent still has its own."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _pass(number: int, frame: FrameType | None) -> None:
    """SIGHUP's handler: the byte in the pipe does the work."""
