"""Starts a worker process and hears of its end: the descriptors, and nothing of what is said over them."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time

from .frames import CHANNEL, LIFELINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.loop import Loop

_BOOT = "import sys; sys.path[:] = %r; from nuclio_edge.workers.process_child import main; main()"
_HIGH = 16  # above what the process gets as its standard, channel and lifeline descriptors
_LONGEST = 8192
_AGAIN_MS = 10


class Spawned:
    """A process, leader of its own group. `on_end(status)` comes once, on the loop, when it has ended."""

    def __init__(
        self,
        name: str,
        env: dict[str, str],
        on_channel: Callable[[int], Any],
        on_line: Callable[[str], Any],
        on_end: Callable[[int], Any],
        loop: Loop,
    ) -> None:
        self._loop = loop
        self._on_line = on_line
        self._on_end = on_end
        self._rest = b""
        self._watch: int | None = None
        self._timer: Any = None
        self._status: int | None = None
        self.gone = False
        mine: list[int] = []
        theirs: list[int] = []
        try:
            self.channel, other = socket.socketpair()
            theirs.append(other.detach())
            self._output, writer = os.pipe()
            mine.append(self._output)
            theirs.append(writer)
            reader, self._lifeline = os.pipe()
            mine.append(self._lifeline)
            theirs += [reader, os.open(os.devnull, os.O_RDONLY)]
            self.pid = _spawn(name, env, theirs)
        except OSError:
            for descriptor in mine:
                os.close(descriptor)
            if hasattr(self, "channel"):
                self.channel.close()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self.channel.setblocking(False)
        os.set_blocking(self._output, False)
        loop.add(self.channel, on_channel)
        loop.add(self._output, self._readable)
        try:
            self._watch = os.pidfd_open(self.pid)
            loop.add(self._watch, lambda _mask: self._look())
        except (AttributeError, OSError):
            pass  # Linux before 5.3: `expect_end` comes with the end of the channel

    def kill(self) -> None:
        """SIGKILL for the process and its group."""
        if self._status is None:
            for call in (os.killpg, os.kill):
                try:
                    call(self.pid, signal.SIGKILL)
                except OSError:
                    pass  # gone, or not yet a leader

    def hang_up(self) -> None:
        """Close the channel for writing: an idle process ends by itself."""
        try:
            self.channel.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def expect_end(self) -> None:
        """The channel is at its end, so the process should be: without a pidfd, look until it is."""
        if self._watch is None and self._timer is None and self._status is None:
            self._timer = self._loop.call_later(_AGAIN_MS, self._look)

    def wait(self, limit_ms: int) -> None:
        """Wait for the end so long, then kill; blocks. `on_end` is not called."""
        end = time.monotonic() + limit_ms / 1000
        while not self._reaped():
            if time.monotonic() >= end:
                self.kill()
                self._status = os.waitpid(self.pid, 0)[1]
                return
            time.sleep(0.001)

    def close(self) -> None:
        """Give all descriptors back, after the process has ended; idempotent."""
        if self.gone:
            return
        self.gone = True
        self._read_output()
        if self._rest:
            self._line(self._rest)
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove(self.channel)
        self._loop.remove(self._output)
        self.channel.close()
        os.close(self._output)
        os.close(self._lifeline)
        if self._watch is not None:
            self._loop.remove(self._watch)
            os.close(self._watch)
        try:
            os.killpg(self.pid, signal.SIGKILL)  # what it has started does not outlive it
        except OSError:
            pass

    def _look(self) -> None:
        self._timer = None
        if self.gone:
            return
        if self._reaped():
            if self._watch is not None:
                self._loop.remove(self._watch)
            self._on_end(self._status or 0)
        else:
            self.expect_end()

    def _reaped(self) -> bool:
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, 0  # somebody else has waited for it
            if pid:
                self._status = status
        return self._status is not None

    def _readable(self, _mask: int) -> None:
        if not self._read_output():
            self._loop.remove(self._output)

    def _read_output(self) -> bool:
        """Turn what was written into lines; whether more may come. At most a megabyte a turn: others wait, too."""
        for _ in range(16):
            try:
                data = os.read(self._output, 65536)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            lines = (self._rest + data).split(b"\n")
            self._rest = lines.pop()
            for line in lines:
                self._line(line)
            while len(self._rest) > _LONGEST:
                self._line(self._rest[:_LONGEST])
                self._rest = self._rest[_LONGEST:]
        return True

    def _line(self, line: bytes) -> None:
        for at in range(0, len(line) or 1, _LONGEST):
            self._on_line(line[at : at + _LONGEST].decode("utf-8", "backslashreplace").rstrip("\r"))


def _spawn(name: str, env: dict[str, str], descriptors: list[int]) -> int:
    """Start the interpreter with channel, output, lifeline and nothing as its descriptors."""
    high: list[int] = []
    try:
        for descriptor in descriptors:
            high.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH))  # noqa: PERF401 - closed below if one fails
        channel, output, lifeline, nothing = high
        places = ((nothing, 0), (output, 1), (output, 2), (channel, CHANNEL), (lifeline, LIFELINE))
        flags = ["-O"] * sys.flags.optimize + (["-B"] if sys.dont_write_bytecode else [])
        return os.posix_spawn(
            sys.executable,
            [sys.executable, *flags, "-c", _BOOT % (sys.path,), f"function {name}"],
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, *place) for place in places],
            setpgroup=0,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD),
        )
    finally:
        for descriptor in high:
            os.close(descriptor)
