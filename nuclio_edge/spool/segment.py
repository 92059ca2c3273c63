"""A segment of the spool: a preallocated file with a header, records, and a copy of the header; and its index.

The header, little endian: "NESP", version u16, 0 u16, sequence u64, salt u32, size u32, wall time in ms u64, crc u32,
zeros up to 64 bytes. It stands at both ends: the damage of one page costs no segment. The records' seed is made of it,
so a recycled file begins with a new header and all that it held before is void.
"""

from __future__ import annotations

from array import array
from binascii import crc32
from bisect import bisect_left
from struct import Struct

from nuclio_edge.core import port
from nuclio_edge.core.record import Reader, seed_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = 64
SMALLEST, LARGEST = 1 << 10, 1 << 30
_HEADER = Struct("<4sHHQIIQ")
_MAGIC = b"NESP"
_VERSION = 1

# Flags of a record.
CONTROL = 1  # the spool's own; its kind is one of those below
COPY = 2  # was appended before, in a segment that is given up
NAMED = 4  # the payload begins with the key of its lane: u16 length, JSON
SETTLES = 8  # then with a settlement: u32 length, bytes
CHECKPOINT, SETTLE, DROP, CURSOR, NAMES, PAD = range(1, 7)


class Segment:
    """One file, and where its records are.

    The index holds ten bytes a record: `ids` (less `base`), `at` (offset) and `lanes` (0: settled, moved or dropped).
    Its own records rise; a copied one is entered under the id before it, and its own is in `copies` by position.
    """

    __slots__ = ("at", "bad", "base", "begun", "copies", "end", "filled", "header", "ids", "lanes", "live", "owed",
                 "path", "seed", "sequence", "size", "wall")  # fmt: skip

    def __init__(self, path: str, header: bytes) -> None:
        self.sequence: int
        self.size: int
        self.wall: int
        _, _, _, self.sequence, _, self.size, self.wall = _HEADER.unpack_from(header)
        self.path = path
        self.header = header
        self.seed = seed_of(header[: _HEADER.size])  # without its crc: of both together it is always the same
        self.base = -1  # the first own record's id, less 1; -1: none yet
        self.ids = array("I")
        self.at = array("I")
        self.lanes = array("H")
        self.copies: dict[int, int] = {}
        self.live = 0
        self.owed = 0  # records that are settled, which the log does not say yet
        self.end = HEADER  # of what is durable
        self.filled = self.size  # written at least once up to here
        self.bad = False  # a write or a sync failed: nothing more is written here, and the file is not recycled
        self.begun = port.ticks_ms()

    @property
    def room(self) -> int:
        """Where records must end."""
        return self.size - HEADER

    def last(self) -> int:
        """The highest own id, or 0."""
        return self.base + self.ids[-1] if self.ids and self.base >= 0 else 0

    def enter(self, number: int, at: int, lane: int, *, copy: bool = False) -> None:
        """Add a record to the index."""
        ids = self.ids
        if copy:
            self.copies[len(ids)] = number
            ids.append(ids[-1] if ids else 0)
        else:
            if self.base < 0:
                self.base = number - 1
            ids.append(number - self.base)
        self.at.append(at)
        self.lanes.append(lane)
        self.live += 1

    def extend(self, numbers: list[int], ats: list[int], lanes: list[int]) -> None:
        """Add own records, in order."""
        if self.base < 0:
            self.base = numbers[0] - 1
        base = self.base
        self.ids.extend([number - base for number in numbers])
        self.at.extend(ats)
        self.lanes.extend(lanes)
        self.live += len(numbers)

    def find(self, number: int) -> int:
        """The position of one of its own records, or -1."""
        if self.base < 0 or number <= self.base:
            return -1
        wanted = number - self.base
        ids = self.ids
        position = bisect_left(ids, wanted) if wanted <= ids[-1] else len(ids)
        return position if position < len(ids) and ids[position] == wanted else -1

    def first_after(self, number: int) -> int:
        """The position of the first own record with a higher id, or of a copy beside it."""
        return bisect_left(self.ids, max(0, number - self.base + 1)) if number > self.base >= 0 else 0

    def number(self, position: int) -> int:
        """The id of the record at a position."""
        return self.copies.get(position) or self.base + self.ids[position]

    def length(self, position: int) -> int:
        """About how many bytes a record takes."""
        at = self.at
        return (at[position + 1] if position + 1 < len(at) else self.end) - at[position]

    def void(self, position: int) -> None:
        """The record is needed no more, here at least."""
        if self.lanes[position]:
            self.lanes[position] = 0
            self.live -= 1


def make_header(sequence: int, size: int, salt: bytes) -> bytes:
    """The header of a new life of a file; salt: four random bytes."""
    raw = _HEADER.pack(_MAGIC, _VERSION, 0, sequence, int.from_bytes(salt, "little"), size, max(0, port.now_ms()))
    raw += crc32(raw).to_bytes(4, "little")
    return raw + bytes(HEADER - len(raw))


def read_header(raw: bytes) -> bytes | None:
    """The same bytes if they are a header of this version, else None."""
    if len(raw) != HEADER or raw[:4] != _MAGIC:
        return None
    whole = _HEADER.size
    if crc32(raw[:whole]) != int.from_bytes(raw[whole : whole + 4], "little") or any(raw[whole + 4 :]):
        return None
    _, version, _, _, _, size, _ = _HEADER.unpack_from(raw)
    return raw if version == _VERSION and SMALLEST <= size <= LARGEST else None


def scan(segment: Segment, data: bytes, special: Callable[[int, int, int, int, int, bytes], None]) -> Reader:
    """Fill the index from the file's bytes; `special(kind, flags, lane, id, at, payload)` gets each record with a flag.

    Returns the reader, which has counted the damage.
    """
    reader = Reader(data, HEADER, min(segment.room, len(data)), segment.seed)
    base = -1
    add_id, add_at, add_lane = segment.ids.append, segment.at.append, segment.lanes.append
    for at, kind, flags, lane, number, start, stop in reader:
        if flags:
            special(kind, flags, lane, number, at, data[start:stop])
            if not flags & CONTROL:
                segment.enter(number, at, lane, copy=bool(flags & COPY))
                base = segment.base
        elif base < 0:
            segment.enter(number, at, lane)
            base = segment.base
        else:  # `enter` spelled out: half a microsecond less, and there may be 250,000
            add_id(number - base)
            add_at(at)
            add_lane(lane)
    segment.end = reader.end
    segment.live = len(segment.ids)
    return reader


def payload_of(flags: int, raw: bytes) -> tuple[bytes, bytes, bytes]:
    """The name, the settlement and the owner's payload of a record; ValueError when they are not there."""
    name = settlement = b""
    at = 0
    if flags & NAMED:
        at = 2 + int.from_bytes(raw[:2], "little")
        name = raw[2:at]
    if flags & SETTLES:
        stop = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        settlement = raw[at + 4 : stop]
        at = stop
    if at > len(raw):
        raise ValueError("a record is shorter than it says")
    return name, settlement, raw[at:]
