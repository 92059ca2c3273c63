"""What a serial source's tables may hold, and the framing that they ask for."""

from __future__ import annotations

import os.path

from nuclio_edge.manifest.problems import listed, quote, suggest
from nuclio_edge.manifest.schema import Field, known, separately
from nuclio_edge.sources.serial_framing import CHECKSUMS, LENGTHS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from nuclio_edge.manifest.schema import Values
    from nuclio_edge.registry import Fault
    from nuclio_edge.sources.serial_framing import Gap, Marked, Reject, Sized, Split

FRAMINGS = ("line", "delimiter", "fixed", "length-prefixed", "slip", "cobs", "nmea", "gap")

RS485 = {
    "rts_on_send": Field("boolean", default=True, doc="RTS is high while sending"),
    "rts_after_send": Field("boolean", default=False, doc="RTS is high after sending"),
    "delay_before": Field("duration", 0, minimum=0, maximum=100, doc="between RTS and the first bit"),
    "delay_after": Field("duration", 0, minimum=0, maximum=100, doc="between the last bit and RTS"),
    "receive_own": Field("boolean", default=False, doc="hear what is sent, too"),
}

PARAMS = {
    "device": Field(
        "string",
        required=True,
        minimum=1,
        doc='a path, best of /dev/serial/by-id, the board\'s "header", or "sim:NAME"',
    ),
    "baud": Field("integer", 9600, minimum=50, maximum=12_000_000, doc="bits a second; odd rates too"),
    "data_bits": Field("integer", 8, minimum=5, maximum=8, doc="bits of a character"),
    "parity": Field("string", "none", choices=("none", "even", "odd", "mark", "space"), doc="of each character"),
    "stop_bits": Field("integer", 1, minimum=1, maximum=2, doc="after each character"),
    "flow": Field("string", "none", choices=("none", "rtscts", "xonxoff"), doc="who may stop whom"),
    "rs485": Field(
        "boolean",
        default=False,
        either=(Field("boolean"), Field("table", fields=RS485)),
        doc="the driver switches a transmitter by RTS: true, or a table",
    ),
    "framing": Field("string", "line", choices=FRAMINGS, doc="where an event begins and ends"),
    "delimiter": Field(
        "string", minimum=1, maximum=16, raw=True, doc='what ends a frame; characters are bytes: "\\u0003"'
    ),
    "start": Field(
        "string", minimum=1, maximum=16, raw=True, doc="what begins one, with delimiter, fixed and length-prefixed"
    ),
    "trailer": Field("integer", 0, minimum=0, maximum=64, doc="bytes after the delimiter that belong to the frame"),
    "size": Field("integer", minimum=1, doc="with fixed: bytes of a frame, start included"),
    "length": Field("string", choices=tuple(LENGTHS), doc="with length-prefixed: the number that tells the size"),
    "length_at": Field("integer", 0, minimum=0, maximum=64, doc="bytes before it, start included"),
    "length_adds": Field("integer", 0, minimum=-64, maximum=64, doc="bytes after it that it does not count"),
    "gap": Field(
        "duration", minimum=1, maximum=60_000, doc="with gap: the silence; default: 3.5 characters, at least 20ms"
    ),
    "frame_timeout": Field(
        "duration", minimum=1, doc="half a frame is dropped after; default: 1s with fixed, length-prefixed"
    ),
    "keep_framing": Field("boolean", default=False, doc="the event's body has start, length and delimiter"),
    "checksum": Field(
        "string", choices=CHECKSUMS, doc='what is wrong is dropped; default: "nmea" with nmea, else "none"'
    ),
    "max_frame": Field("size", 16384, minimum=16, maximum=256 << 10, doc="longer ones are dropped"),
    "write_buffer": Field("size", 65536, minimum=256, maximum=16 << 20, doc="what waits to be sent at most"),
}

TRIGGER = {
    "prefix": Field("list", (), of=Field("string", minimum=1, raw=True), single=True, doc="only frames that begin so"),
}

OUTPUT = {"append": Field("string", "", raw=True, doc='what follows each value, e.g. "\\r\\n"')}

# framing -> the keys that it reads besides the common ones
_READS = {
    "line": ("keep_framing",),
    "delimiter": ("delimiter", "start", "trailer", "keep_framing", "checksum"),
    "fixed": ("size", "start", "checksum"),
    "length-prefixed": ("length", "length_at", "length_adds", "start", "keep_framing", "checksum"),
    "slip": (),
    "cobs": (),
    "nmea": ("checksum",),
    "gap": ("gap", "checksum"),
}
_NEEDS = {"delimiter": "delimiter", "fixed": "size", "length-prefixed": "length"}
_OWN = (
    "delimiter",
    "start",
    "trailer",
    "size",
    "length",
    "length_at",
    "length_adds",
    "gap",
    "keep_framing",
    "checksum",
)


def check_params(params: Values) -> Iterator[Fault]:
    """Keys that the framing does not read would be believed to have an effect: they are refused."""
    yield from separately(params, _check_framing, _check_checksum, _check_size, _check_trailer, _check_device)
    for key, value in known(params, "delimiter", "start"):
        if value is not None and not _is_bytes(value):
            yield key, "has a character that is no byte", "up to U+00FF a character stands for the byte of its number"


