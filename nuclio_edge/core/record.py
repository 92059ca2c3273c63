"""Framed, checked records, sans-IO: what the spool, the recorder and log segments are made of.

A record, little endian: marker u16, crc u32, kind u8, flags u8, lane u16, size u32, number u64, then `size` bytes of
payload. The crc (IEEE 802.3, as zlib's) covers all that follows it and begins with the segment's `seed`, a number
that nobody can guess and that no other segment has: what an earlier life of the file left, or what somebody put into
a payload, is never taken for a record. The marker is the seed's lower half: after damage the next record is found by
`bytes.find`, at the speed of memory.

What kind, flags, lane and number mean is the owner's affair.
"""

from binascii import crc32
from struct import pack, unpack_from

from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = 22  # bytes before the payload
_CHECKED = const(6)  # from where on the crc covers it


def seed_of(raw: bytes) -> int:
    """The seed made of what is a segment's own.

    A crc that follows what it is of makes the seed the same for all: leave it out. Never one whose marker is zero, as
    unwritten space is, nor all ones, from which a crc stays what it is however many zeros come first.
    """
    seed = crc32(raw)
    return seed if seed & 0xFFFF not in (0, 0xFFFF) else seed ^ 1


def frames(seed: int, records: "list[tuple[int, int, int, int, bytes]]") -> "list[bytes]":
    """Records as bytes, in pieces to be joined; each is (kind, flags, lane, number, payload)."""
    marker = seed & 0xFFFF
    parts: "list[bytes]" = []
    add = parts.append
    for kind, flags, lane, number, payload in records:
        rest = pack("<BBHIQ", kind, flags, lane, len(payload), number)
        add(pack("<HI", marker, crc32(payload, crc32(rest, seed))))
        add(rest)
        add(payload)
    return parts


def size_of(raw: bytes) -> int:
    """How long the payload is by what stands before it, unchecked; 0 when that is cut off."""
    return unpack_from("<I", raw, 10)[0] if len(raw) >= HEAD else 0


class Reader:
    """The whole records of a buffer, in order, as (at, kind, flags, lane, number, start, stop); iterate once.

    `at` is where the record begins, data[start:stop] its payload. What is no whole record is passed over up to the next
    one that is. Afterwards `end` is where the last whole record ends, `damaged` how many gaps there were before
    it, and `torn` whether a record was begun behind it.
    """

    def __init__(self, data: bytes, at: int, end: int, seed: int) -> None:
        self._data = data
        self._limit = end
        self._seed = seed
        self.end = at
        self.damaged = 0
        self.torn = False

    def __iter__(self) -> "Iterator[tuple[int, int, int, int, int, int, int]]":
        data = self._data
        view = memoryview(data)
        limit = self._limit
        seed = self._seed
        marker = seed & 0xFFFF
        sign = marker.to_bytes(2, "little")
        at = self.end
        last = limit - HEAD
        lost = False
        while at <= last:
            found, crc, kind, flags, lane, size, number = unpack_from("<HIBBHIQ", data, at)
            if found == marker:
                start = at + HEAD
                stop = start + size
                if stop <= limit and crc32(view[at + _CHECKED : stop], seed) == crc:
                    if lost:
                        self.damaged += 1
                        lost = False
                    self.end = stop
                    yield at, kind, flags, lane, number, start, stop
                    at = stop
                    continue
            lost = True
            at = data.find(sign, at + 1, limit)
            if at < 0:
                break
        self.torn = data[self.end : self.end + 2] == sign


def pack_numbers(numbers: "list[int]") -> bytes:
    """Non-negative integers, seven bits a byte, the lowest first (LEB128)."""
    out = bytearray()
    for number in numbers:
        rest = number
        while rest > 127:
            out.append(rest & 127 | 128)
            rest >>= 7
        out.append(rest)
    return bytes(out)


def unpack_numbers(data: bytes) -> "list[int]":
    """The numbers that `pack_numbers` packed; ValueError when the last one is cut off."""
    found = []
    number = shift = 0
    for byte in data:
        number |= (byte & 127) << shift
        if byte > 127:
            shift += 7
        else:
            found.append(number)
            number = shift = 0
    if shift:
        raise ValueError("a number is cut off")
    return found
