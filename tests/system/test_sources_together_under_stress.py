"""Every kind of source in one processor, handlers of every duration, hangs, reloads: nothing lost, nothing stuck.

`STRESS_S=600 make test ARGS=tests/system/test_sources_together_under_stress.py` goes on for longer; `STRESS_SEED` is
the beginning of the dice.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli import Running, write
from tests.stock_paho import leave
from tests.waiting import LIMIT, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mosquitto import Mosquitto

LASTS = float(os.environ.get("STRESS_S", "4"))
SEED = int(os.environ.get("STRESS_SEED", "1"))

# Short most of the time, so that it is led; now and then it waits, computes or fails.
HANDLER = """
import os, random, threading, time

dice = random.Random(SEED)

def init_context(context):
    if BOUND:
        context.user_data.mine = threading.get_ident()

def handler(context, event):
    if BOUND and context.user_data.mine != threading.get_ident():
        os._exit(99)
    kind = dice.random()
    if kind < 0.02:
        time.sleep(0.02)
    elif kind < 0.04:
        time.sleep(0.001)
    elif kind < 0.1:
        end = time.perf_counter() + 0.0001
        while time.perf_counter() < end:
            pass
    DO
    return b"done"
"""
SEEN = """with open("seen", "ab", buffering=0) as file:
        file.write(event.raw_body + b"\\n")
    if kind < 0.3:
        context.bindings["broker"].publish("out", event.raw_body)"""
SEEN_BATCH = """with open("seen-batch", "ab", buffering=0) as file:
        file.write(b"".join(one.raw_body + b"\\n" for one in event))
    return None"""
HANGS = """if kind > 0.9:
        threading.Thread(target=lambda: None).start()
    if kind > 0.97:
        time.sleep(0.12)  # around its timeout"""


def handler(do: str, *, bound: bool = False) -> str:
    return HANDLER.replace("SEED", str(SEED)).replace("BOUND", str(bound)).replace("DO", do)


def function(name: str, trigger: str, more: str = "") -> str:
    return f'[function.{name}]\nhandler = "{name}.py"\n{more}\n[[function.{name}.trigger]]\n{trigger}\n'


def manifest(url: str, web: int, lan: int, extra: bool) -> str:
    return "\n".join([
        '[device]\nname = "all"\nboard = "sim"\nstate_dir = "state"\nstop_timeout = "20s"',
        f'[source.broker]\nkind = "mqtt"\nurl = "{url}"\nclient_id = "stress"\n',
        f'[source.api]\nkind = "http"\nlisten = "127.0.0.1:{web}"\n',
        f'[source.lan]\nkind = "coap"\nlisten = "127.0.0.1:{lan}"\n',
        function("mq", 'source = "broker"\ntopic = "load/#"\nqos = 1'),
        function("batch", 'source = "broker"\ntopic = "load/#"\nqos = 1\nbatch = { size = 7, timeout = "20ms" }'),
        function("web", 'source = "api"\npath = "/web"', "workers = 3"),
        function("bound", 'source = "api"\npath = "/bound"'),
        function("hangs", 'source = "api"\npath = "/hangs"', 'timeout = "120ms"\nworkers = 2'),
        function("unloads", 'source = "lan"\npath = "/co"', "workers = { min = 0, max = 2 }"),
        function("tick", 'every = "3ms"'),
        function("pin", 'pin = "GPIO17"\nedge = "both"'),
        function("extra", 'every = "2ms"') if extra else "",
    ])  # fmt: skip


