"""A reload that replaces an MQTT source: what was published into it, or is published by who still holds it, goes on."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.manifest import load
from nuclio_edge.sources import mqtt_outage
from tests.mosquitto import program
from tests.rig import MEMORY, Rig
from tests.waiting import LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.mosquitto import Mosquitto

BROKER = """
[source.broker]
kind = "mqtt"
url = "{url}"
client_id = "reloaded"
keepalive = "{keepalive}s"
"""
PUBLISHES = """
[function.f]
handler = "f.py"
{keys}
[[function.f.trigger]]
source = "mem"
path = "/f"
"""
HOLDS = """
[function.slow]
handler = "slow.py"
[[function.slow.trigger]]
topic = "slow"
qos = 1
"""
F = """
def handler(context, event):
    context.bindings["broker"].publish("out", event.body, qos=1)
"""
SLOW = """
import threading
go = threading.Event()
def handler(context, event):
    go.wait(20)
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_outage, "FIRST_PAUSE_MS", 20)


class Listener:
    """A mosquitto_sub that prints every message of a topic."""

    def __init__(self, broker: Mosquitto, topic: str) -> None:
        command = [program("mosquitto_sub"), "-p", str(broker.port), "-t", topic, "-q", "1", "-i", "listener"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        broker.wait_for_log("Sending SUBACK to listener")

    def next(self) -> str:
        """The next message."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=LIMIT)


@pytest.fixture
def listener(mosquitto: Mosquitto) -> Iterator[Listener]:
    """Hears what arrives on `out`."""
    with Listener(mosquitto, "out") as made:
        yield made


def become(rig: Rig, manifest: str) -> list[str]:
    """Reload; what was done."""
    rig.path.write_text(f'[device]\nname = "rig"\nstate_dir = "{rig.folder}/state"\n' + manifest)
    done: list[Any] = []
    rig.processor.reload(load(str(rig.path)), (), done.append)
    rig.until(lambda: done, "the reload")
    return list(done[0])


def opened(rig: Rig) -> bool:
    return bool(rig.processor.sources["broker"].state == "open")


def nowhere() -> str:
    """The URL of a broker that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"mqtt://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("keys", ["", 'isolation = "inline"', 'isolation = "process"'])
def test_a_function_that_stays_publishes_by_the_source_that_took_the_place(
    tmp_path: Path, mosquitto: Mosquitto, listener: Listener, keys: str
) -> None:
    text = MEMORY + BROKER + PUBLISHES.replace("{keys}", keys)
    with Rig(tmp_path, text.format(url=mosquitto.url, keepalive=60), f=F) as rig:
        rig.until(lambda: opened(rig))
        rig.ask("/f", b"before")
        assert listener.next() == "before"
        for keepalive in (50, 40):
            assert become(rig, text.format(url=mosquitto.url, keepalive=keepalive)) == ["source broker opened again"]
            rig.until(lambda: opened(rig) and not rig.processor.leaving)
            rig.ask("/f", b"after %d" % keepalive)
            rig.until(lambda: rig.processor.sources["broker"].publisher.sent == 1)
            assert listener.next() == f"after {keepalive}"


def test_what_waits_for_a_broker_that_is_away_goes_to_the_one_of_the_new_manifest(
    tmp_path: Path, mosquitto: Mosquitto, listener: Listener
) -> None:
    text = MEMORY + BROKER + PUBLISHES.replace("{keys}", "")
    with Rig(tmp_path, text.format(url=nowhere(), keepalive=60), f=F) as rig:
        for number in range(5):
            rig.ask("/f", b"%d" % number)
        become(rig, text.format(url=mosquitto.url, keepalive=60))
        rig.until(lambda: rig.processor.sources["broker"].publisher.sent == 5)
        assert [listener.next() for _ in range(5)] == list("01234")


def test_what_was_published_into_a_source_that_was_replaced_before_it_opened_arrives(
    tmp_path: Path, mosquitto: Mosquitto, listener: Listener
) -> None:
    text = MEMORY + BROKER + PUBLISHES.replace("{keys}", "[[function.f.output]]\ntopic = 'unused'\n") + HOLDS
    with Rig(tmp_path, text.format(url=mosquitto.url, keepalive=60), f=F, slow=SLOW) as rig:
        rig.until(lambda: opened(rig))
        go = rig.processor.functions["slow"].handler.__globals__["go"]
        subprocess.run(
            [program("mosquitto_pub"), "-p", str(mosquitto.port), "-t", "slow", "-m", "x", "-q", "1"], check=True
        )
        rig.until(lambda: rig.trigger("slow").pending)
        become(rig, text.format(url=mosquitto.url, keepalive=50))
        second = rig.processor.sources["broker"]
        assert second.state == "closed"  # the first one still settles
        rig.ask("/f", b"into the second")
        become(rig, text.format(url=mosquitto.url, keepalive=40))
        assert rig.processor.sources["broker"] is not second
        assert second.state == "closed"
        rig.ask("/f", b"into the third")
        go.set()
        rig.until(lambda: rig.processor.sources["broker"].publisher.sent == 2)
        assert [listener.next(), listener.next()] == ["into the second", "into the third"]
        assert "were not sent" not in rig.records.text()


def test_what_is_published_into_a_source_that_is_gone_is_counted_and_told(tmp_path: Path, mosquitto: Mosquitto) -> None:
    text = MEMORY + BROKER + PUBLISHES.replace("{keys}", "")
    with Rig(tmp_path, text.format(url=mosquitto.url, keepalive=60), f=F) as rig:
        rig.until(lambda: opened(rig))
        rig.ask("/f", b"before")
        old = rig.processor.sources["broker"].publisher
        become(rig, MEMORY + PUBLISHES.replace("{keys}", ""))
        rig.until(lambda: not rig.processor.leaving)
        rig.ask("/f", b"after")
        rig.ask("/f", b"after")
        rig.until(lambda: old.shed == {"closed": 2})
        assert rig.records.text().count("published to a source that is closed") == 1


def test_a_source_that_goes_is_given_the_time_to_send_what_it_has(
    tmp_path: Path, mosquitto: Mosquitto, listener: Listener
) -> None:
    text = MEMORY + BROKER + PUBLISHES.replace("{keys}", "")
    with Rig(tmp_path, text.format(url=mosquitto.url, keepalive=60), f=F) as rig:
        rig.until(lambda: opened(rig))
        mosquitto.freeze()
        rig.ask("/f", b"late")
        become(rig, MEMORY + PUBLISHES.replace("{keys}", ""))
        rig.turn_for(100)
        assert rig.processor.leaving
        mosquitto.thaw()
        rig.until(lambda: not rig.processor.leaving)
        assert listener.next() == "late"
        assert "were not sent" not in rig.records.text()
