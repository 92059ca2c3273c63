"""Every board's file, against the schema and against what is known of its pins; names and detection."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tomli

from nuclio_edge import board as boards
from nuclio_edge.board_detect import detect
from nuclio_edge.errors import UnknownBoardError
from nuclio_edge.manifest import check

WHERE = boards.folder()
IDS = boards.ids()
ASKED_FOR = {
    *(f"raspberrypi/{model}" for model in "zero zero-w zero-2-w 1b-plus 2b 3b 3b-plus 4b 5 cm4".split()),
    *("beaglebone/black", "nvidia/jetson-nano", "nvidia/jetson-orin-nano", "radxa/rock-5b", "orangepi/zero-2"),
    *("kunbus/revpi", "generic/linux", "sim"),
}
VERIFIED = {"emulated", "schematic", "device"}

# The 40-pin header of the Raspberry Pi, place by place, written down a second time on purpose.
HEADER_40 = """
3V3 5V  2 5V  3 GND  4 14  GND 15  17 18  27 GND  22 23  3V3 24  10 GND  9 25  11 8  GND 7
0 1  5 GND  6 12  13 GND  19 16  26 20  GND 21
""".split()

TEXT, TEXTS, NUMBER = str, [str], int
SCHEMA: dict[str, Any] = {  # key -> type; a table with one key None holds any names
    "schema": NUMBER,
    "name": TEXT,
    "extends": TEXT,
    "note": TEXT,
    "arch": TEXTS,
    "also": TEXTS,
    "detect": {"compatible": TEXTS, "model_prefix": TEXTS},
    "gpio": {None: {"labels": TEXTS, "of_compatible": TEXTS, "lines": NUMBER, "reserved": [int]}},
    "headers": {None: {"pins": NUMBER, "aliases": TEXTS, "fixed": {None: [int]}}},
    "pins": {None: list},
    "aliases": {None: TEXT},
    "serial": {None: {"paths": TEXTS, "pins": TEXTS, "note": TEXT}},
    "i2c": {None: {"paths": TEXTS, "pins": TEXTS, "note": TEXT}},
    "spi": {None: {"paths": TEXTS, "pins": TEXTS, "note": TEXT}},
    "pwm": {None: {"channel": NUMBER, "devices": TEXTS, "of_compatible": TEXTS, "note": TEXT}},
    "leds": {None: TEXT},
    "limits": {"memory_mb": NUMBER},
    "sources": {None: TEXT},
    "verified": {None: TEXT},
}
BY_NAME = ("gpio",)  # parts that are described one by one: "gpio.header"


def wrong(found: Any, expected: Any, path: str = "") -> list[str]:
    """What in a file is not as the schema says."""
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            return [f"{path}: a table is expected"]
        faults = []
        for key, value in found.items():
            kind = expected.get(key, expected.get(None))
            faults += [f"{path}.{key}: unknown"] if kind is None else wrong(value, kind, f"{path}.{key}")
        return faults
    if isinstance(expected, list):
        fits = isinstance(found, list) and all(type(value) is expected[0] for value in found)
    else:
        fits = type(found) is expected
    return [] if fits else [f"{path}: {found!r}"]


def files() -> list[str]:
    """Every file, families too."""
    return sorted(str(path.relative_to(WHERE))[:-5] for path in Path(WHERE).rglob("*.toml"))


def raw(name: str) -> dict[str, Any]:
    """A file as it is, without what it extends."""
    return tomli.loads(Path(WHERE, f"{name}.toml").read_text())


def test_every_board_that_was_asked_for_is_there() -> None:
    assert set(IDS) >= ASKED_FOR


@pytest.mark.parametrize("name", files())
def test_a_file_keeps_to_the_schema(name: str) -> None:
    content = raw(name)
    assert content["schema"] == 1
    assert wrong(content, SCHEMA) == []
    assert re.fullmatch(r"[a-z0-9]+(/_?[a-z0-9][a-z0-9-]*)?", name)


@pytest.mark.parametrize("name", files())
def test_every_fact_has_its_source(name: str) -> None:
    content = raw(name)
    told = set(content.get("sources", ()))
    untold = {"schema", "name", "extends", "arch", "also", "aliases", "sources", "verified", *BY_NAME}
    parts = {key for key in content if key not in untold}
    parts |= {f"{table}.{key}" for table in BY_NAME for key in content.get(table, ())}
    assert told == parts
    assert set(content.get("verified", ())) <= parts
    assert set(content.get("verified", {}).values()) <= VERIFIED


@pytest.mark.parametrize("board_id", IDS)
def test_the_facts_of_a_board_agree_with_each_other(board_id: str) -> None:
    board = boards.load(board_id)
    assert board.name
    assert len({(pin.chip, pin.offset) for pin in board.pins.values()}) == len(board.pins)
    places = [pin.header for pin in board.pins.values() if pin.header]
    assert len(set(places)) == len(places)
    for pin in board.pins.values():
        assert 0 <= pin.offset < board.chips[pin.chip].lines
        on, _, place = pin.header.rpartition("-")
        assert 1 <= int(place) <= board.headers[on].pins
        assert int(place) not in board.headers[on].fixed
    for header in board.headers.values():
        taken = {int(place.rpartition("-")[2]) for place in places if place.startswith(header.name + "-")}
        assert taken | set(header.fixed) == set(range(1, header.pins + 1)), "a place of which nothing is said"
    for chip in board.chips.values():
        assert chip.labels
        assert all(0 <= offset < chip.lines for offset in chip.reserved)
        assert not any(re.search(r"gpiochip\d", label) for label in chip.labels), "a chip's number changes"
    assert set(board.aliases.values()) <= set(board.pins)
    assert set(board.pwm) <= set(board.pins)
    for ports in (board.serial, board.i2c, board.spi):
        for port in ports.values():
            assert all(path.startswith(("/dev/", "sim:")) for path in port.paths)
            for where in port.pins:
                on, _, place = where.rpartition("-")
                assert where in board.pins or int(place) in board.headers[on].fixed


@pytest.mark.parametrize("board_id", [name for name in IDS if name.startswith("raspberrypi/") or name == "sim"])
def test_the_header_of_a_raspberry_pi_is_that_of_every_other(board_id: str) -> None:
    board = boards.load(board_id)
    at = {int(pin.header[3:]): pin for pin in board.pins.values()}
    for place, what in enumerate(HEADER_40, 1):
        if what.isdigit():
            assert (at[place].name, at[place].offset) == (f"GPIO{what}", int(what))
        else:
            assert board.headers["J8"].fixed[place] == what


def test_no_two_boards_are_detected_by_the_same_string() -> None:
    for key in ("compatible", "model_prefix"):
        found = [word for board_id in IDS for word in boards.load(board_id).detect.get(key, ())]
        assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("board_id", "spelling", "name"),
    [
        *(
            ("raspberrypi/4b", text, "GPIO17")
            for text in "GPIO17 gpio17 BCM17 17 P1-11 J8:11 pin11 PIN-11 j8_11".split()
        ),
        ("raspberrypi/4b", "pin 11", "GPIO17"),
        ("raspberrypi/4b", "SDA", "GPIO2"),
        ("beaglebone/black", "P9_12", "P9_12"),
        ("beaglebone/black", "P9.12", "P9_12"),
        ("beaglebone/black", "gpio1_28", "P9_12"),
        ("beaglebone/black", "P9_1", None),
        ("radxa/rock-5b", "gpio4b2", "GPIO4_B2"),
        ("radxa/rock-5b", "pin 5", "GPIO4_B2"),
        ("orangepi/zero-2", "pc9", "PC9"),
        ("orangepi/zero-2", "73", "PC9"),
        ("raspberrypi/4b", "P1-1", None),  # 3.3 V is no pin to program
        ("raspberrypi/4b", "GPIO28", None),
        ("raspberrypi/4b", "", None),
        ("generic/linux", "GPIO17", None),
    ],
)
def test_a_pin_is_found_as_people_spell_it(board_id: str, spelling: str, name: str | None) -> None:
    pin = boards.load(board_id).find_pin(spelling)
    assert (pin and pin.name) == name


def test_a_spelling_never_means_two_pins() -> None:
    for board_id in IDS:
        board = boards.load(board_id)
        for pin in board.pins.values():
            assert board.find_pin(pin.name) is pin
            if pin.header:
                assert board.find_pin(pin.header) is pin


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("raspberypi/4b", "raspberrypi/4b"), ("4b", "raspberrypi/4b"), ("raspberrypi/zero2w", "raspberrypi/zero-2-w")],
)
def test_an_unknown_board_is_told_with_the_one_that_was_meant(typed: str, meant: str) -> None:
    with pytest.raises(UnknownBoardError) as caught:
        boards.load(typed)
    assert caught.value.hint == f'did you mean "{meant}"?'


@pytest.mark.parametrize(
    "typed", ["../boards/sim", "/etc/passwd", "", "raspberrypi/", ".", "sim\0", "raspberrypi/_40pin/x"]
)
def test_an_id_is_no_way_out_of_the_folder(typed: str) -> None:
    with pytest.raises(UnknownBoardError):
        boards.load(typed)


def tree(root: Path, model: str, *compatible: str) -> Path:
    """A device tree below `root`, as the kernel shows it."""
    folder = root / "proc" / "device-tree"
    folder.mkdir(parents=True)
    (folder / "model").write_bytes(model.encode() + b"\0")
    (folder / "compatible").write_bytes(b"".join(name.encode() + b"\0" for name in compatible))
    return root


@pytest.mark.parametrize("board_id", [name for name in IDS if boards.load(name).detect])
def test_every_board_is_detected_by_what_its_file_says(board_id: str, tmp_path: Path) -> None:
    told = boards.load(board_id).detect
    for i, name in enumerate(told.get("compatible", ())):
        assert detect(str(tree(tmp_path / f"c{i}", "some model", name, "brcm,bcm2711"))) == board_id
    for i, prefix in enumerate(told.get("model_prefix", ())):
        assert detect(str(tree(tmp_path / f"m{i}", f"{prefix} Rev 1.4", "vendor,unheard-of"))) == board_id


def test_the_most_specific_string_decides(tmp_path: Path) -> None:
    wireless = tree(tmp_path, "any", "ti,am335x-bone-black-wireless", "ti,am335x-bone-black", "ti,am335x-bone")
    assert detect(str(wireless)) == "beaglebone/black"
    on_a_carrier = tree(tmp_path / "b", "any", "kunbus,revpi-connect4", "raspberrypi,4-compute-module", "brcm,bcm2711")
    assert detect(str(on_a_carrier)) == "kunbus/revpi"


def test_a_part_of_a_string_is_not_that_string(tmp_path: Path) -> None:
    assert detect(str(tree(tmp_path, "Rasp", "raspberrypi,4-model", "ti,am335x"))) is None


def test_the_longest_beginning_of_the_model_decides(tmp_path: Path) -> None:
    assert detect(str(tree(tmp_path, "Raspberry Pi 3 Model B Plus Rev 1.3", "new,name"))) == "raspberrypi/3b-plus"
    assert detect(str(tree(tmp_path / "b", "Raspberry Pi Zero 2 W Rev 1.0", "new,name"))) == "raspberrypi/zero-2-w"


def test_the_longest_beginning_decides_in_whatever_order_the_files_stand(tmp_path: Path) -> None:
    for name, prefix in (("a", "Acme One Plus"), ("b", "Acme One"), ("c", "Acme")):
        (tmp_path / f"{name}.toml").write_text(f'schema = 1\nname = "x"\n[detect]\nmodel_prefix = ["{prefix}"]\n')
    root = str(tree(tmp_path / "root", "Acme One Plus Rev 2", "acme,unknown"))
    assert detect(root, str(tmp_path)) == "a"


def test_a_device_without_a_device_tree_is_generic(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text("schema = 1\n")
    manifest, _ = check(str(tmp_path / "edge.toml"), root=str(tmp_path / "nothing"))
    assert manifest is not None and manifest.device.board == "generic/linux"


def test_the_board_of_a_manifest_is_the_detected_one_unless_it_says_one(tmp_path: Path) -> None:
    root = str(tree(tmp_path, "Raspberry Pi 5 Model B Rev 1.0", "raspberrypi,5-model-b", "brcm,bcm2712"))
    (tmp_path / "edge.toml").write_text("schema = 1\n")
    manifest, _ = check(str(tmp_path / "edge.toml"), root=root)
    assert manifest is not None and manifest.device.board == "raspberrypi/5"
    (tmp_path / "edge.toml").write_text('[device]\nboard = "sim"\n')
    manifest, _ = check(str(tmp_path / "edge.toml"), root=root)
    assert manifest is not None and manifest.device.board == "sim"


def test_a_board_can_be_added_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "one.toml").write_text(
        'schema = 1\nname = "Acme One"\n[detect]\ncompatible = ["acme,one"]\n'
        '[gpio.soc]\nlabels = ["acme-gpio"]\nlines = 4\n[headers.X1]\npins = 2\nfixed = { GND = [1] }\n'
        '[pins]\nIO3 = ["soc", 3, "X1-2"]\n'
    )
    assert boards.ids(str(tmp_path)) == ["acme/one"]
    board = boards.load("acme/one", str(tmp_path))
    pin = board.find_pin("pin 2")
    assert pin is not None and (pin.name, pin.offset, pin.chip) == ("IO3", 3, "soc")
    root = tree(tmp_path / "root", "Acme", "acme,one")
    assert detect(str(root), str(tmp_path)) == "acme/one"


def test_the_file_that_the_readme_shows_is_one(tmp_path: Path) -> None:
    page = Path(WHERE, "README.md").read_text()
    shown = page.partition("```toml\n")[2].partition("```")[0]
    content = tomli.loads(shown)
    assert wrong(content, SCHEMA) == []
    (tmp_path / "one.toml").write_text(shown)
    assert boards.load("one", str(tmp_path)).aliases == {"SDA": "IO3"}
    assert set(content) | {"extends", "note", "spi"} == set(SCHEMA), "a part that the page does not show"
