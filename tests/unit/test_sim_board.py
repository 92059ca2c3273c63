"""The ports and sensors of a simulated board, as a test in the processor's own process has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.sim import ports
from nuclio_edge.testing import sim_board
from tests.rig import Rig

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = """
board = "sim"
[source.gps]
kind = "serial"
device = "sim:gps"
[source.probes]
kind = "sensor"
path = "sim:28-*"
every = "10ms"
scale = 0.001
[function.echo]
handler = "echo.py"
isolation = "inline"
[[function.echo.trigger]]
source = "gps"
[[function.echo.trigger]]
source = "probes"
"""
ECHO = """
def handler(context, event):
    context.logger.info(f"seen {event.topic} {event.raw_body}")
    if event.trigger.name == "gps":
        context.bindings["gps"].write(b"heard " + event.raw_body)
"""


def test_a_port_is_driven_unplugged_and_plugged_in_again(tmp_path: Path) -> None:
    port = sim_board(f"{tmp_path}/state").port("gps")
    with pytest.raises(ValueError, match="no source has the port gps open"):
        port.send(b"too soon\n")
    with Rig(tmp_path, MANIFEST, echo=ECHO) as rig:
        source: Any = rig.processor.sources["gps"]
        assert source.state == "open"
        port.send(b"one\n")
        rig.until(lambda: port.tail == b"heard one", "the echo")
        port.unplug()
        rig.until(lambda: source.state == "connecting", "the source to notice")
        assert port.path == ""
        port.plug()
        rig.until(lambda: source.state == "open", "the source to find it again")
        port.send(b"two\n")
        rig.until(lambda: port.tail == b"heard oneheard two", "the second echo")
        assert port.written == 18


def test_what_a_handler_writes_at_last_is_still_heard(tmp_path: Path) -> None:
    port = sim_board(f"{tmp_path}/state").port("gps")
    with Rig(tmp_path, MANIFEST, echo=ECHO) as rig:
        source: Any = rig.processor.sources["gps"]
        source._writer.put(b"goodbye")
        source._writer.flush()
    assert port.tail == b"goodbye"


def test_bytes_that_nobody_reads_are_bounded(tmp_path: Path) -> None:
    port = sim_board(f"{tmp_path}/state").port("gps")
    with Rig(tmp_path, MANIFEST, echo=ECHO) as rig:
        port.send(b"x" * (ports.UNSENT - 1))
        with pytest.raises(ValueError, match="still wait to be read from the port gps"):
            port.send(b"yy")
        source: Any = rig.processor.sources["gps"]
        rig.until(lambda: source.rejected.get("oversized") == 1, "the frame without an end to be dropped")


def test_sensors_come_go_and_break(tmp_path: Path) -> None:
    board = sim_board(f"{tmp_path}/state")
    probe, other = board.sensor("28-01"), board.sensor("28-02")
    with Rig(tmp_path, MANIFEST, echo=ECHO) as rig:
        source: Any = rig.processor.sources["probes"]
        assert source.state == "connecting"
        probe.set(21562)
        other.set(19000)
        rig.until(lambda: "seen 28-02" in rig.records.text(), "both")
        assert """seen 28-01 b'{"value":21.562,"sensor":"28-01"}'""" in rig.records.text()
        assert board.set_sensors() == ["28-01", "28-02"]
        other.set(None)
        other.set(None)
        rig.until(lambda: "it is gone" in rig.records.text(), "its end to be said")
        probe.set("NO")
        rig.until(lambda: source.rejected.get("unparsable"), "what is no number")
    assert board.sensors == []


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "28-*", "a\0b"])
def test_a_sensor_cannot_be_called_what_is_no_file_of_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        sim_board(str(tmp_path)).sensor(name)
