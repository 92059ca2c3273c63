"""One event per wake-up: the next (QoS 1) comes when the last is acknowledged. What a worker thread costs then."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.bench.bench import middle
from tests.bench.broker import Broker, Packets
from tests.bench.subject import ROOT, function, manifest, processor, python

if TYPE_CHECKING:
    from tests.bench.bench import Bench
    from tests.bench.subject import Subject

WARM = 500


def run(bench: Bench) -> None:
    """Inline beside thread beside stock paho."""
    count = bench.many(20_000)
    with Broker() as broker:
        found = bench.interleave({
            "inline": lambda: ours(bench, broker, count, "inline"),
            "thread": lambda: ours(bench, broker, count, "thread"),
            "paho": lambda: paho(bench, broker, count),
            "bare inline": lambda: bare("inline", count),
            "bare thread": lambda: bare("thread", count),
        })  # fmt: skip
    for name, measures in found.items():
        bench.report.value(f"{name}: CPU", measures["cpu"], "µs/event")
        bench.report.value(f"{name}: round trip", measures["wall"], "µs")
    if "inline" in found and "thread" in found:
        more = middle(found, "thread", "cpu") - middle(found, "inline", "cpu")
        bench.report.difference("thread minus inline, CPU", more, "µs/event", bar=20.0)
    else:
        bench.report.missing("thread minus inline, CPU", "one of them is not there")
    if "bare inline" in found and "bare thread" in found:
        least = middle(found, "bare thread", "cpu") - middle(found, "bare inline", "cpu")
        bench.report.difference("a bare hand-over to a thread minus none, CPU", least, "µs/event")


def ours(bench: Bench, broker: Broker, count: int, isolation: str) -> dict[str, float]:
    """A processor with one function."""
    text = manifest(broker.url, function("count.py", "bench/in", isolation=isolation, qos=1))
    with processor(bench.folder(), text, {"BENCH_MARKS": "0"}) as subject:
        return one_by_one(broker, subject, count)


def paho(bench: Bench, broker: Broker, count: int) -> dict[str, float]:
    """A stock client."""
    with python("paho_count", bench.folder(), str(broker.port), "1", "4", env={"BENCH_MARKS": "0"}) as subject:
        return one_by_one(broker, subject, count)


def bare(way: str, count: int) -> dict[str, float]:
    """What the machine asks for a hand-over in the same run, without a runtime around it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.peers.hand_over", way, str(count)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    cpu, wall = done.stdout.split()
    return {"cpu": float(cpu), "wall": float(wall)}


def one_by_one(broker: Broker, subject: Subject, count: int) -> dict[str, float]:
    """Warm up, then measure."""
    broker.accept(subject)
    broker.settle()
    packets = Packets(["bench/in"], 64, 1, broker.version)
    broker.one_by_one(subject.pid, packets, WARM)
    return broker.one_by_one(subject.pid, packets, count)
