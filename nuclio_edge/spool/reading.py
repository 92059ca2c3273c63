"""Reading what is pending in a spool: from its segments, from the group that is on its way, from the present one."""

from __future__ import annotations

from itertools import chain

from nuclio_edge.core.record import HEAD, Reader, size_of

from .segment import payload_of
from .writer import Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from .disk import Disk
    from .group import Group
    from .log import Log
    from .segment import Segment
    from .spool import Spool
    from .writer import Hand

_GLANCE = 1024  # bytes that are read at once; most records are no longer


class Record:
    """A record as it is read: `payload` is its owner's, whole."""

    __slots__ = ("id", "key", "kind", "payload")

    def __init__(self, number: int, kind: int, key: int | str, payload: bytes) -> None:
        self.id = number
        self.kind = kind
        self.key = key
        self.payload = payload


class Look:
    """Reads records of segments, one descriptor at a time; one thread. Close it when a round of reading is over."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._segment: Segment | None = None
        self._descriptor = -1

    def payload(self, segment: Segment, at: int) -> bytes:
        """The owner's payload of the record at an offset; ValueError when it is not whole any more; OSError."""
        disk = self._disk
        if self._segment is not segment:
            self.close()
            self._descriptor = disk.open(segment.path)
            self._segment = segment
        try:
            raw = self._raw(segment, at, _GLANCE)
        except OSError:
            try:  # it may be another record's page that cannot be read
                raw = self._raw(segment, at, HEAD)
            except OSError as error:
                raise ValueError(f"the record cannot be read: {error.strerror}") from None
        size = min(HEAD + size_of(raw), len(raw))
        for _, _, flags, _, _, start, stop in Reader(raw, 0, size, segment.seed):
            return payload_of(flags, raw[start:stop])[2]
        raise ValueError("the record is damaged")

    def _raw(self, segment: Segment, at: int, glance: int) -> bytes:
        raw = self._disk.read(self._descriptor, glance, at)
        size = HEAD + size_of(raw)
        if len(raw) < size <= segment.room - at:
            raw += self._disk.read(self._descriptor, size - len(raw), at + len(raw))
        return raw

    def fetch(self, found: Iterable[Place]) -> None:
        """Read the payloads of places; OSError when a file cannot be opened."""
        for place in found:
            try:
                place.payload = self.payload(place.segment, place.at)
            except ValueError:
                place.damaged = True

    def close(self) -> None:
        """Give the descriptor back."""
        if self._segment is not None:
            self._disk.close(self._descriptor)
            self._segment = None


class Place:
    """Where a record is on disk, and what came of fetching it: `payload`, or None and `damaged`."""

    __slots__ = ("at", "damaged", "lane", "number", "payload", "position", "segment")

    def __init__(self, segment: Segment, position: int) -> None:
        self.segment = segment
        self.position = position
        self.at = segment.at[position]
        self.lane = segment.lanes[position]
        self.number = segment.number(position)
        self.payload: bytes | None = None
        self.damaged = False

    def is_live(self) -> bool:
        """Whether the record is still needed, here."""
        return self.segment.lanes[self.position] != 0


def places(log: Log, after: int, wanted: Callable[[int], bool], limit: int = 1 << 62) -> Iterator[Place]:
    """Live records on disk with ids above `after` whose lane is wanted, in order; about `limit` bytes, one at least."""
    for segment, position in log.live(after):
        if wanted(segment.lanes[position]):
            yield Place(segment, position)
            limit -= segment.length(position)
            if limit <= 0:
                return


def in_memory(groups: tuple[Group | None, ...], after: int, wanted: Callable[[int], bool]) -> Iterator[Record]:
    """The pending records of groups, in order."""
    for group in groups:
        if group is not None:
            for position in range(max(0, after + 1 - group.first), len(group.lanes)):
                lane = group.lanes[position]
                if wanted(lane.number):
                    payload = group.payload(position)
                    if payload is not None:
                        yield Record(group.first + position, lane.kind, lane.key, payload)


class Reading:
    """The reading side of a spool; what each method does is said there."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._log = spool.log

    def read(self, number: int) -> Record | None:
        """See Spool.read."""
        for group in self._spool.groups():
            if group is not None and group.has(number):
                found = in_memory((group,), number - 1, _any)
                return next((record for record in found if record.id == number), None)
        place = self._log.find(number)
        return next(self._from_disk([Place(*place)]), None) if place is not None else None

    def records(self, after: int, limit: int, kind: int | None, key: int | str | None) -> list[Record]:
        """See Spool.records."""
        wanted = self._wanted(kind, key)
        on_disk = self._from_disk(places(self._log, after, wanted))
        return _first(chain(on_disk, in_memory(self._spool.groups(), after, wanted)), limit)

    def fetch(self, after: int, limit: int, kind: int | None, then: Callable[[list[Record], Any], Any]) -> None:
        """See Spool.fetch."""
        wanted = self._wanted(kind)
        found = list(places(self._log, after, wanted, limit))
        look = Look(self._spool.disk)

        def work(_hand: Hand, _job: Job) -> None:
            look.fetch(found)

        def told(job: Job) -> None:
            look.close()
            then([record for place in found if (record := self._record(place)) is not None], job.error)

        if found:
            self._spool.submit(Job(work, told))
        else:
            groups = self._spool.groups()
            self._spool.loop.call_soon(lambda: then(_first(in_memory(groups, after, wanted), limit), None))

    def numbers(self, after: int, upto: int, kind: int) -> list[int]:
        """See Spool.numbers."""
        wanted = self._wanted(kind)
        found = self._log.live(after, upto)
        numbers = [segment.number(at) for segment, at in found if wanted(segment.lanes[at])]
        return numbers + [one.id for one in in_memory(self._spool.groups(), after, wanted) if one.id <= upto]

    def _wanted(self, kind: int | None, key: int | str | None = None) -> Callable[[int], bool]:
        """Whether a lane is of the kind, and has the key, by its number."""
        if kind is None:
            return _any
        if key is not None:
            lane = self._log.lanes.by_key.get((kind, key))
            return {lane.number if lane is not None else -1}.__contains__
        return {lane.number for lane in self._log.lanes if lane.kind == kind}.__contains__

    def _from_disk(self, found: Iterable[Place]) -> Iterator[Record]:
        look = Look(self._spool.disk)
        try:
            for place in found:
                look.fetch([place])
                record = self._record(place)
                if record is not None:
                    yield record
        finally:
            look.close()

    def _record(self, place: Place) -> Record | None:
        """What was read, if it is still needed; a damaged record becomes a gap."""
        if not place.is_live():
            return None
        if place.damaged:
            self._spool.room.lose(place)
            self._spool.later()
        if place.payload is None:
            return None
        lane = self._log.lanes.by_number[place.lane]
        return Record(place.number, lane.kind, lane.key, place.payload)


def _first(records: Iterator[Record], limit: int) -> list[Record]:
    found = []
    for record in records:
        found.append(record)
        limit -= HEAD + len(record.payload)
        if limit <= 0:
            break
    return found


def _any(_lane: int) -> bool:
    return True
