"""What a terminal may be given: colours by NO_COLOR, FORCE_COLOR and TERM, and text that it does not obey."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

STYLES = {"dim": "2", "bold": "1", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


def coloured(stream: TextIO) -> bool:
    """Whether to colour what is written there: NO_COLOR, FORCE_COLOR, then a terminal that is not dumb."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Painter:
    """Text in a style, or as it is where colours are not wanted."""

    def __init__(self, stream: TextIO) -> None:
        self.on = coloured(stream)

    def __call__(self, style: str, text: str) -> str:
        """The text in one of STYLES."""
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if self.on and text else text


def printable(text: str, keep: str = "") -> str:
    """The text with its control characters spelled out: what came with an event must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )


def body_text(body: bytes, longest: int = 0, keep: str = "") -> str:
    """A body for a person: its text, or what Python shows of bytes that are none; cut to `longest` characters."""
    try:
        text = printable(body.decode(), keep)
    except UnicodeDecodeError:
        text = repr(body)
    if longest and len(text) > longest:
        text = text[: longest - 1] + "…"
    return text
