"""Numbers in files: which files a path means, what each is called, and what its text says.

For threads that may block: reading a 1-wire thermometer takes 750 ms. The rules are those of the kernel's interfaces:
hwmon (Documentation/hwmon/sysfs-interface), IIO (Documentation/ABI/testing/sysfs-bus-iio: (raw + offset) * scale), w1
(Documentation/w1/slaves/w1_therm: a line that ends in YES, then t= in thousandths).
"""

from __future__ import annotations

import math
import os
import re
from glob import glob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MOST = 256  # files that one path may mean
LONGEST = 4096  # bytes of a file that are looked at
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_W1 = re.compile(r"t=(-?\d+)")
_NUMBERED = re.compile(r"(?:hwmon|iio:device|thermal_zone)\d+")  # folders whose number depends on who came first
_RAW = re.compile(r"in_.*_raw")


class ReadingError(Exception):
    """A reading that is none; `reason` is what is counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def find(pattern: str) -> list[str]:
    """The files that a path with wildcards means, sorted; a path without is itself, whether there or not."""
    if not any(char in pattern for char in "*?["):
        return [pattern]
    return sorted(glob(pattern))


def sensor_name(pattern: str, path: str) -> str:
    """What a file's sensor is called: the parts for which wildcards stood, by name where the kernel gives one.

    `28-0316a2794aff` for /sys/bus/w1/devices/28-*/temperature, `cpu_thermal/temp1_input` for
    /sys/class/hwmon/*/temp*_input, "" without a wildcard.
    """
    return "/".join(_parts(pattern, path))


def _parts(pattern: str, path: str) -> Iterator[str]:
    wanted, found = pattern.split("/"), path.split("/")
    for at, (want, part) in enumerate(zip(wanted, found, strict=False)):
        if not any(char in want for char in "*?["):
            continue
        yield _told("/".join(found[: at + 1])) if _NUMBERED.fullmatch(part) else part


def _told(folder: str) -> str:
    """What a numbered folder says that it is; else its own name."""
    for file in ("name", "type"):
        try:
            with open(os.path.join(folder, file), encoding="utf-8", errors="replace") as told:
                said = told.read(64).strip()
        except OSError:
            continue
        if said:
            return said
    return os.path.basename(folder)


def read_number(path: str, match: str | None) -> float:
    """The number that a file says now. ReadingError: unreadable, crc, unparsable."""
    text = _text(path)
    if match is not None:
        found = re.search(match, text)
        if found is None:
            raise ReadingError("unparsable", f"nothing in it fits match: {text[:60]!r}")
        return _float(found[1] if found.re.groups and found[1] is not None else found[0])
    if path.endswith("/w1_slave"):
        first, _, second = text.partition("\n")
        found = _W1.search(second)
        if not first.endswith("YES") or found is None:
            raise ReadingError("crc", "the checksum of the 1-wire device is wrong")
        return _float(found[1])
    found = _NUMBER.search(text)
    if found is None:
        raise ReadingError("unparsable", f"there is no number in it: {text[:60]!r}")
    value = _float(found[0])
    if _RAW.fullmatch(os.path.basename(path)):
        return (value + _sibling(path, "offset", 0.0)) * _sibling(path, "scale", 1.0)
    return value


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(LONGEST).decode("utf-8", "replace").strip()
    except OSError as error:
        raise ReadingError("unreadable", (error.strerror or str(error)).lower()) from error


def _float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ReadingError("unparsable", f"{text[:60]!r} is no number") from None
    if not math.isfinite(value):
        raise ReadingError("unparsable", f"{text[:60]!r} is no number to go by")
    return value


def _sibling(path: str, what: str, otherwise: float) -> float:
    """in_temp0_raw has in_temp0_scale beside it, or in_temp_scale that all channels share."""
    own = path[: -len("raw")]
    shared = re.sub(r"\d+_$", "_", own)
    for stem in (own, shared):
        try:
            return _float(_text(stem + what))
        except ReadingError:
            continue
    return otherwise
