"""Quantities as a manifest writes them: "250ms", "1h30m", "64MiB", "100/s".

Pure functions on text, without `re`: this is on the start path, and nothing else there needs it. Each returns None for
a text that is not such a quantity; a number without a unit never is.
"""

from __future__ import annotations

_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_BYTES = {
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
}
_DIGITS = "0123456789"
_LONGEST = 15  # digits: beyond, a float is no longer exact, and no quantity of ours is that large


def _number(text: str, at: int) -> tuple[int, int, int] | None:
    """Return (digits as an integer, how many of them follow the point, where the number ends), or None."""
    start = at
    while at < len(text) and text[at] in _DIGITS:
        at += 1
    whole = text[start:at]
    fraction = ""
    if whole and at < len(text) and text[at] == ".":
        start = at = at + 1
        while at < len(text) and text[at] in _DIGITS:
            at += 1
        fraction = text[start:at]
        if not fraction:
            return None
    if not whole or len(whole) + len(fraction) > _LONGEST:
        return None
    return int(whole + fraction), len(fraction), at


def duration_ms(text: str) -> int | None:
    """Milliseconds of a duration: numbers with units from large to small, each unit once ("1h30m", "1.5s")."""
    at, total, last = 0, 0, 1 << 62
    while at < len(text):
        number = _number(text, at)
        if number is None:
            return None
        digits, places, at = number
        start = at
        while at < len(text) and text[at].isalpha():
            at += 1
        factor = _MS.get(text[start:at])
        if factor is None or factor >= last:
            return None
        value, rest = divmod(digits * factor, 10**places)
        if rest:
            return None
        total, last = total + value, factor
    return total if text else None


def size_bytes(text: str) -> int | None:
    """Bytes of a size: one number and one unit, binary ("64MiB") or decimal ("64MB")."""
    number = _number(text, 0)
    if number is None:
        return None
    digits, places, at = number
    factor = _BYTES.get(text[at:])
    if factor is None:
        return None
    value, rest = divmod(digits * factor, 10**places)
    return None if rest else value


def rate_per_s(text: str) -> float | None:
    """Events a second of a rate: a number, a slash and a unit of time ("100/s", "6/m", "1000/h")."""
    number = _number(text, 0)
    if number is None:
        return None
    digits, places, at = number
    factor = _MS.get(text[at + 1 :])
    if text[at : at + 1] != "/" or factor is None:
        return None
    return digits * 1000 / float(10**places * factor)
