"""Where the records of one group go: which segment, which offset; a plan that the writer carries out.

The order in a group is the order in which it has to become durable: what is settled, what is given up, readers'
cursors, copies of what would be given up otherwise, and what was appended.
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate, repeat
from operator import attrgetter

from nuclio_edge.core.port import json_bytes
from nuclio_edge.core.record import HEAD, pack_numbers

from .group import as_bytes
from .lanes import Settlement, pack_checkpoint
from .segment import (
    CHECKPOINT,
    CONTROL,
    COPY,
    CURSOR,
    DROP,
    HEADER,
    NAMED,
    NAMES,
    PAD,
    SETTLE,
    SETTLES,
    Segment,
    make_header,
)
from .writer import PAGE, Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .cursor import Readers
    from .group import Group
    from .lanes import Lane
    from .log import Log
    from .reading import Place
    from .room import Room
    from .settling import Settling

_KIND, _NUMBER, _NAMED = attrgetter("kind"), attrgetter("number"), attrgetter("named")


class Plan:
    """What one group is written as; `full`: it ended early, as there was no file to go on in.

    `counts` is what it adds to the logged counters, lane number -> [appended, settled, gap]; `oldest` where the log
    begins when it is durable, 0: where it began before.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.writes: list[Write] = []
        self.counts: dict[int, list[int]] = {}
        self.skipped: dict[int, int] = {}
        self.copies: list[Place] = []
        self.named: list[Lane] = []
        self.tallied: dict[int, int] = {}
        self.upto = 0  # the id after the last record that is in the log, or in the plan up to here
        self.placed: dict[int, int] = {}  # what records in the plan up to here add to tallies
        self.drops = 0  # of the room's, that are in it
        self.seen = 0  # of the room's copies, that are in it or were needed no more
        self.oldest = 0
        self.full = False
        self._write: Write | None = None
        self._limit = 0
        self._far = 0
        self._counted = 0  # writes, and records of the next, that are in `counts`
        self._lanes = 0
        self._last = log.segments[-1] if log.segments else None
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

    def count_appended(self) -> None:
        """Add what was appended since this was asked last, by lane; at once, as there are many."""
        while self._counted < len(self.writes):
            write = self.writes[self._counted]
            for lane, count in Counter(write.lanes[self._lanes :]).items():
                self.count(lane, count, 0, 0)
            self._lanes = len(write.lanes)
            if write is self._write:
                break
            self._counted += 1
            self._lanes = 0

    def add(self, kind: int, flags: int, lane: int, number: int, payload: bytes) -> bool:
        """Place one record; false when there is no room for it and no file to go on in."""
        write = self._write
        size = HEAD + len(payload)
        if write is None or write.at + write.size + size > self._limit or self._is_far(write, number, flags):
            write = self._turn_over()
            if write is None:
                return False
        at = write.at + write.size
        if not write.frames:
            self.writes.append(write)
        write.frames.append((kind, flags, lane, number, payload))
        write.size += size
        if not flags & CONTROL:
            if flags & COPY:
                write.copies.append((number, at, lane))
            else:
                write.numbers.append(number)
                write.ats.append(at)
                write.lanes.append(lane)
        return True

    def add_plain(self, kind: int, lane: int, number: int, payload: bytes) -> bool:
        """`add` of a record without flags, of which there are many."""
        write = self._write
        if write is None or not write.numbers:
            return self.add(kind, 0, lane, number, payload)
        size = HEAD + len(payload)
        at = write.at + write.size
        if at + size > self._limit or number > self._far:
            return self.add(kind, 0, lane, number, payload)
        write.frames.append((kind, 0, lane, number, payload))
        write.size += size
        write.numbers.append(number)
        write.ats.append(at)
        write.lanes.append(lane)
        return True

    def add_run(self, lanes: list[Lane], first: int, payloads: list[bytes]) -> bool:
        """`add_plain` of records that follow one another, in a quarter of the time; false when they do not fit here."""
        write = self._write
        if write is None:
            return False
        self._reach(write, first)
        at = write.at + write.size
        ends = list(accumulate(map(HEAD.__add__, map(len, payloads)), initial=at))
        if ends[-1] > self._limit or first + len(lanes) > self._far:
            return False
        if not write.frames:
            self.writes.append(write)
        write.size += ends.pop() - at
        numbers = range(first, first + len(lanes))
        ours = list(map(_NUMBER, lanes))
        write.frames += zip(map(_KIND, lanes), repeat(0), ours, numbers, payloads)
        write.numbers += numbers
        write.ats += ends
        write.lanes += ours
        return True

    def _is_far(self, write: Write, number: int, flags: int) -> bool:
        """Whether the index of the segment cannot hold the id: billions came and went without being written."""
        if flags & (CONTROL | COPY):
            return False
        self._reach(write, number)
        return number > self._far

    def _reach(self, write: Write, number: int) -> None:
        """Find up to where ids fit into the index of the segment, if this is the next one in it."""
        base = write.segment.base
        if base < 0:
            base = (write.numbers[0] if write.numbers else number) - 1
        self._far = base + 0xFFFFFFFF

    def _turn_over(self) -> Write | None:
        log = self.log
        file = log.take_file()
        if file is None:
            self.full = True
            return None
        path, create = file
        self.count_appended()
        log.sequence += 1
        segment = Segment(path, make_header(log.sequence, log.segment_size, log.random(4)))
        segment.filled = 0
        write = Write(segment, HEADER, begins=True, create=create)
        self._aim(write)
        self.writes.append(write)
        # What this plan has put into earlier segments is not in their indexes yet.
        self.oldest = max(self.oldest, min(log.first_needed(), self.writes[0].segment.sequence))
        before = self._last.sequence if self._last is not None else 0
        self._last = segment
        tallies = log.lanes.tallies.rows(self.tallied, self.placed, self.upto)
        raw = pack_checkpoint(log.lanes, self.counts, oldest=self.oldest, before=before, tallies=tallies, **log.more())
        write.frames.append((CHECKPOINT, CONTROL, 0, 0, raw))  # Lanes sees to it that it fits
        write.size = HEAD + len(raw)
        return write

    def pad(self) -> None:
        """Fill up the page when a next group like this one would lie in two, and cost twice as much."""
        write = self._write
        if write is not None and write.frames and write.size < PAGE // 2:
            end = write.at + write.size
            rest = -end % PAGE
            if HEAD <= rest < write.size and end + rest <= self._limit:
                write.frames.append((PAD, CONTROL, 0, 0, bytes(rest - HEAD)))
                write.size += rest

    def name(self, lanes: list[Lane]) -> bool:
        """Say how lanes are called of which the log has no record."""
        raw = json_bytes([[lane.number, lane.kind, lane.key] for lane in lanes])
        if lanes and not self.add(NAMES, CONTROL, 0, 0, raw):
            return False
        self.named += lanes
        return True

    def settle(self, settlement: Settlement, skipped: dict[int, int], tallies: dict[int, int]) -> bool:
        """Say what is settled, how many of each lane were never written, and how tallies stand."""
        stand = [(number, self.upto, count) for number, count in tallies.items()]
        if not self.add(SETTLE, CONTROL, 0, 0, settlement.pack(skipped, stand)):
            return False
        self.tallied.update(tallies)
        self.count_settled(settlement)
        for lane, count in skipped.items():
            self.count(lane, count, count, 0)
        self.skipped.update(skipped)
        return True

    def count_settled(self, settlement: Settlement) -> None:
        """The log will say that these are settled."""
        for lane, count in settlement.counts.items():
            self.count(lane, 0, count, 0)
        for lane, count in settlement.skipped.items():
            self.count(lane, count, count, 0)

    def drop(self, oldest: int, gaps: list[tuple[int, int, int, int]]) -> bool:
        """Say that the log begins at `oldest`, and what is lost: (lane, count, first id, last id).

        It becomes durable after what is before it in the plan: an id must not be in a gap that is settled, too. For
        this a part of each segment is kept free while there is no file to go on in.
        """
        numbers = [oldest]
        for gap in gaps:
            numbers += gap
        write = self._write
        if write is not None:
            if write.frames:
                write = Write(write.segment, write.at + write.size)
            self._aim(write)
            self._limit = write.segment.room
        placed = self.add(DROP, CONTROL, 0, 0, pack_numbers(numbers))
        if self._write is not None:
            self._aim(self._write)
        if not placed:
            return False
        self.oldest = max(self.oldest, oldest)
        for lane, count, _, _ in gaps:
            self.count(lane, 0, 0, count)
        return True


