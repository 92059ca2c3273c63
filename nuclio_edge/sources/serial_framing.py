"""Where a frame begins and ends in a stream of bytes: push parsers without I/O.

`feed(data)` takes what was read and returns the frames that it completed; how the stream was cut into reads changes
nothing. What is no frame is counted by `reject(reason)`, once for each stretch of it, and the next one is found again:
oversized (longer than `limit` before its end came), checksum, malformed (an escape that cannot be), noise (bytes before
a frame began), partial (a frame that stopped coming). `tail` is what has come of the next frame, never much more than
`limit` bytes. Nothing raises.

`silence()` says that nothing came for the framing's `quiet_ms` (0: it does not care): it ends a frame of `Gap`, and
drops the half of a frame of the others. SLIP: RFC 1055. COBS: Cheshire and Baker, 1999. NMEA 0183: $ or !, * and two
hex digits. CRC-16 of Modbus (initial 0xFFFF, low byte first) and of DSMR P1 telegrams (initial 0, hex digits after !).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Reject = Callable[[str], Any]
    Check = Callable[[bytes], bool]

SLIP_END, SLIP_ESCAPE = b"\xc0", b"\xdb"
LENGTHS = {"u8": (1, "big"), "u16be": (2, "big"), "u16le": (2, "little"), "u32be": (4, "big"), "u32le": (4, "little")}
_RETRIES = 8  # beginnings that are looked for within frames whose checksum was wrong, in a row
CHECKSUMS = ("none", "nmea", "modbus", "p1")


class MalformedFrameError(ValueError):
    """A frame whose inside is wrong; its text is the reason that is counted."""


class Split:
    """Frames that end with a delimiter, which `inside` turns into what they say; empty ones are nothing."""

    __slots__ = ("_delimiter", "_inside", "_keep", "_limit", "_reject", "_skipping", "quiet_ms", "tail")

    def __init__(
        self,
        reject: Reject,
        limit: int,
        delimiter: bytes,
        inside: Callable[[bytes], bytes] | None = None,
        *,
        keep: bool = False,
    ) -> None:
        self._reject = reject
        self._limit = limit
        self._delimiter = delimiter
        self._inside = inside
        self._keep = delimiter if keep else b""
        self.tail = b""
        self._skipping = False  # the frame was too long: what remains of it goes, too
        self.quiet_ms = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that these bytes complete."""
        delimiter = self._delimiter
        parts = (self.tail + data).split(delimiter)
        tail = parts.pop()
        frames = []
        for part in parts:
            if self._skipping:
                self._skipping = False
            elif len(part) > self._limit:
                self._reject("oversized")
            elif part:
                try:
                    frame = part if self._inside is None else self._inside(part)
                except MalformedFrameError as error:
                    self._reject(str(error))
                else:
                    if frame:
                        frames.append(frame + self._keep)
        held = len(delimiter) - 1  # so many bytes may be the beginning of the delimiter
        if not self._skipping and len(tail) > self._limit + held:
            self._reject("oversized")
            self._skipping = True
        if self._skipping:
            tail = tail[len(tail) - held :] if held else b""
        self.tail = tail
        return frames

    def silence(self) -> list[bytes]:
        """Drop the half of a frame."""
        if self.tail and not self._skipping:
            self._reject("partial")
        self.tail = b""
        return []


