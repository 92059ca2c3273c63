"""Batches: a handler that is given a list of events, `batch = { size = 10, timeout = "1s" }`.

Events wait in the trigger's own inbox, where its policies hold as ever. When `size` of them wait, or `timeout` after
the first one that no batch has claimed, a batch is submitted to the function's runner as if it were an event of a
trigger of its own (the carrier); it is filled at the moment in which a worker claims it. One call handles it, then its
events are concluded one by one, so counters, retries, outputs and acknowledgements are those of single events.
"""

from __future__ import annotations

from collections import deque

from nuclio_edge.core.inbox import Trigger
from nuclio_edge.core.response import Response
from nuclio_edge.core.worker import InlineRunner, conclude

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from nuclio_edge.core.event import Event, TriggerInfo


class UnansweredError(Exception):
    """A handler returned Responses for some events of a batch, and none for this one."""


class Events(list["Event"]):
    """The events of one call, oldest first; in log records it goes by its first event.

    The list is the handler's, which may empty or sort it. What is concluded are the `claimed` ones.
    """

    raw_body = b""

    def __init__(self, batcher: Batcher | None = None, count: int = 0) -> None:
        super().__init__()
        self._batcher = batcher
        self._count = count
        self.claimed: tuple[Event, ...] = ()
        self._trigger: Trigger | None = None if batcher is None else batcher.carrier
        self._token: Any = self  # a batch always has somebody to tell

    @property
    def id(self) -> str | None:
        """The id of the first event."""
        return self.claimed[0].id if self.claimed else None

    @property
    def path(self) -> str | None:
        """The path of the first event."""
        return self.claimed[0].path if self.claimed else None

    @property
    def trigger(self) -> TriggerInfo | None:
        """The trigger of all of them."""
        return self.claimed[0].trigger if self.claimed else None

    def fill(self) -> bool:
        """Take the events off their inbox, on whichever thread handles them; False when they were shed meanwhile."""
        if self._batcher is not None:
            claim = self._batcher.waiting.popleft
            try:
                while len(self) < self._count:
                    self.append(claim())
            except IndexError:
                pass
        self.claimed = tuple(self)
        return bool(self.claimed)

    def conclude(self, result: Any, error: BaseException | None, ticks: int) -> None:
        """Conclude each event; called by `core.worker.conclude` for the carrier's events."""
        batcher = self._batcher
        if batcher is None:
            return
        if not batcher.inline:  # there a batch is never pending
            batcher.carrier.leave(1, 0, None)
        batcher.carrier.busy = 0
        batcher.trigger.late += batcher.carrier.late
        batcher.carrier.late = 0
        events = self.claimed
        share = ticks // (len(events) or 1)
        try:
            matched = match(events, result, error)
        except BaseException as fault:  # noqa: BLE001 - of what a handler has put in the place of an id
            matched = [(None, fault)] * len(events)
        for event, (answer, failure) in zip(events, matched, strict=True):
            try:
                conclude(batcher.trigger, event, answer, failure, share)
            except Exception as fault:  # noqa: BLE001 - the others end all the same
                batcher.trigger.loop.on_error(fault, conclude)


class Waiting(deque["Event"]):
    """The events of one trigger that no worker has claimed; the trigger's inbox."""

    again: Callable[[Event], None]  # what a failed event's next attempt begins with


class Box(deque["Events"]):
    """The batches of one trigger that wait for a worker; the inbox of the carrier."""

    def popleft(self) -> Events:
        """The oldest batch, filled; IndexError when there is none."""
        while True:
            batch = super().popleft()
            if batch.fill():
                return batch
            if batch._batcher is not None:
                batch._batcher.emptied += 1


