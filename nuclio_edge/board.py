"""A board: the names of its pins and ports, and how the kernel's own names for them are found. Data, no code per board.

Each board is one file, boards/<vendor>/<model>.toml (boards/README.md tells what is in it); its id is the path without
the ending. A file may extend another one: its tables are laid over that one's, key by key.
"""

from __future__ import annotations

import os
import os.path

from nuclio_edge.errors import UnknownBoardError
from nuclio_edge.manifest.model import Spec
from nuclio_edge.toml import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_DEPTH = 4  # files that extend each other at most
# A manifest's check and then its sources ask for one and the same; no file changes under a running processor.
_known: dict[str, Board] = {}


class Pin(Spec):
    """One pin that a program can use: line `offset` of the chip `chip` (a key of `Board.chips`).

    `header` says where it is, as in "J8-11", "" for a line that is on no header. `functions` are its other uses.
    """

    __slots__ = ("chip", "functions", "header", "name", "offset")
    chip: str
    functions: tuple[str, ...]
    header: str
    name: str
    offset: int


class ChipFacts(Spec):
    """How to find a GPIO chip: by its label, then by its device tree node; never by its number, which changes.

    `lines` is how many it must have, `reserved` the offsets that are better left alone.
    """

    __slots__ = ("labels", "lines", "of_compatible", "reserved")
    labels: tuple[str, ...]
    lines: int
    of_compatible: tuple[str, ...]
    reserved: tuple[int, ...]


class Header(Spec):
    """A connector: `pins` places in two columns, `fixed` what is on those that are no GPIO: place -> "5V".

    `aliases` are other names people call it by.
    """

    __slots__ = ("aliases", "fixed", "name", "pins")
    aliases: tuple[str, ...]
    name: str
    pins: int
    fixed: Mapping[int, str]


class Port(Spec):
    """A serial port or a bus: the first of `paths` that exists is it. `pins` are where it comes out, in words.

    `note` tells how it is switched on where it is off by default.
    """

    __slots__ = ("name", "note", "paths", "pins")
    name: str
    note: str
    paths: tuple[str, ...]
    pins: tuple[str, ...]


class Pwm(Spec):
    """A pin with hardware PWM: `channel` of the sysfs pwmchip whose device has one of these names or compatibles."""

    __slots__ = ("channel", "devices", "note", "of_compatible", "pin")
    channel: int
    devices: tuple[str, ...]
    note: str
    of_compatible: tuple[str, ...]
    pin: str


class Board(Spec):
    """All that a file says. Names are as they are printed; `find_pin` takes them as people type them.

    `also` are patterns of further names, as "BCM{offset}", `aliases` single ones. `detect` has "compatible" and
    "model_prefix", `limits` for example "memory_mb"; `sources` say of each part where it comes from, `verified` how it
    was checked against that.
    """

    __slots__ = (
        "_spellings",
        "aliases",
        "also",
        "arch",
        "chips",
        "detect",
        "headers",
        "i2c",
        "id",
        "leds",
        "limits",
        "name",
        "note",
        "pins",
        "pwm",
        "serial",
        "sources",
        "spi",
        "verified",
    )
    _spellings: dict[str, Pin]
    aliases: Mapping[str, str]
    also: tuple[str, ...]
    arch: tuple[str, ...]
    chips: Mapping[str, ChipFacts]
    detect: Mapping[str, tuple[str, ...]]
    headers: Mapping[str, Header]
    i2c: Mapping[str, Port]
    id: str
    leds: Mapping[str, str]
    limits: Mapping[str, int]
    name: str
    note: str
    pins: dict[str, Pin]
    pwm: Mapping[str, Pwm]
    serial: Mapping[str, Port]
    sources: Mapping[str, str]
    spi: Mapping[str, Port]
    verified: Mapping[str, str]

    def find_pin(self, text: str) -> Pin | None:
        """The pin that somebody means: by name, alias or place ("J8-11", "P1:11", "pin 11"), in any case; else None."""
        if not self._spellings:
            self._spell()
        return self._spellings.get(_plain(text))

    def _spell(self) -> None:
        known = self._spellings
        places = {pin.header: pin for pin in self.pins.values() if pin.header}
        for header in self.headers.values():
            names = [header.name, *header.aliases]
            if len(self.headers) == 1:
                names += ["pin", "header"]
            for place in range(1, header.pins + 1):
                at = places.get(f"{header.name}-{place}")
                if at is not None:
                    known.update({_plain(f"{name}-{place}"): at for name in names})
        for pin in self.pins.values():
            for pattern in self.also:
                known[_plain(pattern.format(chip=pin.chip, offset=pin.offset))] = pin
        for alias, meant in self.aliases.items():
            known[_plain(alias)] = self.pins[meant]
        for pin in self.pins.values():  # last: the names themselves win
            known[_plain(pin.name)] = pin


def _plain(text: str) -> str:
    """A spelling without case and separators; one between two digits stays: P9-12 is not P91-2."""
    kept = ""
    separated = False
    for char in text.strip().lower():
        if char in " -_.:":
            separated = True
            continue
        if separated and kept[-1:].isdigit() and char.isdigit():
            kept += "-"
        kept += char
        separated = False
    return kept


