"""JSON in, a decision, JSON out, through a real mosquitto: ours with orjson and without, stock paho and Node-RED."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import TYPE_CHECKING

from tests.bench import node_red
from tests.bench.broker import Packets
from tests.bench.mosquitto import Driver, mosquitto, subscribed
from tests.bench.subject import ROOT, function, manifest, processor, python
from tests.mqtt_packets import publish

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tests.bench.bench import Bench
    from tests.bench.subject import Subject
    from tests.mosquitto import Mosquitto

FAST, PLAIN = "with orjson", "without"
WARM = 5000  # V8 wants some
WINDOW = 10_000  # a flood; but what waits in mosquitto is bounded


class Readings(Packets):
    """JSON events of about 64 bytes."""

    def __init__(self) -> None:
        self.position = 0
        made = [publish("bench/in", _reading(i)) for i in range(1000)]
        self.each = len(made[0])
        self.bytes = memoryview(b"".join(made))


def _reading(number: int) -> bytes:
    return b'{"sensor": "kitchen", "temperature": %d.%d, "humidity": %d}' % (
        15 + number % 10,
        number % 7,
        30 + number % 60,
    )


def run(bench: Bench) -> None:
    """CPU of the process under test; the rate is that of the slowest in the chain."""
    many, few = bench.many(100_000), bench.many(20_000)
    try:
        broker = mosquitto(bench.folder()).start()
    except AssertionError as error:
        bench.report.missing("all", str(error))
        return
    variants = {
        "paho": lambda: pass_through(bench, broker, python("paho_decide", bench.folder(), str(broker.port)), few),
    }
    kinds = [(f"{how}, {which}", how, which == FAST) for which in (FAST, PLAIN) for how in ("inline", "thread")]
    for name, how, fast in kinds:
        if fast and importlib.util.find_spec("orjson") is None:
            bench.report.missing(name, "orjson, the extra `fast`, is not installed")
            continue
        variants[name] = partial(
            lambda how, fast: pass_through(bench, broker, ours(bench, broker, how, fast), many), how, fast
        )
    try:
        home = node_red.install()
        variants["Node-RED"] = lambda: pass_through(
            bench, broker, node_red.start(home, bench.folder(), broker.port), few
        )
    except node_red.AbsentError as why:
        bench.report.missing("Node-RED", str(why))
    with broker:
        found = bench.interleave(variants)
    for name, measures in found.items():
        bench.report.value(f"{name}: CPU", measures["cpu"], "µs/event")
        bench.report.value(f"{name}: rate", [1e6 / wall for wall in measures["wall"]], "events/s")
        bench.report.value(f"{name}: memory", measures["rss"], "MiB")
    for name, _, _ in kinds:
        bench.ratio(f"{name}: to stock paho, CPU", found, name, "paho", bar=1 / 5)
        bench.ratio(f"{name}: to Node-RED, CPU", found, name, "Node-RED", bar=1 / 3)


def ours(bench: Bench, broker: Mosquitto, isolation: str, fast: bool) -> Subject:
    """A processor with one function and one output, with the extra `fast` or as if it were not installed."""
    text = manifest(broker.url, function("decide.py", "bench/in", isolation=isolation, out="bench/out"))
    path = str(ROOT) if fast else f"{ROOT / 'tests/without_fast'}:{ROOT}"
    return processor(bench.folder(), text, {"PYTHONPATH": path})


def pass_through(
    bench: Bench, broker: Mosquitto, started: AbstractContextManager[Subject], count: int
) -> dict[str, float]:
    """Warm up, then measure."""
    before = broker.log.count(" bench/in")
    with started as subject, Driver(broker.port) as driver:
        subscribed(broker, subject, before)
        readings = Readings()
        driver.pass_through(subject.pid, readings, WARM, WINDOW)
        driver.pass_through(subject.pid, readings, WARM, WINDOW)
        found = driver.pass_through(subject.pid, readings, count, WINDOW)
        return {**found, "rss": subject.rss_kib() / 1024}
