"""Stops and reloads in the middle of a stream of QoS 1 messages: none is lost."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli import Running, write
from tests.stock_paho import leave
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.mosquitto import Mosquitto

COUNT = """
def handler(context, event):
    with open("seen", "ab") as file:
        file.write(event.raw_body + b"\\n")
"""
VERSIONED = COUNT + "    context.logger.info_with('VERSION')\n"


def manifest(url: str, more: str = "") -> str:
    return f"""
[source.broker]
kind = "mqtt"
url = "{url}"
[function.count]
handler = "count.py"
[[function.count.trigger]]
topic = "load/#"
{more}
"""


class Stream:
    """Publishes numbers with QoS 1 from a thread until it is ended."""

    def __init__(self, mosquitto: Mosquitto) -> None:
        from paho.mqtt import client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        self.published = 0
        self._over = threading.Event()
        self._client: Any = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="stream")
        self._client.connect("127.0.0.1", mosquitto.port)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._publish, daemon=True)
        self._thread.start()

    def _publish(self) -> None:
        while not self._over.wait(0.002):
            info = self._client.publish("load/x", str(self.published), qos=1)
            info.wait_for_publish(30)
            self.published += 1

    def end(self) -> int:
        """Publish no more; returns how many the broker has."""
        self._over.set()
        self._thread.join(30)
        client, self._client = self._client, None
        if client is not None:
            leave(client)
        return self.published


@pytest.fixture
def stream(mosquitto: Mosquitto) -> Iterator[Any]:
    made: list[Stream] = []

    def start() -> Stream:
        made.append(Stream(mosquitto))
        return made[-1]

    yield start
    for one in made:
        one.end()


def seen(folder: Path) -> list[int]:
    path = folder / "seen"
    return [int(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_drains_and_the_next_run_gets_the_rest(
    tmp_path: Path, mosquitto: Mosquitto, stream: Any, number: signal.Signals
) -> None:
    write(tmp_path, manifest(mosquitto.url), count=COUNT)
    with Running(tmp_path) as first:
        first.ready()
        first.wait_for(message="connected")
        load = stream()
        wait_until(lambda: len(seen(tmp_path)) > 50, first.log)
        first.send(number)
        assert first.wait() == 0
        counted = first.records[-1]["with"]
        # What no worker had claimed when the signal came is on disk, and pending there.
        ended = counted["handled"] + sum(counted["rejected"].values())
        assert counted["received"] == ended + counted["pending"]
        assert counted["handled"] == len(seen(tmp_path))
    with Running(tmp_path) as second:
        second.ready()
        wait_until(lambda: len(seen(tmp_path)) > 100, second.log)
        total = load.end()
        wait_until(lambda: set(seen(tmp_path)) == set(range(total)), lambda: f"{total}: {len(set(seen(tmp_path)))}")
        assert second.stop() == 0


def test_a_new_version_of_a_function_takes_over_without_a_gap_or_a_second_run(
    tmp_path: Path, mosquitto: Mosquitto, stream: Any
) -> None:
    write(tmp_path, manifest(mosquitto.url), count=VERSIONED.replace("VERSION", "v0"))
    with Running(tmp_path, "--watch") as run:
        run.ready()
        run.wait_for(message="connected")
        load = stream()
        run.wait_for(message="v0")
        for number in (1, 2):
            write(tmp_path, manifest(mosquitto.url), count=VERSIONED.replace("VERSION", f"v{number}"))
            run.wait_for(message=f"v{number}")
        total = load.end()
        wait_until(lambda: len(seen(tmp_path)) >= total, run.log)
        assert run.stop() == 0
        assert sorted(seen(tmp_path)) == list(range(total))  # each once
        counted = run.records[-1]["with"]
        assert counted["received"] == counted["handled"] == total


def test_a_trigger_that_is_added_and_removed_disturbs_no_other(
    tmp_path: Path, mosquitto: Mosquitto, stream: Any
) -> None:
    more = '[[function.count.trigger]]\ntopic = "other"\n'
    path = write(tmp_path, manifest(mosquitto.url), count=COUNT)
    with Running(tmp_path) as run:
        run.ready()
        run.wait_for(message="connected")
        load = stream()
        for at in range(1, 4):
            path.write_text(manifest(mosquitto.url, more if at % 2 else ""))
            run.send(signal.SIGHUP)
            run.wait_for(at, event="reloaded")
        total = load.end()
        wait_until(lambda: len(seen(tmp_path)) >= total, run.log)
        assert run.stop() == 0
        assert sorted(seen(tmp_path)) == list(range(total))
