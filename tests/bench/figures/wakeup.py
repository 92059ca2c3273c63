"""One event per wake-up: the next (QoS 1) comes when the last is acknowledged. What a worker thread costs then."""

from __future__ import annotations

import statistics
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.bench.bench import middle
from tests.bench.broker import Broker, Packets
from tests.bench.subject import ROOT, function, manifest, processor, python

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tests.bench.bench import Bench
    from tests.bench.subject import Subject

WARM = 500
ROUND = 500  # events of one after the other's: short, so that the machine's moods meet all of them alike
AGAIN = 100  # before each, unmeasured: what streams is served otherwise than what comes now and then


def run(bench: Bench) -> None:
    """Inline, thread and stock paho, all there at once and asked in turn; the difference is that within a round."""
    rounds = bench.many(8_000 * bench.runs) // ROUND
    with ExitStack() as stack:
        subjects = {
            "inline": ready(stack, lambda broker: ours(bench, broker, "inline")),
            "thread": ready(stack, lambda broker: ours(bench, broker, "thread")),
            "paho": ready(stack, lambda broker: paho(bench, broker)),
        }
        found = bench.interleave(
            {name: lambda pair=pair: one_by_one(*pair) for name, pair in subjects.items()},  # type: ignore[misc]
            rounds,
        )
    count = bench.many(20_000)
    found |= bench.interleave({f"bare {way}": lambda way=way: bare(way, count) for way in ("inline", "thread")})  # type: ignore[misc]
    for name, measures in found.items():
        bench.report.value(f"{name}: CPU", measures["cpu"], "µs/event")
        bench.report.value(f"{name}: round trip", measures["wall"], "µs")
    if "inline" in found and "thread" in found:
        pairs = zip(found["thread"]["cpu"], found["inline"]["cpu"], strict=True)
        more = statistics.median([thread - inline for thread, inline in pairs])
        bench.report.difference("thread minus inline, CPU, median of the rounds", more, "µs/event", bar=20.0)
    else:
        bench.report.missing("thread minus inline, CPU", "one of them is not there")
    if "bare inline" in found and "bare thread" in found:
        least = middle(found, "bare thread", "cpu") - middle(found, "bare inline", "cpu")
        bench.report.difference("a bare hand-over to a thread minus none, CPU", least, "µs/event")


def ready(stack: ExitStack, start: Callable[[Broker], AbstractContextManager[Subject]]) -> tuple[Broker, Subject]:
    """A subject on a broker of its own, connected and warm."""
    broker = stack.enter_context(Broker())
    subject = stack.enter_context(start(broker))
    broker.accept(subject)
    broker.settle()
    broker.one_by_one(subject.pid, Packets(["bench/in"], 64, 1, broker.version), WARM)
    return broker, subject


def ours(bench: Bench, broker: Broker, isolation: str) -> AbstractContextManager[Subject]:
    """A processor with one function."""
    text = manifest(broker.url, function("count.py", "bench/in", isolation=isolation, qos=1))
    return processor(bench.folder(), text, {"BENCH_MARKS": "0"})


def paho(bench: Bench, broker: Broker) -> AbstractContextManager[Subject]:
    """A stock client."""
    return python("paho_count", bench.folder(), str(broker.port), "1", "4", env={"BENCH_MARKS": "0"})


def one_by_one(broker: Broker, subject: Subject) -> dict[str, float]:
    """One round."""
    packets = Packets(["bench/in"], 64, 1, broker.version)
    broker.one_by_one(subject.pid, packets, AGAIN)
    return broker.one_by_one(subject.pid, packets, ROUND)


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
