"""`boards`: which boards are known, what is on their headers, and which one this is."""

from __future__ import annotations

import sys
from textwrap import wrap

from nuclio_edge import board as boards
from nuclio_edge.board_detect import GENERIC, detect, device_tree
from nuclio_edge.cli import ABSENT, OK, PROGRAM, USAGE
from nuclio_edge.cli.parser import Parser
from nuclio_edge.cli.terminal import Painter
from nuclio_edge.core.port import json_dumps
from nuclio_edge.errors import UnknownBoardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.board import Board, Header, Pin

ACTIONS = ("list", "show", "detect")
_WIDTH = 80


def parser() -> Parser:
    """The command's options."""
    made = Parser(
        "boards",
        "list: the boards that are known by name. show: a board's header and ports, of this device unless named.\n"
        "detect: which board this device is.",
        "list",
        "show raspberrypi/4b",
        "show sim --json | jq '.pins.GPIO17'",
        "detect",
    )
    made.add_argument("action", nargs="?", default="list", choices=ACTIONS, metavar="list|show|detect")
    made.add_argument("board", nargs="?", metavar="BOARD", help="with show: vendor/model, e.g. raspberrypi/4b")
    made.json("JSON instead of text")
    made.add_argument("--root", default="/", help="where the device's / is mounted; default: /")
    return made


def main(arguments: list[str]) -> int:
    """Print what was asked for; 2 for a board that nobody knows, 4 when detect knows none."""
    options = parser().parse_args(arguments)
    if options.board is not None and options.action != "show":
        print(f"{PROGRAM} boards {options.action}: no board is expected here, only after show", file=sys.stderr)
        return USAGE
    if options.action == "list":
        return _list(options.json)
    if options.action == "detect":
        return _detect(options.root, options.json)
    name = options.board or detect(options.root) or GENERIC
    try:
        board = boards.load(name)
    except UnknownBoardError as error:
        print(f"{PROGRAM} boards: {error}; {error.hint}", file=sys.stderr)
        return USAGE
    if options.json:
        print(json_dumps(as_dict(board)))
    else:
        print("\n".join(drawn(board, Painter(sys.stdout))))
    return OK


def _list(as_json: bool) -> int:
    known = [boards.load(board_id) for board_id in boards.ids()]
    if as_json:
        print(json_dumps([{"id": board.id, "name": board.name, "pins": len(board.pins)} for board in known]))
        return OK
    width = max(len(board.id) for board in known) + 2
    for board in known:
        print(f"{board.id:<{width}}{board.name}")
    return OK


def _detect(root: str, as_json: bool) -> int:
    found = detect(root)
    compatible, model = device_tree(root)
    if as_json:
        print(json_dumps({"board": found, "model": model or None, "compatible": compatible}))
    elif found:
        print(found)
    elif model or compatible:
        named = model or compatible[0]
        print(f'no file knows this board ("{named}"): it is taken for {GENERIC}', file=sys.stderr)
        print("boards/README.md tells how to add it; please send the file", file=sys.stderr)
    else:
        print(f"this device has no device tree: it is taken for {GENERIC}", file=sys.stderr)
    return OK if found else ABSENT


def as_dict(board: Board) -> dict[str, Any]:
    """Everything that the board's file says, for programs."""
    return {
        "id": board.id,
        "name": board.name,
        "arch": list(board.arch),
        "note": board.note or None,
        "chips": {name: _plain(chip) for name, chip in board.chips.items()},
        "headers": {
            name: {"pins": header.pins, "aliases": list(header.aliases), "fixed": header.fixed}
            for name, header in board.headers.items()
        },
        "pins": {name: _plain(pin) for name, pin in board.pins.items()},
        "serial": {name: _plain(port) for name, port in board.serial.items()},
        "i2c": {name: _plain(port) for name, port in board.i2c.items()},
        "spi": {name: _plain(port) for name, port in board.spi.items()},
        "pwm": {name: _plain(pwm) for name, pwm in board.pwm.items()},
        "leds": dict(board.leds),
        "limits": dict(board.limits),
        "verified": dict(board.verified),
        "sources": dict(board.sources),
    }


def _plain(spec: Any) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value := getattr(spec, key), tuple) else value
        for key in spec.__slots__
        if key != "name"
    }


def drawn(board: Board, paint: Painter) -> list[str]:
    """The board for a person: its headers as they lie before one, pin 1 at the top left, then its ports."""
    lines = [f"{paint('bold', board.name)}  {board.id}"]
    if board.note:
        lines += ["", board.note]
    places = {pin.header: pin for pin in board.pins.values() if pin.header}
    for header in board.headers.values():
        lines += ["", *_header(header, places, paint)]
    ports = [(kind, port) for kind in ("serial", "i2c", "spi") for port in getattr(board, kind).values()]
    rows = [(kind, port.name, " or ".join(port.paths), port.note) for kind, port in ports]
    rows += [("pwm", pwm.pin, f"channel {pwm.channel} of {pwm.devices[0]}", pwm.note) for pwm in board.pwm.values()]
    rows += [("led", name, path, "") for name, path in board.leds.items()]
    if rows:
        lines.append("")
    width = max((len(name) for _, name, _, _ in rows), default=0)
    for kind, name, what, note in rows:
        lines.append(f"{kind:<7} {name:<{width}}  {what}")
        indent = " " * (width + 10)
        lines += [paint("dim", line) for line in wrap(note, _WIDTH, initial_indent=indent, subsequent_indent=indent)]
    return lines


def _header(header: Header, places: dict[str, Pin], paint: Painter) -> list[str]:
    """Two columns by place: other uses, name, place, place, name, other uses."""
    at = [_at(header, place, places) for place in range(1, header.pins + 1)]
    names = max(len(name) for name, _ in at)
    room = (_WIDTH - 2 * names - len("  10 ● ● 10  ") - 4) // 2
    uses = min(room, max(len(use) for _, use in at))
    title = header.name + (f" (also {', '.join(header.aliases)})" if header.aliases else "")
    lines = [" " * max(0, uses + names + 7 - len(title) // 2) + paint("bold", title)]
    for place in range(1, header.pins + 1, 2):
        (left, left_use), (right, right_use) = at[place - 1], at[place]
        lines.append(
            f"{paint('dim', f'{_short(left_use, uses):>{uses}}')}  {_painted(paint, left, f'{left:>{names}}')}"
            f"  {place:>2} ● ● {place + 1:<2}  "
            f"{_painted(paint, right, f'{right:<{names}}')}  {paint('dim', _short(right_use, uses))}".rstrip()
        )
    return lines


def _at(header: Header, place: int, places: dict[str, Pin]) -> tuple[str, str]:
    """What is at a place: its name, and its other uses."""
    pin = places.get(f"{header.name}-{place}")
    if pin is None:
        return header.fixed.get(place, "-"), ""
    return pin.name, ", ".join(pin.functions)


def _painted(paint: Painter, name: str, text: str) -> str:
    """A supply in the colour that its wire has, ground in that of nothing."""
    styles = {"GND": "dim", "-": "dim", "3V3": "yellow", "5V": "red"}
    return paint(styles.get(name, "green"), text)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
