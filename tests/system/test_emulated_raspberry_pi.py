"""A Raspberry Pi 3 as QEMU emulates it, with Debian's kernel: what our files say is what is there."""

from __future__ import annotations

import json

import pytest

from nuclio_edge import board as boards
from tests import emulated_pi

# One virtual machine after the other, in one worker: each keeps both cores of a small computer busy.
pytestmark = [pytest.mark.xdist_group("virtual machines"), pytest.mark.timeout(240)]


def test_a_raspberry_pi_3_is_detected_and_its_chips_are_those_of_its_file() -> None:
    why = emulated_pi.missing()
    if why is not None:
        pytest.skip(why)
    output = emulated_pi.run()
    line = next((line for line in output.splitlines() if '"compatible"' in line), None)
    assert line is not None, output[-3000:]
    told = json.loads(line[line.index("{") :])
    assert (told["model"], told["board"], told["machine"]) == ("Raspberry Pi 3 Model B", "raspberrypi/3b", "aarch64")
    assert told["compatible"] == ["raspberrypi,3-model-b", "brcm,bcm2837"]
    board = boards.load("raspberrypi/3b")
    for chip in board.chips.values():
        [label] = chip.labels
        assert len(told["chips"][label]) == chip.lines, label
    header = told["chips"]["pinctrl-bcm2835"]
    for pin in board.pins.values():
        # The kernel calls some lines by their use; those that it calls by number have ours.
        if header[pin.offset].startswith("GPIO") and header[pin.offset] != "GPIO_GCLK":
            assert header[pin.offset] == pin.name
    assert [header[board.pins[name].offset] for name in ("GPIO2", "GPIO14", "GPIO11")] == ["SDA1", "TXD1", "SPI_SCLK"]
