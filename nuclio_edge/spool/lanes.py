"""What the spool counts: a lane for each (kind, key), with appended = settled + gap + pending; and how that is stored.

A lane's number stands for its kind and key in every record. The log names it at its first use and in each checkpoint.
"""

from __future__ import annotations

from nuclio_edge.core.port import json_bytes, json_loads
from nuclio_edge.core.record import pack_numbers, unpack_numbers

from .tallies import Tallies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from .segment import Segment


class Lane:
    """The counters of one kind and key.

    `appended`, `settled`, `gap` and `pending` are the truth of this moment, `logged` the first three as the log on disk
    has them. `refused` counts appends that failed: they were never appended. It begins anew with the process.
    """

    __slots__ = ("appended", "gap", "gap_first", "gap_last", "key", "kind", "logged", "named", "number", "pending",
                 "refused", "settled")  # fmt: skip

    def __init__(self, number: int, kind: int, key: int | str) -> None:
        self.number = number
        self.kind = kind
        self.key = key
        self.appended = self.settled = self.gap = self.pending = self.refused = 0
        self.gap_first = self.gap_last = 0  # ids, of the latest gap
        self.logged = (0, 0, 0)
        self.named = False  # in the log, by a record or a checkpoint that is durable

    def difference(self) -> int:
        """What the equation is wrong by; 0 unless there is a defect."""
        return self.appended - self.settled - self.gap - self.pending

    def name(self) -> bytes:
        """The key, as it stands in a record."""
        return json_bytes(self.key)


class Settlement:
    """Ids that are settled, as ranges, with how many that are in each lane. It is stored whole or not at all."""

    __slots__ = ("counts", "owed", "ranges", "skipped", "tallies")

    def __init__(self, tallies: list[tuple[int, int]] | None = None) -> None:
        self.skipped: dict[int, int] = {}  # lane number -> records that were settled by this and never written
        self.tallies = tallies or []  # what is counted by the record that it stands in: number, how many more
        self.owed: list[tuple[Segment, int, int]] = []  # position and lane of each, of which the log still says nothing
        self.ranges: list[list[int]] = []  # [first, count]
        self.counts: dict[int, int] = {}  # lane number -> ids

    def add(self, number: int, lane: int) -> None:
        """Add one id; those that follow one another make one range."""
        ranges = self.ranges
        if ranges and ranges[-1][0] + ranges[-1][1] == number:
            ranges[-1][1] += 1
        else:
            ranges.append([number, 1])
        self.counts[lane] = self.counts.get(lane, 0) + 1

    def owe(self, segment: Segment, position: int) -> None:
        """A record on disk is settled by this; its segment stays until the log says so."""
        self.owed.append((segment, position, segment.lanes[position]))
        segment.void(position)
        segment.owed += 1

    def take(self, other: Settlement) -> None:
        """What another one was to settle is settled by this one."""
        self.ranges += other.ranges
        self.owed += other.owed
        self.tallies += other.tallies
        for mine, its in ((self.counts, other.counts), (self.skipped, other.skipped)):
            for lane, count in its.items():
                mine[lane] = mine.get(lane, 0) + count

    def owes(self, oldest: int) -> bool:
        """Whether it settles a record in a segment before this sequence."""
        return any(segment.sequence < oldest for segment, _, _ in self.owed)

    def is_logged(self) -> None:
        """The log says so."""
        for segment, _, _ in self.owed:
            segment.owed -= 1
        self.owed = []

    def undo(self) -> list[int]:
        """It will never be logged: what it settled is pending again. The lanes of those."""
        for segment, position, lane in self.owed:
            segment.owed -= 1
            segment.live += 1
            segment.lanes[position] = lane
        lanes, self.owed = [lane for _, _, lane in self.owed], []
        return lanes

    def pack(self, skipped: dict[int, int], tallies: Iterable[tuple[int, int, int]] = ()) -> bytes:
        """As bytes, with how many each lane had appended and settled without a trace on disk.

        `tallies`: number, the id after the last record whose own count is in it, count.
        """
        numbers = []
        last = 0
        merged: list[list[int]] = []
        for first, count in sorted(self.ranges):
            if merged and merged[-1][0] + merged[-1][1] == first:
                merged[-1][1] += count
            else:
                merged.append([first, count])
        numbers.append(len(merged))
        for first, count in merged:
            numbers += (first - last, count)
            last = first
        for lane in self.counts.keys() | self.skipped.keys() | skipped.keys():
            numbers += (lane, self.counts.get(lane, 0), self.skipped.get(lane, 0) + skipped.get(lane, 0))
        for tally in tallies:
            numbers += tally
        added: dict[int, int] = {}
        for number, count in self.tallies:
            added[number] = added.get(number, 0) + count
        for number, count in added.items():
            numbers += (number, 0, count)  # what this record adds
        return pack_numbers(numbers)


