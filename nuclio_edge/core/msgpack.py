"""MessagePack: a whole decoder and an encoder of the JSON types and bytes, for where its C library is not.

Extension types come as their bytes, time stamps (type -1) as integer nanoseconds since 1970, whichever of the two does
the work.
"""

import struct

from . import port
from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from typing import Any

MAX_DEPTH = 64

_library = port.msgpack_library()

# code -> (struct format, bytes)
_NUMBERS = {
    0xCA: (">f", 4),
    0xCB: (">d", 8),
    0xCC: (">B", 1),
    0xCD: (">H", 2),
    0xCE: (">I", 4),
    0xCF: (">Q", 8),
    0xD0: (">b", 1),
    0xD1: (">h", 2),
    0xD2: (">i", 4),
    0xD3: (">q", 8),
}
_LENGTHS = (">B", ">H", ">I")
_STR, _BIN, _EXT, _ARRAY, _MAP = 0, 1, 2, 3, 4


def unpack(raw: "bytes") -> "Any":
    """The one value that the bytes are; ValueError for anything else, TypeError for a list as a key."""
    library = _library
    if library is not None:
        try:
            return library.unpackb(raw, strict_map_key=False, ext_hook=_payload, timestamp=2)
        except library.exceptions.ExtraData:
            raise ValueError("bytes after the value")  # noqa: B904 - as below
        except library.exceptions.UnpackException as error:
            raise ValueError("not msgpack: " + (str(error) or "it is cut off"))  # noqa: B904 - `from` only warns on MicroPython
    value, end = _read(raw, 0, 0)
    if end != len(raw):
        raise ValueError("bytes after the value")
    return value


def pack(value: "Any") -> bytes:
    """The bytes of None, bool, int, float, str, bytes, list, tuple and dict; ValueError names the type of another."""
    library = _library
    if library is not None:
        try:
            packed: bytes = library.packb(value)
        except (TypeError, OverflowError) as error:
            raise ValueError(str(error))  # noqa: B904 - `from` only warns on MicroPython
        return packed
    out: "list[bytes]" = []
    _write(value, out, 0)
    return b"".join(out)


def _payload(_code: int, data: bytes) -> bytes:
    return data


def _read(raw: "bytes", at: int, depth: int) -> "tuple[Any, int]":
    if at >= len(raw):
        raise ValueError("not msgpack: it is cut off")
    code = raw[at]
    at += 1
    if code < 0x80:
        return code, at
    if code >= 0xE0:
        return code - 256, at
    if code < 0x90:
        return _items(raw, at, code & 15, depth, _MAP)
    if code < 0xA0:
        return _items(raw, at, code & 15, depth, _ARRAY)
    if code < 0xC0:
        return _blob(raw, at, code & 31, _STR)
    if code == 0xC0:
        return None, at
    if code in (0xC2, 0xC3):
        return code == 0xC3, at
    if code in _NUMBERS:
        form, size = _NUMBERS[code]
        if at + size > len(raw):
            raise ValueError("not msgpack: it is cut off")
        return struct.unpack_from(form, raw, at)[0], at + size
    if code == 0xC1:
        raise ValueError("not msgpack: byte c1")
    if 0xD4 <= code <= 0xD8:
        return _blob(raw, at, 1 << (code - 0xD4), _EXT)
    if code <= 0xC6:
        kind, width = _BIN, code - 0xC4
    elif code <= 0xC9:
        kind, width = _EXT, code - 0xC7
    elif code <= 0xDB:
        kind, width = _STR, code - 0xD9
    elif code <= 0xDD:
        kind, width = _ARRAY, code - 0xDC + 1
    else:
        kind, width = _MAP, code - 0xDE + 1
    size = 1 << width
    if at + size > len(raw):
        raise ValueError("not msgpack: it is cut off")
    count = struct.unpack_from(_LENGTHS[width], raw, at)[0]
    if kind >= _ARRAY:
        return _items(raw, at + size, count, depth, kind)
    return _blob(raw, at + size, count, kind)


