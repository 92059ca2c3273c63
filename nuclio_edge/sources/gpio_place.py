"""Where a pin is: its name as people write it -> a chip, and an offset or the kernel's name of the line in it.

The board's facts come first; what they do not know is a name that the kernel gives the line, which only the running
machine can tell. Chips are known by label or device-tree compatible; numbers (gpiochip4) move with every kernel.
"""

from __future__ import annotations

from nuclio_edge.manifest.problems import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Wanted:
    """A chip as it is looked for: any of these labels or compatibles will do; none of both is every chip."""

    __slots__ = ("labels", "of_compatible")

    def __init__(self, labels: tuple[str, ...] = (), of_compatible: tuple[str, ...] = ()) -> None:
        self.labels = labels
        self.of_compatible = of_compatible

    def __str__(self) -> str:
        names = list(dict.fromkeys((*self.labels, *self.of_compatible)))
        return f"chip {' or '.join(names)}" if names else "chip"


ANY = Wanted()


class Place:
    """One line: `pin` as it was written, the chip (`key` tells it from others), and `offset`, or None: by `pin`."""

    __slots__ = ("chip", "key", "offset", "pin")

    def __init__(self, pin: str, chip: Any, key: Any, offset: int | None) -> None:
        self.pin = pin
        self.chip = chip
        self.key = key
        self.offset = offset

    def identity(self) -> tuple[Any, Any]:
        """Equal for two spellings of one pin, as far as this can be told without the chip."""
        return self.key, self.pin if self.offset is None else self.offset


def place(pin: str, board: Any, chip: str | None = None) -> Place:
    """Where a pin is on a board (None: nothing is known of it); LookupError says why it is nowhere.

    With `chip`, the board's pins count only if they are in that chip.
    """
    known = board.find_pin(pin) if board is not None else None
    if known is not None:
        facts = board.chips.get(known.chip)
        if chip is None or known.chip == chip or (facts is not None and chip in (*facts.labels, *facts.of_compatible)):
            return Place(pin, _wanted(facts) if facts is not None else Wanted((known.chip,)), known.chip, known.offset)
    wanted, key = _chip(board, chip)
    text = pin.strip()
    if text.isdecimal():
        if chip is None:
            raise LookupError(f"{quote(pin)} is a number without a chip")
        return Place(pin, wanted, key, int(text))
    if known is None and chip is None and board is not None and board.pins and _looks_like_a_pin(text):
        raise LookupError(f"this board has no pin {quote(pin)}")
    return Place(pin, wanted, key, None)


def _chip(board: Any, chip: str | None) -> tuple[Any, Any]:
    if chip is None:
        return ANY, None
    for name, facts in board.chips.items() if board is not None else ():
        if chip == name or chip in facts.labels or chip in facts.of_compatible:
            return _wanted(facts), name
    return Wanted((chip,), (chip,)), chip


def _wanted(facts: Any) -> Wanted:
    return Wanted(facts.labels, facts.of_compatible)


def _looks_like_a_pin(text: str) -> bool:
    """Whether it is spelled as pins of headers and processors are: what the kernel calls otherwise is not judged."""
    low = text.lower().replace(" ", "").replace("-", "").replace("_", "").replace(":", "")
    for prefix in ("gpio", "bcm", "pin", "p1", "j8"):
        if low.startswith(prefix) and low[len(prefix) :].isdecimal():
            return True
    return False
