"""What the manifest says of a GPIO source, its lines, triggers and outputs; read without touching a chip.

pin         "GPIO17" (BCM number), "pin 11" or "P1-11" (header), a board's own name, or the kernel's name of the line;
            "17" is an offset where `chip` says in which chip
chip        a label ("pinctrl-bcm2711") or a device-tree compatible ("raspberrypi,rp1-gpio"), never a number
edge        as the line's logical value goes: with active_low, "rising" is the wire going low
debounce, hold_after, click_gap, count    milliseconds
"""

from __future__ import annotations

from nuclio_edge.manifest.problems import listed, quote, suggest
from nuclio_edge.manifest.schema import Field, known, separately

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from nuclio_edge.manifest.schema import Values
    from nuclio_edge.registry import Fault

EDGES = ("rising", "falling", "both")
BIASES = ("pull-up", "pull-down", "disabled")
PRESSES = ("click", "double-click", "triple-click", "hold")
PRESS_DEBOUNCE_MS = 20  # of a button whose trigger says nothing of it: contacts bounce for 1 to 10 ms

_BIAS = Field("string", choices=BIASES, doc="pull-up, pull-down or disabled; default: as it is")
_DEBOUNCE = Field("duration", minimum=0, maximum=4_000_000, doc="a level counts when it has held for so long")
_ACTIVE_LOW = Field("boolean", doc="true: the wire's low is 1")

LINE = {
    "pin": Field("string", required=True, minimum=1, doc='"GPIO17", "pin 11", "P1-11", or a name of board or kernel'),
    "direction": Field("string", "in", choices=("in", "out", "pwm"), doc="in, out or pwm"),
    "edge": Field("string", choices=EDGES, doc="of an input: rising, falling or both; default: both"),
    "bias": _BIAS,
    "debounce": _DEBOUNCE,
    "active_low": _ACTIVE_LOW,
    "drive": Field("string", choices=("push-pull", "open-drain", "open-source"), doc="of an output"),
    "initial": Field("number", minimum=0, maximum=1, doc="of an output: 0 or 1 when it is opened; of pwm: 0 to 1"),
    "shutdown": Field("number", minimum=0, maximum=1, doc="of an output: when it is closed; default: left as it is"),
    "frequency": Field("integer", minimum=1, maximum=10_000_000, doc="of pwm, in hertz; default: 1000"),
}

PARAMS = {
    "chip": Field("string", minimum=1, doc="a label or a compatible, never a number; default: the board's"),
    "clock": Field("string", "monotonic", choices=("monotonic", "realtime"), doc="by which the kernel stamps edges"),
    "lines": Field("map", {}, of=Field("table", fields=LINE), doc="the lines by the names that handlers use"),
}

TRIGGER = {
    "pin": Field("string", minimum=1, doc="a pin alone needs no table: GPIO17"),
    "line": Field("string", minimum=1, doc="or a line of the source's table"),
    "edge": Field("string", choices=EDGES, doc="rising, falling or both; default: both, of a count rising"),
    "bias": _BIAS,
    "debounce": _DEBOUNCE,
    "active_low": _ACTIVE_LOW,
    "count": Field(
        "duration", minimum=10, doc="one event an interval with the number of edges, instead of one an edge"
    ),
    "press": Field(
        "list",
        minimum=1,
        single=True,
        of=Field("string", choices=PRESSES),
        doc="what a button does: " + listed(PRESSES),
    ),
    "hold_after": Field("duration", minimum=10, doc="of press: a hold begins after this; default: 800ms"),
    "click_gap": Field("duration", minimum=10, doc="of press: clicks belong together within this; default: 300ms"),
}

OUTPUT = {
    "pin": Field("string", minimum=1, doc="the pin that a returned value sets"),
    "line": Field("string", minimum=1, doc="or a line of the source's table"),
}

_OF_INPUTS = ("edge", "debounce")
_OF_OUTPUTS = ("drive", "initial", "shutdown")
_OF_PINS = ("bias", "debounce", "active_low")


def check_params(params: Values) -> Iterator[Fault]:
    """What a single field cannot know: the chip's name, and keys that mean nothing in a line's direction."""
    for _, chip in known(params, "chip"):
        if chip is not None and (wrong := chip_fault(chip)):
            yield "chip", wrong, 'a label, e.g. "pinctrl-bcm2711"; `gpiodetect` lists those of a machine'
    for name, line in params.lines.items():
        for key, message in separately(line, _line_faults):
            yield f"lines.{name}.{key}", message, None


def _line_faults(line: Values) -> Iterator[tuple[str, str]]:
    here = line.direction
    foreign = _OF_OUTPUTS if here == "in" else _OF_INPUTS
    for key, value in known(line, *foreign, *(("bias", "drive") if here == "pwm" else ("frequency",))):
        if value is not None:
            yield key, f'means nothing where direction is "{here}"'
    if here == "out":
        for key, value in known(line, "initial", "shutdown"):
            if value not in (None, 0, 1):
                yield key, "is 0 or 1"


def check_trigger(address: Values) -> Iterator[Fault]:
    """One pin or line, and keys that go together."""
    yield from separately(address, _check_place, _check_line, _check_press)


