"""The demonstration of `make run`: events become commands, commands reach devices, and everything ends with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cli import environment
from tests.mosquitto import SEARCHED
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.mosquitto import Mosquitto

DEMO = Path(__file__).parents[2] / "examples" / "demo"


def start(tmp_path: Path, *arguments: str, **extra: str) -> tuple[subprocess.Popen[bytes], Path]:
    shown = tmp_path / "shown"
    with shown.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, str(DEMO / "run.py"), *arguments],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment(tmp_path, {"PATH": SEARCHED, **extra}),
        )
    return process, shown


def test_commands_reach_devices_over_a_broker_of_its_own_and_nothing_stays_behind(tmp_path: Path) -> None:
    process, shown = start(tmp_path, "--seconds", "8")
    try:
        assert process.wait(50) == 0, shown.read_text()
    finally:
        process.kill()
        process.wait()
    text = shown.read_text()
    assert "ready: 3 functions, 1 source" in text
    assert re.search(r"Tasmota +livingroom \d+\.\d °C +→ thermostat +→ cmnd/livingroom-heater/POWER (ON|OFF)\n", text)
    assert re.search(r"Tasmota +livingroom-heater (ON|OFF): \w+ now +← cmnd/livingroom-heater/POWER\n", text)
    assert re.search(r'→ motion_light → zigbee2mqtt/hall_lamp/set {"state":"ON","brightness":180}\n', text)
    assert "hall_lamp ON" in text
    assert re.search(r"\nreceived \d+, handled \d+, failed 0, shed 0\n", text)
    assert int(text.rpartition("reached the devices: ")[2]) >= 3
    assert "\x1b" not in text
    pid = int(re.findall(r"\(pid (\d+)\)", text)[0])
    assert not os.path.exists(f"/proc/{pid}")


def test_ctrl_c_ends_it_in_good_order_on_a_broker_of_ones_own(tmp_path: Path, mosquitto: Mosquitto) -> None:
    process, shown = start(tmp_path, BROKER=mosquitto.url)
    try:
        wait_until(lambda: "hall_lamp ON" in shown.read_text() or process.poll() is not None, shown.read_text)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, shown.read_text()
    finally:
        process.kill()
        process.wait()
    assert f"broker     {mosquitto.url}\n" in shown.read_text()
    assert "commands that reached the devices: " in shown.read_text()
    assert mosquitto.running
