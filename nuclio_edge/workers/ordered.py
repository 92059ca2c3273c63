"""`order_by`: events of one key are handled one after the other, those of different keys side by side.

Law: of the events of a trigger that have the same key, the next one is given to a worker when the one before it has
been concluded, its retries included. A slow or failing key holds up nobody else.

At most one event of a key is `Ready`, where workers take it, or in work. The others wait behind it on the loop's side;
the oldest of all of them is known for `drop-oldest`. A key is remembered while an event has it, so there are never more
of them than pending events, which the inbox's size bounds.
"""

from __future__ import annotations

from collections import OrderedDict, deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.event import Event

    from .queues import Queue
    from .shaped import ShapedTrigger

_NONE: Any = ()  # nobody waits behind the key's event: no deque is made for that


class Ready(deque["tuple[int, Event]"]):
    """The events that a worker may take, each with its number in the order of arrival."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order = order

    def popleft(self) -> Event:  # type: ignore[override]  # who takes an event wants no number
        """Take the oldest one; by whichever thread handles it."""
        return super().popleft()[1]


class Order:
    """What waits for an ordered trigger's workers; its inbox to policies (`popleft`, `append`) and retries (`again`).

    `arrived()` is called when an event has become ready. Everything here is called on the loop.
    """

    cost = 250  # bytes beside those of an event in any inbox: its key, its places here

    def __init__(self, trigger: ShapedTrigger, attribute: str, arrived: Callable[[], Any]) -> None:
        self.ready = Ready(self)
        self._trigger = trigger
        self._attribute = attribute
        self._arrived = arrived
        self._number = 0
        self._behind: dict[Any, deque[int]] = {}  # key -> the numbers of those that wait behind the event that has it
        self._held: OrderedDict[int, tuple[Any, Event]] = OrderedDict()  # those that wait behind others, oldest first
        self._keys: dict[Event, Any] = {}  # of events that are ready or in work; a handler may change its event

    def add(self, event: Event) -> None:
        """An event has come: it is ready, or waits until it is its turn."""
        key = getattr(event, self._attribute, None)
        try:
            hash(key)
        except TypeError:
            key = repr(key)
        self._place(event, key)

    def left(self, event: Event) -> None:
        """An event is no longer pending: the next one of its key is ready."""
        key = self._keys.pop(event, _NONE)
        if key is _NONE:
            return  # it waited behind another, and was shed
        behind = self._behind[key]
        if behind:
            number = behind.popleft()
            _, follower = self._held.pop(number)
            self._keys[follower] = key
            self.ready.append((number, follower))
            self._arrived()
        else:
            del self._behind[key]

    # -- as an inbox: what make_room and failure.again call -----------------------------------------------------------

    def popleft(self) -> Event:
        """Take the oldest event that waits off, to be dropped or put back; IndexError when all are in work."""
        if self._held:
            number = next(iter(self._held))
            try:
                older = self.ready[0][0] < number
            except IndexError:
                older = False  # the workers have taken what there was
            if not older:
                key, event = self._held.pop(number)
                self._behind[key].popleft()  # it is the oldest of its key, too
                return event
        return self.ready.popleft()

    def append(self, event: Event) -> None:
        """Put an event back that `popleft` had taken; in order, and after all had been taken."""
        if event in self._keys:
            self._number += 1
            self.ready.append((self._number, event))
            self._arrived()
        else:
            self.add(event)

    def again(self, event: Event) -> None:
        """The next attempt of an event that failed; its key has waited for it."""
        if self._trigger.function.suspended:
            self._trigger.drop(event, "suspended")
        else:
            self.ready.append((0, event))
            self._arrived()

    def _place(self, event: Event, key: Any) -> None:
        self._number += 1
        behind = self._behind.get(key)
        if behind is None:
            self._behind[key] = _NONE
            self._keys[event] = key
            self.ready.append((self._number, event))
            self._arrived()
        else:
            if behind is _NONE:
                behind = self._behind[key] = deque()
            behind.append(self._number)
            self._held[self._number] = key, event


class OrderedEntry:
    """The way into a queue for the events of an ordered trigger; the counterpart of `queues.Entry`."""

    def __init__(self, queue: Queue, trigger: ShapedTrigger, attribute: str) -> None:
        self._queue = queue
        self._trigger = trigger
        self._turning_away = False
        trigger.order = trigger.box = self._order = Order(trigger, attribute, self._arrived)
        queue.widen(())  # a worker then looks at the queue anew for each event
        queue.add(self._order.ready)

    def submit(self, event: Event) -> bool:
        """Admit the event and give it its place, or do with it what a full inbox asks for; see Trigger."""
        trigger = self._trigger
        if self._queue.function.suspended:
            trigger.turn_away(event, "suspended")
            return True
        verdict = trigger.enter(event)
        if verdict == 1:
            self._order.add(event)
        return verdict != 0

    def _arrived(self) -> None:
        queue = self._queue
        queue.arrived(self._order.ready, self._trigger.loop)
        if queue.function.suspended and not self._turning_away:  # each that goes makes its follower arrive
            self._turning_away = True
            queue.turn_away("suspended")
            self._turning_away = False


def attach(queue: Queue, trigger: ShapedTrigger, attribute: str) -> None:
    """Have a queue keep the order of each value of an event's attribute, in the place of `queue.attach(trigger)`."""
    trigger.submit = OrderedEntry(queue, trigger, attribute).submit