def compose(
    log: Log, room: Room, readers: Readers, settling: Settling, group: Group, *, closing: bool
) -> tuple[Plan, int]:
    """Place what is to be written: the plan, and how many entries of the group are in it.

    `closing`: there will be no other group with which tallies could ride.
    """
    plan = Plan(log)
    plan.upto = group.first
    skipped = dict(settling.skipped)
    tallies = log.lanes.tallies
    due = tallies.due()
    settlements = settling.flown
    if (skipped or due) and not settlements and (group.live or closing):
        settlements.append(Settlement())
    if (settlements or group.settles) and not plan.name(tallies.unnamed()):
        due = {}
    for taken, settlement in enumerate(settlements):
        if not plan.settle(settlement, skipped, due):
            settling.keep(taken)
            break
        skipped, due = {}, {}
    # A record of this group that settles others in what is given up has to be durable first: it stands for them.
    first = max((oldest for oldest, _ in room.drops), default=0)
    bound = [position for position, one in group.settles.items() if one.owes(first)]
    if not bound and not _give_up(plan, room):
        return plan, 0
    taken = _add_rest(plan, room, readers, group)
    if bound and max(bound) < taken:
        _give_up(plan, room)
    plan.pad()
    return plan, taken


def _give_up(plan: Plan, room: Room) -> bool:
    """Place what says where the log begins."""
    for oldest, gaps in room.drops:
        if not plan.drop(oldest, gaps):
            return False
        plan.drops += 1
    return True


