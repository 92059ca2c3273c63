"""Ten times too much, through the command line and a real mosquitto: who is held up, what it takes, what is left."""

from __future__ import annotations

import statistics
import threading
from typing import TYPE_CHECKING, Any

import pytest
from paho.mqtt.publish import multiple

from tests.bench.figures.overload import steady
from tests.bench.measure import rss_kib
from tests.bench.mosquitto import Driver
from tests.cli import Running, write
from tests.mqtt_packets import publish
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import StartBroker
    from tests.mosquitto import Mosquitto

ECHO = "def handler(context, event):\n    return event.raw_body\n"
GATED = """
import os, time
def handler(context, event):
    while not os.path.exists("{folder}/go"):
        time.sleep(0.002)
"""
HANGS = "import time\ndef handler(context, event):\n    time.sleep(0.8)\n"
SLOW = "import time\ndef handler(context, event):\n    time.sleep(0.005)\n"
MEMORY = 12 << 20


def manifest(broker: Mosquitto, *functions: str, device: str = "") -> str:
    return f'[device]\nname = "rig"\n{device}\n[source.broker]\nkind = "mqtt"\nurl = "{broker.url}"\n' + "".join(
        functions
    )


def function(name: str, topic: str, trigger: str = "qos = 0", more: str = "", *, echoes: bool = False) -> str:
    text = f'[function.{name}]\nhandler = "{name.rstrip("01234")}.py"\n{more}\n'
    text += f'[[function.{name}.trigger]]\ntopic = "{topic}"\n{trigger}\n'
    if echoes:
        text += f'[[function.{name}.output]]\nto = "broker"\ntopic = "bench/out"\nqos = 0\n'
    return text


def five() -> str:
    return "".join(function(f"echo{number}", f"fair/{number}", echoes=True) for number in range(5))


def ended(running: Running) -> dict[str, Any]:
    """Stop it; what it counted."""
    running.stop()
    found: dict[str, Any] = running.wait_for(event="stopped")["with"]
    return found


def adds_up(count: dict[str, Any]) -> bool:
    """Whether every event that came is accounted for."""
    ends = count["handled"] + count["failed"] + count["dead_lettered"] + sum(count["shed"].values()) + count["pending"]
    came = count["received"] - count["unrouted"] - sum(count["rejected"].values())
    return bool(count["admitted"] == ends == came)


@pytest.mark.parametrize(("sixth", "rate"), [("hangs", 20), ("slow", 2000)])
def test_five_functions_keep_their_pace_beside_a_sixth_that_hangs_or_gets_ten_times_too_much(
    tmp_path: Path, mosquitto: Mosquitto, sixth: str, rate: int
) -> None:
    text = manifest(mosquitto, five(), function(sixth, "bench/in", more='timeout = "500ms"'))
    write(tmp_path, text, echo=ECHO, hangs=HANGS, slow=SLOW)
    with Running(tmp_path) as running, Driver(mosquitto.port) as driver, Driver(mosquitto.port, "flood") as flood:
        running.ready()
        steady(driver.sock, 400, 200, flood.sock, 0)
        alone, beside = [], []
        for _ in range(5):  # in turn, and the best of each: tests share their machine
            alone.append(statistics.median(steady(driver.sock, 400, 100, flood.sock, 0)))
            beside.append(statistics.median(steady(driver.sock, 400, 200, flood.sock, rate)))  # all come, or it raises
        assert min(beside) < 4 * min(alone)
        count = ended(running)
    assert adds_up(count), count
    assert count["failed"] or count["shed"]


@pytest.mark.parametrize("size", [100, 3_000])
def test_memory_grows_to_its_budget_and_no_further_and_the_newest_events_are_those_that_are_left(
    tmp_path: Path, start_mosquitto: StartBroker, size: int
) -> None:
    broker = start_mosquitto(max_queued=0, log_type="information")
    trigger = 'qos = 0\ninbox = { size = 1000000, when_full = "drop-oldest" }'
    text = manifest(
        broker, function("gated", "bench/in", trigger), function("echo", "fair/+", echoes=True),
        device=f'memory_budget = "{MEMORY >> 20}MiB"',
    )  # fmt: skip
    write(tmp_path, text, gated=GATED.replace("{folder}", str(tmp_path)), echo=ECHO)
    count = 3 * MEMORY // (size + 300)
    with Running(tmp_path) as running, Driver(broker.port) as driver:
        running.ready()
        before = steady(driver.sock, 200, 100, driver.sock, 0)
        rest = most = rss_kib(running.process.pid)
        body = bytes(size)
        flood = Driver(broker.port, "flood")
        packets = b"".join(publish("bench/in", body, version=4) for _ in range(100))

        def send() -> None:
            for _ in range(count // 100):
                flood.sock.sendall(packets)

        sender = threading.Thread(target=send)
        sender.start()
        while sender.is_alive():
            most = max(most, rss_kib(running.process.pid))
        sender.join()
        # What it has not read yet is with the broker: when this one has come back, everything before it was read.
        beside = steady(driver.sock, 200, 100, driver.sock, 0)
        most = max(most, rss_kib(running.process.pid))
        assert (most - rest) * 1024 <= 1.2 * MEMORY
        assert (most - rest) * 1024 > 0.4 * MEMORY, "the inbox was never full"
        (tmp_path / "go").touch()
        after = steady(driver.sock, 200, 100, driver.sock, 0)
        assert len(before) == len(beside) == len(after) == 100  # every one of them, whatever else there was
        flood.sock.close()
        totals = ended(running)
    assert adds_up(totals), totals
    assert totals["received"] == count // 100 * 100 + 300
    assert set(totals["shed"]) == {"drop-oldest"} and totals["pending"] == 0


def test_with_block_nothing_of_qos_1_is_lost_and_reading_goes_on_when_there_is_room(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    trigger = 'qos = 1\ndurable = false\ninbox = { size = 10, when_full = "block" }'
    text = manifest(mosquitto, function("gated", "bench/in", trigger))
    write(tmp_path, text, gated=GATED.replace("{folder}", str(tmp_path)))
    messages: Any = [("bench/in", b"%d" % number, 1) for number in range(100)]
    with Running(tmp_path) as running:
        running.ready()
        multiple(messages, hostname="127.0.0.1", port=mosquitto.port)
        (tmp_path / "go").touch()
        multiple(messages, hostname="127.0.0.1", port=mosquitto.port)
        wait_until(lambda: mosquitto.log.count("Received PUBACK from rig") >= 200, lambda: running.log)
        count = ended(running)
    assert adds_up(count) and count["handled"] == 200, count


def test_a_limited_rate_is_kept_and_what_is_above_it_counted(tmp_path: Path, mosquitto: Mosquitto) -> None:
    limited = 'qos = 0\nrate_limit = "20/s"\ninbox = { when_full = "drop-newest" }'
    write(
        tmp_path, manifest(mosquitto, function("echo1", "bench/in", limited), function("echo2", "fair/+", echoes=True)),
        echo=ECHO,
    )  # fmt: skip
    with Running(tmp_path) as running, Driver(mosquitto.port) as driver:
        running.ready()
        for number in range(300):
            driver.sock.sendall(publish("bench/in", b"%d" % number, version=4))
        # When these have come back, everything before them was read.
        assert len(steady(driver.sock, 200, 10, driver.sock, 0)) == 10
        count = ended(running)
    assert adds_up(count) and count["received"] == 310, count
    assert 30 <= count["handled"] < 310 and set(count["shed"]) == {"rate-limit"}
