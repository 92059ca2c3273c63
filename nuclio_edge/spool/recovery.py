"""What a spool finds at its start: segments, indexes, counters; whatever the last process or a power cut left.

Laws:
- A record is found whole or not at all; what is not whole is passed over and counted, never a reason not to start.
- A record whose `done` was called is found, or settled, or in a gap. One whose `done` was not called may be found.
- Nothing is written here.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections import Counter

from nuclio_edge.core import port
from nuclio_edge.core.port import json_loads
from nuclio_edge.core.record import unpack_numbers

from .lanes import Lanes, unpack_checkpoint, unpack_settlement
from .segment import (
    CHECKPOINT,
    CONTROL,
    COPY,
    CURSOR,
    DROP,
    HEADER,
    NAMED,
    NAMES,
    SETTLE,
    SETTLES,
    Segment,
    payload_of,
    read_header,
    scan,
)
from .tallies import is_tally

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .disk import Disk
    from .log import Log

_PAGE = 4096
_PLAUSIBLE = 1_704_067_200_000  # 2024: a clock that says less has not been set


class Found:
    """What one segment's special records say, in order."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.damaged = 0
        self.torn = False
        self.checkpoint: dict[str, Any] | None = None
        self.oldest = 0
        self.names: dict[int, tuple[int, int | str]] = {}
        self.ranges: list[tuple[int, int]] = []
        self.settled: list[tuple[int, int, int]] = []  # lane, settled, skipped
        self.gaps: list[tuple[int, int, int, int]] = []  # lane, count, first, last
        self.cursors: list[dict[str, Any]] = []
        self.tallies: list[tuple[int, int, int]] = []  # number, the id after the last that is in it, count
        self.added_tallies: dict[tuple[int, int], int] = {}  # record, number -> what it adds
        self.copied: list[int] = []  # lanes of copies, which are not counted again
        self.added: Counter[int] = Counter()  # records by lane, without copies

    def special(self, kind: int, flags: int, lane: int, number: int, at: int, raw: bytes) -> None:
        """Take a record that has flags."""
        try:
            if not flags & CONTROL:
                name, settlement, _ = payload_of(flags, raw)
                if flags & NAMED:
                    self.names[lane] = (kind, _key(name))
                if flags & SETTLES:
                    self._settle(settlement, number)
                if flags & COPY:
                    self.copied.append(lane)
            elif kind == CHECKPOINT:
                self.checkpoint = unpack_checkpoint(raw)
                self.oldest = max(self.oldest, int(self.checkpoint["oldest"]))
                for row in self.checkpoint["lanes"]:
                    self.names[row[0]] = (row[1], row[2])
            elif kind == SETTLE:
                self._settle(raw, 0)
            elif kind == DROP:
                numbers = unpack_numbers(raw)
                self.oldest = max(self.oldest, numbers[0])
                self.gaps += zip(numbers[1::4], numbers[2::4], numbers[3::4], numbers[4::4], strict=True)
            elif kind == CURSOR:
                self.cursors.append(json_loads(raw))
            elif kind == NAMES:
                for named, its_kind, key in json_loads(raw):
                    self.names[named] = (its_kind, key)
        except (ValueError, TypeError, LookupError):  # its crc is right: a later version's, or a defect's
            self.damaged += 1

    def _settle(self, raw: bytes, record: int) -> None:
        ranges, counts = unpack_settlement(raw)
        self.ranges += ranges
        self.settled += [one for one in counts if not is_tally(one[0])]
        for number, upto, count in counts:
            if is_tally(number) and upto:
                self.tallies.append((number, upto, count))
            elif is_tally(number):
                self.added_tallies[record, number] = count