class Batcher:
    """Between a trigger and the runner of its function: collects events, submits batches. Also the carrier's source."""

    kind = "batch"  # by which `conclude` knows the carrier

    def __init__(self, trigger: Trigger, runner: Any, size: int, timeout_ms: int) -> None:
        self.trigger = trigger
        self.runner = runner
        self.size = size
        self.timeout_ms = timeout_ms
        self.name = trigger.name
        self.waiting = Waiting()
        self.waiting.again = self.again
        self.unclaimed = 0  # of those that wait, how many no batch has been submitted for
        self.emptied = 0  # batches whose events were all shed before a worker came
        self._timer: Any = None
        self._turning_away = False
        self.inline = isinstance(runner, InlineRunner)
        trigger.box = self.waiting
        self.carrier = Trigger(trigger.function, self, trigger.loop, trigger.ledger_id, trigger.name, 1 << 30)
        self.carrier.info = trigger.info
        if not self.inline:
            self.carrier.box = Box()
        runner.attach(self.carrier)
        trigger.submit = self.submit

    def submit(self, event: Event) -> bool:
        """Take an event; the trigger's `submit`."""
        trigger = self.trigger
        if trigger.function.suspended:
            trigger.turn_away(event, "suspended")
            return True
        verdict = trigger.enter(event)
        if verdict == 1:
            self._wait(event)
        return verdict != 0

    def keep_order(self, attribute: str) -> None:
        """Have a batch hold one event at most of each value of an attribute, and none of what another one holds."""
        from .ordered import Order

        trigger: Any = self.trigger
        trigger.order = trigger.box = order = Order(trigger, attribute, self._arrived)
        self.waiting = order.ready  # type: ignore[assignment]  # to a worker that fills its batch it is the same

    def again(self, event: Event) -> None:
        """Collect the next attempt of an event that failed; it is counted as pending already."""
        if self.trigger.function.suspended:
            self.trigger.drop(event, "suspended")
        else:
            self._wait(event)

    def settle(self, batch: Events, response: Response | None, error: BaseException | None) -> None:
        """The runner's word on a batch that it did not bring to `conclude`: turned away, or None without ado."""
        carrier = self.carrier
        if response is None:
            ticks, carrier.busy = carrier.busy, 0
            if not self.inline:
                carrier.pending += 1
            batch.conclude(None, None, ticks)
            return
        batch.fill()
        for event in batch.claimed:
            self.trigger.drop(event, response.body.decode().removeprefix("shed: "))

    def hasten(self) -> None:
        """Hand over what waits, and from now on whatever comes at once: no others come that it could wait for."""
        self.timeout_ms = 0
        self.unclaimed = min(self.unclaimed, len(self.waiting))  # what waited may be on disk alone by now
        if self._timer is not None:
            self._timer.cancel()
            self._late()

    def _wait(self, event: Event) -> None:
        if self.trigger.box is self.waiting:
            self.waiting.append(event)
            self._arrived()
        else:
            self.trigger.box.add(event)

    def _arrived(self) -> None:
        """Another event may be claimed."""
        if self.trigger.function.suspended:  # each that goes makes the next one of its key arrive
            if not self._turning_away:
                self._turning_away = True
                try:
                    while True:
                        self.trigger.drop(self.waiting.popleft(), "suspended")
                except IndexError:
                    self._turning_away = False
            return
        self.unclaimed += 1
        if self.unclaimed >= self.size:
            self._send(self.size)
        elif self._timer is None:
            self._timer = self.trigger.loop.call_later(self.timeout_ms, self._late)

    def _late(self) -> None:
        self._timer = None
        if self.unclaimed:
            self._send(self.unclaimed)

    def _send(self, count: int) -> None:
        self.unclaimed -= count
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = Events(self, count)
        if self.inline:
            if batch.fill():
                self.carrier.submit(batch)  # type: ignore[arg-type]  # to the runner it is an event
        else:
            self.carrier.pending -= self.emptied  # nobody else will
            self.emptied = 0
            self.carrier.submit(batch)  # type: ignore[arg-type]  # as above


def attach(runner: Any, trigger: Trigger, size: int, timeout_ms: int, order_by: str | None = None) -> Batcher:
    """Have a runner handle the events of a trigger in batches, in the place of `runner.attach(trigger)`.

    With `order_by` those of one value of that attribute keep their order among several workers.
    """
    batcher = Batcher(trigger, runner, size, timeout_ms)
    if order_by is not None:
        batcher.keep_order(order_by)
    return batcher


def match(events: Sequence[Event], result: Any, error: BaseException | None) -> list[tuple[Any, BaseException | None]]:
    """What one call of a handler means for each event: (result, error) in the order of the events.

    A list of Responses is matched by event_id, or by position if none has one and there are as many; an event that it
    does not answer has failed. Any other value, None too, is for all of them.
    """
    if error is not None or not (isinstance(result, list) and any(isinstance(one, Response) for one in result)):
        return [(result, error)] * len(events)
    answers = [one for one in result if isinstance(one, Response)]
    if len(answers) == len(events) and not any(one.event_id for one in answers):
        return [(one, None) for one in answers]
    by_id = {one.event_id: one for one in answers}
    missing = UnansweredError("the handler has answered other events of the batch, not this one")
    return [(by_id[e.id], None) if e.id in by_id else (None, missing) for e in events]
