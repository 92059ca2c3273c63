"""Latency through a real mosquitto at 1,000 events a second, there and back, beside the least that can echo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.broker import round_trips
from tests.bench.measure import percentile
from tests.bench.mosquitto import Driver, mosquitto, subscribed
from tests.bench.subject import function, manifest, processor, python

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.bench import Bench
    from tests.bench.subject import Subject
    from tests.mosquitto import Mosquitto

RATE = 1000


def run(bench: Bench) -> None:
    """Each event goes sender -> mosquitto -> process under test -> mosquitto -> sender."""
    count = bench.many(10_000)
    try:
        broker = mosquitto(bench.folder()).start()
    except AssertionError as error:
        bench.report.missing("all", str(error))
        return

    def peer(name: str) -> Subject:
        return python(name, bench.folder(), str(broker.port))

    with broker:
        found = bench.interleave({
            "bare echo": lambda: there_and_back(broker, lambda: peer("echo"), count),
            "thread": lambda: there_and_back(broker, lambda: ours(bench, broker, "thread"), count),
            "inline": lambda: there_and_back(broker, lambda: ours(bench, broker, "inline"), count),
            "paho": lambda: there_and_back(broker, lambda: peer("paho_echo"), count),
        })  # fmt: skip
    for name, measures in found.items():
        bench.report.value(f"{name}: p50", measures["p50"], "ms")
        bench.report.value(f"{name}: p99", measures["p99"], "ms")
    bench.ratio("thread to bare echo, p50", found, "thread", "bare echo", "p50", bar=2.0)


def ours(bench: Bench, broker: Mosquitto, isolation: str) -> Subject:
    """A processor with one function that echoes."""
    return processor(
        bench.folder(), manifest(broker.url, function("echo.py", "bench/in", isolation=isolation, out="bench/out"))
    )


def there_and_back(broker: Mosquitto, start: Callable[[], Subject], count: int) -> dict[str, float]:
    """Warm up, then measure."""
    before = broker.log.count(" bench/in")
    with start() as subject, Driver(broker.port) as driver:
        subscribed(broker, subject, before)
        round_trips(driver.sock, "bench/in", RATE, RATE // 2, 4)
        took = round_trips(driver.sock, "bench/in", RATE, count, 4)
    return {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99)}
