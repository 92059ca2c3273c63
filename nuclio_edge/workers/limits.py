"""What holds a worker process to its limits: cgroup v2 where a part of it is ours, else RLIMIT_DATA and a duty cycle.

A part is ours when systemd says so (the delegate mark on the service's cgroup) or when there is no systemd and the
files can be written. https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

from __future__ import annotations

import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.loop import Loop

PERIOD_US = 100_000
_BURST_NS = 100_000_000  # the time over which a share is kept
_SOONEST_MS, _LATEST_MS, _IDLE_MS = 5, 50, 10_000


class Limits:
    """The limits of one function's processes: `memory` in bytes, `cpu` as a share of one processor, None is none."""

    def __init__(self, memory: int | None, cpu: float | None, tree: Tree | None = None) -> None:
        self.memory = memory
        self.cpu = cpu
        self.tree = tree if tree is not None and tree.has(memory is not None, cpu is not None) else None

    def describe(self) -> str:
        """What is in force and by which means, as `memory 64.0 MiB by RLIMIT_DATA, cpu 0.25 by a duty cycle`."""
        said = []
        if self.memory is not None:
            said.append(f"memory {self.memory / 1048576:.1f} MiB by {'cgroup' if self.tree else 'RLIMIT_DATA'}")
        if self.cpu is not None:
            said.append(f"cpu {self.cpu:g} by {'cgroup' if self.tree else 'a duty cycle'}")
        return ", ".join(said) or "no limits"

    def data_limit(self) -> int:
        """What the process is to set as RLIMIT_DATA before it runs the function's code; 0 for nothing."""
        return self.memory if self.memory is not None and self.tree is None else 0

    def hold(self, loop: Loop, pid: int, name: str) -> Group | Throttle | None:
        """Put a new process, leader of its own process group, under the limits that the processor enforces."""
        if self.tree is not None:
            try:
                return Group(self.tree, pid, name, self.memory, self.cpu)
            except OSError:
                self.tree = None  # taken away meanwhile: from now on by our own means
        return Throttle(loop, pid, self.cpu) if self.cpu is not None else None


class Tree:
    """The cgroup below which ours are made."""

    def __init__(self, path: str) -> None:
        """Move this process into a leaf, as a cgroup with processes cannot hand controllers on; OSError if it fails."""
        self.path = path
        leaf = os.path.join(path, "nuclio-edge")
        os.makedirs(leaf, exist_ok=True)
        _write(os.path.join(leaf, "cgroup.procs"), str(os.getpid()))
        for controller in ("memory", "cpu"):
            if controller in _read(os.path.join(path, "cgroup.controllers")).split():
                _write(os.path.join(path, "cgroup.subtree_control"), "+" + controller)
        self.controllers = _read(os.path.join(path, "cgroup.subtree_control")).split()

    def has(self, memory: bool, cpu: bool) -> bool:
        """Whether the controllers that are needed are there."""
        return (not memory or "memory" in self.controllers) and (not cpu or "cpu" in self.controllers)


class Group:
    """The cgroup of one process."""

    def __init__(self, tree: Tree, pid: int, name: str, memory: int | None, cpu: float | None) -> None:
        self.path = os.path.join(tree.path, f"nuclio-edge-{name}-{pid}")
        os.mkdir(self.path)
        try:
            if memory is not None:
                self._set("memory.max", str(memory))
                if os.path.exists(os.path.join(self.path, "memory.swap.max")):
                    self._set("memory.swap.max", "0")
                self._set("memory.oom.group", "1")
            if cpu is not None:
                self._set("cpu.max", f"{max(int(cpu * PERIOD_US), 1000)} {PERIOD_US}")
            self._set("cgroup.procs", str(pid))
        except OSError:
            self.close()
            raise

    def poke(self) -> None:
        """The process has something to do: the kernel sees to it."""

    def out_of_memory(self) -> bool:
        """Whether the kernel has ended a process of this group for its memory."""
        try:
            events = dict(line.split() for line in _read(os.path.join(self.path, "memory.events")).splitlines())
        except (OSError, ValueError):
            return False
        return int(events.get("oom_kill", 0)) > 0

    def close(self) -> None:
        """Remove the cgroup; what is left of processes in it is killed by who called."""
        try:
            os.rmdir(self.path)
        except OSError:
            pass

    def _set(self, file: str, value: str) -> None:
        _write(os.path.join(self.path, file), value)


class Throttle:
    """Keeps a process group to a share of one processor by stopping and continuing it; asks nothing while it idles.

    The processor time is that of the leader and its threads; what they start counts when it has ended.
    """

    def __init__(self, loop: Loop, pid: int, share: float) -> None:
        self._loop = loop
        self._pid = pid
        self._share = share
        self._credit = self._most = share * _BURST_NS
        self._at = time.monotonic_ns()
        self._used = 0
        self._pause = _SOONEST_MS
        self._stopped = False
        self._timer: Any = None
        self.poke()

    def poke(self) -> None:
        """The process has something to do."""
        if self._timer is None or self._pause > _LATEST_MS:
            self._pause = _SOONEST_MS
            self._again(_SOONEST_MS)

    def out_of_memory(self) -> bool:
        """Not known by these means."""
        return False

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self, delay_ms: int) -> None:
        self.close()
        self._timer = self._loop.call_later(delay_ms, self._check)

    def _check(self) -> None:
        self._timer = None
        try:
            used = processor_time(self._pid)
            now = time.monotonic_ns()
            spent = used - self._used
            self._credit = min(self._credit + self._share * (now - self._at) - spent, self._most)
            self._used, self._at = used, now
            if self._credit < 0:
                if not self._stopped:
                    os.killpg(self._pid, signal.SIGSTOP)
                    self._stopped = True
                # Until half of the burst is there again: fewer, longer pauses.
                self._again(int((self._most / 2 - self._credit) / self._share) // 1_000_000 + 1)
                return
            if self._stopped:
                os.killpg(self._pid, signal.SIGCONT)
                self._stopped = False
        except OSError:
            return  # it has ended
        if spent:
            self._pause = min(max(int(self._credit) // 1_000_000, _SOONEST_MS), _LATEST_MS)
        else:
            self._pause = min(self._pause * 2, _IDLE_MS)
        self._again(self._pause)


def processor_time(pid: int) -> int:
    """Nanoseconds that a process and its threads have run; OSError when it is gone (see clock_getcpuclockid(3))."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def find_tree(proc: str = "/proc/self", systemd: str = "/run/systemd/system") -> Tree | None:
    """The part of the cgroup v2 tree that is ours, prepared; None when there is none. Once a process."""
    try:
        path = _own_cgroup(proc)
        if path is None or not os.access(os.path.join(path, "cgroup.subtree_control"), os.W_OK):
            return None
        if os.path.isdir(systemd) and not _delegated(path):
            return None
        return Tree(path)
    except OSError:
        return None


def _own_cgroup(proc: str) -> str | None:
    own = next((line[3:] for line in _read(os.path.join(proc, "cgroup")).splitlines() if line.startswith("0::")), None)
    if own is None:
        return None
    for line in _read(os.path.join(proc, "mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            root, point = before.split()[3:5]
            if root != "/" and own.startswith(root):
                own = own[len(root) :]
            path = os.path.join(point, own.lstrip("/")).rstrip("/")
            controllers = _read(os.path.join(path, "cgroup.controllers")).split()
            return path if "memory" in controllers or "cpu" in controllers else None
    return None


def _delegated(path: str) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:
            pass
    return False


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
