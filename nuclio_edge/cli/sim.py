"""`sim`: be the world of a simulated board: pins, sensors and serial ports, by hand or by a script of timed changes."""

from __future__ import annotations

import os
import socket
import sys

from nuclio_edge.cli import ABSENT, FAULT, OK, PROGRAM, USAGE
from nuclio_edge.cli.parser import DEFAULT_MANIFEST, Parser
from nuclio_edge.cli.refusal import refusal
from nuclio_edge.cli.sim_script import ScriptError, bytes_of, play, read, shown, value_of
from nuclio_edge.core.port import json_dumps, json_loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_ANSWER_S = 10.0
_WHAT = ("set", "get", "watch", "send", "unplug", "plug", "script")


def parser() -> Parser:
    """The command's options."""
    made = Parser(
        "sim",
        'Drive the simulated board (device.board = "sim") of a running processor: its pins, and the sensors and\n'
        'serial ports that its manifest calls "sim:NAME". A pin is 1, 0, or - to let go; a sensor a number, or - to\n'
        "take it away. `send` has the device on a port say a line: \\r\\n is added, unless --raw; \\xNN is a byte.\n"
        "A script has a change a line: the time since the one before it, and what changes, e.g. `200ms GPIO17 1` or\n"
        "`1s send gps $GPGGA,…`; or `expect GPIO27 1 2s`, which fails unless that comes within 2 s.",
        "set GPIO17 1 climate 21.5",
        "set GPIO4 -",
        "send gps '$GPGGA,…'",
        "get GPIO27",
        "watch",
        "script button.txt",
    )
    made.add_argument("what", metavar="|".join(_WHAT), choices=_WHAT, help="what to do")
    made.add_argument(
        "words", nargs="*", metavar="NAME",
        help="pins, sensors, ports; with values for set, texts for send; the file of a script, - for stdin",
    )  # fmt: skip
    made.add_argument("--raw", action="store_true", help="send: just these bytes, nothing after them")
    made.add_argument("--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="default: ./edge.toml")
    made.add_argument(
        "--socket", metavar="PATH", help="the board's socket; default: <state_dir>/sim.sock of the manifest"
    )
    made.json("JSON lines as they come from the board")
    return made


def main(arguments: list[str]) -> int:
    """Do one thing; 4 when no processor with a simulated board runs, 1 when the board refuses or a script fails."""
    options = parser().parse_intermixed_args(arguments)
    try:
        steps = read(options.words) if options.what == "script" else []
        asked = _asked(options.what, options.words, raw=options.raw)
    except ScriptError as error:
        return _say(str(error), USAGE)
    path = options.socket
    if path is None:
        from nuclio_edge.cli.ask import OtherError, ensure_own
        from nuclio_edge.errors import ManifestError
        from nuclio_edge.manifest import load

        try:
            path = os.path.join(load(options.manifest).device.state_dir, "sim.sock")
            ensure_own(options.manifest)
        except ManifestError as error:
            print(refusal(error, "sim"), file=sys.stderr)
            return USAGE
        except OtherError as error:
            return _say(str(error), ABSENT)
    try:
        board = Board(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return _say(f'no processor with device.board = "sim" runs here ({path})', ABSENT)
    with board:
        try:
            if options.what == "script":
                play(board.ask, steps)
            answer = board.ask(asked) if asked else {}
            if options.what == "get":
                for kind, found in answer.items():
                    _show(kind, found, as_json=options.json)
            elif options.what == "watch":
                for change in board.lines():
                    kind = "port" if "port" in change else "pin"
                    _show(f"{kind}s", {change.pop(kind, ""): change}, as_json=options.json)
        except BrokenPipeError:  # of our own output: that of a board's connection is told as its end
            raise
        except (ScriptError, ConnectionError, TimeoutError) as error:
            return _say(str(error) or "the processor has ended", FAULT)
    return OK


def _asked(what: str, words: list[str], *, raw: bool) -> dict[str, Any]:
    """The line for the board."""
    if what in ("get", "watch"):
        return {what: words or True}
    if what == "set":
        return {what: _values(words)}
    if what == "send":
        if len(words) < 2:
            raise ScriptError("a port and a text are expected: send gps '$GPGGA,…'")
        return {what: {words[0]: bytes_of(" ".join(words[1:]), raw=raw)}}
    if what in ("plug", "unplug"):
        if not words:
            raise ScriptError(f"a port is expected: {what} gps")
        return {what: words}
    return {}


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
        try:
            self._socket.sendall(json_dumps(what).encode() + b"\n")
        except BrokenPipeError:
            raise ConnectionError("the processor has ended") from None
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


def _values(words: list[str]) -> dict[str, float | None]:
    if not words or len(words) % 2:
        raise ScriptError("names and values in turn are expected: set GPIO17 1")
    return {name: value_of(value) for name, value in zip(words[::2], words[1::2], strict=True)}


def _show(kind: str, found: dict[str, dict[str, Any]], *, as_json: bool) -> None:
    for name, about in found.items():
        if as_json:
            print(json_dumps({kind[:-1]: name, **about}), flush=True)
        elif "missed" in about:
            print(f"{about['missed']} changes came too fast", flush=True)
        elif "wrote" in about:
            print(f"{name} wrote {shown(about['wrote'])}", flush=True)
        elif kind == "ports":
            where = f"open, {about['path']}" if about["path"] else "closed"
            print(f"{name} {where}, {about['written']} bytes written", flush=True)
        elif kind == "sensors":
            print(f"{name} {about['text'] if about['text'] is not None else 'away'}", flush=True)
        else:
            value = f"{about['duty']:g}" if "duty" in about else about["level"]
            more = f"  {about['direction']}, {about['consumer']}" if "consumer" in about else ""
            print(f"{name} {value}{more}", flush=True)


def _say(message: str, code: int) -> int:
    print(f"{PROGRAM} sim: {message}", file=sys.stderr)
    return code
