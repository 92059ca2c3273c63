"""A durable trigger: between the source that brings events and the runner that handles them, with the spool beside.

An event goes to the function at once. Its source is told that it is done at the first of two moments: it was concluded,
with nothing of it left that needs the disk; or its record is durable (a broker gets its PUBACK or PUBREC then, whoever
wants an answer waits on). What finds no room in the inbox is on disk alone until there is room, and what comes behind
it joins it there: order is kept, and memory bounded.

    staging.py        the moment that an event waits before it is stored    overflow.py      what is on disk alone
    outcome.py        what came of an event and is not yet with others      dead_letters.py  what has failed for good
    one_at_a_time.py  which event killed the last process                   delivery.py      all of it together
"""

from __future__ import annotations

from nuclio_edge.core.response import Response

from .backlog import EVENT
from .overflow import Overflow
from .stored import pack
from .token import UNTOLD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger

    from .backlog import Backlog
    from .delivery import Delivery
    from .staging import Stage

# How long a full inbox makes its source wait before events go to the disk. A function that handles half an inbox in
# this time keeps up, and is only waited for: a flood through the disk costs 9 us an event more.
GRACE_MS = 25
_OVER = 1 << 62  # in the place of a count of concluded events: the function does not keep up
# A handler cannot change what `pack` looks at of their events.
_FIRM = ("mqtt", "gpio", "serial", "timer", "sensor", "http", "coap")


class Front:
    """What a durable trigger has in the place of its source: the source, but for the end of an event.

    Apart from `Durable`, as CPython 3.11 reads an attribute of a class that has `__getattr__` in 34 ns instead of 5.
    """

    __slots__ = ("durable_side", "origin", "settle", "settle_many")

    def __init__(self, side: Durable) -> None:
        self.durable_side = side  # whatever else stands before it
        self.origin = side.real  # the source itself
        self.settle = side.settle
        self.settle_many = side.settle_many

    @property
    def alone(self) -> int:
        """Events of this trigger that are admitted and not in its inbox: on disk, or on their way between the two."""
        return self.durable_side.overflow.alone

    def __getattr__(self, name: str) -> Any:
        """What else is asked of a source is the real one's to say."""
        return getattr(self.origin, name)