class Marked:
    """Frames between a start and a delimiter, with `trailer` bytes after it: `/ … ! 1E1D CR LF`."""

    __slots__ = (
        "_check",
        "_delimiter",
        "_keep",
        "_limit",
        "_noisy",
        "_reject",
        "_start",
        "_trailer",
        "quiet_ms",
        "tail",
    )

    def __init__(
        self,
        reject: Reject,
        limit: int,
        start: bytes,
        delimiter: bytes,
        trailer: int,
        check: Check | None,
        *,
        keep: bool,
    ) -> None:
        self._reject = reject
        self._limit = limit
        self._start = start
        self._delimiter = delimiter
        self._trailer = trailer
        self._check = check
        self._keep = keep
        self.tail = b""
        self._noisy = False  # this stretch of noise is counted
        self.quiet_ms = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that these bytes complete."""
        data = self.tail + data
        start, delimiter, limit = self._start, self._delimiter, self._limit
        frames = []
        position = 0
        while position < len(data):
            begin = data.find(start, position)
            if begin < 0:
                begin = max(position, len(data) - len(start) + 1)
                while begin < len(data) and not start.startswith(data[begin:]):  # may the rest become a start?
                    begin += 1
                self._noise(begin - position)
                position = begin
                break
            self._noise(begin - position)
            position = begin
            inner = begin + len(start)
            end = data.find(delimiter, inner, inner + limit + len(delimiter))
            if end < 0:
                if len(data) - inner < limit + len(delimiter):
                    break  # its end may still come
                self._reject("oversized")
                self._noisy = True  # counted already
                position = inner
                continue
            after = end + len(delimiter) + self._trailer
            if after > len(data):
                break
            frame = data[begin:after]
            self._noisy = False
            if self._check is not None and not self._check(frame):
                self._reject("checksum")
            else:
                frames.append(frame if self._keep else data[inner:end])
            position = after
        self.tail = data[position:]
        return frames

    def silence(self) -> list[bytes]:
        """Drop the half of a frame."""
        if self.tail:
            self._reject("partial")
        self.tail = b""
        return []

    def _noise(self, count: int) -> None:
        if count and not self._noisy:
            self._noisy = True
            self._reject("noise")


class Sized:
    """Frames whose size is known from their first bytes: `size(data, at)` is it, 0 while they are too few.

    With `start`, frames begin with these bytes, and what is before them is noise: so it falls into step again. Without,
    a checksum that stays wrong shifts it by a byte a frame until it fits: at most one CRC over each byte of noise.
    `cut` bytes at the front are left out of what is handed on.
    """

    __slots__ = (
        "_check",
        "_cut",
        "_failures",
        "_limit",
        "_noisy",
        "_owed",
        "_reject",
        "_size",
        "_start",
        "quiet_ms",
        "tail",
    )

    def __init__(
        self,
        reject: Reject,
        limit: int,
        size: Callable[[bytes, int], int],
        start: bytes = b"",
        cut: int = 0,
        check: Check | None = None,
        quiet_ms: int = 0,
    ) -> None:
        self._reject = reject
        self._limit = limit
        self._size = size
        self._start = start
        self._cut = cut
        self._check = check
        self.tail = b""
        self._noisy = False
        self._failures = 0  # wrong checksums in a row
        self._owed = 0  # bytes to be left out that have not come yet
        self.quiet_ms = quiet_ms

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that these bytes complete."""
        data = self.tail + data
        start = self._start
        frames = []
        position = min(self._owed, len(data))
        self._owed -= position
        while position < len(data):
            if start:
                begin = data.find(start, position)
                if begin < 0:
                    begin = max(position, len(data) - len(start) + 1)
                    while begin < len(data) and not start.startswith(data[begin:]):
                        begin += 1
                self._noise(begin - position)
                position = begin
                if len(data) - position < len(start):
                    break
            size = self._size(data, position)
            if not size:
                break
            if size > self._limit or size < 0:
                self._out_of_step("oversized")
                position += 1
                continue
            if position + size > len(data):
                break
            frame = data[position : position + size]
            if self._check is not None and not self._check(frame):
                self._out_of_step("checksum")
                self._failures += 1
                if start and self._failures < _RETRIES:
                    position += 1  # its size was perhaps never one: the next beginning may be within it
                else:
                    position += size + (self._failures > 1)
                continue
            self._noisy = False
            self._failures = 0
            frames.append(frame[self._cut :])
            position += size
        self.tail = data[position:]
        self._owed += max(0, position - len(data))
        return frames

    def silence(self) -> list[bytes]:
        """Drop the half of a frame: the next byte begins one."""
        if self.tail:
            self._reject("partial")
        self.tail = b""
        self._noisy = False
        self._owed = 0
        return []

    def _out_of_step(self, reason: str) -> None:
        if not self._noisy:
            self._noisy = True
            self._reject(reason)

    def _noise(self, count: int) -> None:
        if count:
            self._out_of_step("noise")


