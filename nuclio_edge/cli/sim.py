"""`sim`: be the world of a simulated board: set, get and watch its pins, or play a script of timed changes."""

from __future__ import annotations

import os
import socket
import sys
import time

from nuclio_edge.cli import ABSENT, FAULT, OK, PROGRAM, USAGE
from nuclio_edge.cli.parser import DEFAULT_MANIFEST, Parser
from nuclio_edge.core.port import json_dumps, json_loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_LEVELS = {"1": 1, "high": 1, "on": 1, "0": 0, "low": 0, "off": 0, "-": None}
_ANSWER_S = 10.0
_EXPECT_MS = 2_000


class ScriptError(ValueError):
    """A script or a call that makes no sense; the text is for people."""


def parser() -> Parser:
    """The command's options."""
    made = Parser(
        "sim",
        'Drive the simulated board (device.board = "sim") of a running processor.\n'
        "A level is 1, 0, or - to let go of the pin. A script has a change a line: the time since the one before it,\n"
        "a pin and a level, e.g. `200ms GPIO17 1`; or `expect GPIO27 1 2s`, which fails unless that comes within 2 s.",
        "set GPIO17 1",
        "set GPIO17 1 GPIO4 -",
        "get GPIO27",
        "watch",
        "script button.txt",
    )
    made.add_argument(
        "what", metavar="set|get|watch|script", choices=("set", "get", "watch", "script"), help="what to do"
    )
    made.add_argument(
        "words", nargs="*", metavar="PIN", help="pins, with levels for set; the file of a script, - for stdin"
    )
    made.add_argument("--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="default: ./edge.toml")
    made.add_argument(
        "--socket", metavar="PATH", help="the board's socket; default: <state_dir>/sim.sock of the manifest"
    )
    made.json("JSON lines as they come from the board")
    return made


def main(arguments: list[str]) -> int:
    """Do one thing; 4 when no processor with a simulated board runs, 1 when the board refuses or a script fails."""
    options = parser().parse_args(arguments)
    try:
        steps = list(_script(options.words)) if options.what == "script" else []
        levels = _levels(options.words) if options.what == "set" else {}
    except ScriptError as error:
        return _say(str(error), USAGE)
    path = options.socket
    if path is None:
        from nuclio_edge.errors import ManifestError
        from nuclio_edge.manifest import load

        try:
            path = os.path.join(load(options.manifest).device.state_dir, "sim.sock")
        except ManifestError as error:
            print(error, file=sys.stderr)
            return USAGE
    try:
        board = Board(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return _say(f'no processor with device.board = "sim" runs here ({path})', ABSENT)
    with board:
        try:
            if options.what == "set":
                board.ask({"set": levels})
            elif options.what == "get":
                _show(board.ask({"get": options.words or True})["pins"], as_json=options.json)
            elif options.what == "watch":
                board.ask({"watch": options.words or True})
                for change in board.lines():
                    _show({change.pop("pin", ""): change}, as_json=options.json)
            else:
                _play(board, steps)
        except (ScriptError, ConnectionError, TimeoutError) as error:
            return _say(str(error) or "the processor has ended", FAULT)
    return OK


class Board:
    """The connection to a processor's simulated board."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._read = self._socket.makefile("rb")

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self._read.close()
        self._socket.close()

    def ask(self, what: dict[str, Any]) -> dict[str, Any]:
        """Send a line and read its answer; ScriptError says why the board refuses."""
        self._socket.settimeout(_ANSWER_S)
        self._socket.sendall(json_dumps(what).encode() + b"\n")
        answer = self._line()
        if "error" in answer:
            raise ScriptError(answer["error"])
        return answer

    def lines(self) -> Iterator[dict[str, Any]]:
        """What comes from now on, until the processor ends."""
        self._socket.settimeout(None)
        while True:
            try:
                yield self._line()
            except ConnectionError:
                return

    def _line(self) -> dict[str, Any]:
        line = self._read.readline()
        if not line:
            raise ConnectionError("the processor has ended")
        found: dict[str, Any] = json_loads(line)
        return found


def _levels(words: list[str]) -> dict[str, int | None]:
    if not words or len(words) % 2:
        raise ScriptError("pins and levels in turn are expected: set GPIO17 1")
    return {pin: _level(level) for pin, level in zip(words[::2], words[1::2], strict=True)}


def _level(word: str) -> int | None:
    if word not in _LEVELS:
        raise ScriptError(f"{word!r} is no level: 1, 0, or - to let go")
    return _LEVELS[word]


def _script(words: list[str]) -> Iterator[tuple[str, int, str, int | None]]:
    """The steps of a script: ("set" or "expect", ms, pin, level)."""
    from nuclio_edge.manifest.units import duration_ms

    if len(words) != 1:
        raise ScriptError("one file with a script is expected")
    with open(words[0], encoding="utf-8") if words[0] != "-" else sys.stdin as file:
        for number, line in enumerate(file, 1):
            parts = line.partition("#")[0].split()
            if not parts:
                continue
            expected = parts[0] == "expect"
            if expected:
                parts = [parts[3] if len(parts) == 4 else f"{_EXPECT_MS}ms", *parts[1:3]]
            ms = duration_ms(parts[0])
            if len(parts) != 3 or ms is None:
                raise ScriptError(f"{words[0]}:{number}: `200ms GPIO17 1` or `expect GPIO27 1 2s` is expected")
            try:
                yield "expect" if expected else "set", ms, parts[1], _level(parts[2])
            except ScriptError as error:
                raise ScriptError(f"{words[0]}:{number}: {error}") from None


def _play(board: Board, steps: list[tuple[str, int, str, int | None]]) -> None:
    due = time.monotonic()
    for what, ms, pin, level in steps:
        if what == "set":
            due += ms / 1000
            time.sleep(max(0.0, due - time.monotonic()))
            board.ask({"set": {pin: level}})
            continue
        deadline = time.monotonic() + ms / 1000
        while (found := next(iter(board.ask({"get": [pin]})["pins"].values()))["level"]) != level:
            if time.monotonic() > deadline:
                raise ScriptError(f"{pin} is {found} after {ms} ms, {level} was expected")
            time.sleep(0.005)
        due = time.monotonic()


def _show(pins: dict[str, dict[str, Any]], *, as_json: bool) -> None:
    for name, about in pins.items():
        if as_json:
            print(json_dumps({"pin": name, **about}), flush=True)
        elif "missed" in about:
            print(f"{about['missed']} changes came too fast", flush=True)
        else:
            value = f"{about['duty']:g}" if "duty" in about else about["level"]
            more = f"  {about['direction']}, {about['consumer']}" if "consumer" in about else ""
            print(f"{name} {value}{more}", flush=True)


def _say(message: str, code: int) -> int:
    print(f"{PROGRAM} sim: {message}", file=sys.stderr)
    return code
