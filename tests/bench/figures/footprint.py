"""From exec to the first handled event; memory and wake-ups of a connected processor that has nothing to do."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from tests.bench.bench import middle
from tests.bench.broker import Broker, Packets
from tests.bench.subject import Subject, function, manifest, processor, python
from tests.certificates import Certificates
from tests.mosquitto import Mosquitto
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.bench.bench import Bench, Found

THREE = "".join(function("nothing.py", f"bench/{name}", name=name, isolation="thread", qos=1) for name in "abc")


def run(bench: Bench) -> None:
    """Start, memory, wake-ups."""
    _start(bench)
    _idle(bench)


def _start(bench: Bench) -> None:
    with Broker() as broker:
        found = bench.interleave({
            "ours, thread": lambda: first_event(broker, ours(bench, broker, "thread")),
            "ours, inline": lambda: first_event(broker, ours(bench, broker, "inline")),
            "paho script": lambda: first_event(broker, paho(bench, broker.port)),
            "bare interpreter": lambda: bare_start(bench),
        }, max(bench.runs, 3 if bench.quick else 11))  # fmt: skip
    for name, measures in found.items():
        bar = 0.25 if name == "ours, thread" else None
        bench.report.value(f"exec to first handled event: {name}", measures["wall"], "s", bar=bar)


def ours(bench: Bench, broker: Broker, isolation: str) -> Subject:
    """A processor with one function."""
    text = manifest(broker.url, function("count.py", "bench/in", isolation=isolation, qos=1))
    return processor(bench.folder(), text, {"BENCH_MARKS": "1"})


def paho(bench: Bench, port: int) -> Subject:
    """A stock client."""
    return python("paho_count", bench.folder(), str(port), "1", "4", env={"BENCH_MARKS": "1"})


def first_event(broker: Broker, started: Subject) -> dict[str, float]:
    """The event is sent with the SUBACK, and handled when it is acknowledged."""
    with started as subject:
        broker.accept(subject)
        broker.one_by_one(subject.pid, Packets(["bench/in"], 64, 1, broker.version), 1)
        return {"wall": time.perf_counter() - subject.started}


def bare_start(bench: Bench) -> dict[str, float]:
    """`python -I -c pass`, for the scale."""
    with Subject("bare", [sys.executable, "-I", "-c", "pass"], bench.folder()) as subject:
        while subject.running:
            time.sleep(0.0005)
        return {"wall": time.perf_counter() - subject.started}


def _idle(bench: Bench) -> None:
    folder = bench.folder()
    try:
        tls = Certificates(folder / "tls")
        broker = Mosquitto(folder, tls=tls, log_type="information", lines=["log_type subscribe"]).start()
    except (AssertionError, OSError) as error:
        bench.report.missing("idle", str(error))
        return
    quiet = 10.0 if bench.quick else 30.0
    with broker:
        found = bench.interleave({
            "bare interpreter": lambda: idle(bare(bench), None, 0, 2.0),
            "ours": lambda: idle(connected(bench, broker.url, ""), broker, 3, quiet),
            "ours, TLS": lambda: idle(connected(bench, broker.tls_url, f'ca = "{tls.ca}"'), broker, 3, quiet),
            "stock paho": lambda: idle(paho(bench, broker.port), broker, 1, quiet),
        }, 1 if bench.quick else 3)  # fmt: skip
    _report_idle(bench, found)


def _report_idle(bench: Bench, found: Found) -> None:
    for name, measures in found.items():
        bench.report.value(f"idle RSS: {name}", measures["rss"], "MiB")
        bench.report.value(f"idle private memory: {name}", measures["private"], "MiB")
    for name, bar in (("ours", 12.5), ("ours, TLS", 14.0)):
        if name in found and "bare interpreter" in found:
            more = middle(found, name, "rss") - middle(found, "bare interpreter", "rss")
            bench.report.difference(f"idle RSS: {name} minus bare interpreter", more, "MiB", bar=bar)
    for name, measures in found.items():
        if name != "bare interpreter":
            most = None if name == "stock paho" else 0.1
            bench.report.value(f"idle wake-ups: {name}", measures["wakeups"], "/s", bar=most)
            bench.report.value(f"idle CPU: {name}", measures["cpu"], "µs/s")


def bare(bench: Bench) -> Subject:
    """An interpreter that does nothing."""
    return Subject("bare", [sys.executable, "-I", "-c", "import time; time.sleep(600)"], bench.folder())


def connected(bench: Bench, url: str, more: str) -> Subject:
    """Three functions on worker threads, one MQTT source; the keepalive is out of the way."""
    return processor(bench.folder(), manifest(url, THREE, more=f'keepalive = "1h"\n{more}'))


def idle(started: Subject, broker: Mosquitto | None, subscriptions: int, quiet: float) -> dict[str, float]:
    """Memory and wake-ups of a process that has come to rest."""
    before = _subscriptions(broker)
    with started as subject:
        wait_until(lambda: not subject.running or _subscriptions(broker) >= before + subscriptions, "subscribing")
        time.sleep(2.0)
        assert subject.running, subject.output[-300:]
        rests, cpu, began = subject.wakeups(), subject.cpu_ns(), time.perf_counter()
        time.sleep(quiet)
        took = time.perf_counter() - began
        return {
            "wakeups": (subject.wakeups() - rests) / took, "cpu": (subject.cpu_ns() - cpu) / took / 1e3,
            "rss": subject.rss_kib() / 1024, "private": subject.private_kib() / 1024,
        }  # fmt: skip


def _subscriptions(broker: Mosquitto | None) -> int:
    return broker.log.count(" bench/") if broker else 0
