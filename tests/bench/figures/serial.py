"""A serial line at 921,600 baud: lines of 80 bytes at the real byte rate, on a pty, into an inline function."""

from __future__ import annotations

import os
import select
import time
import tty
from typing import TYPE_CHECKING

from tests.bench.broker import LostError
from tests.bench.subject import processor

if TYPE_CHECKING:
    from tests.bench.bench import Bench
    from tests.bench.subject import Subject

BAUD = 921_600
BYTES_A_SECOND = BAUD // 10  # a start and a stop bit
LINE = 80
LIMIT_S = 60.0

MANIFEST = """
[device]
name = "bench"
state_dir = "state"

[source.port]
kind = "serial"
device = "{device}"
baud = 921600

[function.f]
handler = "{{functions}}/serial_count.py"
isolation = "inline"

[[function.f.trigger]]
source = "port"
"""


def run(bench: Bench) -> None:
    """As a USB adapter hands it over, once a millisecond, and as a UART with a FIFO of 16 bytes does."""
    count = bench.many(6000)
    found = bench.interleave({
        "a packet a millisecond": lambda: one(bench, count, BYTES_A_SECOND // 1000),
        "a FIFO of 16 bytes": lambda: one(bench, count, 16),
    })  # fmt: skip
    for name, measures in found.items():
        bench.report.value(f"{name}: rate", measures["rate"], "bytes/s")
        bench.report.value(f"{name}: lost", measures["lost"], "lines", bar=0.0)
        bench.report.value(f"{name}: CPU", measures["core"], "% of a core", bar=5.0)
        bench.report.value(f"{name}: CPU", measures["cpu"], "µs/line")


def one(bench: Bench, count: int, chunk: int) -> dict[str, float]:
    """One processor, `count` lines."""
    master, slave = os.openpty()
    tty.setraw(slave)
    device = os.ttyname(slave)
    os.close(slave)
    warm = count // 10
    env = {"BENCH_LAST": str(warm + count - 1)}
    try:
        with processor(bench.folder(), MANIFEST.format(device=device), env) as subject:
            wait_for_reader(subject)
            feed(master, 0, warm, chunk)
            cpu, start = subject.cpu_ns(), time.perf_counter()
            feed(master, warm, count, chunk)
            seen, in_order = answer(master)
            wall = time.perf_counter() - start
            used = subject.cpu_ns() - cpu
    finally:
        os.close(master)
    if in_order != seen:
        raise LostError(f"{seen - in_order} of {seen} lines were out of order")
    return {
        "rate": count * LINE / wall,
        "lost": warm + count - seen,
        "core": 100 * used / 1e9 / wall,
        "cpu": used / 1000 / count,
    }


def wait_for_reader(subject: Subject) -> None:
    """Until it has said that it is ready: what is written before is dropped at the set-up."""
    deadline = time.monotonic() + LIMIT_S
    while '"event": "ready"' not in subject.output and '"ready"' not in subject.output:
        if time.monotonic() > deadline or not subject.running:
            raise LostError(f"not ready: {subject.output[-500:]}")
        time.sleep(0.01)


def feed(master: int, first: int, count: int, chunk: int) -> None:
    """Write numbered lines at the rate of the line, `chunk` bytes at a time."""
    data = b"".join(b"%08d %s\n" % (n, b"x" * (LINE - 10)) for n in range(first, first + count))
    start = time.perf_counter()
    for at in range(0, len(data), chunk):
        left = start + at / BYTES_A_SECOND - time.perf_counter()
        if left > 0:
            time.sleep(left)
        os.write(master, data[at : at + chunk])


def answer(master: int) -> tuple[int, int]:
    """What the function has seen."""
    got = b""
    while not got.endswith(b"\n"):
        if not select.select([master], [], [], LIMIT_S)[0]:
            raise LostError("no answer: the last line did not arrive")
        got += os.read(master, 100)
    seen, in_order = got.split()
    return int(seen), int(in_order)