class Recovery:
    """The result: `log` is filled, the rest is what to tell.

    `damaged`: gaps between whole records; `torn`: records begun and not finished; `lost`: how often segments are
    missing between others; `adjusted`: by how much counters had to be corrected; `unreadable`: files parts of which
    could not be read, and why.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.damaged = self.torn = self.lost = self.adjusted = 0
        self.unreadable: list[str] = []
        self.next = 1
        self.cursors: dict[str, dict[str, Any]] = {}
        self.budget: list[float] = []  # what was left of it, and the wall time then

    def run(self, disk: Disk) -> None:
        """Read everything. OSError, with nothing changed, when it cannot be known what there is: it may heal.

        What a file has lost is no such error: pages that cannot be read count as damaged.
        """
        log = self.log
        headers: list[tuple[int, Segment]] = []
        blank: list[str] = []
        sizes: dict[str, int] = {}
        for name in disk.names(log.folder):
            if name.endswith(".seg"):
                path = os.path.join(log.folder, name)
                descriptor = disk.open(path)
                try:
                    sizes[name] = disk.size(descriptor)
                    segment = self._header(disk, path, descriptor, sizes[name])
                finally:
                    disk.close(descriptor)
                if segment is None:
                    blank.append(path)
                else:
                    headers.append((segment.sequence, segment))
        headers.sort(key=lambda pair: pair[0])
        found = self._scan(disk, [segment for _, segment in headers])
        log.sizes = sizes
        log.over = sum(sizes.values()) > log.limit
        log.lanes = Lanes(log.rows_size)
        kept = {id(one.segment) for one in found}
        for _, segment in headers:
            if id(segment) not in kept:
                log.spare(segment.path, segment.size)
        for path in blank:
            log.doomed.append(path)
        log.segments = [one.segment for one in found]
        wall = port.now_ms()
        for one in found:
            if min(wall, one.segment.wall) > _PLAUSIBLE:
                one.segment.begun -= max(0, wall - one.segment.wall)
        log.sequence = headers[-1][0] if headers else 0
        self._merge(found)

    def _header(self, disk: Disk, path: str, descriptor: int, size: int) -> Segment | None:
        best = None
        for at in (0, size - HEADER):
            raw = read_header(self._read(disk, path, descriptor, HEADER, at)) if at >= 0 else None
            if raw is not None:
                one = Segment(path, raw)
                if best is None or one.sequence > best.sequence:
                    best = one
        return best

    def _read(self, disk: Disk, path: str, descriptor: int, size: int, at: int) -> bytes:
        """Bytes of a file, zeros for pages that cannot be read."""
        try:
            return disk.read(descriptor, size, at)
        except OSError as error:
            self.unreadable.append(f"{path}: {error.strerror}")
        parts = []
        for start in range(at, at + size, _PAGE):
            wanted = min(_PAGE, at + size - start)
            try:
                parts.append(disk.read(descriptor, wanted, start))
            except OSError:
                parts.append(bytes(wanted))
        return b"".join(parts)

    def _scan(self, disk: Disk, segments: list[Segment]) -> list[Found]:
        """Scan from the newest to the oldest that is needed; in the order of the log."""
        found: list[Found] = []
        oldest = 0
        for segment in reversed(segments):
            if segment.sequence < oldest:
                break
            one = Found(segment)
            descriptor = disk.open(segment.path)
            try:
                data = self._read(disk, segment.path, descriptor, segment.size, 0)
            finally:
                disk.close(descriptor)
            reader = scan(segment, data, one.special)
            one.damaged += reader.damaged
            one.torn = reader.torn
            one.added.update(segment.lanes)
            one.added.subtract(one.copied)
            found.append(one)
            oldest = max(oldest, one.oldest)
        found.reverse()
        before = 0
        for one in found:
            if one.checkpoint is not None:
                self.lost += oldest <= one.checkpoint["before"] != before
            before = one.segment.sequence
        return found

    def _merge(self, found: list[Found]) -> None:
        log = self.log
        lanes = log.lanes
        for one in found:
            self.damaged += one.damaged
            self.torn += one.torn
            for number, (kind, key) in one.names.items():
                if number not in lanes.by_number:
                    lanes.put(number, kind, key)
            if one.checkpoint is not None:
                self.cursors = {cursor["name"]: cursor for cursor in one.checkpoint.get("readers", ())}
                self.budget = one.checkpoint.get("budget", [])
                self.next = max(self.next, int(one.checkpoint.get("next", 1)))
            for cursor in one.cursors:
                self.cursors.pop(cursor["name"], None)
                if not cursor["gone"]:
                    self.cursors[cursor["name"]] = cursor
        self._order(found)
        self._count(found)
        self._tally(found)
        self._settle(sorted(pair for one in found for pair in one.ranges))
        self._balance()
        # An id that is mentioned anywhere must not be given again: it would be settled at once.
        ids = [first + count for one in found for first, count in one.ranges]
        ids += [last + 1 for one in found for _, _, _, last in one.gaps]
        ids += [segment.last() + 1 for segment in log.segments]
        self.next = max([self.next, *ids])

    def _order(self, found: list[Found]) -> None:
        """Make an id that is in two places be in the newer one only: a copy, or a group that had to be written anew."""
        log = self.log
        first = 0
        for one in reversed(found):
            segment = one.segment
            while first and segment.ids and segment.base >= 0 and segment.last() >= first:
                position = len(segment.ids) - 1
                if position in segment.copies:
                    break
                segment.void(position)
                segment.ids.pop(), segment.at.pop(), segment.lanes.pop()
            if segment.base >= 0:
                first = segment.base + 1
        for one in found:
            for position, number in one.segment.copies.items():
                old = log.find(number)
                if old is not None and old != (one.segment, position):
                    old[0].void(old[1])
                log.strays[number] = (one.segment, position)

    def _count(self, found: list[Found]) -> None:
        """Set the logged counters: the newest checkpoint's, and what came after it."""
        by_number = self.log.lanes.by_number
        start = max((at for at, one in enumerate(found) if one.checkpoint is not None), default=-1)
        if start >= 0:
            for number, _, _, appended, settled, gap, gap_first, gap_last in found[start].checkpoint["lanes"]:  # type: ignore[index]
                lane = by_number[number]
                lane.logged = (appended, settled, gap)
                lane.gap_first, lane.gap_last = gap_first, gap_last
                lane.named = True
        for one in found[max(0, start) :]:
            for number, count in one.added.items():
                self._add(number, count, 0, 0)
            for number, settled, skipped in one.settled:
                self._add(number, skipped, settled + skipped, 0)
            for number, count, first, last in one.gaps:
                if number in by_number:
                    by_number[number].gap_first, by_number[number].gap_last = first, last
                self._add(number, 0, 0, count)

    def _tally(self, found: list[Found]) -> None:
        """Take over the tallies: of each number the newest, and what records behind that add; each record once."""
        newest: dict[int, tuple[int, int]] = {}
        added: dict[tuple[int, int], int] = {}
        for one in found:
            rows = one.checkpoint.get("tallies", ()) if one.checkpoint is not None else ()
            for number, upto, count in [*zip(rows[::3], rows[1::3], rows[2::3], strict=False), *one.tallies]:
                newest[number] = max((upto, count), newest.get(number, (0, 0)))
            added.update(one.added_tallies)
        whole = {number: count for number, (_, count) in newest.items()}
        for (record, number), count in added.items():
            if record >= newest.get(number, (0, 0))[0]:
                whole[number] = whole.get(number, 0) + count
        self.log.lanes.tallies.restore(whole)

    def _add(self, number: int, appended: int, settled: int, gap: int) -> None:
        lane = self.log.lanes.by_number.get(number)
        if lane is not None:
            old = lane.logged
            lane.logged = (old[0] + appended, old[1] + settled, old[2] + gap)

    def _settle(self, ranges: list[tuple[int, int]]) -> None:
        log = self.log
        firsts: list[int] = []
        stops: list[int] = []
        for first, count in ranges:
            if stops and first <= stops[-1]:
                stops[-1] = max(stops[-1], first + count)
            else:
                firsts.append(first)
                stops.append(first + count)
        for segment in log.segments:
            if segment.base >= 0:
                for at in range(bisect_right(stops, segment.base + 1), bisect_right(firsts, segment.last())):
                    _void(segment, segment.first_after(firsts[at] - 1), segment.first_after(stops[at] - 1))
        for number, (segment, position) in list(log.strays.items()):
            at = bisect_right(firsts, number) - 1
            if at >= 0 and number < stops[at]:
                segment.void(position)
                del log.strays[number]

    def _balance(self) -> None:
        """Count what is pending, and put down as a gap what damage has taken."""
        log = self.log
        known = log.lanes.by_number
        pending: Counter[int] = Counter()
        for segment in log.segments:
            counts = Counter(segment.lanes)
            del counts[0]
            for number in [number for number in counts if number not in known]:
                del counts[number]  # of a lane whose name is lost
                for position, found in enumerate(segment.lanes):
                    if found == number:
                        segment.void(position)
                        self.damaged += 1
            pending += counts
        for lane in log.lanes:
            lane.pending = pending[lane.number]
            appended, settled, gap = lane.logged
            wrong = appended - settled - gap - lane.pending
            if wrong:
                self.adjusted += abs(wrong)
                lane.logged = (appended, settled, gap + wrong) if wrong > 0 else (appended - wrong, settled, gap)
            lane.appended, lane.settled, lane.gap = lane.logged


def _void(segment: Segment, start: int, stop: int) -> None:
    """Its own records from one position up to another are needed no more."""
    if segment.copies:
        for position in range(start, stop):
            if position not in segment.copies:
                segment.void(position)
    else:
        lanes = segment.lanes
        segment.live -= stop - start - lanes[start:stop].count(0)
        lanes[start:stop] = array("H", bytes(2 * (stop - start)))


def _key(raw: bytes) -> int | str:
    key = json_loads(raw)
    if not isinstance(key, (int, str)):
        raise ValueError("a lane's key is a number or a text")  # noqa: TRY004 - one error for what is no name
    return key
