"""The spool: a durable, bounded log of records on disk, whose owner says of each when it is needed no more.

The contract, for the loop's thread alone:

- `append` gives a record the next id and puts it into the present group. Ids rise for ever, over restarts too (one of
  which nothing was ever written may be given again after a power cut). `done(None)` is called when the group is
  durable, `done(error)` when it could not be made so; in the order of the appends, never from inside `append`.
- A group is written when it holds 64 KiB, `flush_ms` after its first record, or at the end of the turn in which
  a record was `urgent` or `commit_soon` was called. One group is on its way to the disk while the next collects.
- `settle` says that a record is needed no more. One that has not been handed to the writer is then not written at all:
  its `done(None)` comes as soon as all that was appended before the settle is durable or needs no disk. What comes and
  goes between two commits never touches the disk.
- `append(..., settles=ids)` is one record that settles others: both happen or neither does, whenever the power goes.
- Every record is settled, in a gap (dropped to stay within the limits, and said so), or pending: appended = settled +
  gap + pending, for each (kind, key) and in all.
- A disk that cannot be used is no error here: appends fail by `done(error)`, and `trouble` says why until it works.

One thread of its own writes; the loop waits for a disk in `open` and `close` alone, and where `read` meets a cold page.
"""

from __future__ import annotations

from errno import errorcode

from .core import port
from .core.record import HEAD, Reader, size_of
from .disk import Disk
from .spool_lanes import Settlement
from .spool_log import Log, Plan
from .spool_recovery import Recovery
from .spool_segment import CONTROL, NAMED, SETTLE, SETTLES, Segment, payload_of
from .spool_writer import Job, Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from .core.loop import Loop
    from .spool_lanes import Lane

GROUP = 64 << 10  # bytes at which a group is written without waiting
LAZY = 5  # a group that holds nothing but settlements waits so many times as long: losing one costs a repetition
AGAIN_MS, SELDOM_MS = 1000, 60_000  # between two attempts to use a disk that failed; doubled each time
_GLANCE = 1024  # bytes that are read at once; most records are no longer
_RANGES = 4096  # of a settlement; more begin another


class Record:
    """A record as it is read: `payload` is the owner's, whole."""

    __slots__ = ("id", "key", "kind", "payload")

    def __init__(self, number: int, kind: int, key: int | str, payload: bytes) -> None:
        self.id = number
        self.kind = kind
        self.key = key
        self.payload = payload


class _Group:
    """What is appended between two commits: parallel lists; the id of an entry is `first` plus its position."""

    __slots__ = ("dones", "first", "lanes", "late", "live", "payloads", "settles", "size")

    def __init__(self, first: int) -> None:
        self.first = first
        self.lanes: list[Lane] = []
        self.payloads: list[Any] = []  # None: settled before it was written
        self.dones: list[Callable[[OSError | None], Any] | None] = []
        self.settles: dict[int, Settlement] = {}  # by position
        self.late: dict[int, Settlement] = {}  # by position, what was settled while it was on its way to the disk
        self.live = 0
        self.size = 0


