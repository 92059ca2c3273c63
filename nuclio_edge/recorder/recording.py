"""The recorder's file: a ring of checked records of a fixed size, in which the newest take the place of the oldest.

    header      "NERC", version u16, 0 u16, size of the file u32, salt u32, when it was made in ms u64, crc u32
    records     core/record.py's, numbered in their order; kind EVENT, OUTCOME or START

The records' seed is made of the header. A record does not go over the end of the file: what is left there is filled
with zeros, so that nothing stays behind of an earlier round. An EVENT and its OUTCOME begin with the same key of 8
bytes.

Law: whatever is done to the bytes, `read` gives the records that are whole, in their order, or says that the file is no
recording. A cut between two writes, or in one, costs the records that were being written, and the oldest ones.
"""

from __future__ import annotations

import os
from binascii import crc32
from struct import Struct

from nuclio_edge.core import msgpack
from nuclio_edge.core.port import now_ms
from nuclio_edge.core.record import HEAD, Reader, frames, seed_of
from nuclio_edge.delivery.stored import Stored, UnreadableError
from nuclio_edge.errors import EdgeError
from nuclio_edge.spool.disk import Disk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Parts = tuple[bytes, ...]

NAME = "recorder.bin"  # in the state directory
HEADER = 64
_HEADER = Struct("<4sHHIIQ")
_MAGIC = b"NERC"
_VERSION = 1
EVENT, OUTCOME, START = 1, 2, 3
TRIMMED = 1  # flag of an EVENT whose body was too large to be kept
KEY = 8  # bytes
LARGEST = 8  # a record takes at most this part of the file


class RecordingError(EdgeError, ValueError):
    """A file that is no recording, or one of a version that is not known here."""


class Ring:
    """The file, open for writing; by one thread at a time. Every method may raise OSError.

    One of another size is copied into a new one, as far as its newest records fit; a file that is no recording is
    put aside as NAME.unreadable.
    """

    def __init__(self, path: str, size: int, disk: Disk | None = None) -> None:
        self.path = path
        self.largest = size // LARGEST
        self._size = size
        self._disk = disk or Disk()
        self._descriptor = -1
        self._seed = 0
        self._at = HEADER
        self._number = 1
        self._disk.make_folder(os.path.dirname(path))
        kept = self._kept()
        if self._descriptor < 0:
            self._create(kept)

    def append(self, records: Iterable[tuple[int, int, Parts]]) -> None:
        """Write records (kind, flags, parts of the payload), in the fewest writes."""
        pieces: list[bytes] = []
        at = start = self._at
        number = self._number
        for kind, flags, parts in records:
            payload = b"".join(parts)
            length = HEAD + len(payload)
            if at + length > self._size:
                pieces.append(bytes(self._size - at))
                self._disk.write(self._descriptor, b"".join(pieces), start)
                pieces = []
                at = start = HEADER
                self._at = at
            pieces += frames(self._seed, [(kind, flags, 0, number, payload)])
            at += length
            number += 1
        self._disk.write(self._descriptor, b"".join(pieces), start)
        self._at = at
        self._number = number

    def close(self) -> None:
        """Give the descriptor back; idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._disk.close(descriptor)

    def _kept(self) -> list[tuple[int, int, Parts]]:
        """Go on with the file that is there; or what is to be kept of it."""
        try:
            descriptor = self._disk.open(self.path, write=True)
        except FileNotFoundError:
            return []
        try:
            data = self._disk.read(descriptor, self._disk.size(descriptor), 0)
            try:
                seed, size = _check(data)
            except RecordingError:
                self._disk.rename(self.path, self.path + ".unreadable")
                return []
            found = _records(data, seed, size)
            if size == self._size == len(data):
                if found:
                    self._number = found[-1][0] + 1
                    self._at = found[-1][4]
                self._seed = seed
                self._descriptor, descriptor = descriptor, -1
                return []
            room = self._size - HEADER
            kept: list[tuple[int, int, Parts]] = []
            for _, kind, flags, start, stop in reversed(found):
                room -= HEAD + stop - start
                if room < 0:
                    break
                kept.append((kind, flags, (data[start:stop],)))
            return kept[::-1]
        finally:
            if descriptor >= 0:
                self._disk.close(descriptor)

    def _create(self, kept: list[tuple[int, int, Parts]]) -> None:
        new = self.path + ".new"
        self._disk.unlink(new)
        self._descriptor = self._disk.create(new)
        try:
            self._disk.allocate(self._descriptor, self._size)
            raw = _HEADER.pack(_MAGIC, _VERSION, 0, self._size, int.from_bytes(os.urandom(4), "little"), now_ms())
            raw += crc32(raw).to_bytes(4, "little")
            raw = raw.ljust(HEADER, b"\0")
            self._seed = seed_of(raw)
            self._disk.write(self._descriptor, raw, 0)
            if kept:
                self.append(kept)
            self._disk.rename(new, self.path)
        except OSError:
            self.close()
            self._disk.unlink(new)  # of what was allocated on a full disk nothing stays
            raise


class Entry:
    """One recorded event: what it was, and what came of it. UnreadableError where a part is asked for that is broken.

    `trigger` is its ledger id, `trigger_name` the name, `came_ms` when it was admitted, by the wall clock; `outcome` is
    None for an event that had come to no end when the file was written, else the map that recorder.py describes.
    """

    __slots__ = ("about", "event", "outcome", "start", "trimmed")

    def __init__(self, payload: bytes, *, trimmed: bool, start: dict[str, Any] | None) -> None:
        size = int.from_bytes(payload[KEY : KEY + 2], "little")
        at = KEY + 2 + size
        self.about: list[Any] = _unpacked(payload[KEY + 2 : at], list, 3)
        self.event = Stored(payload[at:])
        self.trimmed = trimmed
        self.start = start
        self.outcome: dict[str, Any] | None = None

    @property
    def trigger(self) -> str:
        """The ledger id of the trigger that took it."""
        return str(self.about[0])

    @property
    def trigger_name(self) -> str:
        """The trigger's name."""
        return str(self.about[1])

    @property
    def came_ms(self) -> int:
        """When it was admitted, by the wall clock."""
        return int(self.about[2])

    @property
    def function(self) -> str:
        """The function that took it."""
        return self.trigger.removeprefix("function.").rpartition(".trigger[")[0]


