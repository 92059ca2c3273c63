"""What handlers do with pins: context.bindings["pins"].set("relay", 1)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.sources.gpio import GpioSource

_WORDS = {"on": 1, "true": 1, "high": 1, "off": 0, "false": 0, "low": 0}


class Pins:
    """The pins of one source, by line name or pin; from any thread.

    A pin that the manifest does not declare becomes an output when it is first set, and an input when it is first got.
    KeyError: there is no such line; ValueError: it is no output, or no such value; OSError: its chip is away, or
    somebody else holds the pin. The call itself drives the pin: when it returns, the wire has the level.
    """

    __slots__ = ("_context", "_source")

    def __init__(self, source: GpioSource, context: Context) -> None:
        self._source = source
        self._context = context

    def set(self, name: str, value: Any) -> None:
        """Drive an output: 1, 0, true, false, "on", "off"; of pwm a duty from 0 to 1."""
        self._context.check()
        self._source.set(name, value)

    def get(self, name: str) -> float:
        """The value of a line: 1 or 0, of pwm its duty."""
        self._context.check()
        return self._source.get(name)

    def toggle(self, name: str) -> int:
        """Turn an output over; the value that it has now."""
        self._context.check()
        return self._source.toggle(name)

    def pulse(self, name: str, ms: int) -> None:
        """Set an output now, and clear it after so many milliseconds; returns at once."""
        self._context.check()
        self._source.pulse(name, ms)


def level_of(value: Any) -> float:
    """A value as people and handlers say it: a number from 0 to 1, a truth, "on", "off", or a body that says one."""
    if isinstance(value, (bytes, bytearray)):
        value = value.decode("ascii", "replace")
    if isinstance(value, str):
        text = value.strip().strip('"').lower()
        if text in _WORDS:
            return _WORDS[text]
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f'{text[:40]!r} is no level: 1, 0, "on", "off" or a number between') from None
    try:
        number = float(value)
    except OverflowError:
        number = -1
    if not 0 <= number <= 1:
        raise ValueError(f"{str(value)[:40]} is no level: from 0 to 1")
    return number
