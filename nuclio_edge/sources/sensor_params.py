"""What a sensor source's tables may hold, and what is wrong with them."""

from __future__ import annotations

import os.path

from nuclio_edge.manifest.problems import listed, quote
from nuclio_edge.manifest.schema import Field, known, separately

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from nuclio_edge.manifest.schema import Values
    from nuclio_edge.registry import Fault

PARAMS = {
    "path": Field(
        "path", doc='a file to read, or several: "/sys/bus/w1/devices/28-*/temperature"; or "sim:NAME", simulated'
    ),
    "reader": Field("path", doc='or a function of yours that reads: "bme280.py:read"'),
    "i2c": Field(
        "string", minimum=1, doc='the reader\'s bus: "/dev/i2c-1", or a name of the board\'s such as "header"'
    ),
    "address": Field("integer", minimum=0x03, maximum=0x77, doc="with i2c: of the device, e.g. 0x76"),
    "spi": Field("string", minimum=1, doc='or "/dev/spidev0.0", or a name of the board\'s'),
    "spi_mode": Field("integer", 0, minimum=0, maximum=3, doc="clock polarity and phase"),
    "spi_speed": Field("integer", 1_000_000, minimum=1000, maximum=125_000_000, doc="bits a second"),
    "every": Field("duration", 10_000, minimum=10, doc="how often it is read"),
    "scale": Field("number", 1.0, doc="value = number read * scale + offset"),
    "offset": Field("number", 0.0, doc="see scale"),
    "unit": Field("string", "", doc='of the value, e.g. "°C"'),
    "min_change": Field(
        "number", 0.0, minimum=0.0, doc="dead band: a smaller change is no event; 0: every reading is one"
    ),
    "max_silence": Field("duration", minimum=10, doc="with min_change: an event at least so often"),
    "match": Field(
        "string", minimum=1, raw=True, doc="a regular expression that finds the number; default: the first one"
    ),
    "timeout": Field("duration", 5000, minimum=50, doc="a read that takes longer is left behind"),
}

TRIGGER = {
    "sensor": Field("string", minimum=1, raw=True, doc='only sensors of this name; * and ? stand for others: "28-*"')
}

OUTPUT = None


def check_params(params: Values) -> Iterator[Fault]:
    """A path or a reader, and what goes with each."""
    yield from separately(params, _check_origin, _check_match, _check_silence)


def _check_origin(params: Values) -> Iterator[Fault]:
    if (params.path is None) == (params.reader is None):
        yield "path" if params.path is not None else "reader", "either path or reader is expected", None
        return
    if params.path is None:
        yield from separately(params, _check_bus, _check_address, _check_reader)
        return
    if params.path.startswith("sim:") and ("/" in params.path or params.path in ("sim:", "sim:.")):
        yield "path", f"{quote(params.path)} is no name of a simulated sensor", 'e.g. "sim:climate"'
    for key, value in known(params, "i2c", "spi", "address"):
        if value is not None:
            yield key, "is for a reader, not for a path", None


def _check_match(params: Values) -> Iterator[Fault]:
    if params.match is None:
        return
    import re

    try:
        re.compile(params.match)
    except re.error as error:
        yield "match", f"{quote(params.match)} is not a regular expression: {error}", None
    if params.path is None and params.reader is not None:
        yield "match", "is for a path: a reader returns the number itself", None


def _check_silence(params: Values) -> Iterator[Fault]:
    if params.max_silence is not None and not params.min_change:
        yield "max_silence", "has no effect without min_change: every reading is an event", None


def _check_bus(params: Values) -> Iterator[Fault]:
    if params.i2c is not None and params.spi is not None:
        yield "spi", "a reader has one bus, and i2c is given", None


def _check_address(params: Values) -> Iterator[Fault]:
    if (params.i2c is None) != (params.address is None):
        yield ("address", "is missing: i2c needs it", "e.g. 0x76") if params.i2c else ("address", "is for i2c", None)


def _check_reader(params: Values) -> Iterator[Fault]:
    file, name = split_reader(params.reader)
    if not os.path.isfile(file):
        yield "reader", f"{file}: there is no such file", 'write reader = "file.py:function"'
        return
    from nuclio_edge.manifest.handler import names_of

    try:
        with open(file, "rb") as code:
            names = names_of(code.read(), file)
    except (OSError, SyntaxError) as error:
        yield "reader", f"{file} is not Python: {getattr(error, 'msg', None) or error}", None
        return
    if name not in names.bound and not names.unknowable:
        there = listed(names.callables())
        yield "reader", f"{file} has no function {quote(name)}", f"there is {there}" if there else None


def split_reader(reader: str) -> tuple[str, str]:
    """File and function; the function is called read unless it is named."""
    file, colon, name = reader.rpartition(":")
    return (file, name) if colon and "/" not in name else (reader, "read")


def claims(params: Values) -> Iterator[tuple[str, str]]:
    """A device on a bus has one owner; a file may be read by many."""
    if params.i2c is not None:
        yield "address", f"address {params.address:#04x} on {quote(params.i2c)}"
    if params.spi is not None:
        yield "spi", f"SPI device {quote(params.spi)}"


def board_ports(params: Values) -> Iterator[tuple[str, str, str]]:
    """A bus that is no path is one of the board; a simulated sensor needs the board that has it."""
    for _, path in known(params, "path"):
        if path is not None and path.startswith("sim:"):
            yield "path", "sensors", path
    for kind, bus in known(params, "i2c", "spi"):
        if bus is not None and not bus.startswith("/"):
            yield kind, kind, bus


def when_full(address: Values) -> str:
    """What is newest matters most."""
    return "drop-oldest"