def _blob(raw: "bytes", at: int, count: int, kind: int) -> "tuple[Any, int]":
    start = at + 1 if kind == _EXT else at
    end = start + count
    if end > len(raw):
        raise ValueError("not msgpack: it is cut off")
    blob = bytes(raw[start:end])
    if kind == _STR:
        return str(blob, "utf-8"), end
    if kind == _EXT and raw[at] == 255:
        return _nanoseconds(blob), end
    return blob, end


def _nanoseconds(blob: bytes) -> int:
    if len(blob) == 4:
        return int(struct.unpack(">I", blob)[0]) * 1_000_000_000
    if len(blob) == 8:
        both = struct.unpack(">Q", blob)[0]
        nanos, seconds = both >> 34, both & 0x3_FFFF_FFFF
    elif len(blob) == 12:
        nanos, seconds = struct.unpack(">Iq", blob)
    else:
        raise ValueError("not msgpack: a time stamp of %d bytes" % len(blob))
    if nanos > 999_999_999:
        raise ValueError("not msgpack: a time stamp of more than a second of nanoseconds")
    return int(seconds * 1_000_000_000 + nanos)


def _items(raw: "bytes", at: int, count: int, depth: int, kind: int) -> "tuple[Any, int]":
    # Every item takes a byte at least: a count that lies allocates nothing.
    if count > len(raw) - at or depth >= MAX_DEPTH:
        raise ValueError("not msgpack: it is cut off, or nested too deeply")
    depth += 1
    if kind == _ARRAY:
        array = []
        for _ in range(count):
            item, at = _read(raw, at, depth)
            array.append(item)
        return array, at
    found = {}
    for _ in range(count):
        key, at = _read(raw, at, depth)
        found[key], at = _read(raw, at, depth)
    return found, at


def _write(value: "Any", out: "list[bytes]", depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply, or contains itself")
    if value is None:
        out.append(b"\xc0")
    elif value is True or value is False:
        out.append(b"\xc3" if value else b"\xc2")
    elif isinstance(value, int):
        out.append(_integer(value))
    elif isinstance(value, float):
        out.append(struct.pack(">Bd", 0xCB, value))
    elif isinstance(value, str):
        text = value.encode()
        size = len(text)
        out.append(bytes([0xA0 | size]) if size < 32 else _head(size, 0xD9, 0xDA, 0xDB))
        out.append(text)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        out.append(_head(len(value), 0xC4, 0xC5, 0xC6))
        out.append(bytes(value))
    elif isinstance(value, (list, tuple)):
        size = len(value)
        out.append(bytes([0x90 | size]) if size < 16 else _head(size, 0, 0xDC, 0xDD))
        for item in value:
            _write(item, out, depth + 1)
    elif isinstance(value, dict):
        size = len(value)
        out.append(bytes([0x80 | size]) if size < 16 else _head(size, 0, 0xDE, 0xDF))
        for key in value:
            _write(key, out, depth + 1)
            _write(value[key], out, depth + 1)
    else:
        raise ValueError("can not serialize '%s' object" % type(value).__name__)


def _integer(value: int) -> bytes:
    if -32 <= value < 128:
        return bytes([value & 255])
    for at in range(4):
        if value < 0:
            if value >= -(1 << ((8 << at) - 1)):
                return struct.pack(">B" + "bhiq"[at], 0xD0 + at, value)
        elif value < 1 << (8 << at):
            return struct.pack(">B" + "BHIQ"[at], 0xCC + at, value)
    raise ValueError("an int of more than 64 bits")


def _head(size: int, short: int, middle: int, long: int) -> bytes:
    if size < 256 and short:
        return struct.pack(">BB", short, size)
    if size < 65536:
        return struct.pack(">BH", middle, size)
    return struct.pack(">BI", long, size)
