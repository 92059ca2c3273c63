"""How late an inline function replies while another function burns CPU, in Python, on a worker thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.broker import Broker
from tests.bench.measure import percentile
from tests.bench.subject import function, manifest, processor
from tests.mqtt_packets import publish

if TYPE_CHECKING:
    from tests.bench.bench import Bench

RATE = 100


def run(bench: Bench) -> None:
    """The same process, first with the other function at rest, then with it burning."""
    count = bench.many(1000)
    with Broker() as broker:
        found = bench.interleave({"inline": lambda: measure(bench, broker, count)})
    for measures in found.values():
        bench.report.value("at rest: p50", measures["rest p50"], "ms")
        bench.report.value("at rest: p99", measures["rest p99"], "ms")
        bench.report.value("burning: p50", measures["burning p50"], "ms")
        bench.report.value("burning: p99", measures["burning p99"], "ms", bar=2.0)


def measure(bench: Bench, broker: Broker, count: int) -> dict[str, float]:
    """One process, both ways."""
    functions = function("echo.py", "bench/in", name="echo", out="bench/out")
    functions += function("burn.py", "bench/burn", name="burn", isolation="thread")
    functions = functions.replace("[function.burn]", '[function.burn]\ntimeout = "10m"')
    seconds = count / RATE
    with processor(bench.folder(), manifest(broker.url, functions)) as subject:
        broker.accept(subject, subscriptions=2)
        broker.settle()
        broker.round_trips("bench/in", RATE, RATE)
        rest = broker.round_trips("bench/in", RATE, count)
        before = subject.cpu_ns()
        broker.send(publish("bench/burn", b"%f" % (seconds + 5), version=broker.version))
        broker.settle()
        burning = broker.round_trips("bench/in", RATE, count)
        used = (subject.cpu_ns() - before) / 1e9
        if used < seconds / 4:
            raise LookupError(f"the burning function used {used:.1f} s of CPU in {seconds:.1f} s: it did not burn")
    return {
        "rest p50": percentile(rest, 0.5), "rest p99": percentile(rest, 0.99),
        "burning p50": percentile(burning, 0.5), "burning p99": percentile(burning, 0.99),
    }  # fmt: skip
