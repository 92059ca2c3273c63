"""What Nuclio's MQTT trigger gets wrong by its issue tracker, each done right by a real processor at a real broker."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

from tests.cli import Running, write
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import StartBroker
    from tests.mosquitto import Mosquitto

MANIFEST = """
[device]
name = "gw"
stop_timeout = "20s"

[source.broker]
kind = "mqtt"
url = "{url}"
client_id = "gw"

[function.f]
handler = "f.py"
{function}

[[function.f.trigger]]
topic = "in/#"
qos = 1
durable = false
{trigger}
"""

SAYS = """
def handler(context, event):
    context.logger.info("got " + event.body.decode())
"""


def manifest(broker: Mosquitto, function: str = "", trigger: str = "") -> str:
    """One source, one function, one trigger of QoS 1."""
    return MANIFEST.format(url=broker.url, function=function, trigger=trigger)


def publish(broker: Mosquitto, *payloads: str, topic: str = "in/a") -> None:
    """Publish with QoS 1, a message each."""
    command = ["mosquitto_pub", "-p", str(broker.port), "-q", "1", "-t", topic, "-l"]
    subprocess.run(command, check=True, timeout=30, input="".join(f"{one}\n" for one in payloads).encode())


def got(run: Running) -> list[str]:
    """What the function said that it got, in order."""
    found = [record.get("message", "") for record in run.records if record.get("function") == "f"]
    return [text[4:] for text in found if text.startswith("got ")]


def summary(run: Running) -> str:
    """The line that sums the run up, or nothing yet."""
    return next((record["message"] for record in run.records if record.get("event") == "stopped"), "")


def test_subscriptions_are_there_again_after_a_reconnect(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """Nuclio #3334, #1413: silent for ever after the broker restarted."""
    write(tmp_path, manifest(mosquitto), f=SAYS)
    with Running(tmp_path) as run:
        run.ready()
        publish(mosquitto, "before")
        wait_until(lambda: got(run) == ["before"], lambda: run.log)
        mosquitto.restart()  # without persistence: the session is gone, too
        wait_until(lambda: "connected again" in run.log, lambda: run.log)
        publish(mosquitto, "after")
        wait_until(lambda: got(run) == ["before", "after"], lambda: run.log)
        assert run.stop() == 0


def test_the_session_outlives_a_restart_of_the_processor(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """Nuclio #3416: a new client id and a clean session at each start, so that QoS 1 means nothing."""
    write(tmp_path, manifest(mosquitto), f=SAYS)
    with Running(tmp_path) as run:
        run.ready()
        wait_until(lambda: "Sending SUBACK to gw" in mosquitto.log)
        assert run.stop() == 0
    publish(mosquitto, "while", "it", "was", "down")
    with Running(tmp_path) as run:
        wait_until(lambda: got(run) == ["while", "it", "was", "down"], lambda: run.log)
        run.send(signal.SIGKILL)
        run.wait()
    publish(mosquitto, "after", "a", "crash")
    with Running(tmp_path) as run:
        wait_until(lambda: got(run)[-3:] == ["after", "a", "crash"], lambda: run.log)
        assert run.stop() == 0


def test_several_workers_work_at_the_same_time_on_one_trigger(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """Nuclio: ordered callbacks hold the client, so that a second worker never has anything to do."""
    meets = """
import threading
barrier = threading.Barrier(3, timeout=20)
def handler(context, event):
    barrier.wait()  # passes only when three handlers are inside at once
    context.logger.info("got " + event.body.decode())
"""
    write(tmp_path, manifest(mosquitto, "workers = 3"), f=meets)
    with Running(tmp_path) as run:
        run.ready()
        publish(mosquitto, "1", "2", "3")
        wait_until(lambda: sorted(got(run)) == ["1", "2", "3"], lambda: run.log)
        assert run.stop() == 0
        assert "handled 3, failed 0" in summary(run)


def test_a_slow_handler_loses_no_message_of_qos_1(tmp_path: Path, start_mosquitto: StartBroker) -> None:
    """Nuclio: "Failed to allocate worker, message dropped" after ten seconds, and acknowledged all the same."""
    broker = start_mosquitto(max_queued=0)
    slow = """
import time
def handler(context, event):
    time.sleep(0.01)
    context.logger.info("got " + event.body.decode())
"""
    write(tmp_path, manifest(broker, trigger="inbox = { size = 4 }"), f=slow)
    with Running(tmp_path) as run:
        run.ready()
        wanted = [str(number) for number in range(200)]
        publish(broker, *wanted)
        wait_until(lambda: len(got(run)) == 200, lambda: run.log[-2000:])
        assert got(run) == wanted
        assert run.stop() == 0
        assert "received 200, handled 200, failed 0, shed 0" in summary(run)


def test_a_failing_handler_is_retried_and_only_then_acknowledged_and_counted(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    """Nuclio: the error of a handler is dropped, the message acknowledged."""
    fails = """
def handler(context, event):
    context.logger.info("got " + event.body.decode())
    if event.body == b"bad":
        raise ValueError("not today")
"""
    write(tmp_path, manifest(mosquitto, trigger='retry = { attempts = 3, backoff = "300ms" }'), f=fails)
    with Running(tmp_path) as run:
        run.ready()
        publish(mosquitto, "bad")
        wait_until(lambda: got(run) == ["bad", "bad"], lambda: run.log)
        assert "Received PUBACK from gw" not in mosquitto.log
        wait_until(lambda: got(run) == ["bad", "bad", "bad"], lambda: run.log)
        mosquitto.wait_for_log("Received PUBACK from gw")
        publish(mosquitto, "good")
        wait_until(lambda: got(run)[-1] == "good", lambda: run.log)
        assert run.stop() == 0
        assert "received 2, handled 1, failed 1, shed 0, retried 2" in summary(run)
        assert mosquitto.log.count("Received PUBACK from gw") == 2
