"""Who a device is: from its board, not from its card; and where it keeps its state."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from nuclio_edge.device import device_id, state_dir

if TYPE_CHECKING:
    from pathlib import Path


def board(
    root: Path, serial: bytes | None = None, cards: dict[str, dict[str, str]] | None = None, machine: str = ""
) -> str:
    """Lay out the files of a device below `root` and return its id."""
    if serial is not None:
        path = root / "proc" / "device-tree" / "serial-number"
        path.parent.mkdir(parents=True)
        path.write_bytes(serial)
    for name, files in (cards or {}).items():
        folder = root / "sys" / "class" / "net" / name
        folder.mkdir(parents=True)
        for file, content in files.items():
            (folder / file).write_text(content)
    if machine:
        (root / "etc").mkdir(parents=True)
        (root / "etc" / "machine-id").write_text(machine)
    return device_id(str(root))


CARD = {"address": "b8:27:eb:00:00:01\n", "addr_assign_type": "0\n", "device": ""}
OTHER = {"address": "b8:27:eb:00:00:02\n", "addr_assign_type": "0\n", "device": ""}


def test_the_id_is_six_hex_digits_and_stays(tmp_path: Path) -> None:
    first = board(tmp_path, b"10000000abcdef01\0")
    assert re.fullmatch("[0-9a-f]{6}", first)
    assert device_id(str(tmp_path)) == first


def test_two_cloned_cards_in_two_boards_differ(tmp_path: Path) -> None:
    ids = {board(tmp_path / str(i), f"10000000abcdef0{i}\0".encode(), machine="cafe\n") for i in range(2)}
    ids |= {
        board(tmp_path / f"x86-{i}", cards={"eth0": card}, machine="cafe\n") for i, card in enumerate((CARD, OTHER))
    }
    assert len(ids) == 4


def test_without_a_serial_number_the_first_physical_card_says_it(tmp_path: Path) -> None:
    cards = {
        "eth0": CARD,
        "wlan0": OTHER,
        "docker0": {"address": "02:42:00:00:00:01\n", "addr_assign_type": "0\n"},
        "lo": {"address": "00:00:00:00:00:00\n"},
    }
    expected = board(tmp_path / "one", cards={"eth0": CARD})
    assert board(tmp_path / "many", serial=b"0000000000000000\0", cards=cards, machine="cafe") == expected
    random = {"address": "36:00:00:00:00:01\n", "addr_assign_type": "1\n", "device": ""}
    assert board(tmp_path / "random", cards={"bat0": random, "eth0": CARD}) == expected


def test_without_a_card_the_machine_id_says_it_and_at_last_the_host_name(tmp_path: Path) -> None:
    with_machine = board(tmp_path / "machine", machine="cafe\n")
    without = board(tmp_path / "nothing")
    assert with_machine != without
    assert re.fullmatch("[0-9a-f]{6}", without)


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({"STATE_DIRECTORY": "/var/lib/edge:/var/lib/other", "HOME": "/root"}, 0, "/var/lib/edge"),
        ({"HOME": "/root"}, 0, "/var/lib/nuclio-edge"),
        ({"HOME": "/home/pi", "XDG_STATE_HOME": "/data"}, 1000, "/data/nuclio-edge"),
        ({"HOME": "/home/pi", "XDG_STATE_HOME": "relative"}, 1000, "/home/pi/.local/state/nuclio-edge"),
        ({"HOME": "/home/pi"}, 1000, "/home/pi/.local/state/nuclio-edge"),
    ],
)
def test_state_is_kept_where_the_system_keeps_it(environ: dict[str, str], uid: int, expected: str) -> None:
    assert state_dir(environ, uid) == expected


def test_state_has_a_place_also_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    assert os.path.isabs(state_dir({}, 1000))