def _add_rest(plan: Plan, room: Room, readers: Readers, group: Group) -> int:
    """Place readers, copies and the records of the group; how many entries of it there was room for."""
    if plan.full:
        return 0
    for raw in readers.tell():
        if not plan.add(CURSOR, CONTROL, 0, 0, raw):
            return 0
    for place in room.copies:
        if place.is_live() and place.payload is not None:
            kind = plan.log.lanes.by_number[place.lane].kind
            if not plan.add(kind, COPY, place.lane, place.number, place.payload):
                return 0
            plan.copies.append(place)
        plan.seen += 1
    return _appended(plan, group)


def _appended(plan: Plan, group: Group) -> int:
    """Place the records of the group; how many entries there was room for."""
    settles, payloads, lanes = group.settles, group.payloads, group.lanes
    first = group.first
    largest = plan.log.largest()
    if len(lanes) > 1 and _is_plain(group, largest) and plan.add_run(lanes, first, payloads):
        plan.count_appended()
        return len(lanes)
    taken = 0
    for taken, lane in enumerate(lanes):
        payload = payloads[taken]
        if payload is None:
            continue
        if type(payload) is not bytes:
            payload = payloads[taken] = as_bytes(payload)
        if len(payload) > largest:
            group.oversize.append((taken, len(payload)))
            continue
        if lane.named and taken not in settles:
            if not plan.add_plain(lane.kind, lane.number, first + taken, payload):
                break
        elif not _add_special(plan, group, taken, payload):
            break
    else:
        taken = len(group.lanes)
    plan.count_appended()
    return taken


def _is_plain(group: Group, largest: int) -> bool:
    """Whether its records are all of the commonest kind: bytes, pending, of a named lane, that settle nothing."""
    payloads = group.payloads
    return (
        not group.settles
        and set(map(type, payloads)) == {bytes}
        and max(map(len, payloads)) <= largest
        and all(map(_NAMED, group.lanes))
    )


def _add_special(plan: Plan, group: Group, position: int, payload: bytes) -> bool:
    """Place a record that names its lane, or settles others."""
    lane = group.lanes[position]
    settlement = group.settles.get(position)
    flags = 0
    if settlement is not None:
        flags = SETTLES
        raw = settlement.pack({})
        payload = b"".join((len(raw).to_bytes(4, "little"), raw, payload))
    if not lane.named:  # in each of the group, as each may be the only one that is whole after a power cut
        flags |= NAMED
        raw = lane.name()
        payload = b"".join((len(raw).to_bytes(2, "little"), raw, payload))
    if not plan.add(lane.kind, flags, lane.number, group.first + position, payload):
        return False
    if flags & NAMED:
        plan.named.append(lane)
    if settlement is not None:
        plan.count_settled(settlement)
        plan.upto = group.first + position + 1
        for number, count in settlement.tallies:
            plan.placed[number] = plan.placed.get(number, 0) + count
    return True
