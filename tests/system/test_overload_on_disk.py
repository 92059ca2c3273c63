"""Durable triggers that get too much, with a limited rate, in the order of a key, by a small inbox: nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from paho.mqtt.publish import multiple

from tests.cli import Running, write
from tests.system.test_overload import adds_up, ended, function, manifest
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mosquitto import Mosquitto

NOTES = """
import time
def handler(context, event):
    time.sleep(0.001)
    with open("{folder}/out", "a") as file:
        file.write(event.topic + " " + event.raw_body.decode() + "\\n")
"""
ASYNC = (
    NOTES.replace("def handler", "async def handler")
    .replace("import time", "import asyncio")
    .replace("time.sleep", "await asyncio.sleep")
)
COUNT, TOPICS = 400, 5


@pytest.mark.parametrize(
    ("keys", "trigger", "code"),
    [
        ("", 'rate_limit = "150/s"', NOTES),
        ("workers = 4", 'order_by = "topic"', NOTES),
        ("workers = 4", 'order_by = "topic"\nrate_limit = "150/s"', NOTES),
        ('workers = 3\nisolation = "process"', 'order_by = "topic"', NOTES),
        ("concurrency = 20", 'order_by = "topic"', ASYNC),
        ("workers = 4", 'order_by = "topic"\nbatch = { size = 4, timeout = "5ms" }', None),
    ],
    ids=["rate", "order", "both", "process", "async", "batch"],
)
@pytest.mark.parametrize("size", [3, 60])
def test_all_of_it_is_handled_each_topic_in_order(
    tmp_path: Path, mosquitto: Mosquitto, keys: str, trigger: str, code: str | None, size: int
) -> None:
    if code is None:
        code = NOTES.replace("    with open", "  for event in events:\n    with open").replace(
            "context, event", "context, events"
        )
        code = code.replace("    time.sleep", "  time.sleep")
    text = manifest(mosquitto, function("notes", "in/+", f"qos = 1\ninbox = {{ size = {size} }}\n{trigger}", keys))
    write(tmp_path, text, notes=code.replace("{folder}", str(tmp_path)))
    out = tmp_path / "out"
    out.touch()
    messages: Any = [(f"in/{number % TOPICS}", b"%d" % number, 1) for number in range(COUNT)]
    with Running(tmp_path) as running:
        running.ready()
        multiple(messages, hostname="127.0.0.1", port=mosquitto.port)
        wait_until(lambda: out.read_text().count("\n") >= COUNT, lambda: f"{out.read_text()[-200:]}\n{running.log}")
        count = ended(running)
    assert count["handled"] == COUNT and not count["shed"] and adds_up(count), count
    lines = [line.split() for line in out.read_text().splitlines()]
    for topic in range(TOPICS):
        assert [int(number) for name, number in lines if name == f"in/{topic}"] == list(range(topic, COUNT, TOPICS))
