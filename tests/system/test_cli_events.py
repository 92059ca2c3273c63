"""`nuclio-edge events`: what sources bring, without taking anything from a processor that runs."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli import PROGRAM, Running, call, environment, write
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.mosquitto import Mosquitto

BROKER = """
[source.broker]
kind = "mqtt"
url = "{url}"
will = {{ topic = "w", payload = "gone" }}
birth = {{ topic = "w", payload = "here" }}
"""
FUNCTION = """
[function.f]
handler = "f.py"
[[function.f.trigger]]
topic = "$share/g/a/+"
"""
SAYS = "def handler(context, event):\n    context.logger.info_with('got', 'body', event.body.decode())\n"


class Events:
    """A `nuclio-edge events` in the background."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.out = folder / "events.out"
        self.err = folder / "events.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*PROGRAM, "events", *arguments], cwd=folder, stdout=out, stderr=err, env=environment(folder)
            )

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def end(self) -> int:
        """Ctrl-C."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@pytest.fixture
def events(tmp_path: Path) -> Iterator[Any]:
    made: list[Events] = []

    def start(*arguments: str) -> Events:
        made.append(Events(tmp_path, *arguments))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()


def publish(mosquitto: Mosquitto, topic: str, payload: str, *, retain: bool = False) -> None:
    from paho.mqtt import publish as paho

    paho.single(topic, payload, qos=1, retain=retain, hostname="127.0.0.1", port=mosquitto.port)


def test_a_broker_without_triggers_is_asked_for_everything(tmp_path: Path, mosquitto: Mosquitto, events: Any) -> None:
    write(tmp_path, BROKER.format(url=mosquitto.url))
    publish(mosquitto, "kept/before", "21.5", retain=True)
    run = events("--save", "saved.jsonl")
    wait_until(lambda: run.lines, run.err.read_text)
    publish(mosquitto, "any/thing", '{"t": 1}')
    wait_until(lambda: len(run.lines) == 2, run.out.read_text)
    assert run.end() == 0
    first, second = run.lines
    assert (first["topic"], first["retain"], first["source"]) == ("kept/before", True, "broker")
    assert (second["topic"], second["fields"], second["qos"]) == ("any/thing", {"t": 1}, 1)
    assert (tmp_path / "saved.jsonl").read_text() == run.out.read_text()
    assert "events of broker (#); Ctrl-C ends" in run.err.read_text()
    assert "Traceback" not in run.err.read_text()


def test_a_running_processor_misses_nothing_of_a_shared_subscription(
    tmp_path: Path, mosquitto: Mosquitto, events: Any
) -> None:
    write(tmp_path, BROKER.format(url=mosquitto.url) + FUNCTION, f=SAYS)
    with Running(tmp_path) as processor:
        processor.ready()
        processor.wait_for(message="connected")
        run = events("--count", "6")
        wait_until(lambda: "Received SUBSCRIBE" in mosquitto.log.partition("-events-")[2], lambda: mosquitto.log)
        for number in range(6):
            publish(mosquitto, "a/b", str(number))
        assert run.process.wait(30) == 0  # --count was reached
        processor.wait_for(6, message="got")
        assert processor.stop() == 0
    assert len(run.lines) == 6
    assert [r["with"]["body"] for r in processor.records if r["message"] == "got"] == list("012345")


def test_it_leaves_no_session_no_birth_and_no_will_behind(tmp_path: Path, mosquitto: Mosquitto, events: Any) -> None:
    write(tmp_path, BROKER.format(url=mosquitto.url))
    publish(mosquitto, "kept", "1", retain=True)
    run = events()
    wait_until(lambda: run.lines, run.err.read_text)
    assert run.end() == 0
    assert [line["topic"] for line in run.lines] == ["kept"]
    assert "'w'" not in mosquitto.log


def test_topics_of_the_command_line_take_the_place_of_the_triggers(
    tmp_path: Path, mosquitto: Mosquitto, events: Any
) -> None:
    write(tmp_path, BROKER.format(url=mosquitto.url) + FUNCTION, f=SAYS)
    for topic in ("a/b", "x/y", "z"):
        publish(mosquitto, topic, topic, retain=True)
    run = events("--topic", "x/#", "--topic", "z", "--count", "2")
    assert run.process.wait(30) == 0
    assert sorted(line["topic"] for line in run.lines) == ["x/y", "z"]


def test_a_content_type_is_that_of_the_trigger_with_the_filter_that_brought_the_event(
    tmp_path: Path, mosquitto: Mosquitto, events: Any
) -> None:
    more = 'content_type = "application/json"\n[[function.f.trigger]]\ntopic = "b/+"\n'
    write(tmp_path, BROKER.format(url=mosquitto.url) + FUNCTION + more, f=SAYS)
    for topic in ("a/1", "b/1"):
        publish(mosquitto, topic, "[1]", retain=True)
    run = events("--count", "2")
    assert run.process.wait(30) == 0
    assert {line["topic"]: line["content_type"] for line in run.lines} == {"a/1": "application/json", "b/1": ""}
    run = events("--topic", "+/1", "--count", "2")
    assert run.process.wait(30) == 0
    assert [line["content_type"] for line in run.lines] == ["", ""]


def test_the_clock_ticks_too(tmp_path: Path) -> None:
    write(tmp_path, '[function.f]\nhandler = "f.py"\n[[function.f.trigger]]\nevery = "20ms"\n', f=SAYS)
    done = call("events", "--count", "2", cwd=tmp_path)
    assert done.returncode == 0
    assert [json.loads(line)["source"] for line in done.stdout.splitlines()] == ["clock", "clock"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--topic", "a/#/b"), "is not a topic filter"),
        (("--source", "brokr"), 'no source is named "brokr"; did you mean "broker"?'),
        (("--count", "0"), "--count is at least 1"),
        (("absent.toml",), "absent.toml"),
        (("--save", "no/such/file"), "nuclio-edge events: --save no/such/file: No such file or directory\n"),
        (("--save", "."), "nuclio-edge events: --save .: Is a directory\n"),
    ],
)
def test_a_mistake_is_told_without_a_stack_trace_and_ends_with_2(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    write(tmp_path, BROKER.format(url="mqtt://127.0.0.1:1"))
    done = call("events", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
