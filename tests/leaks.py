"""What a process holds, so that a test that leaves something behind can be told what it left."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

GRACE = 10.0  # seconds for threads and processes that were told to end and are about to


class Held:
    """The threads, descriptors, child processes and asyncio tasks of this process at one moment."""

    __slots__ = ("children", "descriptors", "tasks", "threads")

    def __init__(self) -> None:
        self.threads = set(threading.enumerate())
        self.descriptors = _descriptors()
        self.children = _children()
        self.tasks = _tasks()

    def left_since(self, before: Held) -> list[str]:
        """Describe what is held now and was not held `before`."""
        left = [f"thread {thread.name!r}" for thread in self.threads - before.threads]
        left += [
            f"descriptor {number} -> {_describe(number, target)}"
            for number, target in self.descriptors - before.descriptors
        ]
        left += [f"process {pid}: {_command(pid)}" for pid in self.children - before.children]
        left += [f"asyncio task {task!r}" for task in self.tasks - before.tasks]
        return left


def left_behind(before: Held, grace: float = GRACE) -> list[str]:
    """Describe what this process holds and did not hold `before`, once it had `grace` seconds to let go of it."""
    left = Held().left_since(before)
    deadline = time.monotonic() + grace
    pause = 0.001
    while left and time.monotonic() < deadline:
        gc.collect()  # what sits in a reference cycle speaks up here, in its own test: ResourceWarning is an error
        left = Held().left_since(before)
        time.sleep(pause if left else 0)
        pause = min(pause * 2, 0.1)
    return left


def remove_mappings(folder: Path) -> None:
    """Remove from /dev/shm what processors with a state directory below `folder` have left there, being killed."""
    for link in folder.rglob("running"):
        if link.is_symlink() and os.readlink(link).startswith("/dev/shm/nuclio-edge-"):
            Path(os.readlink(link)).unlink(missing_ok=True)


def _descriptors() -> set[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listdir itself had open
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return found


def _children() -> set[int]:
    me = str(os.getpid())
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as stat:
                if stat.read().rpartition(")")[2].split()[1] == me:
                    found.add(int(name))
    return found


def _tasks() -> set[asyncio.Task[object]]:
    tasks = sys.modules.get("asyncio.tasks")
    found: set[asyncio.Task[object]] = set()
    for registry in ("_all_tasks", "_scheduled_tasks", "_eager_tasks"):  # the name depends on the Python
        found.update(task for task in list(getattr(tasks, registry, ())) if not task.done())
    return found


def _describe(number: int, target: str) -> str:
    if not target.startswith("socket:"):
        return target
    try:
        with socket.socket(fileno=os.dup(number)) as twin:
            name, peer = twin.getsockname(), ""
            with contextlib.suppress(OSError):
                peer = f" to {twin.getpeername()}"
            return f"{twin.family.name} {twin.type.name} {name}{peer}"
    except OSError:
        return target


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as line:
            return line.read().replace(b"\0", b" ").decode(errors="replace").strip() or "(ended, nobody waited for it)"
    except OSError:
        return "(gone)"
