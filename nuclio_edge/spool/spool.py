"""The spool: a durable, bounded log of records on disk, whose owner says of each when it is needed no more.

The contract, for the loop's thread alone:

- `append` gives a record the next id and puts it into the present group. Ids rise for ever, over restarts too (one of
  which nothing was ever written may be given again after a power cut). `done(None)` is called when the group is
  durable, `done(error)` when it could not be made so; in the order of the appends, never from inside `append`.
- A group is written when it holds 64 KiB, `flush_ms` after its first record, or at the end of the turn in which
  a record was `urgent` or `commit_soon` was called. One group is on its way to the disk while the next collects.
- `settle` says that a record is needed no more. One that has not been handed to the writer is then not written at all:
  its `done(None)` comes as soon as all that was appended before the settle is durable, needs no disk, or has failed.
  What comes and goes between two commits never touches the disk.
- `append(..., settles=ids)` is one record that settles others: both happen or neither does, whenever the power goes.
  If it fails, by `done(error)`, the others are pending again; those that had not been written never were, and are told
  the same error. The `done` of these comes just before that of the record, not in its own turn.
- Every record is settled, in a gap (given up to stay within the limits, and said so), or pending: appended = settled +
  gap + pending, for each (kind, key) and in all.
- A disk that cannot be used is no error here: appends fail by `done(error)`, and `trouble` says why until it works. It
  is tried again by what is appended, and where nothing is, by a file that is made and removed.

One thread of its own writes; the loop waits for a disk in `open` and `close` alone, and where reading meets a cold page
(`fetch` reads on the writer's thread).
"""

from __future__ import annotations

from errno import EAGAIN, ENOBUFS, ENOSPC

from nuclio_edge.core import port
from nuclio_edge.core.record import HEAD

from .budget import Budget
from .cursor import Readers
from .disk import Disk
from .group import Group, length
from .log import Log
from .plan import compose
from .reading import Reading
from .recovery import Recovery
from .refusal import Refusal
from .room import Room
from .settling import Settling
from .writer import PAGE, Job, Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from nuclio_edge.core.loop import Loop

    from .cursor import Cursor
    from .group import Done
    from .plan import Plan
    from .reading import Record
    from .tallies import Tallies, Tally
    from .writer import Hand

GROUP = 64 << 10  # bytes at which a group is written without waiting
FULL = 4 << 20  # bytes at which appends are refused because the disk does not keep up
LAZY = 5  # a group that holds nothing but settlements waits so many times as long: losing one costs a repetition
AGAIN_MS, SELDOM_MS = 1000, 60_000  # between two attempts to use a disk that failed; doubled each time


