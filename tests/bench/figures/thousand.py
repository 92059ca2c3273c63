"""1,000 functions with 1,000 filters beside 10: the cost of an event, and the memory of a function."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from tests.bench.bench import middle
from tests.bench.broker import Broker, Packets
from tests.bench.subject import function, manifest, processor
from tests.mqtt_packets import publish

if TYPE_CHECKING:
    from tests.bench.bench import Bench
    from tests.bench.subject import Subject

FEW, MANY = 10, 1000


def run(bench: Bench) -> None:
    """Cost inline, so that it is the routing that shows; memory with inline and with thread workers, the default."""
    count = bench.many(200_000)
    with Broker() as broker:
        cost = bench.interleave({
            f"{number} functions": lambda number=number: flood(bench, broker, number, count)  # type: ignore[misc]
            for number in (FEW, MANY)
        })  # fmt: skip
        runs = 1 if bench.quick else 3
        memory = bench.interleave({
            f"{number} functions, {isolation}": lambda number=number, isolation=isolation: rss(  # type: ignore[misc]
                bench, broker, number, isolation
            )
            for isolation in ("inline", "thread") for number in (FEW, MANY)
        }, runs)  # fmt: skip
    for name, measures in cost.items():
        bench.report.value(f"{name}: CPU", measures["cpu"], "µs/event")
    bench.ratio("1,000 to 10 functions, CPU", cost, f"{MANY} functions", f"{FEW} functions", bar=1.5)
    for isolation in ("inline", "thread"):
        few, many = f"{FEW} functions, {isolation}", f"{MANY} functions, {isolation}"
        if few not in memory or many not in memory:
            continue
        for key, bar in (("not yet called", 6.0), ("called", 20.0)):
            each = (middle(memory, many, key) - middle(memory, few, key)) / (MANY - FEW)
            bench.report.difference(f"memory of a function {key}, {isolation}", each, "KiB", bar=bar)


def topics(number: int) -> list[str]:
    """One for each function."""
    return [f"bench/{index:04d}/in" for index in range(number)]


def start(bench: Bench, broker: Broker, number: int, isolation: str) -> Subject:
    """Every function has a filter of its own, half of them with a wildcard."""
    tables = [
        function(
            "nothing.py",
            topic.replace("/in", "/+") if index % 2 else topic,
            name=f"f{index}",
            isolation=isolation,
            qos=1,
        )
        for index, topic in enumerate(topics(number))
    ]
    return processor(bench.folder(), manifest(broker.url, "".join(tables)))


def flood(bench: Bench, broker: Broker, number: int, count: int) -> dict[str, float]:
    """Events over all functions in a random order; the last, at QoS 1, is acknowledged when all have been handled."""
    order = topics(number)
    random.Random(1).shuffle(order)
    with start(bench, broker, number, "inline") as subject:
        broker.accept(subject, subscriptions=number)
        broker.settle(1.0)
        packets = Packets(order, 64, 0, broker.version)
        broker.flood_until_acknowledged(subject.pid, packets, 5 * MANY)
        return broker.flood_until_acknowledged(subject.pid, packets, count)


def rss(bench: Bench, broker: Broker, number: int, isolation: str) -> dict[str, float]:
    """Resident memory, before and after every function was called once."""
    with start(bench, broker, number, isolation) as subject:
        broker.accept(subject, subscriptions=number)
        broker.settle(1.0)
        before = subject.rss_kib()
        for index, topic in enumerate(topics(number)):
            broker.send(publish(topic, b"1", 1, index + 1, version=broker.version))
        broker.acknowledged(number)
        time.sleep(0.5)
        return {"not yet called": before, "called": subject.rss_kib()}