class Recording:
    """What a file holds: `entries` in the order in which they came.

    `lost` counts records that should be there and are damaged, `unreadable` those that are whole and make no sense
    (another version's, most likely), with `why` the first of them.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.lost = 0
        self.unreadable = 0
        self.why = ""

    def find(self, event_id: str) -> list[Entry]:
        """The entries of an event: one for each function that got it, and for each time."""
        return [entry for entry in self.entries if entry.event.id == event_id]


def entry_parts(key: bytes, trigger: str, name: str, came_ms: int, event: Parts) -> Parts:
    """The payload of an EVENT."""
    about = msgpack.pack((trigger, name, came_ms))
    return (key, len(about).to_bytes(2, "little"), about, *event)


def read(path: str) -> Recording:
    """What is in a recording, also in one that another device made; RecordingError, OSError."""
    with open(path, "rb") as file:
        return parse(file.read())


def parse(data: bytes) -> Recording:
    """The same of bytes."""
    seed, size = _check(data)
    recording = Recording()
    found = _records(data, seed, size)
    open_: dict[bytes, Entry] = {}
    start: dict[str, Any] | None = None
    for _, kind, flags, begin, end in found:
        payload = data[begin:end]
        try:
            if kind == EVENT:
                entry = Entry(payload, trimmed=flags & TRIMMED != 0, start=start)
                open_[payload[:KEY]] = entry
                recording.entries.append(entry)
            elif kind == OUTCOME:
                outcome = _unpacked(payload[KEY:], dict)
                if payload[:KEY] in open_:  # else the event has gone already, with an earlier round
                    open_.pop(payload[:KEY]).outcome = outcome
            elif kind == START:
                start = _unpacked(payload, dict)
            else:
                recording.unreadable += 1
                recording.why = recording.why or f"a record of kind {kind}, which this release does not know"
        except UnreadableError as error:
            recording.unreadable += 1
            recording.why = recording.why or str(error)
    if found:
        recording.lost = found[-1][0] - found[0][0] + 1 - len(found)
    return recording


def _check(data: bytes) -> tuple[int, int]:
    """Seed and size of a recording by its header."""
    if len(data) < HEADER or data[:4] != _MAGIC:
        raise RecordingError("it is no recording of nuclio-edge")
    raw = data[: _HEADER.size]
    _, version, _, size, _, _ = _HEADER.unpack(raw)
    if version != _VERSION:
        raise RecordingError(f"it is a recording of version {version}; this release reads version {_VERSION}")
    if crc32(raw) != int.from_bytes(data[_HEADER.size : _HEADER.size + 4], "little"):
        raise RecordingError("it is a recording whose header is damaged")
    return seed_of(data[:HEADER]), size


def _records(data: bytes, seed: int, size: int) -> list[tuple[int, int, int, int, int]]:
    """(number, kind, flags, start, stop) of the whole records, in their order."""
    reader = Reader(data, HEADER, min(size, len(data)), seed)
    return sorted((number, kind, flags, start, stop) for _, kind, flags, _, number, start, stop in reader)


def _unpacked(raw: bytes, kind: type, least: int = 0) -> Any:
    try:
        value = msgpack.unpack(raw)
    except (ValueError, TypeError, RecursionError) as error:
        raise UnreadableError(f"a broken record: {error}") from None
    if isinstance(value, kind) and len(value) >= least:  # type: ignore[arg-type]  # a list or a dict
        return value
    raise UnreadableError("a record of another shape")