class Gap:
    """Frames with silence between them, as Modbus RTU has it."""

    __slots__ = ("_check", "_limit", "_oversized", "_reject", "quiet_ms", "tail")

    def __init__(self, reject: Reject, limit: int, quiet_ms: int, check: Check | None = None) -> None:
        self._reject = reject
        self._limit = limit
        self._check = check
        self.tail = bytearray()
        self._oversized = False
        self.quiet_ms = quiet_ms

    def feed(self, data: bytes) -> list[bytes]:
        """Keep it until silence."""
        if len(self.tail) + len(data) <= self._limit and not self._oversized:
            self.tail += data
        elif not self._oversized:
            self._oversized = True
            self.tail.clear()
            self._reject("oversized")
        return []

    def silence(self) -> list[bytes]:
        """The frame that it ends."""
        frame = bytes(self.tail)
        self.tail.clear()
        self._oversized = False
        if not frame:
            return []
        if self._check is not None and not self._check(frame):
            self._reject("checksum")
            return []
        return [frame]


def line(frame: bytes) -> bytes:
    """A line without its carriage return."""
    return frame.rstrip(b"\r")


def nmea(frame: bytes) -> bytes:
    """A sentence whose checksum is right; what stands before its beginning is the rest of a broken one."""
    begin = max(frame.rfind(b"$"), frame.rfind(b"!"))
    if begin < 0:
        if frame.strip():
            raise MalformedFrameError("noise")
        return b""
    sentence = frame[begin:].rstrip(b"\r")
    inside, star, digits = sentence[1:].rpartition(b"*")
    total = 0
    for byte in inside:
        total ^= byte
    try:
        right = star and len(digits) == 2 and int(digits, 16) == total
    except ValueError:
        right = False
    if not right:
        raise MalformedFrameError("checksum")
    return sentence


def slip(frame: bytes) -> bytes:
    """A packet without its escapes."""
    first, *rest = frame.split(SLIP_ESCAPE)
    whole = [first]
    for part in rest:
        if part[:1] == b"\xdc":
            whole += SLIP_END, part[1:]
        elif part[:1] == b"\xdd":
            whole += SLIP_ESCAPE, part[1:]
        else:
            raise MalformedFrameError("malformed")
    return b"".join(whole)


def cobs(frame: bytes) -> bytes:
    """What a frame without zeros says, with its zeros."""
    whole = bytearray()
    position = 0
    while position < len(frame):
        code = frame[position]
        block = frame[position + 1 : position + code]
        if len(block) != code - 1:
            raise MalformedFrameError("malformed")
        whole += block
        position += code
        if code < 0xFF and position < len(frame):
            whole.append(0)
    return bytes(whole)


def crc16(data: bytes, crc: int) -> int:
    """The reflected CRC-16 of polynomial 0x8005, from an initial value."""
    table = _TABLE or _fill()
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc


_TABLE: list[int] = []


def _fill() -> list[int]:
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
        _TABLE.append(crc)
    return _TABLE


def modbus(frame: bytes) -> bool:
    """Whether a frame ends with the CRC of what is before it."""
    return len(frame) >= 4 and crc16(frame[:-2], 0xFFFF) == int.from_bytes(frame[-2:], "little")


def p1(frame: bytes) -> bool:
    """Whether the hex digits after a telegram's ! are the CRC from its / to the !; meters before DSMR 4 send none."""
    telegram, mark, digits = frame.rpartition(b"!")
    try:
        return int(digits.strip(), 16) == crc16(telegram + mark, 0)
    except ValueError:
        return False


CHECKS: dict[str, Check] = {"modbus": modbus, "p1": p1}
