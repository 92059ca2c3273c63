"""MQTT flood ingest: a prepared flood of 64-byte QoS 0 events into a handler that counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.broker import Broker, Packets
from tests.bench.subject import function, manifest, processor, python

if TYPE_CHECKING:
    from tests.bench.bench import Bench
    from tests.bench.subject import Subject

WARM = 2000


def run(bench: Bench) -> None:
    """Ours inline and on a worker thread, in 3.1.1 and 5, beside stock paho."""
    many, few = bench.many(300_000), bench.many(30_000)
    with Broker() as broker:
        found = bench.interleave({
            "paho, loop_forever": lambda: paho(bench, broker, few, 4),
            "ours, inline": lambda: ours(bench, broker, many, "inline", 4),
            "ours, thread": lambda: ours(bench, broker, many, "thread", 4),
            "paho, MQTT 5": lambda: paho(bench, broker, few, 5),
            "ours, inline, MQTT 5": lambda: ours(bench, broker, many, "inline", 5),
        })  # fmt: skip
    for name, measures in found.items():
        bench.report.value(f"{name}: CPU", measures["cpu"], "µs/event")
        rates = [1e6 / wall for wall in measures["wall"]]
        bench.report.value(f"{name}: rate", rates, "events/s", note=f"best of {len(rates)}: {max(rates):,.0f}/s")
    bench.ratio("inline to stock paho, CPU", found, "ours, inline", "paho, loop_forever", bar=1 / 10)
    bench.ratio("thread to inline, CPU", found, "ours, thread", "ours, inline", bar=1.5)
    bench.ratio("inline to stock paho, MQTT 5, CPU", found, "ours, inline, MQTT 5", "paho, MQTT 5", bar=1 / 10)


def ours(bench: Bench, broker: Broker, count: int, isolation: str, version: int) -> dict[str, float]:
    """One flood into a processor with one function."""
    text = manifest(broker.url, function("count.py", "bench/in", isolation=isolation), version=version)
    with processor(bench.folder(), text, marks(count)) as subject:
        return flood(broker, subject, count)


def paho(bench: Bench, broker: Broker, count: int, version: int) -> dict[str, float]:
    """One flood into a stock client."""
    with python("paho_count", bench.folder(), str(broker.port), "0", str(version), env=marks(count)) as subject:
        return flood(broker, subject, count)


def marks(count: int) -> dict[str, str]:
    """At which numbers the handler says how many it has seen: after the warming up and at the end."""
    return {"BENCH_MARKS": f"{WARM},{WARM + count}"}


def flood(broker: Broker, subject: Subject, count: int, *, qos: int = 0, window: int = 65535) -> dict[str, float]:
    """Warm up, then measure."""
    broker.accept(subject)
    broker.settle()
    packets = Packets(["bench/in"], 64, qos, broker.version)
    broker.flood(subject.pid, packets, WARM, WARM, qos=qos, window=window)
    broker.settle()
    return broker.flood(subject.pid, packets, count, WARM + count, qos=qos, window=window)