def free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Clients:
    """Threads that each do one thing again and again until they are ended; `end` raises the first error."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.errors: list[BaseException] = []
        self.done: dict[str, int] = {}
        self._threads: list[threading.Thread] = []

    def go(self, name: str, step: Callable[[], Any], close: Callable[[], Any] = lambda: None) -> None:
        def work() -> None:
            try:
                while not self.over.is_set():
                    step()
                    self.done[name] = self.done.get(name, 0) + 1
            except BaseException as error:  # noqa: BLE001 - raised by `end`
                self.errors.append(error)
            finally:
                close()

        self._threads.append(threading.Thread(target=work, name=name))
        self._threads[-1].start()

    def end(self) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(2 * LIMIT)
            assert not thread.is_alive(), f"{thread.name} waits for ever; {self.done}"
        if self.errors:
            raise self.errors[0]


def ask_http(clients: Clients, port: int, path: str, allowed: set[int]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)

    def step() -> None:
        connection.request("POST", path, b"x")
        answer = connection.getresponse()
        answer.read()
        assert answer.status in allowed, f"{path}: {answer.status}"

    clients.go(path, step, connection.close)


def ask_coap(clients: Clients, port: int) -> None:
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.connect(("127.0.0.1", port))
    peer.settimeout(LIMIT)
    number = [0]

    def step() -> None:
        number[0] = (number[0] + 1) % 65536
        token = number[0].to_bytes(2, "big")
        peer.send(b"\x42\x01" + token + token + b"\xb2co")  # CON GET /co
        while True:
            answer = peer.recv(2000)
            if answer[0] & 0x30 == 0:  # a separate response, CON: acknowledged
                peer.send(b"\x60\x00" + answer[2:4])
            if answer[1] and answer[4:6] == token:
                assert answer[1] == 0x45, answer
                return

    clients.go("coap", step, peer.close)


def move_pin(clients: Clients, folder: Path) -> None:
    board = socket.socket(socket.AF_UNIX)
    board.connect(str(folder / "state" / "sim.sock"))
    board.settimeout(LIMIT)
    lines = board.makefile("rb")
    level = [0]

    def step() -> None:
        level[0] ^= 1
        board.sendall(json.dumps({"set": {"GPIO17": level[0]}}).encode() + b"\n")
        assert b"ok" in lines.readline()
        clients.over.wait(0.001)

    def close() -> None:
        lines.close()
        board.close()

    clients.go("gpio", step, close)


def publish(clients: Clients, port: int) -> None:
    from paho.mqtt import client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="publisher")
    client.connect("127.0.0.1", port)
    client.loop_start()
    sent = [0]
    dice = random.Random(SEED)

    def step() -> None:
        last: Any = None
        for _ in range(dice.choice((1, 1, 5, 30))):
            last = client.publish(f"load/{sent[0] % 3}", str(sent[0]), qos=1)
            sent[0] += 1
        last.wait_for_publish(LIMIT)
        clients.done["sent"] = sent[0]
        clients.over.wait(dice.choice((0, 0, 0.001, 0.01)))

    clients.go("mqtt", step, lambda: leave(client))


def seen(path: Path) -> set[int]:
    return {int(line) for line in path.read_bytes().split(b"\n")[:-1]} if path.exists() else set()


def whole(path: Path, sent: int) -> bool:
    return seen(path) >= set(range(sent))


def missing(path: Path, sent: int) -> str:
    left = sorted(set(range(sent)) - seen(path))
    return f"{len(left)} of {sent} are not in {path.name}: {left[:10]} to {left[-10:]}"


@pytest.mark.parametrize("reloads", [False, True], ids=["steady", "reloaded"])
def test_nothing_is_lost_or_stuck_whatever_handlers_do(tmp_path: Path, start_mosquitto: Any, reloads: bool) -> None:
    mosquitto: Mosquitto = start_mosquitto(max_queued=0)  # else the broker drops what is beyond 1000
    web, lan = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_DGRAM)
    files = {name: handler("pass") for name in ("web", "unloads", "tick", "pin", "extra")}
    files |= {"mq": handler(SEEN), "batch": handler(SEEN_BATCH), "hangs": handler(HANGS)}
    path = write(tmp_path, manifest(mosquitto.url, web, lan, False), bound=handler("pass", bound=True), **files)
    with Running(tmp_path) as run:
        run.ready()
        run.wait_for(message="connected")
        clients = Clients()
        try:
            publish(clients, mosquitto.port)
            for _ in range(3):
                ask_http(clients, web, "/web", {200})
            ask_http(clients, web, "/bound", {200})
            ask_http(clients, web, "/hangs", {200, 408, 503})
            ask_coap(clients, lan)
            move_pin(clients, tmp_path)
            end = time.monotonic() + LASTS
            count = 0
            while time.monotonic() < end and not clients.errors:
                if reloads:
                    count += 1
                    path.write_text(manifest(mosquitto.url, web, lan, extra=count % 2 == 1))
                    run.send(signal.SIGHUP)
                    run.wait_for(count, event="reloaded")
                clients.over.wait(0.05)
        finally:
            clients.end()
        sent = clients.done["sent"]
        for name in ("seen", "seen-batch"):
            wait_until(partial(whole, tmp_path / name, sent), partial(missing, tmp_path / name, sent))
        code = run.stop()
        counted = run.records[-1]["with"]
        told = f"{code} {counted} {clients.done}"
        assert code in {0, 75}, f"{told}\n{run.log[-3000:]}"  # 75: a hanging handler was still there
        assert counted["pending"] == 0, told
        assert counted["received"] >= sent, told
        assert "defect" not in run.log
        assert "Traceback" not in run.log, run.log
