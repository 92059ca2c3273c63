"""Too much: five functions beside a sixth that hangs or is flooded, what is lost uncounted, what memory takes."""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

from tests.bench.broker import CHUNK, LostError
from tests.bench.measure import percentile
from tests.bench.mosquitto import Driver, mosquitto, subscribed
from tests.bench.subject import function, manifest, processor
from tests.mqtt_packets import publish

if TYPE_CHECKING:
    import socket

    from tests.bench.bench import Bench
    from tests.mosquitto import Mosquitto

STEADY = 400  # events a second, over the five functions
FLOOD = 2_000  # ten times what slow.py can do
HUNG = 20  # events a second for a handler that hangs


def run(bench: Bench) -> None:
    """Each of the three on a process of its own."""
    fair_drain(bench)


def fair_drain(bench: Bench) -> None:
    """The five alone, beside a sixth that hangs until its timeout, and beside one that gets ten times too much."""
    count = max(bench.many(8_000), 1_600)
    try:
        broker = mosquitto(bench.folder()).start()
    except AssertionError as error:
        bench.report.missing("fair drain", str(error))
        return
    with broker:
        found = bench.interleave({
            "alone": lambda: beside(bench, broker, count, "hang.py", 0),
            "a sixth hangs": lambda: beside(bench, broker, count, "hang.py", HUNG),
            "a sixth is flooded": lambda: beside(bench, broker, count, "slow.py", FLOOD),
        })  # fmt: skip
    for name, measures in found.items():
        bench.report.value(f"five functions, {name}: p50", measures["p50"], "ms")
        bench.report.value(f"five functions, {name}: p99", measures["p99"], "ms")
    for name in ("a sixth hangs", "a sixth is flooded"):
        bench.ratio(f"{name}, to alone, p99", found, name, "alone", "p99", bar=2.0)


def beside(bench: Bench, broker: Mosquitto, count: int, sixth: str, rate: int) -> dict[str, float]:
    """Round trips of the five while the sixth gets `rate` events a second."""
    text = "".join(
        function("echo.py", f"fair/{number}", name=f"echo{number}", isolation="thread", out="bench/out")
        for number in range(5)
    ).replace('inbox = { when_full = "block" }', "")
    text += f'[function.sixth]\nhandler = "{{functions}}/{sixth}"\ntimeout = "1s"\n'
    text += '[[function.sixth.trigger]]\ntopic = "bench/in"\nqos = 0\n'
    before = broker.log.count(" bench/in")
    with processor(bench.folder(), manifest(broker.url, text)) as subject, Driver(broker.port) as driver:
        subscribed(broker, subject, before)
        with Driver(broker.port, "flood") as flood:
            steady(driver.sock, STEADY, count // 4, flood.sock, rate)
            took = steady(driver.sock, STEADY, count, flood.sock, rate)
    return {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99)}


def steady(sock: socket.socket, rate: float, count: int, flood: socket.socket, flood_rate: int) -> list[float]:
    """Milliseconds from each of `count` events over five topics to its reply, while `flood` sends others."""
    due: list[float] = []
    took = [-1.0] * count
    left, sent, flooded = count, 0, 0
    rest = b""
    begin = time.perf_counter() + 0.01
    end = begin + count / rate + 60
    more = b"".join(publish("bench/in", b"%064d" % number, version=4) for number in range(8))
    each = len(more) // 8
    sock.setblocking(False)
    while left:
        now = time.perf_counter()
        if now > end:
            raise LostError(f"{left} of {count} replies did not come")
        if sent < count and now >= begin + sent / rate:
            due.append(now)
            sock.send(publish(f"fair/{sent % 5}", b"%08d" % sent + b"." * 56, version=4))
            sent += 1
            continue
        behind = min(int((now - begin) * flood_rate) - flooded, 8)
        if behind > 0:
            flood.sendall(more[: behind * each])
            flooded += behind
        wait = min(begin + sent / rate - now if sent < count else 1.0, 0.002 if flood_rate else 1.0)
        if not select.select([sock], [], [], max(wait, 0))[0]:
            continue
        data = rest + sock.recv(CHUNK)
        now = time.perf_counter()
        while len(data) > 2 and len(data) >= data[1] + 2:  # all packets here are shorter than 128 bytes
            body = data[: data[1] + 2]
            data = data[len(body) :]
            if body[0] >> 4 == 3:
                number = int(body[-64:-56])
                if took[number] < 0:
                    took[number] = (now - due[number]) * 1000
                    left -= 1
        rest = data
    sock.setblocking(True)
    return took
