"""Too much: five functions beside a sixth that hangs or is flooded, what is lost uncounted, what memory takes."""

from __future__ import annotations

import json
import select
import threading
import time
from functools import partial
from socket import MSG_DONTWAIT
from typing import TYPE_CHECKING

from tests.bench.broker import CHUNK, Broker, LostError, Packets
from tests.bench.measure import percentile
from tests.bench.mosquitto import Driver, mosquitto, subscribed
from tests.bench.subject import function, manifest, processor
from tests.mqtt_packets import publish

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tests.bench.bench import Bench
    from tests.mosquitto import Mosquitto

STEADY = 400  # events a second, over the five functions
FLOOD = 2_000  # ten times what slow.py can do
HUNG = 20  # events a second for a handler that hangs
BUDGET = 16 << 20
POLICIES = ("block", "drop-oldest", "drop-newest", "thin", "reject")


def run(bench: Bench) -> None:
    """Each of the three on a process of its own."""
    fair_drain(bench)
    ledger(bench)
    memory(bench)


def fair_drain(bench: Bench) -> None:
    """The five alone, beside a sixth that hangs until its timeout, and beside one that gets ten times too much."""
    count = max(bench.many(8_000), 1_600)
    try:
        broker = mosquitto(bench.folder()).start()
    except AssertionError as error:
        bench.report.missing("fair drain", str(error))
        return
    with broker:
        for qos, what in ((0, "QoS 0"), (1, "QoS 1, durable")):
            found = bench.interleave({
                f"{what}, alone": partial(beside, bench, broker, qos, count, "hang.py", 0),
                f"{what}, a sixth hangs": partial(beside, bench, broker, qos, count, "hang.py", HUNG),
                f"{what}, a sixth is flooded": partial(beside, bench, broker, qos, count, "slow.py", FLOOD),
            })  # fmt: skip
            for name, measures in found.items():
                bench.report.value(f"five functions, {name}: p50", measures["p50"], "ms")
                bench.report.value(f"five functions, {name}: p99", measures["p99"], "ms")
            for name in ("a sixth hangs", "a sixth is flooded"):
                bench.ratio(
                    f"{what}, {name}, to alone, p99", found, f"{what}, {name}", f"{what}, alone", "p99", bar=2.0
                )


def beside(bench: Bench, broker: Mosquitto, qos: int, count: int, sixth: str, rate: int) -> dict[str, float]:
    """Round trips of the five while the sixth gets `rate` events a second, all in one connection."""
    text = "".join(
        function(
            "echo.py",
            f"fair/{number}",
            name=f"echo{number}",
            isolation="thread",
            qos=qos,
            durable=qos > 0,
            out="bench/out",
        )
        for number in range(5)
    ).replace('inbox = { when_full = "block" }', "")
    text += f'[function.sixth]\nhandler = "{{functions}}/{sixth}"\ntimeout = "1s"\n'
    text += f'[[function.sixth.trigger]]\ntopic = "bench/in"\nqos = {qos}\n'
    before = broker.log.count(" bench/in")
    with processor(bench.folder(), manifest(broker.url, text)) as subject, Driver(broker.port) as driver:
        subscribed(broker, subject, before)
        with Driver(broker.port, "flood") as flood:
            steady(driver.sock, STEADY, count // 4, flood.sock, rate, qos)
            took = steady(driver.sock, STEADY, count, flood.sock, rate, qos)
    return {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99)}


def steady(
    sock: socket.socket, rate: float, count: int, flood: socket.socket, flood_rate: int, qos: int = 0
) -> list[float]:
    """Milliseconds from each of `count` events over five topics to its reply, while `flood` sends others."""
    due: list[float] = []
    took = [-1.0] * count
    left, sent, flooded = count, 0, 0
    rest = b""
    begin = time.perf_counter() + 0.01
    end = begin + count / rate + 60
    more = b"".join(publish("bench/in", b"%064d" % number, qos, number + 1) for number in range(8))
    each = len(more) // 8
    sock.setblocking(False)
    while left:
        now = time.perf_counter()
        if now > end:
            raise LostError(f"{left} of {count} replies did not come")
        if sent < count and now >= begin + sent / rate:
            due.append(now)
            sock.send(publish(f"fair/{sent % 5}", b"%08d" % sent + b"." * 56, qos, sent % 1000 + 1))
            sent += 1
            continue
        behind = min(int((now - begin) * flood_rate) - flooded, 8)
        if behind > 0:
            flood.sendall(more[: behind * each])
            flooded += behind
            if qos:
                _discard(flood)
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


