"""The spool's log on disk as the loop knows it: which segments there are, where the next record goes, what is live.

Nothing here touches a file. A plan says what is to be written; `commit` takes it over when the writer has done it.

Laws:
- A file is recycled only when a durable record says that the log begins behind it (`oldest` of a checkpoint or a drop).
- Each segment begins with a checkpoint, so those before it are needed for their live records only.
- One file is always ready or may still be made, or room is made while the present segment has its reserve left.
"""

from __future__ import annotations

import os

from .core.record import HEAD, pack_numbers
from .spool_lanes import Lanes, pack_checkpoint
from .spool_segment import CHECKPOINT, CONTROL, COPY, DROP, HEADER, Segment, make_header
from .spool_writer import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


def segment_size(limit: int) -> int:
    """How large the segments of a spool of at most `limit` bytes are: 8 to 16 of them, of 16 MiB at most."""
    size = 1 << max(limit // 16, 1 << 10).bit_length() - 1
    if limit <= 2 << 20:
        size *= 2
    return min(size, 16 << 20)


class Plan:
    """What one group is written as; it ends early, `full`, where there is no file to go on in.

    `counts` is what it adds to the logged counters: lane number -> [appended, settled, gap].
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.writes: list[Write] = []
        self.counts: dict[int, list[int]] = {}
        self.oldest = 0  # of the last checkpoint or drop in it
        self.begun: list[Segment] = []
        self.full = False
        self.size = 0
        self._write: Write | None = None
        self._limit = 0
        active = log.active()
        if active is not None:
            self._aim(Write(active, active.end))

    def _aim(self, write: Write) -> None:
        self._write = write
        segment = write.segment
        self._limit = segment.room if self.log.has_file() else segment.room - self.log.reserve

    def count(self, lane: int, appended: int, settled: int, gap: int) -> None:
        """Add to what the log will say of a lane."""
        counts = self.counts.setdefault(lane, [0, 0, 0])
        counts[0] += appended
        counts[1] += settled
        counts[2] += gap

    def add(self, kind: int, flags: int, lane: int, number: int, payload: bytes) -> bool:
        """Place one record; false when there is no room for it and no file to go on in."""
        write = self._write
        size = HEAD + len(payload)
        limit = self._limit if not flags & CONTROL or write is None else write.segment.room
        if write is None or write.at + write.size + size > limit or self._is_far(write, number, flags):
            write = self._turn_over()
            if write is None:
                return False
        at = write.at + write.size
        if not write.frames:
            self.writes.append(write)
        write.frames.append((kind, flags, lane, number, payload))
        write.size += size
        self.size += size
        if not flags & CONTROL:
            if flags & COPY:
                write.copies.append((number, at, lane))
            else:
                write.numbers.append(number)
                write.ats.append(at)
                write.lanes.append(lane)
        return True

    def _is_far(self, write: Write, number: int, flags: int) -> bool:
        """Whether the index of the segment cannot hold the id: billions came and went without being written."""
        base = write.segment.base
        return base >= 0 and not flags & (CONTROL | COPY) and number - base > 0xFFFFFFFF

    def _turn_over(self) -> Write | None:
        log = self.log
        file = log.take_file()
        if file is None:
            self.full = True
            return None
        path, create = file
        log.sequence += 1
        segment = Segment(path, make_header(log.sequence, log.segment_size, log.wall()))
        segment.filled = 0
        self.begun.append(segment)
        self._aim(Write(segment, HEADER, begins=True, create=create))
        self.oldest = log.first_needed(segment)
        raw = pack_checkpoint(log.lanes, self.counts, oldest=self.oldest, **log.more(self))
        self.add(CHECKPOINT, CONTROL, 0, 0, raw)
        return self._write

    def drop(self, oldest: int, entries: list[tuple[int, int, int, int]]) -> bool:
        """Say that the log begins at `oldest`, and what is lost by that: (lane, count, first id, last id)."""
        numbers = [oldest]
        for entry in entries:
            numbers += entry
        if not self.add(DROP, CONTROL, 0, 0, pack_numbers(numbers)):
            return False
        self.oldest = max(self.oldest, oldest)
        for lane, count, _, _ in entries:
            self.count(lane, 0, 0, count)
        return True


class Log:
    """The segments, in the order in which they were begun; the last is the one that is written."""

    def __init__(self, folder: str, limit: int, wall: Callable[[], int]) -> None:
        self.folder = folder
        self.segment_size = segment_size(limit)
        self.most = max(3, limit // self.segment_size)
        self.reserve = self.segment_size // 8
        self.wall = wall
        self.more: Callable[[Plan], dict[str, Any]] = lambda _plan: {}
        self.lanes = Lanes()
        self.segments: list[Segment] = []
        self.strays: dict[int, tuple[Segment, int]] = {}  # copied records, by id
        self.free: list[str] = []  # files to be recycled, the oldest first
        self.doomed: list[str] = []  # files to be removed
        self.names: set[str] = set()  # of every file there is
        self.sequence = 0

    def active(self) -> Segment | None:
        """The segment that is written, if any."""
        last = self.segments[-1] if self.segments else None
        return last if last is not None and not last.bad and last.size == self.segment_size else None

    def largest(self) -> int:
        """The longest payload that a record can have; half a segment."""
        return self.segment_size // 2

    def has_file(self) -> bool:
        """Whether a new segment could be begun."""
        return bool(self.free) or len(self.names) < self.most

    def take_file(self) -> tuple[str, bool] | None:
        """A file for a new segment and whether it has to be made, or None."""
        if self.free:
            return self.free.pop(0), False
        if len(self.names) >= self.most:
            return None
        number = 0
        while (name := f"{number:04}.seg") in self.names:
            number += 1
        self.names.add(name)
        return os.path.join(self.folder, name), True

    def give_back(self, segment: Segment, created: bool) -> None:
        """A segment that was not begun after all; a file that does not exist is forgotten."""
        if created:
            self.names.discard(os.path.basename(segment.path))
        else:
            self.free.insert(0, segment.path)

    def first_needed(self, new: Segment | None = None) -> int:
        """The sequence of the first segment that holds something the log still needs."""
        for segment in self.segments:
            if segment.live or segment.owed or (new is None and segment is self.segments[-1]):
                return segment.sequence
        return new.sequence if new is not None else self.sequence + 1

    def commit(self, plan: Plan) -> None:
        """Take over what is durable."""
        for write in plan.writes:
            segment = write.segment
            if write.begins:
                self.segments.append(segment)
            segment.end = write.at + write.size
            for number, at, lane in write.copies:
                self.strays[number] = (segment, len(segment.ids))
                segment.enter(number, at, lane, copy=True)
            if write.numbers:
                segment.extend(write.numbers, write.ats, write.lanes)
        for key, (appended, settled, gap) in plan.counts.items():
            known = self.lanes.by_number.get(key)
            if known is not None:
                old = known.logged
                known.logged = (old[0] + appended, old[1] + settled, old[2] + gap)
        if plan.oldest:
            self._release(plan.oldest)

    def _release(self, oldest: int) -> None:
        while self.segments and self.segments[0].sequence < oldest:
            gone = self.segments.pop(0)
            for number in gone.copies.values():
                if self.strays.get(number, (None, 0))[0] is gone:
                    del self.strays[number]
            if gone.bad or gone.size != self.segment_size or len(self.names) > self.most:
                self.doomed.append(gone.path)
            else:
                self.free.append(gone.path)

    def room_wanted(self) -> bool:
        """Whether the next segment has no file yet, and may be needed soon."""
        if self.has_file():
            return False
        active = self.active()
        return active is None or active.room - active.end < max(self.segment_size // 4, 2 * self.reserve)

    def give_up(self) -> list[tuple[int, int, int, int]]:
        """Void what is live in the first segment, to the last record: (lane, count, first id, last id) of each lane."""
        segment = self.segments[0]
        ids: dict[int, list[int]] = {}
        for position, lane in enumerate(segment.lanes):
            if lane:
                ids.setdefault(lane, []).append(segment.number(position))
                segment.void(position)
        return [(lane, len(those), min(those), max(those)) for lane, those in ids.items()]

    def find(self, number: int) -> tuple[Segment, int] | None:
        """Where a live record is, or None."""
        for segment in reversed(self.segments):  # a dozen; what is asked for is most often in the last two
            if 0 <= segment.base < number:
                position = segment.find(number)
                if position >= 0 and segment.lanes[position]:
                    return segment, position
                break
        found = self.strays.get(number)
        return found if found is not None and found[0].lanes[found[1]] else None

    def live(self, after: int) -> Iterator[tuple[Segment, int]]:
        """Live records whose id is above `after`, in the order of their ids."""
        for number in sorted(number for number in self.strays if number > after):
            segment, position = self.strays[number]
            if segment.lanes[position]:
                yield segment, position
        for segment in self.segments:
            if not segment.live or segment.last() <= after:
                continue
            lanes, ids, copies = segment.lanes, segment.ids, segment.copies
            for position in range(segment.first_after(after), len(ids)):
                if lanes[position] and position not in copies:
                    yield segment, position