class Spool:
    """See the module's contract. `open` before anything else.

    `size`: bytes on disk at most; `max_age_ms`: older records may be given up, 0: never; `writes_per_day`: bytes that
    the disk may have to take in 24 hours, 0: any. `on_gap(kind, key, count, first id, last id)` is called when records
    are given up, `on_trouble(text)` when the disk cannot be used, with "" when it works again, `on_notice(text)` with
    what somebody should know once. Counters: `written` bytes, `commits`, `refused` appends by reason, `broken` files,
    `damaged` records that could not be read; those of `budget` and `recovery`.
    """

    def __init__(
        self,
        loop: Loop,
        folder: str,
        *,
        size: int = 64 << 20,
        flush_ms: int = 200,
        writes_per_day: int = 0,
        max_age_ms: int = 0,
        disk: Disk | None = None,
        writer: Any = None,
        on_gap: Callable[[int, int | str, int, int, int], Any] = lambda *_: None,
        on_trouble: Callable[[str], Any] = lambda _: None,
        on_notice: Callable[[str], Any] = lambda _: None,
    ) -> None:
        self.loop = loop
        self.folder = folder
        self.disk = disk or Disk()
        self.flush_ms = flush_ms
        self.on_gap = on_gap
        self.on_trouble = on_trouble
        self.on_notice = on_notice
        self.on_write: Callable[[], Any] = lambda: None  # before a group is closed: the last moment for a tally
        self.log = Log(folder, size)
        self.log.more = self._more
        self.budget = Budget(writes_per_day, port.ticks_ms()) if writes_per_day else None
        self.recovery = Recovery(self.log)
        self.room = Room(self, max_age_ms)
        self._settling = Settling(self.log)
        self._refusal = Refusal(self, self._settling)
        self.refused = self._refusal.counts
        self.readers = Readers(self)
        self.trouble = ""
        self.written = self.commits = self.broken = self.damaged = 0
        self._writer = writer or Writer(loop, self.disk)
        self._reading = Reading(self)
        self._group = Group(1)
        self._flying: Group | None = None
        self._timer: Any = None
        self._lazy = False  # whether the timer is for what is in no hurry
        self._wanted = False  # write what there is as soon as the writer is free
        self._flagged = False
        self._error: OSError | None = None
        self._short: OSError | None = None  # why the last file could not be made
        self._full = OSError(ENOSPC, "every file of the spool is in use", folder)
        self._retry_at = 0
        self._pause_ms = 0
        self._is_open = False  # it is known what there is
        self._closed = False

    @property
    def in_hand(self) -> Any:
        """The group that is on its way to the disk, or None: one that stays the same for long is stuck there."""
        return self._flying

    def open(self) -> None:
        """Read what is there; about 0.2 s for 64 MiB on a PC. Never fails: see `trouble` and `recovery`."""
        try:
            self.disk.make_folder(self.folder)
        except OSError as error:  # there may be one all the same, to be read
            self._fail(error)
        self._recover()
        if self.trouble:
            self._try_later()

    def _recover(self) -> bool:
        """Find what is there; false when that cannot be known: nothing may be written then."""
        recovery = Recovery(self.log)
        try:
            recovery.run(self.disk)
        except OSError as error:
            self._fail(error)
            return False
        self.recovery = recovery
        self._is_open = True
        self._group = Group(recovery.next)
        self.readers.restore(recovery.cursors.values())
        if self.budget is not None and recovery.budget:
            level, wall = recovery.budget
            self.budget.restore(level, port.now_ms() - int(wall))
        return True

    def append(
        self,
        kind: int,
        key: int | str,
        payload: Any,
        done: Done | None = None,
        urgent: bool = False,
        settles: Iterable[int] = (),
        size: int = 0,
        tallies: Iterable[Tally] = (),
    ) -> int:
        """The id of a new record. kind: 0 to 255; key: whose it is, for the counters.

        A payload is bytes, a sequence of bytes that belong together, or a call that returns either: on the loop, if the
        record is really written, and then of about `size` bytes. `tallies`: (kind, key, slot, count) each, durable with
        this record and not otherwise.
        """
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
        group.size += HEAD + (len(payload) if type(payload) is bytes else size or length(payload))
        if settles or tallies:
            self._settling.settle_by(group, number - group.first, settles, tallies, self._flying)
        if urgent or group.size >= GROUP:
            if group.size >= FULL and group.live > 1:
                group.live -= 1
                error = OSError(ENOBUFS, "the disk does not keep up", self.folder)
                self._refusal.of(group, number - group.first, error)
            self.commit_soon()
        elif self._timer is None or self._lazy:
            self._arm(self.flush_ms)
        return number

    def settle(self, number: int) -> bool:
        """A record is needed no more; false when it is not pending, which changes nothing."""
        group = self._group
        position = number - group.first
        if position >= 0:
            if not self._settling.settle_unwritten(group, position):
                return False
            if not group.live:
                self._at_turn_end()
            return True
        if not self._settling.settle(number, self._flying):
            return False
        self.later()
        return True

    @property
    def tallies(self) -> Tallies:
        """Numbers that ride along with what is settled."""
        return self.log.lanes.tallies

    def commit_soon(self) -> None:
        """Write what there is at the end of this turn, or when the group before it is durable."""
        self._wanted = True
        self._at_turn_end()

    def read(self, number: int) -> Record | None:
        """A pending record by its id; OSError when the disk cannot be read."""
        return self._reading.read(number)

    def records(
        self, after: int = 0, limit: int = GROUP, kind: int | None = None, key: int | str | None = None
    ) -> list[Record]:
        """Pending records with ids above `after`, in order, until they are `limit` bytes, one at least if there is one.

        OSError when the disk cannot be read. A record that is damaged is put down as a gap.
        """
        return self._reading.records(after, limit, kind, key)

    def fetch(
        self, after: int, limit: int, then: Callable[[list[Record], OSError | None], Any], kind: int | None = None
    ) -> None:
        """As `records`, read by the writer's thread; `then(records, error)` is called on the loop, never from inside.

        What was settled meanwhile is left out: an empty list need not be the end.
        """
        self._reading.fetch(after, limit, kind, then)

    def numbers(self, after: int, upto: int, kind: int) -> list[int]:
        """The ids of pending records of a kind above `after` and not above `upto`, in order; nothing is read."""
        return self._reading.numbers(after, upto, kind)

    def reader(self, name: str, kind: int) -> Cursor:
        """The named reader of a kind, as it was left; a new one begins with the oldest pending record."""
        return self.readers.open(name, kind)

    def totals(self) -> dict[str, int]:
        """The counters of all lanes together."""
        return self.log.lanes.totals()

    def differences(self) -> list[str]:
        """The lanes for which the equation does not hold, one sentence each: a defect."""
        return self.log.lanes.differences()

    def finish(self) -> None:
        """Write what there is and wait for it: every `done` has been called, but for what came from one of them."""
        if not self._closed:
            self._write_all()

    def _write_all(self) -> None:
        while self._flying is not None or self._has_work():
            if self._flying is None:
                self._hand_over()
                if self._flying is None:  # it failed
                    break
            self._writer.wait()

    def close(self) -> None:
        """Write what there is, wait for it, end the thread. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.on_write()
        self._write_all()
        self._disarm()
        self._writer.close()
        self._release()

    # ---- groups

    def _at_turn_end(self) -> None:
        if not self._flagged:
            self._flagged = True
            self.loop.at_turn_end(self._end_of_turn)

    def later(self) -> None:
        """Something has changed that the log should say, in no hurry."""
        if self._timer is None and not self._closed:
            self._arm(self.flush_ms * LAZY)
            self._lazy = True

    def _arm(self, ms: int) -> None:
        self._disarm()
        if self.budget is not None:
            ms = self.budget.wait(ms, port.ticks_ms())
        self._timer = self.loop.call_later(ms, self._due)

    def _disarm(self) -> None:
        self._lazy = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        if self.trouble and self._flying is None and not self._has_work():
            self._probe()
            return
        self._wanted = True
        self._end_of_turn()

    def _has_work(self) -> bool:
        if self._closed and self.log.segments and self.tallies.dirty:
            return True  # no file is made for their sake
        return bool(self._group.live) or self._settling.has_work() or self.room.has_work() or self.readers.has_work()

    def _end_of_turn(self) -> None:
        self._flagged = False
        if self._flying is not None:
            return
        if self._wanted and self._has_work():
            hold = self.budget.hold(port.ticks_ms()) if self.budget is not None else 0
            if not hold:
                self._hand_over()
            elif self._timer is None:
                self._timer = self.loop.call_later(hold, self._due)
        elif not self._group.live:
            self._wanted = False
            self._release()
            if self._timer is not None and not self.trouble and not self._has_work():
                self._disarm()

    def _release(self) -> None:
        """Everything in the group was settled before it was written: it is as good as durable."""
        group = self._group
        if group.lanes and not group.live:
            self._group = Group(group.next)
            group.tell(self.loop.on_error)

    def _hand_over(self) -> None:
        """Give the present group to the writer."""
        self.on_write()
        group = self._group
        self._wanted = False
        self._disarm()
        self._group = Group(group.next)
        if self._error is not None and port.ticks_ms() < self._retry_at:
            self._refusal.of_all(group, self._error)
            self._try_later()
            return
        if not self._is_open:
            self._recover()
            self._refusal.of_all(group, self._error or OSError(EAGAIN, "the spool was not open yet", self.folder))
            return
        self._settling.fly()
        self._flying = group
        self._fly(group)

    def _fly(self, group: Group, *, again: bool = False) -> None:
        """Send it to the writer; what does not fit into the file stays for the next one."""
        self.room.prepare()
        plan, taken = compose(self.log, self.room, self.readers, self._settling, group, closing=self._closed)
        self._refusal.of_oversize(group)
        doomed = list(self.log.doomed)
        if not plan.writes and not doomed:
            if plan.full:
                self._failed(group, self._short if self._short is not None and self.log.is_short() else self._full)
            else:
                self._nothing_to_write(plan, group)
            return
        if taken < len(group.lanes):
            rest = group.split(taken)
            rest.join(self._group)
            self._group = rest
        self._wanted |= plan.full

        def work(hand: Hand, job: Job) -> None:
            hand.write(job, plan.writes)
            hand.remove(job, doomed)

        self.submit(Job(work, lambda job: self._landed(job, plan, group, again)))

    def _landed(self, job: Job, plan: Plan, group: Group, again: bool) -> None:
        """The writer has done what it could."""
        self.written += job.written
        if self.budget is not None and job.device:
            self.budget.spend(job.device, port.ticks_ms())
        self.log.removed(job.removed)
        if job.error is None:
            self.commits += 1
            self._heal()
            self.log.commit(plan)
            self._flying = None
            if self.log.doomed:
                doomed = list(self.log.doomed)
                self.submit(Job(lambda hand, job: hand.remove(job, doomed), lambda job: self.log.removed(job.removed)))
            self._settling.landed(group, plan.skipped, plan.tallied)
            self.room.landed(plan)
            if not plan.full:
                self.readers.landed()
            group.tell(self.loop.on_error)
        else:
            self.log.give_back(plan, job.durable if job.broken is None else [*job.durable, job.broken])
            if job.broken is not None:
                self.broken += 1
                self.on_notice(f"spool: {job.broken.path}: {job.error.strerror}; nothing more is written there")
            elif self.log.is_short():
                self._short = job.error
            if not again and (job.broken is not None or self.log.is_short()):
                self._fly(group, again=True)
                return
            self._failed(group, job.error)
        if self._wanted or not self._group.live:
            self._end_of_turn()

    def _nothing_to_write(self, plan: Plan, group: Group) -> None:
        """All of a group was too large, or is needed no more: that says nothing about the disk."""
        self._flying = None
        self.room.landed(plan)
        group.tell(self.loop.on_error)
        self._at_turn_end()
        if self.trouble:
            self._try_later()

    def _failed(self, group: Group, error: OSError) -> None:
        self._flying = None
        self._settling.failed()
        self.readers.failed()
        self._fail(error)
        self._refusal.of_all(group, error)
        self._try_later()

    def _try_later(self) -> None:
        """Neither what the log must still be told nor `trouble` depends on somebody's appending something."""
        if not self._closed:
            self._arm(max(1, self._retry_at - port.ticks_ms()))

    def _probe(self) -> None:
        """Find out whether the disk can be used again, by a file as large as the next group may have to make."""
        self._release()
        if not self._is_open and not self._recover():
            self._try_later()
            return
        if self._error is self._full:  # not the disk's fault: only what is settled makes room
            return
        log = self.log
        makes = not log.free and (log.active() is None or self._short is not None)
        size = log.segment_size if makes and log.may_grow(1) else PAGE

        def probed(job: Job) -> None:
            if self.budget is not None:
                self.budget.spend(job.device, port.ticks_ms())
            if job.error is None:
                if size > PAGE:
                    self._short = None
                    self.log.found_room()
                self._heal()
            elif self._flying is None:
                self._fail(job.error)
                self._try_later()

        self.submit(Job(lambda hand, job: hand.probe(job, self.folder, size), probed))

    def _heal(self) -> None:
        """The disk can be used."""
        self._pause_ms = 0
        self._error = None
        if self.trouble:
            self.trouble = ""
            self.on_trouble("")

    def _fail(self, error: OSError) -> None:
        """The disk cannot be used: say so once, and wait longer each time before it is tried again."""
        self._error = error
        self._pause_ms = min(self._pause_ms * 2 or AGAIN_MS, SELDOM_MS)
        self._retry_at = port.ticks_ms() + self._pause_ms
        said, self.trouble = self.trouble, f"{error.filename or self.folder}: {error.strerror or error}"
        if not said:
            self.on_trouble(self.trouble)

    def groups(self) -> tuple[Group | None, Group]:
        """What is in memory, in order: what is on its way to the disk, and what was appended since."""
        return self._flying, self._group

    def submit(self, job: Job) -> None:
        """Have something done by the writer's thread, after what it has to do already."""
        self._writer.submit(job)

    def _more(self) -> dict[str, Any]:
        """What a checkpoint says beside the lanes."""
        budget = [self.budget.level, port.now_ms()] if self.budget is not None else []
        return {"next": self._group.next, "readers": self.readers.rows(), "budget": budget}