class Durable:
    """What is done for a durable trigger beside its runner: its `submit`, and its source's `settle`. Loop thread only.

    `real` is the source. Law: with the trigger's counters, admitted = handled + failed + dead_lettered + shed + pending
    + `overflow.alone` between two calls. An event that is pending is in the stage while nothing of it is on disk, and
    in `ids` from then on; every other one that is admitted is the `overflow`'s. While the runner takes an event it is
    `arriving` instead: one that an inline handler is done with meanwhile never comes to the stage.
    """

    __slots__ = (
        "_answer", "_failed", "_grace", "_loose", "_many", "_packed", "_plain", "_stored", "arriving", "backlog",
        "delivery", "detour", "ids", "overflow", "real", "reasons", "stage", "storing", "suspects", "trigger",
        "wrapped",
    )  # fmt: skip

    def __init__(
        self, delivery: Delivery, trigger: Trigger, stage: Stage, backlog: Backlog, ids: dict[Any, int]
    ) -> None:
        self.delivery = delivery
        self.trigger = trigger
        self.stage = stage
        self.backlog = backlog
        self.real: Any = trigger.source
        self.ids = ids  # event in memory -> its record
        self.arriving: Event | None = None
        self.suspects: Any = None  # after a crash
        self.reasons: set[str] = set()  # for which events take the long way; `detour` says whether there is one
        self.detour = False
        self.wrapped = trigger.submit
        self._stored: Any = getattr(self.real, "stored", None)  # acknowledges, whatever comes of the event
        self._loose = trigger.kind not in _FIRM  # packed when they come, not when they are stored
        # The same for a token that is an int, in one call, where nothing else is to be done for an event at its end.
        self._plain: Any = None if self._loose else getattr(self.real, "acknowledge", None)
        self._many: Any = getattr(type(self.real), "settle_many", None) and self.real.settle_many
        self._answer: Any = getattr(self.real, "answer", None)  # sends a reply that is a message of its own
        self._failed = trigger.failed
        self._grace = -1
        self._packed: dict[Any, Any] = {}
        self.storing: dict[Event, int] = {}  # events of the inbox, and their records that are not durable yet
        self.overflow = Overflow(self, trigger.submit)
        trigger.source = Front(self)
        trigger.submit = self.submit

    # -- the way in ---------------------------------------------------------------------------------------------------

    def submit(self, event: Event, again: bool = False) -> bool:
        """Take an event; the trigger's `submit`. `again`: it has been here, and is to go to the function now."""
        if event._token is None:
            event._token = UNTOLD
        if self.detour and not again and self._elsewhere(event):
            return self.overflow.spill(event)
        if self._loose:
            self._packed[event] = pack(event)
        if self.arriving is not None:
            self.stage.add(self.arriving, self)  # its handler runs now, and this event is its doing
        self.arriving = event
        try:
            taken = self.wrapped(event)
        except BaseException:
            if self.leave(event):
                self.stage.add(event, self)
            raise
        if self.arriving is not event:
            return taken  # an inline handler is done with it, or it is in the stage
        self.arriving = None
        if not taken:
            taken = self._no_room(event)
            if not taken:
                self._packed.pop(event, None)
            return taken
        stage = self.stage
        stage.fresh[event] = self  # `add` spelled out: a call less
        if stage.timer is None:
            stage.arm()
        if not stage.pressed and len(stage.fresh) + len(stage.aging) >= stage.limit:
            stage.press()
        return True

    def waits(self, event: Event) -> bool:
        """Whether an event is with the function, on disk or not."""
        return event is self.arriving or event in self.ids or event in self.stage

    def leave(self, event: Event) -> bool:
        """An event is concluded, or goes another way; whether nothing of it is on disk."""
        if event is self.arriving:
            self.arriving = None
            return True
        return self.stage.remove(event)

    def because(self, reason: str, *, holds: bool = True) -> None:
        """Begin or end a reason for the long way."""
        (self.reasons.add if holds else self.reasons.discard)(reason)
        self.detour = bool(self.reasons)

    def _elsewhere(self, event: Event) -> bool:
        """Whether an event goes to the disk first, for one of the reasons that there may be."""
        if self.suspects is not None and self.suspects.wants(self, event):
            return True
        return bool(self.reasons) and self.reasons != {"wary"}

    def _no_room(self, event: Event) -> bool:
        if self.trigger.when_full != "block":
            return False  # its policy waits a moment, then sheds
        if self._grace == _OVER:
            return self.overflow.spill(event)
        if self._grace < 0:
            trigger = self.trigger
            self._grace = trigger.admitted - trigger.pending
            trigger.loop.call_later(GRACE_MS, self._grace_is_over)
        return False

    def _grace_is_over(self) -> None:
        trigger = self.trigger
        if trigger.admitted - trigger.pending - self._grace >= trigger.size >> 1:
            self._grace = -1
        else:
            self._grace = _OVER
            trigger._room()
            trigger.loop.call_later(GRACE_MS, self._grace_again)

    def _grace_again(self) -> None:
        self._grace = -1

    # -- on disk ------------------------------------------------------------------------------------------------------

    def store(self, event: Event) -> None:
        """Have an event that is in memory stored; by the stage."""
        spool = self.delivery.spool
        number: int = spool.append(EVENT, self.backlog.key, self.pack(event), lambda error: self._done(event, error))
        self.storing[event] = self.ids[event] = number
        self.backlog.held.add(number)
        self.backlog.flying[number] = event

    def pack(self, event: Event) -> Any:
        """An event as it is stored: as it came."""
        return self._packed.pop(event, None) or pack(event)

    def _done(self, event: Event, error: OSError | None) -> None:
        """The record of an event that was in memory is durable, or never will be; not in the order of the records."""
        number = self.storing.pop(event)
        where = self.backlog.landed(number)
        if error is None:
            self.tell_stored(event, alone=where == "alone")
        else:
            self.not_stored(event, number, where, error)

    def not_stored(self, event: Event, number: int, where: str, error: OSError) -> None:
        """The record of an event never will be durable; `where` it is by now says `Backlog.landed`."""
        if where == "alone":
            self.overflow.strand(event, number)
        elif where == "held":
            del self.ids[event]
            self.backlog.held.discard(number)
            trigger: Any = event._trigger  # a new version's perhaps, of a source that was opened anew
            owner = trigger.source.durable_side
            owner.stage.refuse(event, owner, error)

    # -- the end of an event ------------------------------------------------------------------------------------------

    def settle(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """An event is concluded; by the runner, in the place of the source's `settle`."""
        delivery = self.delivery
        if response is not None and response.status_code >= 400 and self._has_failed(event, response, error):
            return
        for publisher in delivery.publishers:
            if publisher._given:
                publisher.take()  # what the handler published comes first
        if self._answer is not None and event._props:  # of MQTT's events; who asks has a topic there
            self._answer(event, response)
        outcomes = delivery.outcomes
        if outcomes and event in outcomes and outcomes[event].conclude(response, error):
            return
        if event is self.arriving:  # nothing of it is on disk, the commonest case of an inline function
            self.arriving = None
            token = event._token
            if type(token) is int and token and self._plain is not None and self.suspects is None:
                self._plain(event)
                return
        elif not self.stage.remove(event):
            number = self.ids.pop(event, 0)
            if number:
                self.backlog.settle(number)
        self.tell(event, response, error)

    def settle_many(self, events: list[Event]) -> list[Event]:
        """Settle events whose handlers returned None, and of which nothing is on disk; returns the others."""
        delivery = self.delivery
        for publisher in delivery.publishers:
            if publisher._given:
                publisher.take()
        if self._many is None or delivery.outcomes or self.suspects is not None or self._loose:
            return events
        fresh, aging = self.stage.fresh, self.stage.aging
        here = [event for event in events if fresh.pop(event, None) is not None or aging.pop(event, None) is not None]
        elsewhere: list[Event] = []
        if len(here) != len(events):
            known = set(here)
            elsewhere = [event for event in events if event not in known]
        others: list[Event] = self._many(here)
        for event in others:
            fresh[event] = self  # settled one by one, each in its own way
        return elsewhere + others

    def tell(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """Let the source know what came of an event, if it has not been told; the last that happens to it here."""
        if self._packed:
            self._packed.pop(event, None)
        if event._token is not UNTOLD:
            if self._stored is not None:
                self._stored(event)
            else:
                self.real.settle(event, response, error)
            event._token = UNTOLD
        if self.suspects is not None:
            self.suspects.over(self, event)

    def tell_stored(self, event: Event, *, alone: bool = False) -> None:
        """The event will not be lost: let its source acknowledge it, or, as it is on disk `alone`, answer that."""
        if event._token is UNTOLD:
            return
        if self._stored is not None:
            self._stored(event)
        elif alone:
            self.real.settle(event, Response(status_code=202, body=b"stored"), None)
            event._token = None
        if event._token is None:
            event._token = UNTOLD

    def _has_failed(self, event: Event, response: Response, error: BaseException | None) -> bool:
        """A failure or a shed event: whether it is kept on disk, so that nothing else is to be done."""
        trigger = self.trigger
        if trigger.failed == self._failed:
            reason = response.body[6:].decode()  # "shed: …"
            if reason != "suspended" or not self.overflow.park(event):
                return False
            trigger.shed[reason] -= 1
            if not trigger.shed[reason]:
                del trigger.shed[reason]
            return True
        self._failed = trigger.failed
        if not trigger.spec.dead_letter:
            return False
        trigger.failed -= 1
        trigger.dead_lettered += 1
        self._failed = trigger.failed
        self.delivery.bury(self, event, response, error)
        return True

    def let_go(self, event: Event) -> int:
        """An event goes another way than back to its source: its record, or 0."""
        if self.leave(event):
            return 0
        number = self.ids.pop(event, 0)
        self.backlog.let_go(number)
        return number

    def unsafe(self) -> int:
        """How many events would be lost if the process ended now."""
        mine = sum(
            owner is self for waiting in (self.stage.fresh, self.stage.aging, self.stage.refused, self.stage.large)
            for owner in waiting.values()
        )  # fmt: skip
        return mine + len(self.storing) + self.overflow.unsafe