def folder() -> str:
    """Where the files are: in the installed package, or beside it in a checkout."""
    here = os.path.dirname(os.path.abspath(__file__))
    inside = os.path.join(here, "boards")
    return inside if os.path.isdir(inside) else os.path.join(os.path.dirname(here), "boards")


def ids(where: str | None = None) -> list[str]:
    """The ids of all boards, sorted; families, whose names begin with _, are none."""
    where = where or folder()
    found = []
    for top, folders, files in os.walk(where):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        prefix = os.path.relpath(top, where)
        found += [
            os.path.normpath(os.path.join(prefix, name[:-5]))
            for name in files
            if name.endswith(".toml") and not name.startswith(("_", "."))
        ]
    return sorted(found)


def load(board_id: str, where: str | None = None) -> Board:
    """The board of this id; UnknownBoardError says which one was probably meant. `where`: another folder of boards."""
    if where is not None:
        return made(board_id, tables(board_id, where))
    if board_id not in _known:
        _known[board_id] = made(board_id, tables(board_id, folder()))
    return _known[board_id]


def tables(board_id: str, where: str) -> dict[str, Any]:
    """What a board's file says, laid over what it extends."""
    merged: dict[str, Any] = {}
    following = board_id
    for _ in range(_DEPTH):
        raw = _read(following, where)
        if raw is None:
            raise _unknown(board_id, where)
        merged = _over(raw, merged)
        following = merged.pop("extends", "")
        if not following:
            return merged
    raise ValueError(f"boards/{board_id}.toml: too many files extend each other")


def made(board_id: str, raw: Mapping[str, Any]) -> Board:
    """The board from its tables."""
    headers = {
        name: Header(
            aliases=tuple(about.get("aliases", ())),
            name=name,
            pins=about["pins"],
            fixed={place: what for what, places in about.get("fixed", {}).items() for place in places},
        )
        for name, about in raw.get("headers", {}).items()
    }
    pins = {
        name: Pin(chip=chip, functions=tuple(functions), header=header, name=name, offset=offset)
        for name, (chip, offset, header, *functions) in raw.get("pins", {}).items()
    }
    chips = {
        name: ChipFacts(
            labels=tuple(about["labels"]),
            lines=about["lines"],
            of_compatible=tuple(about.get("of_compatible", ())),
            reserved=tuple(about.get("reserved", ())),
        )
        for name, about in raw.get("gpio", {}).items()
    }
    pwm = {
        name: Pwm(
            channel=about["channel"],
            devices=tuple(about.get("devices", ())),
            note=about.get("note", ""),
            of_compatible=tuple(about.get("of_compatible", ())),
            pin=name,
        )
        for name, about in raw.get("pwm", {}).items()
    }
    return Board(
        _spellings={},
        aliases=raw.get("aliases", {}),
        also=tuple(raw.get("also", ())),
        arch=tuple(raw.get("arch", ())),
        chips=chips,
        detect={key: tuple(words) for key, words in raw.get("detect", {}).items()},
        headers=headers,
        i2c=_ports(raw.get("i2c", {})),
        id=board_id,
        leds=raw.get("leds", {}),
        limits=raw.get("limits", {}),
        name=raw.get("name", board_id),
        note=raw.get("note", ""),
        pins=pins,
        pwm=pwm,
        serial=_ports(raw.get("serial", {})),
        sources=raw.get("sources", {}),
        spi=_ports(raw.get("spi", {})),
        verified=raw.get("verified", {}),
    )


def _ports(raw: Mapping[str, Any]) -> dict[str, Port]:
    return {
        name: Port(
            name=name, note=about.get("note", ""), paths=tuple(about["paths"]), pins=tuple(about.get("pins", ()))
        )
        for name, about in raw.items()
    }


def _read(board_id: str, where: str) -> dict[str, Any] | None:
    if not all(part and part.isprintable() and not part.startswith(".") for part in board_id.split("/")):
        return None  # an id is no way out of the folder
    path = os.path.join(where, *board_id.split("/")) + ".toml"
    try:
        with open(path, encoding="utf-8") as file:
            return parse(file.read())
    except FileNotFoundError:
        return None


def _over(above: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """`below` extends `above`: its keys win, tables are laid over each other."""
    merged = dict(above)
    for key, value in below.items():
        old = merged.get(key)
        merged[key] = _over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _unknown(board_id: str, where: str) -> UnknownBoardError:
    from nuclio_edge.manifest.problems import nearest, quote

    known = ids(where)
    near = nearest(board_id, known)
    if near is None:  # perhaps the vendor is missing
        models = {name.rpartition("/")[2]: name for name in known}
        near = models.get(nearest(board_id, models) or "")
    hint = "nuclio-edge boards list shows them" if near is None else f"did you mean {quote(near)}?"
    return UnknownBoardError(f"no board is called {quote(board_id)}", hint)
