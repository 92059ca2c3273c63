"""`boards` draws a header as it lies before a person, and says which board this is."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from nuclio_edge import board as boards
from nuclio_edge import cli

if TYPE_CHECKING:
    from pathlib import Path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["boards", *arguments]) == 0
    return capsys.readouterr().out


def test_list_has_every_board_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys).splitlines()
    assert [line.split()[0] for line in lines] == boards.ids()
    assert re.search(r"^raspberrypi/4b +Raspberry Pi 4 Model B$", "\n".join(lines), re.MULTILINE)
    listed = json.loads(said(capsys, "list", "--json"))
    assert {"id": "sim", "name": "Simulated board", "pins": 28} in listed


@pytest.mark.parametrize("board_id", boards.ids())
def test_show_fits_80_columns_and_is_plain_in_a_pipe(board_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "show", board_id)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert not re.search(r" $", text, re.MULTILINE)


def test_show_draws_two_columns_by_place_with_supplies_and_other_uses(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "show", "raspberrypi/4b")
    assert re.search(r"^ +3V3   1 ● ● 2   5V$", text, re.MULTILINE)
    assert re.search(r"^ +I2C1 SDA   GPIO2   3 ● ● 4   5V$", text, re.MULTILINE)
    assert re.search(r"^ +SPI1 CE1  GPIO17  11 ● ● 12  GPIO18  PWM0, SPI1 CE0, PCM CLK$", text, re.MULTILINE)
    assert len(re.findall("● ●", text)) == 20
    columns = {line.index("● ●") for line in text.splitlines() if "● ●" in line}
    assert len(columns) == 1


def test_colours_are_for_terminals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = said(capsys, "show", "sim")
    assert "\x1b[31m5V" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert re.sub(r"\x1b\[\d+m", "", coloured).split() == said(capsys, "show", "sim").split()


def test_show_as_json_has_what_a_program_wants(capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(said(capsys, "show", "raspberrypi/5", "--json"))
    assert shown["pins"]["GPIO17"] == {"chip": "header", "functions": ["SPI1 CE1"], "header": "J8-11", "offset": 17}
    assert shown["chips"]["header"]["labels"] == ["pinctrl-rp1"]


def test_detect_and_show_look_at_the_device(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "proc" / "device-tree"
    folder.mkdir(parents=True)
    (folder / "model").write_bytes(b"Raspberry Pi 3 Model B Rev 1.2\0")
    (folder / "compatible").write_bytes(b"raspberrypi,3-model-b\0brcm,bcm2837\0")
    assert said(capsys, "detect", "--root", str(tmp_path)) == "raspberrypi/3b\n"
    assert said(capsys, "show", "--root", str(tmp_path)).startswith("Raspberry Pi 3 Model B  raspberrypi/3b\n")


def test_an_unknown_device_is_told_how_to_become_known(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "proc" / "device-tree"
    folder.mkdir(parents=True)
    (folder / "model").write_bytes(b"Acme One\0")
    assert cli.main(["boards", "detect", "--root", str(tmp_path)]) == cli.ABSENT
    shown = capsys.readouterr()
    assert shown.out == ""
    assert '"Acme One"' in shown.err and "boards/README.md" in shown.err
    assert cli.main(["boards", "detect", "--root", str(tmp_path), "--json"]) == cli.ABSENT
    assert json.loads(capsys.readouterr().out) == {"board": None, "model": "Acme One", "compatible": []}


def test_a_board_that_nobody_knows_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["boards", "show", "raspberrypi/4"]) == cli.USAGE
    assert capsys.readouterr().err.startswith('nuclio-edge boards: no board is called "raspberrypi/4"; did you mean "')
    assert cli.main(["boards", "list", "sim"]) == cli.USAGE
