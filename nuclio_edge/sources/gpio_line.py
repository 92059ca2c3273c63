"""What is asked of a line, the same for every chip: its configuration, as the kernel's uAPI puts it into a request."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from nuclio_edge.sources.gpio_place import Place

    class Lines(Protocol):
        """Granted lines; `fd` is polled, and read for records of 48 bytes. get and set come from any thread."""

        fd: int

        def get(self, mask: int) -> int:
            """The values of the lines in `mask`, by their position in the request."""

        def set(self, mask: int, bits: int) -> None:
            """Drive the lines in `mask`."""

        def close(self) -> None:
            """Give them back; called twice it is no error."""

    class Chip(Protocol):
        """An open chip."""

        label: str
        lines: int

        def find(self, line: str) -> int | None:
            """The offset of a line by the chip's name for it."""

        def request(self, lines: Sequence[LineConfig], consumer: str) -> Lines:
            """Take lines; BusyError or AwayError."""

        def close(self) -> None:
            """Give the chip back; requests live on."""

    class Chips(Protocol):
        """The seam between the source and a world: the kernel's chips (gpio_kernel) or simulated ones (sim.pins)."""

        def open_chip(self, wanted: object, line: str | None = None) -> Chip:
            """The chip with one of the labels or compatibles of `wanted`; AwayError when it is not there."""

        def open_pwm(self, place: Place, facts: object) -> PwmChannel:
            """The PWM of a pin, by the board's facts of it."""

    class PwmChannel(Protocol):
        """A channel that pulses."""

        def set(self, duty: float, frequency: int) -> None:
            """High for this part (0 to 1) of the time, so often a second; from any thread."""

        def close(self) -> None:
            """Give it back."""


# GPIO_V2_LINE_FLAG_*
ACTIVE_LOW, INPUT, OUTPUT, RISING, FALLING = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
REALTIME = 1 << 11
EDGES = {None: 0, "rising": RISING, "falling": FALLING, "both": RISING | FALLING}
BIASES = {None: 0, "pull-up": 1 << 8, "pull-down": 1 << 9, "disabled": 1 << 10}
DRIVES = {None: 0, "push-pull": 0, "open-drain": 1 << 6, "open-source": 1 << 7}
# GPIO_V2_LINE_ATTR_ID_*
ATTR_FLAGS, ATTR_VALUES, ATTR_DEBOUNCE = 1, 2, 3


class AwayError(OSError):
    """A chip or line is not to be had now; its text is for people."""


class BusyError(AwayError):
    """Somebody else holds the line."""


class LineConfig:
    """One line as it is requested. Equal configurations may share a request untouched over a reload."""

    __slots__ = ("debounce_us", "flags", "offset", "pin", "value")

    def __init__(
        self,
        pin: str,
        offset: int,
        *,
        direction: str = "in",
        edge: str | None = None,
        bias: str | None = None,
        drive: str | None = None,
        active_low: bool = False,
        debounce_us: int = 0,
        value: int = 0,
        realtime: bool = False,
    ) -> None:
        self.pin = pin
        self.offset = offset
        self.debounce_us = debounce_us
        self.value = value
        flags = BIASES[bias] | (ACTIVE_LOW if active_low else 0)
        if direction == "in":
            flags |= INPUT | EDGES[edge] | (REALTIME if realtime and edge else 0)
        else:
            flags |= OUTPUT | DRIVES[drive]
        self.flags = flags


def attributes(lines: Sequence[LineConfig], most: int) -> tuple[int, list[tuple[int, int, int]]]:
    """The flags that most lines have, and (id, value, mask) of what differs; ValueError when that is too much."""
    masks: dict[tuple[int, int], int] = {}
    values = outputs = 0
    for at, line in enumerate(lines):
        bit = 1 << at
        masks[ATTR_FLAGS, line.flags] = masks.get((ATTR_FLAGS, line.flags), 0) | bit
        if line.debounce_us:
            masks[ATTR_DEBOUNCE, line.debounce_us] = masks.get((ATTR_DEBOUNCE, line.debounce_us), 0) | bit
        if line.flags & OUTPUT:
            outputs |= bit
            values |= bit if line.value else 0
    usual = max((key for key in masks if key[0] == ATTR_FLAGS), key=lambda key: masks[key].bit_count())
    found = [(kind, value, mask) for (kind, value), mask in masks.items() if (kind, value) != usual]
    if outputs:
        found.append((ATTR_VALUES, values, outputs))
    if len(found) > most:
        raise ValueError(f"{len(found)} differences between the lines of a request, {most} are possible")
    return usual[1], found


def share(lines: Sequence[LineConfig], most: int, limit: int) -> list[list[int]]:
    """The positions of `lines`, in as few requests as take them: at most `limit` each, with `most` differences."""
    shares: list[list[int]] = []
    for at in range(len(lines)):
        if shares and len(shares[-1]) < limit:
            together = [*shares[-1], at]
            try:
                attributes([lines[one] for one in together], most)
            except ValueError:
                pass
            else:
                shares[-1] = together
                continue
        shares.append([at])
    return shares
