"""A hung function of QoS 1 beside five others on one connection: the five go on, at mosquitto's window of 20."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.cli import Running, write
from tests.mosquitto import program
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mosquitto import Mosquitto

MANIFEST = """
[source.broker]
kind = "mqtt"
url = "{url}"
client_id = "gw"

[function.hung]
handler = "hung.py"
timeout = "500ms"
isolation = "{isolation}"
[[function.hung.trigger]]
topic = "hung/#"
qos = 1
durable = false
"""

FUNCTION = """
[function.f{number}]
handler = "f.py"
[[function.f{number}.trigger]]
topic = "f{number}/#"
qos = 1
durable = false
"""

HANGS = """
import time
def handler(context, event):
    time.sleep(3600)
"""

COUNTS = """
def handler(context, event):
    context.logger.info("got " + event.body.decode())
"""


@pytest.mark.parametrize("isolation", ["thread"])
def test_five_functions_go_on_beside_a_hung_one(tmp_path: Path, mosquitto: Mosquitto, isolation: str) -> None:
    text = MANIFEST.format(url=mosquitto.url, isolation=isolation)
    write(tmp_path, text + "".join(FUNCTION.format(number=n) for n in range(5)), hung=HANGS, f=COUNTS)
    with Running(tmp_path) as run:
        run.ready()
        for number in range(60):
            topics = ["hung/a", *(f"f{n}/a" for n in range(5))] if number % 2 else ["hung/a"]
            for topic in topics:
                command = [
                    program("mosquitto_pub"),
                    "-p",
                    str(mosquitto.port),
                    "-q",
                    "1",
                    "-t",
                    topic,
                    "-m",
                    str(number),
                ]
                subprocess.run(command, check=True, timeout=30)

        def got(n: int) -> list[str]:
            return [r["message"] for r in run.records if r.get("function") == f"f{n}" and r["message"][:4] == "got "]

        wanted = [f"got {number}" for number in range(1, 60, 2)]
        wait_until(lambda: all(got(n) == wanted for n in range(5)), lambda: run.log[-3000:])