def unpack_settlement(raw: bytes) -> tuple[list[tuple[int, int]], list[tuple[int, int, int]]]:
    """The ranges (first, count) and the counts (lane, settled, skipped); ValueError when it is neither."""
    numbers = unpack_numbers(raw)
    if not numbers or len(numbers) < 1 + 2 * numbers[0]:
        raise ValueError("a settlement is cut off")
    ranges = []
    last = 0
    middle = 1 + 2 * numbers[0]
    for at in range(1, middle, 2):
        last += numbers[at]
        ranges.append((last, numbers[at + 1]))
    return ranges, list(zip(numbers[middle::3], numbers[middle + 1 :: 3], numbers[middle + 2 :: 3], strict=True))


class Lanes:
    """All lanes, by (kind, key) and by number; their rows in a checkpoint have `most` bytes."""

    def __init__(self, most: int) -> None:
        self.by_key: dict[tuple[int, int | str], Lane] = {}
        self.by_number: dict[int, Lane] = {}
        self._next = 1
        self._most = most
        self._size = 0
        self.tallies = Tallies(self)

    def __iter__(self) -> Iterator[Lane]:
        return iter(self.by_number.values())

    def totals(self) -> dict[str, int]:
        """The counters of all together."""
        names = ("appended", "settled", "gap", "pending")
        return {name: sum(getattr(lane, name) for lane in self) for name in names}

    def differences(self) -> list[str]:
        """Those for which the equation does not hold, one sentence each."""
        return [
            f"spool: kind {lane.kind}, {lane.key}: appended {lane.appended}, settled {lane.settled}, gap {lane.gap}, "
            f"pending {lane.pending}"
            for lane in self
            if lane.difference()
        ]

    def open(self, kind: int, key: int | str) -> Lane:
        """The lane of this kind and key, made when there is none; OverflowError when there are too many."""
        lane = self.by_key.get((kind, key))
        if lane is None:
            while self._size + _row_size(key) > self._most:
                self._retire()
            if self._next > 0xFFFF:
                free = (number for number in range(1, 0x10000) if number not in self.by_number)
                lane = self.put(next(free), kind, key)
            else:
                lane = self.put(self._next, kind, key)
        return lane

    def put(self, number: int, kind: int, key: int | str) -> Lane:
        """A lane of which the log tells."""
        lane = self.by_number[number] = self.by_key[kind, key] = Lane(number, kind, key)
        self._next = max(self._next, number + 1)
        self._size += _row_size(key)
        return lane

    def grow(self, size: int) -> bool:
        """Whether a checkpoint has room for so many bytes more, which are taken then."""
        if size > 0 and self._size + size > self._most:
            return False
        self._size += size
        return True

    def _retire(self) -> None:
        """Forget one that has nothing pending: of a function that is gone, most likely."""
        for lane in self.by_number.values():
            if not lane.pending:
                del self.by_number[lane.number], self.by_key[lane.kind, lane.key]
                self._size -= _row_size(lane.key)
                self.tallies.forget(lane.number)
                return
        raise OverflowError(f"the spool has records of {len(self.by_number)} kinds and keys, and room for no other")


def _row_size(key: int | str) -> int:
    """What a lane takes in a checkpoint, at most: seven numbers and the key."""
    return 130 + len(json_bytes(key))


def pack_checkpoint(lanes: Iterable[Lane], counts: dict[int, list[int]], **more: Any) -> bytes:
    """All lanes with their counters as of here in the log: those logged, and `counts` on top."""
    rows = []
    for lane in lanes:
        add = counts.get(lane.number, (0, 0, 0))
        now = [old + new for old, new in zip(lane.logged, add, strict=True)]
        rows.append([lane.number, lane.kind, lane.key, *now, lane.gap_first, lane.gap_last])
    return json_bytes({"lanes": rows, **more})


def unpack_checkpoint(raw: bytes) -> dict[str, Any]:
    """What `pack_checkpoint` packed; ValueError when it is something else."""
    found = json_loads(raw)
    if not isinstance(found, dict) or not isinstance(found.get("lanes"), list):
        raise ValueError("no checkpoint")  # noqa: TRY004 - the caller looks for one error
    return found