class Spool:
    """See the module's contract. `open` before anything else.

    `size`: bytes on disk at most. A `payload` is bytes, a sequence of bytes, or a call that returns either, made on the
    loop if the record is really written; `size` of `append` is then what it will have, roughly.
    `on_gap(kind, key, count, first, last)` is called when records are given up, `on_trouble(text)` when the disk
    cannot be used, and with "" when it works again. Counters: `written` bytes, `commits`, `refused` appends by reason,
    `skipped` records that were never written.
    """

    def __init__(
        self,
        loop: Loop,
        folder: str,
        *,
        size: int = 64 << 20,
        flush_ms: int = 200,
        disk: Disk | None = None,
        writer: Any = None,
        on_gap: Callable[[int, int | str, int, int, int], Any] = lambda *_: None,
        on_trouble: Callable[[str], Any] = lambda _: None,
    ) -> None:
        self.loop = loop
        self.folder = folder
        self.disk = disk or Disk()
        self.log = Log(folder, size, lambda: loop.wall)
        self.flush_ms = flush_ms
        self.on_gap = on_gap
        self.on_trouble = on_trouble
        self.recovery = Recovery(self.log)
        self.trouble = ""
        self.written = self.commits = self.skipped = self.unreadable = self.broken = 0
        self.refused: dict[str, int] = {}
        self.log.more = self._more
        self._writer = writer or Writer(loop, self.disk)
        self._group = _Group(1)
        self._flying: _Group | None = None
        self._settlements: list[Settlement] = []
        self._flown: list[Settlement] = []  # with the group that is on its way
        self._skipped: dict[int, int] = {}  # lane number -> records never written, which the log does not say yet
        self._drops: list[tuple[int, list[tuple[int, int, int, int]]]] = []  # until the log says so
        self._timer: Any = None
        self._wanted = False  # write what there is as soon as the writer is free
        self._flagged = False
        self._retry_at = 0
        self._pause_ms = 0
        self._errno = 0
        self._reading: tuple[Segment, int] | None = None  # and its descriptor
        self._closed = False

    # ---- the owner's side

    def open(self) -> None:
        """Read what is there; about 0.2 s for 64 MiB on a PC. Never fails: see `trouble` and `recovery`."""
        try:
            self.disk.make_folder(self.folder)
            self.recovery.run(self.disk)
        except OSError as error:
            self._fail(error)
        self._group = _Group(self.recovery.next)

    def append(
        self,
        kind: int,
        key: int | str,
        payload: Any,
        done: Callable[[OSError | None], Any] | None = None,
        urgent: bool = False,
        settles: Iterable[int] = (),
        size: int = 0,
    ) -> int:
        """The id of a new record. kind: 0 to 255; key: whose it is, for the counters."""
        lane = self.log.lanes.by_key.get((kind, key)) or self.log.lanes.open(kind, key)
        lane.appended += 1
        lane.pending += 1
        group = self._group
        lanes = group.lanes
        number = group.first + len(lanes)
        lanes.append(lane)
        group.payloads.append(payload)
        group.dones.append(done)
        group.live += 1
        group.size += HEAD + (size or _length(payload))
        if settles:
            self._settle_by(group, number - group.first, settles)
        if urgent or group.size >= GROUP:
            self.commit_soon()
        elif self._timer is None:
            self._arm(self.flush_ms)
        return number

    def settle(self, number: int) -> bool:
        """A record is needed no more; false when it is not pending, which changes nothing."""
        group = self._group
        position = number - group.first
        if position >= 0:
            return self._skip(group, position)
        if not self._settlements or len(self._settlements[-1].ranges) >= _RANGES:
            self._settlements.append(Settlement())
        if not self._settle_into(self._settlements[-1], number):
            return False
        if self._timer is None:
            self._arm(self.flush_ms * LAZY)
        return True

    def commit_soon(self) -> None:
        """Write what there is at the end of this turn, or when the group before it is durable."""
        self._wanted = True
        self._flag()

    def read(self, number: int) -> Record | None:
        """A pending record by its id."""
        for group in (self._group, self._flying):
            if group is not None and 0 <= number - group.first < len(group.lanes):
                return self._from_group(group, number - group.first)
        place = self.log.find(number)
        return self._from_disk(*place) if place is not None else None

    def records(self, after: int = 0, limit: int = GROUP, kind: int | None = None) -> list[Record]:
        """Pending records with ids above `after`, in order: until their payloads are `limit` bytes, one at least."""
        found = []
        for record in self._records(after, kind):
            found.append(record)
            limit -= HEAD + len(record.payload)
            if limit <= 0:
                break
        self._let_go()
        return found

    def totals(self) -> dict[str, int]:
        """The counters of all lanes together."""
        names = ("appended", "settled", "gap", "pending")
        return {name: sum(getattr(lane, name) for lane in self.log.lanes) for name in names}

    def differences(self) -> list[str]:
        """The lanes for which the equation does not hold, one sentence each: a defect."""
        return [
            f"spool: kind {lane.kind}, {lane.key}: appended {lane.appended}, settled {lane.settled}, gap {lane.gap}, "
            f"pending {lane.pending}"
            for lane in self.log.lanes
            if lane.difference()
        ]

    def close(self) -> None:
        """Write what there is, wait for it, end the thread. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._flying is not None or self._has_work():
            if self._flying is None:
                self._hand_over()
            self._writer.wait()
        self._writer.close()
        self._release()
        self._let_go()

    # ---- groups

    def _flag(self) -> None:
        if not self._flagged:
            self._flagged = True
            self.loop.at_turn_end(self._end_of_turn)

    def _arm(self, ms: int) -> None:
        self._timer = self.loop.call_later(ms, self._due)

    def _due(self) -> None:
        self._timer = None
        self._wanted = True
        self._end_of_turn()

    def _has_work(self) -> bool:
        return bool(self._group.live or any(one.ranges for one in self._settlements))

    def _end_of_turn(self) -> None:
        self._flagged = False
        if self._flying is not None:
            return
        if self._wanted and self._has_work():
            self._hand_over()
        elif not self._group.live:
            self._wanted = False
            self._release()
            if self._timer is not None and not self._settlements:
                self._timer.cancel()
                self._timer = None

    def _release(self) -> None:
        """Everything in the group was settled before it was written: it is as good as durable."""
        group = self._group
        if group.lanes and not group.live:
            self._group = _Group(group.first + len(group.lanes))
            self._call(group.dones, None)

    def _call(self, dones: list[Callable[[OSError | None], Any] | None], error: OSError | None) -> None:
        for done in dones:
            if done is not None:
                try:
                    done(error)
                except Exception as wrong:  # noqa: BLE001 - one bad call stays one bad call
                    self.loop.on_error(wrong, done)

    def _hand_over(self) -> None:
        """Give the present group to the writer; what does not fit into the file stays for the next."""
        group = self._group
        if self.trouble and port.ticks_ms() < self._retry_at:
            self._wanted = False
            self._group = _Group(group.first + len(group.lanes))
            self._refuse(group, OSError(self._errno, self.trouble))
            return
        self._wanted = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flown, self._settlements = self._settlements, []
        self._group = _Group(group.first + len(group.lanes))
        self._flying = group
        self._fly(group)

    def _fly(self, group: _Group, *, again: bool = False) -> None:
        """Send it to the writer; what does not fit into the file stays for the next one."""
        plan, taken = self._plan(group)
        if taken < len(group.lanes):
            rest = _Group(group.first + taken)
            _move(group, rest, taken)
            _join(rest, self._group)
            self._group = rest
            self._wanted = True
        writes = plan.writes
        job = Job(lambda hand: hand.write(job, writes), lambda job: self._landed(job, plan, group, again))
        self._writer.submit(job)

    def _plan(self, group: _Group) -> tuple[Plan, int]:
        """Place what is pending: the plan, and how many entries of the group are in it."""
        plan = Plan(self.log)
        self._make_room()
        for oldest, gaps in self._drops:
            if not plan.drop(oldest, gaps):
                return plan, 0
        settlements = self._flown or ([Settlement()] if self._skipped and group.live else [])
        skipped = self._skipped
        for settlement in settlements:
            if not plan.add(SETTLE, CONTROL, 0, 0, settlement.pack(skipped)):
                return plan, 0
            _count(plan, settlement, skipped)
            skipped = {}
        named = set()
        settles = group.settles
        payloads = group.payloads
        first = group.first
        for position, lane in enumerate(group.lanes):
            payload = payloads[position]
            if payload is None:
                continue
            if type(payload) is not bytes:
                payload = payloads[position] = _bytes(payload)
            flags = 0
            if position in settles:
                flags = SETTLES
                raw = settles[position].pack({})
                payload = b"".join((len(raw).to_bytes(4, "little"), raw, payload))
            if not lane.named and lane not in named:
                flags |= NAMED
                raw = lane.name()
                payload = b"".join((len(raw).to_bytes(2, "little"), raw, payload))
            if not plan.add(lane.kind, flags, lane.number, first + position, payload):
                return plan, position
            plan.count(lane.number, 1, 0, 0)
            if flags:
                named.add(lane)
                if flags & SETTLES:
                    _count(plan, settles[position], {})
        return plan, len(payloads)

    def _make_room(self) -> None:
        """Give up the oldest segment when the next one has no file otherwise."""
        log = self.log
        if self._drops or not log.room_wanted() or not log.segments:
            return
        gaps = [] if not log.segments[0].live else log.give_up()
        self._drops.append((log.segments[0].sequence + 1, gaps))
        for number, count, first, last in gaps:
            lane = log.lanes.by_number[number]
            lane.gap += count
            lane.pending -= count
            lane.gap_first, lane.gap_last = first, last
            self.on_gap(lane.kind, lane.key, count, first, last)

    def _more(self, plan: Plan) -> dict[str, Any]:
        """What a checkpoint says beside the lanes."""
        return {"next": self._group.first + len(self._group.lanes)}

    def _landed(self, job: Job, plan: Plan, group: _Group, again: bool) -> None:
        """The writer has done what it could."""
        self.written += job.written
        self._clear(plan, job)
        if job.error is not None:
            if job.broken is not None and not again:
                self._fly(group, again=True)
                return
            self._fail(job.error)
            self._flying = None
            self._settlements[:0] = self._flown
            self._flown = []
            self._refuse(group, job.error)
        else:
            self.commits += 1
            if self.trouble:
                self.trouble = ""
                self._pause_ms = 0
                self.on_trouble("")
            self.log.commit(plan)
            self._flying = None
            self._take_over(group)
            self._call(group.dones, None)
        if self._wanted or not self._group.live:
            self._end_of_turn()

    def _take_over(self, group: _Group) -> None:
        """The group is in the log: so are its names and settlements."""
        for position, payload in enumerate(group.payloads):
            if payload is not None:
                group.lanes[position].named = True
        self._drops = []
        for settlement in (*self._flown, *group.settles.values()):
            settlement.is_logged()
        if self._flown or group.live:
            self._skipped = {}
        self._flown = []
        for position, settlement in group.late.items():
            place = self.log.find(group.first + position)
            if place is not None:
                settlement.owe(*place)

    def _clear(self, plan: Plan, job: Job) -> None:
        """Files that were taken and are not in use after all."""
        if job.error is None:
            return
        if job.broken is not None:
            job.broken.bad = True
            self.broken += 1
        for write in plan.writes:
            if write.begins:
                if write.segment.bad:
                    self.log.doomed.append(write.segment.path)
                else:
                    self.log.give_back(write.segment, write.create)

    def _fail(self, error: OSError) -> None:
        """The disk cannot be used: say so once, and try again later, with the next record that comes then."""
        self._errno = error.errno or 0
        self._pause_ms = min(self._pause_ms * 2 or AGAIN_MS, SELDOM_MS)
        self._retry_at = port.ticks_ms() + self._pause_ms
        said, self.trouble = self.trouble, f"{error.filename or self.folder}: {error.strerror or error}"
        if not said:
            self.on_trouble(self.trouble)

    def _refuse(self, group: _Group, error: OSError) -> None:
        """What was appended could not be stored, and never was."""
        reason = errorcode.get(error.errno or 0, "error")
        for position, done in enumerate(group.dones):
            wrong = None
            if group.payloads[position] is not None:
                wrong = error
                lane = group.lanes[position]
                lane.appended -= 1
                lane.refused += 1
                self.refused[reason] = self.refused.get(reason, 0) + 1
                if position in group.late:
                    lane.settled -= 1
                    group.late[position].counts[lane.number] -= 1
                else:
                    lane.pending -= 1
                if position in group.settles:
                    self._unsettle(group.settles[position])
            self._call([done], wrong)

    # ---- settlements

    def _skip(self, group: _Group, position: int) -> bool:
        """Settle what has not been handed to the writer."""
        payloads = group.payloads
        if position >= len(payloads) or payloads[position] is None:
            return False
        payload, payloads[position] = payloads[position], None
        group.size -= HEAD + _length(payload)
        group.live -= 1
        self.skipped += 1
        lane = group.lanes[position]
        lane.settled += 1
        lane.pending -= 1
        self._skipped[lane.number] = self._skipped.get(lane.number, 0) + 1
        if position in group.settles:
            self._settlements.append(group.settles.pop(position))
        if not group.live and not self._flagged:
            self._flag()
        return True

    def _settle_into(self, settlement: Settlement, number: int) -> bool:
        """Settle what is on disk, or on its way."""
        group = self._flying
        position = number - group.first if group is not None else -1
        if group is not None and 0 <= position < len(group.lanes):
            if group.payloads[position] is None or position in group.late:
                return False
            lane = group.lanes[position]
            group.late[position] = settlement
        else:
            place = self.log.find(number)
            if place is None:
                return False
            lane = self.log.lanes.by_number[place[0].lanes[place[1]]]
            settlement.owe(*place)
        settlement.add(number, lane.number)
        lane.settled += 1
        lane.pending -= 1
        return True

    def _settle_by(self, group: _Group, position: int, settles: Iterable[int]) -> None:
        """Settle others with the record at a position of the present group."""
        settlement = Settlement()
        for number in settles:
            if number >= group.first:
                self._skip(group, number - group.first)
            else:
                self._settle_into(settlement, number)
        if settlement.ranges:
            group.settles[position] = settlement
            group.size += 5 * len(settlement.ranges)

    def _unsettle(self, settlement: Settlement) -> None:
        """The record that settled these could not be stored: they are pending again."""
        for lane_number in settlement.undo():
            lane = self.log.lanes.by_number[lane_number]
            lane.settled -= 1
            lane.pending += 1

    # ---- reading

    def _records(self, after: int, kind: int | None) -> Iterator[Record]:
        by_number = self.log.lanes.by_number
        for segment, position in self.log.live(after):
            if kind is None or by_number[segment.lanes[position]].kind == kind:
                record = self._from_disk(segment, position)
                if record is not None:
                    yield record
        for group in (self._flying, self._group):
            if group is not None:
                for position in range(max(0, after + 1 - group.first), len(group.lanes)):
                    if kind is None or group.lanes[position].kind == kind:
                        record = self._from_group(group, position)
                        if record is not None:
                            yield record

    def _from_group(self, group: _Group, position: int) -> Record | None:
        payload = group.payloads[position]
        if payload is None or position in group.late:
            return None
        if type(payload) is not bytes:
            payload = group.payloads[position] = _bytes(payload)
        lane = group.lanes[position]
        return Record(group.first + position, lane.kind, lane.key, payload)

    def _from_disk(self, segment: Segment, position: int) -> Record | None:
        """None when the record cannot be read, which is counted."""
        lane = self.log.lanes.by_number[segment.lanes[position]]
        try:
            raw = self._look(segment, segment.at[position])
            _, _, payload = payload_of(*raw)
        except (OSError, ValueError):
            self.unreadable += 1
            return None
        return Record(segment.number(position), lane.kind, lane.key, payload)

    def _look(self, segment: Segment, at: int) -> tuple[int, bytes]:
        """Flags and payload of the record at an offset; ValueError when it is not whole any more."""
        disk = self.disk
        if self._reading is None or self._reading[0] is not segment:
            self._let_go()
            self._reading = (segment, disk.open(segment.path))
        descriptor = self._reading[1]
        raw = disk.read(descriptor, _GLANCE, at)
        size = HEAD + size_of(raw)
        if size > len(raw):
            if at + size > segment.end:
                raise ValueError("no record")
            raw += disk.read(descriptor, size - len(raw), at + len(raw))
        for _, _, flags, _, _, start, stop in Reader(raw, 0, size, segment.seed):
            return flags, raw[start:stop]
        raise ValueError("no record")

    def _let_go(self) -> None:
        if self._reading is not None:
            self.disk.close(self._reading[1])
            self._reading = None


def _count(plan: Plan, settlement: Settlement, skipped: dict[int, int]) -> None:
    """Add to the plan what the log will say of the lanes by this."""
    for lane in settlement.counts.keys() | skipped.keys():
        extra = skipped.get(lane, 0)
        plan.count(lane, extra, settlement.counts.get(lane, 0) + extra, 0)


def _move(group: _Group, rest: _Group, taken: int) -> None:
    """Let the entries from a position on be those of another group."""
    for name in ("lanes", "payloads", "dones"):
        entries = getattr(group, name)
        setattr(rest, name, entries[taken:])
        del entries[taken:]
    rest.settles = {position - taken: one for position, one in group.settles.items() if position >= taken}
    group.settles = {position: one for position, one in group.settles.items() if position < taken}
    for payload in rest.payloads:
        if payload is not None:
            rest.live += 1
            rest.size += HEAD + _length(payload)
    group.live -= rest.live


def _join(group: _Group, later: _Group) -> None:
    """Add the entries of the group that comes next."""
    shift = len(group.lanes)
    group.lanes += later.lanes
    group.payloads += later.payloads
    group.dones += later.dones
    group.settles.update({position + shift: one for position, one in later.settles.items()})
    group.live += later.live
    group.size += later.size


def _length(payload: Any) -> int:
    """Bytes of a payload; those of one that is made later are not known yet."""
    if callable(payload):
        return 0
    return len(payload) if isinstance(payload, (bytes, bytearray, memoryview)) else sum(map(len, payload))


def _bytes(payload: Any) -> bytes:
    if callable(payload):
        payload = payload()
    return bytes(payload) if isinstance(payload, (bytes, bytearray, memoryview)) else b"".join(payload)
