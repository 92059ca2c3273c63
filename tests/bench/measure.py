"""A process's CPU time, memory and wake-ups, seen from outside."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def cpu_ns(pid: int) -> int:
    """CPU time of a process so far, user and system, all threads, those that ended too; nanoseconds.

    The kernel's own clock of another process (clock_getcpuclockid(3)): exact where /proc/<pid>/stat counts in 10 ms.
    """
    return time.clock_gettime_ns((~pid) << 3 | 2)


def rss_kib(pid: int) -> int:
    """Resident memory, KiB; of smaps_rollup, because the counters of `status` may be behind by pages a thread."""
    return _memory(pid, "Rss:")


def private_kib(pid: int) -> int:
    """Memory that only this process has, KiB (USS)."""
    return _memory(pid, "Private_Clean:") + _memory(pid, "Private_Dirty:")


def _memory(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise LookupError(name)


def wakeups(pid: int) -> int:
    """How often the threads that are there now have slept (voluntary context switches)."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        for line in Path(f"/proc/{pid}/task/{task}/status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def percentile(values: Iterable[float], part: float) -> float:
    """The smallest value that `part` (0..1) of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
