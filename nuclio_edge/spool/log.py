"""The spool's log on disk as the loop knows it: which segments there are, where the next record goes, what is live.

Nothing here touches a file. A plan says what is to be written; `commit` takes it over when the writer has done it.

Laws:
- A file is recycled only when a durable record says that the log begins behind it (`oldest` of a checkpoint or a drop).
- Each segment begins with a checkpoint, so those before it are needed for their live records only.
- While there is no file for the next segment, a reserve of the present one is kept for the record that makes room.
"""

from __future__ import annotations

import os

from nuclio_edge.core import port

from .lanes import Lanes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .plan import Plan
    from .segment import Segment

_SHORT_MS = 60_000  # between two attempts to make a file on a full disk


def segment_size(limit: int) -> int:
    """How large the segments of a spool of at most `limit` bytes are: 8 to 16 of them, of 16 MiB at most."""
    size = 1 << max(limit // 16, 1 << 10).bit_length() - 1
    if limit <= 2 << 20:
        size *= 2
    return min(size, 16 << 20)


class Log:
    """The segments, in the order in which they were begun; the last is the one that is written."""

    def __init__(self, folder: str, limit: int) -> None:
        self.folder = folder
        self.segment_size = segment_size(limit)
        self.limit = max(limit, 3 * self.segment_size)
        self.reserve = self.segment_size // 8
        self.random: Callable[[int], bytes] = os.urandom
        self.over = False  # found above its limit, which is a new one: one file more is made to say what goes
        self._short_until = 0
        self.more: Callable[[], dict[str, Any]] = dict  # what a checkpoint says beside the lanes
        self.rows_size = self.segment_size // 4  # of all lanes' in a checkpoint
        self.lanes = Lanes(self.rows_size)
        self.segments: list[Segment] = []
        self.strays: dict[int, tuple[Segment, int]] = {}  # copied records, by id
        self.free: list[str] = []  # files to be recycled, the oldest first
        self.doomed: list[str] = []  # files to be removed
        self.sizes: dict[str, int] = {}  # of every file there is, by name, those to be removed too
        self.sequence = 0

    def active(self) -> Segment | None:
        """The segment that is written, if any."""
        return self.segments[-1] if self.segments and not self.segments[-1].bad else None

    def largest(self) -> int:
        """The longest payload that a record can have; half a segment."""
        return self.segment_size // 2

    def has_file(self) -> bool:
        """Whether a new segment could be begun, as far as one knows."""
        return bool(self.free) or (self.may_grow(1) and not self.is_short())

    def may_grow(self, files: int) -> bool:
        """Whether so many files more would be within the limit."""
        return sum(self.sizes.values()) + files * self.segment_size <= self.limit

    def is_short(self) -> bool:
        """Whether a file could not be made lately; while that is so, what is on disk is recycled."""
        return port.ticks_ms() < self._short_until

    def found_room(self) -> None:
        """A file could be made all the same."""
        self._short_until = 0

    def take_file(self) -> tuple[str, bool] | None:
        """A file for a new segment and whether it has to be made, or None."""
        if self.free:
            return self.free.pop(0), False
        if not self.has_file():
            if not self.over:
                return None
            self.over = False
        number = 0
        while (name := f"{number:04}.seg") in self.sizes:
            number += 1
        self.sizes[name] = self.segment_size
        return os.path.join(self.folder, name), True

    def give_back(self, plan: Plan, touched: list[Segment]) -> None:
        """A plan that failed: its files are free again, but for those that were touched.

        Those are not written any more, as behind their end there may be records now that are no part of the log.
        """
        for segment in touched:
            segment.bad = True
        for write in plan.writes:
            path = write.segment.path
            if write.create:  # it could not be made
                del self.sizes[os.path.basename(path)]
                self._short_until = port.ticks_ms() + _SHORT_MS
            elif write.begins:
                if write.segment.bad:
                    self.doomed.append(path)
                else:
                    self.free.insert(0, path)

    def removed(self, paths: list[str]) -> None:
        """Files that are gone."""
        for path in paths:
            if path in self.doomed:
                self.doomed.remove(path)
            self.sizes.pop(os.path.basename(path), None)

    def first_needed(self) -> int:
        """The sequence of the first segment that holds something the log still needs, by what is durable."""
        return next((one.sequence for one in self.segments if one.live or one.owed), self.sequence)

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
        for named in plan.named:
            named.named = True
        if plan.oldest:
            self._release(plan.oldest)

    def _release(self, oldest: int) -> None:
        while self.segments and self.segments[0].sequence < oldest:
            gone = self.segments.pop(0)
            for number in gone.copies.values():
                if self.strays.get(number, (None, 0))[0] is gone:
                    del self.strays[number]
            self.spare(gone.path, 0 if gone.bad else gone.size)

    def spare(self, path: str, size: int) -> None:
        """A file that the log needs no more: recycle it, or remove it."""
        if size == self.segment_size and self.may_grow(0):
            self.free.append(path)
        else:
            self.doomed.append(path)

    def in_the_way(self) -> int:
        """How many segments have to go before a new one can be begun; one, unless the limit has become smaller."""
        used = sum(self.sizes.values())
        for count, segment in enumerate(self.segments[:-1], 1):
            if used <= self.limit and segment.size == self.segment_size and not segment.bad:
                return count
            used -= segment.size
            if used + self.segment_size <= self.limit:
                return count
        return len(self.segments) - 1

    def give_up(self, count: int) -> list[tuple[int, int, int, int]]:
        """Void what is live in the first segments, to the last record: (lane, count, first id, last id) by lane."""
        ids: dict[int, list[int]] = {}
        for segment in self.segments[:count]:
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

    def live(self, after: int, upto: int = 1 << 64) -> Iterator[tuple[Segment, int]]:
        """Live records whose id is above `after` and not above `upto`, in the order of their ids.

        Copied ones come first: they are older than everything in the first segment.
        """
        for number in sorted(number for number in self.strays if after < number <= upto):
            segment, position = self.strays[number]
            if segment.lanes[position]:
                yield segment, position
        for segment in self.segments:
            if not segment.live or segment.last() <= after:
                continue
            lanes, copies = segment.lanes, segment.copies
            stop = len(lanes) if upto >= segment.last() else segment.first_after(upto)
            for position in range(segment.first_after(after), stop):
                if lanes[position] and position not in copies:
                    yield segment, position

    def forget_stray(self, number: int) -> None:
        """A copied record turns out to be needed no more."""
        segment, position = self.strays.pop(number)
        segment.void(position)
