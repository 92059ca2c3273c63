"""Durable triggers and outputs at a real broker, by the real command line, over kills, outages and full windows."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.cli import Running, call, write
from tests.mosquitto import HOST, Mosquitto, program
from tests.stock_paho import leave
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BROKER = """
[source.broker]
kind = "mqtt"
url = "{url}"
client_id = "gw"
{more}
"""


def function(name: str, qos: int = 1, more: str = "", output: str = "") -> str:
    out = f'[[function.{name}.output]]\ntopic = "{output}"\n' if output else ""
    return f"""
[function.{name}]
handler = "{name}.py"
timeout = "1h"
[[function.{name}.trigger]]
topic = "{name}/#"
qos = {qos}
{more}
{out}"""


# Appends to a file that outlives the process what it was given, and whether that may have come before.
APPENDS = """
import os
FD = os.open("handled", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def handler(context, event):
    line = [event.raw_body.decode(), event.id.partition("-")[2]] + ["again"] * event.duplicate
    os.write(FD, " ".join(line).encode() + b"\\n")
"""
HANGS = """
import time
def handler(context, event):
    while True:
        time.sleep(1)
"""
WAITS = """
import os, time
FD = os.open("handled", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def handler(context, event):
    while not os.path.exists("go"):
        time.sleep(0.01)
    line = [event.raw_body.decode(), event.id.partition("-")[2]] + ["again"] * event.duplicate
    os.write(FD, " ".join(line).encode() + b"\\n")
    return event.raw_body
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", persistence=True) as running:
        yield running


def publish(broker: Mosquitto, topic: str, bodies: Sequence[str], qos: int = 1) -> None:
    """One after the other, as a client with several in flight may send them in another order."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(HOST, broker.port)
    client.loop_start()
    for body in bodies:
        message = client.publish(topic, body, qos)
        message.wait_for_publish(60)
        assert message.is_published()
    leave(client)


def handled(folder: Path) -> list[str]:
    """What the handlers were given, and whether that was marked as a repetition."""
    path = folder / "handled"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [" ".join((words[0], *words[2:])) for words in lines]


def in_order(folder: Path) -> bool:
    """Whether they were given it as it arrived, by the events' ids: mosquitto may send in another order than it got."""
    numbers = [int(line.split()[1]) for line in (folder / "handled").read_text().splitlines()]
    return numbers == sorted(numbers)


class Listener:
    """A subscriber: what is published to a topic, one line a message."""

    def __init__(self, folder: Path, broker: Mosquitto, topic: str, form: str = "%p") -> None:
        self._out = folder / "heard"
        with self._out.open("wb") as out:
            command = [program("mosquitto_sub"), "-p", str(broker.port), "-V", "5", "-q", "1", "-t", topic, "-F", form]
            self._process = subprocess.Popen(command, stdout=out)
        broker.wait_for_log(f"{topic} (QoS 1)")

    def take(self, count: int) -> list[str]:
        """All lines, when there are so many."""
        wait_until(
            lambda: len(self._out.read_text().splitlines()) >= count,
            lambda: f"{count} messages, there are:\n{self._out.read_text()}",
        )
        return self._out.read_text().splitlines()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


@pytest.mark.parametrize(("version", "qos"), [(5, 1), (5, 2), (3, 1), (3, 2)])
def test_a_hung_function_holds_up_nobody_on_its_connection(
    tmp_path: Path, broker: Mosquitto, version: int, qos: int
) -> None:
    manifest = BROKER.format(url=broker.url, more=f"version = {version}")
    write(tmp_path, manifest + function("hung", qos) + function("quick", qos), hung=HANGS, quick=APPENDS)
    with Running(tmp_path) as running:
        running.ready()
        publish(broker, "hung/a", [str(n) for n in range(100)], qos)
        publish(broker, "quick/a", [str(n) for n in range(100)], qos)
        wait_until(lambda: len(handled(tmp_path)) == 100, lambda: running.log)
        assert sorted(handled(tmp_path), key=int) == [str(n) for n in range(100)]
        assert in_order(tmp_path)
        said = "Received PUBACK from gw" if qos == 1 else "Received PUBREC from gw"
        broker.wait_for_log(said, 200)
        running.send(signal.SIGKILL)
        running.wait()


@pytest.mark.parametrize("version", [5, 3])
def test_after_a_kill_what_was_acknowledged_and_not_handled_is_handled_in_order(
    tmp_path: Path, broker: Mosquitto, version: int
) -> None:
    text = BROKER.format(url=broker.url, more=f"version = {version}") + function("in", more="inbox = { size = 10 }")
    write(tmp_path, text, **{"in": WAITS})
    with Running(tmp_path) as running:
        running.ready()
        publish(broker, "in/a", [str(n) for n in range(150)])
        broker.wait_for_log("Received PUBACK from gw", 150)
        running.send(signal.SIGKILL)
        running.wait()
    assert handled(tmp_path) == []
    (tmp_path / "go").touch()
    with Running(tmp_path) as running:
        running.ready()
        wait_until(lambda: len(handled(tmp_path)) == 150, lambda: running.log)
        assert running.stop() == 0
        said = running.wait_for(event="stopped")["with"]
    assert set(handled(tmp_path)) == {f"{n} again" for n in range(150)}
    assert in_order(tmp_path)
    assert said["handled"] == said["admitted"] == said["duplicates"] == 150
    assert said["pending"] == 0


def test_a_stop_keeps_what_is_queued_and_ends_with_0(tmp_path: Path, broker: Mosquitto) -> None:
    text = BROKER.format(url=broker.url, more="") + function("in")
    write(tmp_path, text, **{"in": WAITS})
    with Running(tmp_path) as running:
        running.ready()
        publish(broker, "in/a", [str(n) for n in range(50)])
        running.send(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert running.wait() == 0
        said = running.wait_for(event="stopped")["with"]
    done = len(handled(tmp_path))
    assert said["handled"] == done
    with Running(tmp_path) as running:
        running.ready()
        wait_until(lambda: len(handled(tmp_path)) == 50, lambda: running.log)
        assert running.stop() == 0
    assert sorted(handled(tmp_path), key=int) == [str(n) for n in range(50)]
    assert in_order(tmp_path)


def test_quick_handlers_write_nothing_to_the_disk(tmp_path: Path, broker: Mosquitto) -> None:
    text = '[spool]\nflush = "20s"\n' + BROKER.format(url=broker.url, more="")  # a busy machine is no slow handler
    text += function("in") + function("out", output="done")
    write(tmp_path, text, **{"in": APPENDS, "out": "def handler(context, event):\n    return event.raw_body\n"})
    with Listener(tmp_path, broker, "done") as listener, Running(tmp_path) as running:
        running.ready()
        for number in range(50):
            publish(broker, "in/a", [str(number) + letter for letter in "abcde"])
        wait_until(lambda: len(handled(tmp_path)) == 250, lambda: running.log)
        for number in range(10):
            publish(broker, "out/a", [str(number)])
        assert listener.take(10) == [str(n) for n in range(10)]
        assert running.stop() == 0
    assert not [path for path in (tmp_path / "state" / "spool").iterdir() if path.stat().st_size]


def test_outputs_are_kept_while_the_broker_is_away_over_a_kill_and_sent_in_order(
    tmp_path: Path, broker: Mosquitto
) -> None:
    source = f'[source.api]\nkind = "http"\nlisten = "127.0.0.1:{free_port()}"\n'
    listen = source.rpartition(":")[2].rstrip('"\n')
    text = BROKER.format(url=broker.url, more="") + source
    text += """
[function.f]
handler = "f.py"
[[function.f.trigger]]
source = "api"
path = "/in"
durable = true
[[function.f.output]]
to = "broker"
topic = "out/a"
"""
    code = """
def handler(context, event):
    context.bindings["broker"].publish("out/b", event.raw_body, qos=1)
    return event.raw_body
"""
    write(tmp_path, text, f=code)
    with Running(tmp_path) as running:
        running.ready()
        broker.stop()
        for number in range(40):
            assert post(int(listen), b"%d" % number) == 200
        running.send(signal.SIGKILL)
        running.wait()
    broker.start()
    with Listener(tmp_path, broker, "out/#", "%t %p %P") as listener:
        with Running(tmp_path) as running:
            running.ready()
            lines = listener.take(80)
            assert running.stop() == 0
        with Running(tmp_path) as running:  # nothing is sent again
            running.ready()
            assert post(int(listen), b"last") == 200
            assert listener.take(81)[80].startswith("out/b last")
            assert running.stop() == 0
    for topic in ("out/a", "out/b"):
        mine = [line.split(" ") for line in lines if line.startswith(topic)]
        assert [words[1] for words in mine] == [str(n) for n in range(40)]
    keys = [line.partition("idempotency-key:")[2] for line in lines]
    assert all(keys)
    assert len(set(keys)) == 80


def test_a_poison_event_does_not_kill_the_device_for_ever(tmp_path: Path, broker: Mosquitto) -> None:
    kill = '    if event.raw_body == b"poison":\n        os.kill(os.getpid(), 9)\n'
    code = APPENDS.replace("    os.write", kill + "    os.write")
    write(tmp_path, BROKER.format(url=broker.url, more="") + function("in"), **{"in": code})
    with Running(tmp_path) as running:
        running.ready()
        publish(broker, "in/a", ["before", "poison", "after"])
        running.wait()
    deaths = 1
    while True:
        with Running(tmp_path) as running:
            wait_until(
                lambda: running.process.poll() is not None or "after" in str(handled(tmp_path)), lambda: running.log
            )
            if running.process.poll() is None:
                assert running.stop() == 0
                break
            deaths += 1
            assert deaths < 5, running.log
    assert deaths == 2
    assert {line.split()[0] for line in handled(tmp_path)} == {"before", "after"}
    (letter,) = call("dead-letters", "list", "--json", cwd=tmp_path).stdout.splitlines()
    assert "died" in json.loads(letter)["reason"]
    number = str(json.loads(letter)["id"])
    assert call("dead-letters", "show", number, "--body", cwd=tmp_path).stdout == "poison"


def test_a_request_by_response_topic_is_answered_after_a_kill(tmp_path: Path, broker: Mosquitto) -> None:
    write(tmp_path, BROKER.format(url=broker.url, more="") + function("in"), **{"in": WAITS})
    with Listener(tmp_path, broker, "answers") as listener:
        with Running(tmp_path) as running:
            running.ready()
            command = [program("mosquitto_pub"), "-p", str(broker.port), "-V", "5", "-q", "1", "-t", "in/a"]
            command += ["-m", "ask", "-D", "publish", "response-topic", "answers"]
            subprocess.run(command, check=True, timeout=30)
            broker.wait_for_log("Received PUBACK from gw", 1)
            running.send(signal.SIGKILL)
            running.wait()
        (tmp_path / "go").touch()
        with Running(tmp_path) as running:
            running.ready()
            assert listener.take(1) == ["ask"]
            assert running.stop() == 0


def test_a_delivery_to_durable_and_other_functions_is_acknowledged_when_all_have_it(
    tmp_path: Path, broker: Mosquitto
) -> None:
    manifest = BROKER.format(url=broker.url, more="")
    manifest += function("one").replace("one/#", "in/#")
    manifest += function("two", more="durable = false").replace("two/#", "in/#")
    write(tmp_path, manifest, one=HANGS, two=WAITS)
    with Running(tmp_path) as running:
        running.ready()
        publish(broker, "in/a", ["1", "2"])
        wait_until(lambda: list((tmp_path / "state" / "spool").glob("*.seg")), lambda: running.log)
        publish(broker, "$SYS/none", ["x"])  # a round trip through the broker
        assert "Received PUBACK from gw" not in broker.log
        (tmp_path / "go").touch()
        broker.wait_for_log("Received PUBACK from gw", 2)
        running.send(signal.SIGKILL)
        running.wait()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def post(port: int, body: bytes) -> int:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/in", body, {"Content-Type": "text/plain"})
    status = connection.getresponse().status
    connection.close()
    return status
