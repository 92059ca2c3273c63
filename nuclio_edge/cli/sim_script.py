"""Scripts of timed changes for a simulated board, and how its values are written in words."""

from __future__ import annotations

import re
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Ask = Callable[[dict[str, Any]], dict[str, Any]]

_LEVELS: dict[str, float | None] = {"1": 1, "high": 1, "on": 1, "0": 0, "low": 0, "off": 0, "-": None}
_EXPECT_MS = 2_000
_LOOK_S = 0.005  # between two looks for what is expected
_USAGE = "`200ms GPIO17 1`, `1s send gps TEXT`, `1s unplug gps` or `expect GPIO27 1 2s` is expected"
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_MEANT = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


class ScriptError(ValueError):
    """A script or a call that makes no sense; the text is for people."""


class Step:
    """One line: after `ms` do `what` (set, send, plug, unplug), or `expect` within them."""

    def __init__(self, where: str, what: str, ms: int, name: str, value: Any) -> None:
        self.where = where
        self.what = what
        self.ms = ms
        self.name = name
        self.value = value


def value_of(word: str) -> float | None:
    """A level, or a sensor's number; None for -."""
    if word in _LEVELS:
        return _LEVELS[word]
    try:
        return float(word)
    except ValueError:
        raise ScriptError(f"{word!r} is no level: 1, 0, or - to let go; nor a sensor's number") from None


def bytes_of(text: str, *, raw: bool) -> str:
    """What goes over a line, a character for a byte: the text in UTF-8, escapes resolved; with CR LF, unless raw."""

    def meant(found: re.Match[bytes]) -> bytes:
        return bytes([int(found[1], 16)]) if found[1] else _MEANT.get(found[2], found[0])

    data = _ESCAPE.sub(meant, text.encode())
    return (data if raw else data + b"\r\n").decode("latin-1")


def shown(text: str) -> str:
    """What came over a line, as `bytes_of` takes it."""
    known = {"\r": "\\r", "\n": "\\n", "\\": "\\\\"}
    return "".join(known.get(char) or (char if " " <= char <= "~" else f"\\x{ord(char):02x}") for char in text)


def read(words: list[str]) -> list[Step]:
    """The steps of a script; ScriptError names the line that makes no sense."""
    if len(words) != 1:
        raise ScriptError("one file with a script is expected")
    with open(words[0], encoding="utf-8") if words[0] != "-" else sys.stdin as file:
        return [step for number, line in enumerate(file, 1) if (step := _step(f"{words[0]}:{number}", line))]


def _step(where: str, line: str) -> Step | None:
    from nuclio_edge.manifest.units import duration_ms

    parts = re.sub(r"(?:^|\s)#.*", "", line).split()  # within a word it is a part of it
    if not parts:
        return None
    if parts[0] == "expect" and len(parts) in (3, 4):
        ms = duration_ms(parts[3]) if len(parts) == 4 else _EXPECT_MS
        if ms is not None:
            return Step(where, "expect", ms, parts[1], parts[2])
    ms = duration_ms(parts[0])
    if ms is not None and parts[1:2] == ["send"] and len(parts) > 3:
        return Step(where, "send", ms, parts[2], bytes_of(" ".join(parts[3:]), raw=False))
    if ms is not None and len(parts) == 3:
        if parts[1] in ("plug", "unplug"):
            return Step(where, parts[1], ms, parts[2], None)
        try:
            return Step(where, "set", ms, parts[1], value_of(parts[2]))
        except ScriptError as error:
            raise ScriptError(f"{where}: {error}") from None
    raise ScriptError(f"{where}: {_USAGE}")


def play(ask: Ask, steps: list[Step]) -> None:
    """Do one step after the other; ScriptError when what is expected does not come."""
    heard: dict[str, int] = {}  # port -> bytes up to the end of what was expected last
    due = time.monotonic()
    for step in steps:
        if step.what == "expect":
            _expect(ask, step, heard)
            due = time.monotonic()
            continue
        due += step.ms / 1000
        time.sleep(max(0.0, due - time.monotonic()))
        ask({step.what: [step.name] if step.what in ("plug", "unplug") else {step.name: step.value}})


def _expect(ask: Ask, step: Step, heard: dict[str, int]) -> None:
    deadline = time.monotonic() + step.ms / 1000
    while True:
        answer = ask({"get": [step.name]})
        if answer["ports"]:
            [port] = answer["ports"].values()
            wanted = bytes_of(step.value, raw=True)
            begin = port["written"] - len(port["tail"])  # where the remembered bytes begin
            at = port["tail"].find(wanted, max(0, heard.get(step.name, 0) - begin))
            if at >= 0:
                heard[step.name] = begin + at + len(wanted)
                return
            found = f"wrote {shown(port['tail']) or 'nothing'}"
        elif answer["sensors"]:
            raise ScriptError(f"{step.where}: {step.name} is a sensor, which the script itself sets")
        else:
            [pin] = answer["pins"].values()
            if pin["level"] == value_of(step.value):
                return
            found = f"is {pin['level']}"
        if time.monotonic() > deadline:
            raise ScriptError(f"{step.name} {found} after {step.ms} ms, {step.value} was expected")
        time.sleep(_LOOK_S)
