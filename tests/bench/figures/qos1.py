"""QoS 1 ingest, durable and not: the broker's window open, and mosquitto's default of 20 in flight.

The handler is quick: not durable it is acknowledged after the handler, durable too, as nothing has to be stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.broker import Broker, Packets
from tests.bench.figures.flood import WARM, flood, marks
from tests.bench.mosquitto import Driver, mosquitto, subscribed
from tests.bench.subject import function, manifest, processor, python

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.bench import Bench
    from tests.bench.subject import Subject
    from tests.mosquitto import Mosquitto


def run(bench: Bench) -> None:
    """Ours inline and on a worker thread beside stock paho, in MQTT 3.1.1 (5 costs stock paho twice as much)."""
    many, few = bench.many(100_000), bench.many(20_000)
    starts: dict[str, tuple[Callable[[str, int], Subject], int]] = {
        "paho": (lambda url, count: paho(bench, url, count), few),
        "inline": (lambda url, count: ours(bench, url, count, "inline"), many),
        "thread": (lambda url, count: ours(bench, url, count, "thread"), many),
        "inline, durable": (lambda url, count: ours(bench, url, count, "inline", durable=True), many),
        "thread, durable": (lambda url, count: ours(bench, url, count, "thread", durable=True), many),
    }
    for window, what, bar in ((65535, "open window", 1 / 8), (20, "window 20, prepared flood", 1 / 4)):
        with Broker() as broker:
            found = bench.interleave({
                f"{name}, {what}": lambda start=start, count=count, window=window: direct(  # type: ignore[misc]
                    broker, start, count, window
                )
                for name, (start, count) in starts.items()
            })  # fmt: skip
        _report(bench, found, what, bar)
    what = "mosquitto's default of 20"
    try:
        real = mosquitto(bench.folder()).start()
    except AssertionError as error:
        bench.report.missing(what, str(error))
        return
    with real:
        found = bench.interleave({
            f"{name}, {what}": lambda start=start, count=count: through(real, start, count)  # type: ignore[misc]
            for name, (start, count) in starts.items()
        })  # fmt: skip
    _report(bench, found, what, 1 / 4)


def _report(bench: Bench, found: dict[str, dict[str, list[float]]], what: str, bar: float) -> None:
    for name, measures in found.items():
        bench.report.value(f"{name}: CPU", measures["cpu"], "µs/event")
        bench.report.value(f"{name}: rate", [1e6 / wall for wall in measures["wall"]], "events/s")
    for how in ("inline", "thread"):
        ours_, other = f"{how}, durable, {what}", f"{how}, {what}"
        bench.ratio(f"{how}: durable to not durable, {what}, CPU", found, ours_, other, bar=1.5)
    for how in ("inline", "thread", "inline, durable", "thread, durable"):
        bench.ratio(f"{how} to stock paho, {what}, CPU", found, f"{how}, {what}", f"paho, {what}", bar=bar)


def ours(bench: Bench, url: str, count: int, isolation: str, *, durable: bool = False) -> Subject:
    """A processor with one function."""
    table = function("count.py", "bench/in", isolation=isolation, qos=1, durable=durable)
    text = manifest(url, table, more="receive_maximum = 65535")
    return processor(bench.folder(), text, marks(count))


def paho(bench: Bench, url: str, count: int) -> Subject:
    """A stock client, which acknowledges after its callback too."""
    return python("paho_count", bench.folder(), url.rpartition(":")[2], "1", "4", env=marks(count))


def direct(broker: Broker, start: Callable[[str, int], Subject], count: int, window: int) -> dict[str, float]:
    """From the prepared flood."""
    with start(broker.url, count) as subject:
        return flood(broker, subject, count, qos=1, window=window)


def through(broker: Mosquitto, start: Callable[[str, int], Subject], count: int) -> dict[str, float]:
    """Through a real mosquitto."""
    before = broker.log.count(" bench/in")
    with start(broker.url, count) as subject, Driver(broker.port) as driver:
        subscribed(broker, subject, before)
        packets = Packets(["bench/in"], 64, 1, 4)
        driver.ingest(subject.pid, packets, WARM, WARM)
        return driver.ingest(subject.pid, packets, count, WARM + count)