def _check_place(of: Values) -> Iterator[Fault]:
    if (of.pin is None) == (of.line is None):
        yield "pin" if of.line is None else "line", "either pin or line is expected", None


def _check_line(address: Values) -> Iterator[Fault]:
    for key, value in known(address, *_OF_PINS) if address.line is not None else ():
        if value is not None:
            yield key, "is said where the line is declared", None


def _check_press(address: Values) -> Iterator[Fault]:
    pressed = address.press is not None
    for key, value in known(address, *(("edge", "count") if pressed else ("hold_after", "click_gap"))):
        if value is not None:
            yield key, "does not go with press" if pressed else "needs press beside it", None


def check_output(output: Values) -> Iterator[Fault]:
    """One pin or line."""
    yield from _check_place(output)


def when_full(address: Values) -> str:
    """An edge that nobody has had the time for is old: the newest say how things are."""
    return "drop-oldest"


def pins(params: Values) -> Iterator[tuple[str, str, str | None]]:
    """The pins that a source takes for itself: (key, pin as written, chip as written)."""
    for name, line in params.lines.items():
        for _, pin in known(line, "pin"):
            yield f"lines.{name}", pin, params.chip


def used_pin(params: Values, use: Values) -> tuple[str, str, str | None] | None:
    """The pin that a trigger or output takes beside the declared lines: (key, pin, chip), or None."""
    return ("pin", use.pin, params.chip) if use.pin is not None else None


def check_board(params: Values, board: Any) -> Iterator[Fault]:
    """What the board cannot do: pulses on a pin that has none."""
    if not board.pins or board.id == "sim":
        return
    able = f"these have it: {listed(board.pwm)}" if board.pwm else "no pin of this board has it"
    for name, line in params.lines.items():
        given = dict(known(line, "pin", "direction"))
        pin = board.find_pin(given["pin"]) if given.get("direction") == "pwm" and "pin" in given else None
        if pin is not None and pin.name not in board.pwm:
            yield f"lines.{name}.direction", f"{given['pin']} has no PWM", able


def check_uses(
    params: Values, triggers: Sequence[Values], outputs: Sequence[Values], same: Any
) -> Iterator[tuple[str, int, str, str, str | None]]:
    """What triggers and outputs say of lines: ("trigger" or "output", which, key, message, hint) each.

    `same(pin)` is a pin's identity: equal for two spellings of one pin.
    """
    declared = {same(line.pin): (name, line) for name, line in params.lines.items()}
    first: dict[Any, tuple[int, Values]] = {}
    for at, address in enumerate(triggers):
        if address.line is not None and address.pin is not None:
            continue  # reported already
        found = _line(params, declared, address, same)
        if isinstance(found, str):
            yield "trigger", at, "line", found, suggest(address.line, params.lines)
        elif found is not None:
            yield from (("trigger", at, key, message, None) for key, message in _on_line(address, *found))
        elif address.pin is not None:
            other_at, other = first.setdefault(same(address.pin), (at, address))
            for key in _OF_PINS:
                if other_at != at and getattr(address, key) != getattr(other, key):
                    yield (
                        "trigger",
                        at,
                        key if getattr(address, key) is not None else "pin",
                        (f"{address.pin} has another {key} in another trigger"),
                        "a line of a [source.NAME] table says it once for both",
                    )
    for at, output in enumerate(outputs):
        found = _line(params, declared, output, same)
        key = "pin" if output.line is None else "line"
        if isinstance(found, str):
            yield "output", at, "line", found, suggest(output.line, params.lines)
        elif found is not None and found[1].direction == "in":
            yield "output", at, key, f"line {quote(found[0])} is an input", 'direction = "out" makes it an output'
        elif found is None and output.pin is not None and same(output.pin) in first:
            yield "output", at, key, f"{output.pin} is an input: a trigger waits for its edges", None


def _line(params: Values, declared: Any, use: Values, same: Any) -> tuple[str, Values] | str | None:
    """The declared line (name, line) that is meant, None for a pin alone, or what is wrong."""
    if use.line is None:
        return declared.get(same(use.pin)) if use.pin is not None else None
    if use.line not in params.lines:
        return f"no line is named {quote(use.line)}"
    return use.line, params.lines[use.line]


def _on_line(address: Values, name: str, line: Values) -> Iterator[tuple[str, str]]:
    """What a trigger asks of a declared line that the line does not give."""
    at = "line" if address.line is not None else "pin"
    if line.direction != "in":
        yield at, f"line {quote(name)} is an output: it brings no events"
        return
    edge = line.edge or "both"
    if address.press is not None and edge != "both":
        yield "press", f'needs both edges, and line {quote(name)} has edge = "{edge}"'
    elif address.edge is not None and edge not in ("both", address.edge):
        yield "edge", f"line {quote(name)} brings {edge} edges only"
    if address.pin is not None:
        for key in _OF_PINS:
            if getattr(address, key) is not None and getattr(address, key) != getattr(line, key):
                yield key, f"is another than that of line {quote(name)}"


def chip_fault(chip: str) -> str | None:
    """Return why this is no way to name a chip, or None."""
    name = chip.rpartition("/")[2]
    if name.isdecimal() or (name.startswith("gpiochip") and name[8:].isdecimal()):
        return f"{quote(chip)} is a number, which another kernel gives to another chip"
    return None
