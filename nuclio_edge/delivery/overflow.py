"""What of a durable trigger is on disk alone: the events that its inbox has no room for, how they get there, and back.

Events come here when the inbox stays full or is not to be used (`Durable.reasons`), when their function is suspended,
and at a stop. They are read back oldest first, in bulk, when the inbox has half emptied. An event that is never here
touches nothing of this file.
"""

from __future__ import annotations

from nuclio_edge.workers.queues import take_all

from .backlog import EVENT
from .staging import AGAIN_MS
from .stored import Stored, UnreadableError
from .token import UNTOLD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nuclio_edge.core.event import Event
    from nuclio_edge.spool.reading import Record

    from .trigger import Durable

READ = 4096  # bytes that are read back at a time, 50 small events in half a millisecond: a turn waits for no more
IN_FLIGHT = 1 << 20  # bytes of events on their way to the disk that are nowhere else; then the source waits
LOOK_MS = 200  # how often it is looked whether a suspended function runs again


class Overflow:
    """The overflow of one durable trigger, whose `overflow` it is. Loop thread only.

    Law: every event here is counted as admitted and not as pending, and is either one of `backlog.alone` (its record is
    on disk or on its way) or, when it could not be stored, in `backlog.strand`, in memory, within the memory budget.
    Order: while there is anything here, "backlog" is one of the trigger's reasons, so that what comes behind joins it;
    both enter the inbox in the order in which they came. The backlog is the `heir`'s: when the function
    was replaced, its new version's, which counts it from then on; when it is gone, it counts nowhere until it is back.
    """

    __slots__ = (
        "_holds_back", "_in_flight", "_looks", "_take", "_waits", "backlog", "delivery", "side", "storing", "trigger",
    )  # fmt: skip

    def __init__(self, side: Durable, take: Callable[[Event], bool]) -> None:
        self.side = side
        self.delivery = side.delivery
        self.trigger = side.trigger
        self.backlog = side.backlog
        self._take = take  # the way into the inbox
        self.storing = 0  # events on their way to the disk that are nowhere else
        self._in_flight = 0  # bytes of them
        self._holds_back = False  # the source, until less is on its way to the disk
        self._looks = False  # again, in a moment
        self._waits = False

    @property
    def alone(self) -> int:
        """How many events are here."""
        return self.backlog.size if self._heir() is self else 0

    @property
    def unsafe(self) -> int:
        """How many of them would be lost if the process ended now."""
        return self.storing + (len(self.backlog.strand) if self._heir() in (self, None) else 0)

    # -- to the disk --------------------------------------------------------------------------------------------------

    def spill(self, event: Event) -> bool:
        """Put an event that comes in on disk alone; False when the source shall keep it for now."""
        side = self.side
        delivery = self.delivery
        heir = self._heir()
        if heir is not self and delivery.spool.trouble:  # its source has held it since this was the function's version
            if heir is None:
                self.send(event)
                return True
            event._trigger = heir.trigger
            return heir.trigger.submit(event)
        if delivery.spool.trouble:
            return False
        if self._in_flight > IN_FLIGHT:
            self._holds_back = True
            return False
        if self.backlog.strand and not self._has_memory():
            return False
        self._store_what_waits()
        self.send(event)
        if (len(side.storing) + self.storing) * 2 >= side.stage.limit:
            delivery.spool.commit_soon()  # its source would send no more
        return True

    def send(self, event: Event) -> None:
        """Have an event that is nowhere else on disk alone."""
        size = len(event.raw_body)

        def done(error: OSError | None) -> None:
            self._done(event, size, number, error)

        number: int = self.delivery.spool.append(EVENT, self.backlog.key, self.side.pack(event), done)
        self.backlog.flying[number] = event
        self.storing += 1
        self._in_flight += size
        self.backlog.alone += 1
        self._hand_over()

    def park(self, event: Event) -> bool:
        """Have an event that is in memory, and not counted as pending, on disk alone; False when that cannot be."""
        side = self.side
        if self.delivery.spool.trouble:
            return False
        self._store_what_waits()
        outcome = self.delivery.outcomes.pop(event, None)
        if outcome is not None and outcome.left:
            outcome.apart()  # it runs again; what this attempt has sent goes its own way
        if side.leave(event):
            side.store(event)
        number = side.ids.pop(event, 0)
        if not number:
            return False
        self.trigger.admitted -= 1
        self.backlog.put_back(number)
        self._hand_over()
        return True

    def withdraw(self) -> None:
        """Leave what no worker has claimed to the next start; at a stop."""
        trigger = self.trigger
        self.side.because("stopping")
        box = trigger.box
        for event in take_all(box) if box is not None else ():
            if self.park(event):
                trigger.leave(1, len(event.raw_body), event)
            else:
                box.append(event)
        if self.backlog.strand:
            self._wait()

    def strand(self, event: Event, number: int) -> None:
        """An event that is here could not be stored; its record was to have this number."""
        self.backlog.alone -= 1
        self.backlog.strand.append((number, event))
        self._charge(len(event.raw_body))
        heir = self._heir()
        if heir is not None:
            heir._wait()
        elif not self._waits:
            self._waits = True
            self.trigger.loop.call_later(AGAIN_MS, self.refill)

    def _done(self, event: Event, size: int, number: int, error: OSError | None) -> None:
        """The record of an event that was spilt is durable, or never will be."""
        self.storing -= 1
        self._in_flight -= size
        if self._holds_back and self._in_flight <= IN_FLIGHT // 2:
            self._holds_back = False
            self.trigger._room()
        where = self.backlog.landed(number)
        if error is None:
            self.side.tell_stored(event, alone=where == "alone")
        else:
            self.side.not_stored(event, number, where, error)

    def _charge(self, size: int) -> None:
        """The strand holds so many bytes more, or less."""
        if self.trigger.budget is not None:
            self.trigger.budget.used += size

    def _has_memory(self) -> bool:
        """Whether what comes may join a strand."""
        budget = self.trigger.budget
        return budget is None or budget.used < budget.limit

    def _store_what_waits(self) -> None:
        """Before the first event goes to the disk alone: those in memory are older, and come first there too."""
        side = self.side
        if "backlog" not in side.reasons:
            for event in side.stage.take(side):
                side.store(event)

    # -- back into the inbox ------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Begin with what the disk has; once, when the trigger is in its place."""
        side = self.side
        delivery = self.delivery
        suspects = side.suspects = delivery.suspects(self.trigger.function)
        if suspects is not None:
            suspects.begin(side)
        else:
            for mark, _, _ in delivery.marks(self.backlog.key):
                delivery.spool.settle(mark)  # the last process ended in order: it was no culprit
        if self.backlog.size:
            side.because("backlog")
            self.trigger.loop.call_soon(self.refill)

    def _look_again(self) -> None:
        if not self._looks:
            self._looks = True
            self.trigger.loop.call_later(LOOK_MS, self._look)

    def _look(self) -> None:
        self._looks = False
        self.refill()

    def refill(self) -> None:
        """Take from disk and strand what there is room for, oldest first; without a function send the strand there.

        At a stop the strand alone: what is on disk waits for the next start.
        """
        self._waits = False
        side = self.side
        trigger = self.trigger
        strand = self.backlog.strand
        heir = self._heir()
        if heir is None:
            for _ in range(len(strand)):  # nobody handles them, and their source waits for them
                _, event = strand.popleft()
                self._charge(-len(event.raw_body))
                self.send(event)
        if heir is not self:
            return
        stopping = self.delivery.stopping
        if trigger.function.suspended:
            side.because("backlog")
            if not stopping:
                self._look_again()
            return
        while strand and (stopping or not self._has_older(strand[0][0])):
            event = strand[0][1]
            size = len(event.raw_body)
            event._trigger = trigger
            trigger.admitted -= 1
            self._charge(-size)
            if not side.submit(event, again=True):
                trigger.admitted += 1
                self._charge(size)
                self._wait()
                return
            strand.popleft()
        if stopping:
            return
        if side.suspects is not None and side.suspects.alone(side):
            return  # one at a time: they ask for it
        backlog = self.backlog
        before = backlog.alone
        refused = False
        if before and trigger.pending <= trigger.size >> 1:  # not for each that fits: reading is done in bulk
            for record in backlog.next(READ):
                if strand and strand[0][0] < record.id:
                    break
                if not self.bring(record):
                    refused = True
                    break
        if backlog.alone:
            if refused or trigger.pending > trigger.size >> 1:
                self._wait()
            elif backlog.alone < before:
                trigger.loop.call_soon(self.refill)  # the rest of a long backlog; others have their turn between
            else:
                self._look_again()  # the disk does not give it, or the memory is short
        elif strand:
            trigger.loop.call_soon(self.refill)
        else:
            side.because("backlog", holds=False)

    def bring(self, record: Record) -> bool:
        """Give the function an event that was on disk alone; False when there is no room."""
        side = self.side
        trigger = self.trigger
        number = record.id
        backlog = self.backlog
        again = self.delivery.is_repeated(number)
        flying = backlog.flying.get(number)
        if flying is not None:
            event: Event = flying  # not durable yet, so its source has not been told: that is to be done once
            event._trigger = trigger
        else:
            try:
                event = Stored(record.payload).event(trigger)
            except UnreadableError as error:
                backlog.take(number)
                trigger.dead_lettered += 1
                self.delivery.bury_record(side, number, record.payload, str(error), lambda: None)
                return True
            event._token = UNTOLD
            if again:
                event.duplicate = True
        side.ids[event] = number
        backlog.take(number)
        trigger.admitted -= 1  # once more when it enters the inbox
        if self._take(event):
            trigger.duplicates += again
            return True
        trigger.admitted += 1
        side.ids.pop(event, None)
        backlog.put_back(number)
        return False

    def _has_older(self, number: int) -> bool:
        """Whether the disk gives an event that came before one of the strand."""
        found = self.backlog.next(1)
        return bool(found) and found[0].id < number

    def _wait(self) -> None:
        """Read on when the inbox has half emptied."""
        if not self._waits:
            self._waits = True
            self.trigger.on_room(self.refill)

    def _heir(self) -> Overflow | None:
        """Who reads the backlog: this one, or that of a new version's trigger; nobody, when the function is gone."""
        heir: Durable | None = self.delivery.sides.get(self.backlog.key)
        return heir.overflow if heir is not None else None

    def _hand_over(self) -> None:
        """Another event is on disk alone: whoever reads the backlog counts it."""
        heir = self._heir()
        if heir is not None:
            heir.trigger.admitted += 1
            heir.side.because("backlog")
            heir._wait()