def _check_framing(params: Values) -> Iterator[Fault]:
    framing = params.framing
    for key, value in known(params, *_OWN):
        if value is not None and value != PARAMS[key].default and key not in _READS[framing]:
            fits = [name for name in FRAMINGS if key in _READS[name]]
            yield key, f"has no effect with framing = {quote(framing)}", f"it is for {listed(fits, 'or')}"
    needed = _NEEDS.get(framing)
    if needed and getattr(params, needed) is None:
        yield needed, f"is missing: framing = {quote(framing)} needs it", None


def _check_checksum(params: Values) -> Iterator[Fault]:
    framing = params.framing
    if params.checksum == "nmea" and framing != "nmea":
        yield "checksum", '"nmea" is for framing = "nmea"', None
    if params.checksum in ("modbus", "p1") and framing == "nmea":
        yield "checksum", f"{quote(params.checksum)} is not a checksum of sentences", 'there are "nmea" and "none"'


def _check_size(params: Values) -> Iterator[Fault]:
    if params.framing == "fixed" and params.size is not None and params.size > params.max_frame:
        yield "size", "is more than max_frame", None


def _check_trailer(params: Values) -> Iterator[Fault]:
    if params.trailer and params.start is None:
        yield "start", "is missing: a trailer needs it", None


def _check_device(params: Values) -> Iterator[Fault]:
    device = params.device
    if not device.startswith("/") and "/" in device:
        yield (
            "device",
            f"{quote(device)} is neither an absolute path nor a port of the board",
            suggest(device, ["/dev/" + device]),
        )


def check_trigger(address: Values) -> Iterator[Fault]:
    """A prefix is compared with bytes."""
    for prefix in address.prefix:
        if not _is_bytes(prefix):
            yield (
                "prefix",
                "has a character that is no byte",
                "up to U+00FF a character stands for the byte of its number",
            )


def claims(params: Values) -> Iterator[tuple[str, str]]:
    """A port has one owner, by whichever of its names."""
    device: str = params.device
    yield (
        "device",
        f"serial port {quote(os.path.realpath(device) if device[0] == '/' else device.removeprefix('sim:'))}",
    )


def board_ports(params: Values) -> Iterator[tuple[str, str, str]]:
    """A device that is no path is a port of the board, a simulated one if it begins with sim:."""
    if "/" not in params.device:
        yield "device", "serial", params.device


def when_full(address: Values) -> str:
    """A port does not wait: what is newest matters most, and what is dropped is counted here and not in the driver."""
    return "drop-oldest"


def _is_bytes(text: str) -> bool:
    return all(ord(char) < 256 for char in text)


def framing(params: Values, reject: Reject) -> Split | Marked | Sized | Gap:
    """The parser that the table asks for; counts what is no frame by `reject(reason)`."""
    from nuclio_edge.sources import serial_framing as frames

    kind, limit, keep = params.framing, params.max_frame, params.keep_framing
    check = frames.CHECKS.get(params.checksum or "none")
    start = (params.start or "").encode("latin-1")
    made: Split | Marked | Sized | Gap
    if kind == "gap":
        return frames.Gap(reject, limit, params.gap or default_gap_ms(params), check)
    if kind == "fixed":
        size = params.size
        made = frames.Sized(reject, limit, lambda data, at: size, start, 0, check, 1000)
    elif kind == "length-prefixed":
        width, order = frames.LENGTHS[params.length]
        at_least = params.length_at + width
        made = frames.Sized(reject, limit, _size_of(params, width, order), start, 0 if keep else at_least, check, 1000)
    elif kind == "delimiter":
        delimiter = params.delimiter.encode("latin-1")
        if start:
            made = frames.Marked(reject, limit, start, delimiter, params.trailer, check, keep=keep)
        else:
            made = frames.Split(reject, limit, delimiter, _checked(check), keep=keep)
    elif kind == "line":
        made = frames.Split(reject, limit, b"\n", None if keep else frames.line, keep=keep)
    elif kind == "nmea":
        made = frames.Split(reject, limit, b"\n", frames.line if params.checksum == "none" else frames.nmea)
    else:
        made = frames.Split(reject, limit, *((b"\xc0", frames.slip) if kind == "slip" else (b"\0", frames.cobs)))
    if params.frame_timeout is not None:
        made.quiet_ms = params.frame_timeout
    return made


def default_gap_ms(params: Values) -> int:
    """3.5 characters (1.75 ms above 19,200 baud), and never less than 20 ms.

    A USB adapter hands on what it has every 16 ms (FTDI's latency timer): a shorter silence would be seen where there
    was none.
    """
    bits = 1 + params.data_bits + (params.parity != "none") + params.stop_bits
    characters_ms: int = -(-3500 * bits // params.baud)
    return max(20, characters_ms)


def _size_of(params: Values, width: int, order: str) -> Any:
    at, adds = params.length_at, params.length_adds
    head = at + width

    def size(data: bytes, position: int) -> int:
        if len(data) - position < head:
            return 0
        told = int.from_bytes(data[position + at : position + head], order)  # type: ignore[arg-type]  # big or little
        return head + told + adds if told + adds >= 0 else -1

    return size


def _checked(check: Any) -> Any:
    if check is None:
        return None
    from nuclio_edge.sources.serial_framing import MalformedFrameError

    def inside(frame: bytes) -> bytes:
        if not check(frame):
            raise MalformedFrameError("checksum")
        return frame

    return inside