def _discard(sock: socket.socket) -> None:
    """Take acknowledgements off a socket."""
    try:
        sock.recv(CHUNK, MSG_DONTWAIT)
    except BlockingIOError:
        pass


def sixth(more: str) -> str:
    """The tables of the slow function alone, with these keys in its trigger."""
    text = '[function.sixth]\nhandler = "{functions}/slow.py"\nworkers = 2\n'
    return text + f'[[function.sixth.trigger]]\ntopic = "bench/+"\nqos = 0\n{more}\n'


def ledger(bench: Bench) -> None:
    """Events that are not in the ledger of a process that got as many as a socket takes, in every policy."""
    count = bench.many(5_000)
    ways = {policy: f'inbox = {{ size = 100, when_full = "{policy}" }}' for policy in POLICIES}
    ways["rate_limit"] = 'rate_limit = "50/s"\ninbox = { size = 100, when_full = "drop-oldest" }'
    ways["order_by"] = 'order_by = "topic"\ninbox = { size = 100, when_full = "drop-oldest" }'
    with Broker() as broker:
        measures_of: dict[str, Callable[[], dict[str, float]]] = {
            name: partial(unaccounted, bench, broker, more, count) for name, more in ways.items()
        }
        found = bench.interleave(measures_of, 1)
    for name, measures in found.items():
        bench.report.value(f"unaccounted for, {name}", measures["unaccounted"], "events", bar=0)


def unaccounted(bench: Bench, broker: Broker, more: str, count: int) -> dict[str, float]:
    """Flood, wait until the last one has been read, stop; what the process says of it must add up to what was sent."""
    packets = Packets([f"bench/{number}" for number in range(8)], 64, 0, 4)
    with processor(bench.folder(), manifest(broker.url, sixth(more))) as subject:
        broker.accept(subject)
        broker.flood_until_acknowledged(subject.pid, packets, count)
        subject.stop()
        said = [json.loads(line) for line in subject.output.splitlines() if '"stopped"' in line]
    numbers = said[-1]["with"]
    ended = numbers["handled"] + numbers["failed"] + numbers["dead_lettered"] + sum(numbers["shed"].values())
    lost = [
        count + 1 - numbers["received"],
        numbers["received"] - numbers["unrouted"] - sum(numbers["rejected"].values()) - numbers["admitted"],
        numbers["admitted"] - ended - numbers["pending"],
    ]
    return {"unaccounted": float(sum(map(abs, lost)))}


def memory(bench: Bench) -> None:
    """How much larger a process gets than it was at rest, at ten times what its handler can do, to its budget."""
    with Broker() as broker:
        found = bench.interleave(
            {
                f"{size} B, {policy}": partial(growth, bench, broker, size, policy)
                for size in (64, 1_000, 20_000)
                for policy in ("drop-oldest", "block")
            },
            min(bench.runs, 3),
        )
    for name, measures in found.items():
        bench.report.value(f"growth to memory_budget, {name}", measures["growth"], "x", bar=1.2)


def growth(bench: Bench, broker: Broker, size: int, policy: str) -> dict[str, float]:
    """The largest resident memory above that at rest, as a part of the budget, while three budgets' worth is sent."""
    text = manifest(broker.url, sixth(f'inbox = {{ size = 1000000, when_full = "{policy}" }}'))
    text = text.replace("[device]", f"[device]\nmemory_budget = {json.dumps(f'{BUDGET >> 20}MiB')}")
    packets = Packets([f"bench/{number}" for number in range(8)], size, 0, 4)
    with processor(bench.folder(), text) as subject:
        broker.accept(subject)
        broker.settle()
        rest = most = subject.rss_kib()
        wanted = 3 * BUDGET // (size + 300) * packets.each
        over = threading.Event()

        def send() -> None:
            left = wanted
            while left > 0 and not over.is_set():
                left -= broker.offer(packets, min(left, CHUNK))

        sender = threading.Thread(target=send)
        sender.start()
        end = time.monotonic() + 8
        while sender.is_alive() and time.monotonic() < end:
            most = max(most, subject.rss_kib())
            time.sleep(0.05)
        most = max(most, subject.rss_kib())
        over.set()
        sender.join()
    return {"growth": (most - rest) * 1024 / BUDGET}
