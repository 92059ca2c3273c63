"""What waits for the workers of one function: a deque a trigger, claimed in the order of arrival.

The loop fills it; `claim` takes one event off and may be called by any thread (an atomic `popleft`).
"""

from __future__ import annotations

from collections import deque

from nuclio_edge.core.inbox import EVENT_COST

SPARE_TURNS = 64  # those of events that were shed, beyond as many as there are events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.loop import Loop
    from nuclio_edge.functions.function import Function


class Entry:
    """The way into a queue for the events of one trigger: its `submit`. The deque is made for the first event."""

    __slots__ = ("_append", "_queue", "_trigger")

    def __init__(self, queue: Queue, trigger: Trigger) -> None:
        self._queue = queue
        self._trigger = trigger
        self._append: Any = None

    def submit(self, event: Event) -> bool:
        """Admit the event and queue it, or do with it what a full inbox asks for; see Trigger."""
        queue = self._queue
        trigger = self._trigger
        if queue.function.suspended:
            trigger.turn_away(event, "suspended")
            return True
        budget = trigger.budget
        if (
            trigger.pending < trigger.size
            and budget is not None
            and budget.used + (cost := len(event.raw_body) + EVENT_COST) <= budget.limit
        ):
            trigger.admitted += 1  # `enter` spelled out: two calls less
            trigger.pending += 1
            trigger.held += cost
            budget.used += cost
        else:
            verdict = trigger.enter(event)
            if verdict != 1:
                return verdict < 0
        if self._append is None:
            self._append = queue.open(trigger)
        self._append(event)
        if queue.several:
            queue.turns.append(trigger.box)
        if not queue.flagged:
            queue.flagged = True
            trigger.loop.at_turn_end(queue.end_of_turn)
        return True


class Queue:
    """The queue of one function. `flush()` is called on the loop at the end of a turn that brought something."""

    __slots__ = ("_boxes", "_flush", "claim", "flagged", "function", "several", "turns")

    def __init__(self, function: Function, flush: Callable[[], Any]) -> None:
        self.function = function
        self.several = len(function.trigger_specs) > 1
        self.turns: Any = deque() if self.several else ()
        self.flagged = False
        self.claim: Callable[[], Event] = _nothing
        self._flush = flush
        self._boxes: tuple[Any, ...] = ()

    def attach(self, trigger: Trigger) -> None:
        """Make the trigger's `submit` fill this queue."""
        trigger.submit = Entry(self, trigger).submit

    def widen(self, entries: Iterable[Entry]) -> None:
        """Be ready for one more trigger than the function was made with; `entries` are those that there are.

        What waits is moved: a worker claims from the deque that it began with until that is empty, and a flooded one
        would never come round to the other.
        """
        if self.several:
            return
        self.turns = deque()
        boxes = []
        for entry in entries:
            if entry._append is None:
                continue
            old = entry._trigger.box
            new = entry._trigger.box = type(old)()
            try:
                while True:
                    new.append(deque.popleft(old))
                    self.turns.append(new)
            except IndexError:
                pass
            entry._append = new.append
            boxes.append(new)
        self._boxes = tuple(boxes)
        self.several = True
        self.claim = self._claim_by_turns

    def open(self, trigger: Trigger) -> Callable[[Event], None]:
        """Give the trigger its deque, unless it brings one, and return how to append to it."""
        box = trigger.box
        if box is None:
            box = trigger.box = deque()
        self._boxes += (box,)
        self.claim = self._claim_by_turns if self.several else box.popleft
        return box.append  # type: ignore[no-any-return]  # a deque of events

    def add(self, box: Any) -> None:
        """Let workers claim from a box that somebody else fills, who says so by `arrived`; there are `several` then."""
        self._boxes += (box,)
        self.claim = self._claim_by_turns

    def arrived(self, box: Any, loop: Loop) -> None:
        """An event was put into that box: hand it over at the end of the turn."""
        self.turns.append(box)
        if not self.flagged:
            self.flagged = True
            loop.at_turn_end(self.end_of_turn)

    def again(self, event: Event) -> None:
        """Queue the next attempt of an event that failed; it is counted as pending already."""
        trigger = event._trigger
        if trigger is None:
            return
        if self.function.suspended:
            trigger.drop(event, "suspended")
            return
        if trigger.box is None:
            self.open(trigger)
        trigger.box.append(event)
        if self.several:
            self.turns.append(trigger.box)
        self._flush()

    def turn_away(self, reason: str) -> None:
        """Settle all that is queued without running it: the function was suspended."""
        for box in self._boxes:
            box = getattr(box, "order", box)  # noqa: PLW2901 - with what waits behind an event of the same key
            for event in take_all(box):
                if event._trigger is not None:
                    event._trigger.drop(event, reason)
        if self.several:
            self.turns.clear()

    def __len__(self) -> int:
        return sum(map(len, self._boxes))

    def __bool__(self) -> bool:
        return any(self._boxes)

    def hold(self) -> None:
        """Hand nothing over before the next `end_of_turn`, which is no turn's: who holds it calls that."""
        self.flagged = True

    def end_of_turn(self) -> None:
        """Hand over what came in this turn."""
        self.flagged = False
        if self.several and len(self.turns) > 2 * len(self) + SPARE_TURNS:
            self._renew_turns()
        self._flush()

    def _renew_turns(self) -> None:
        """Make the turns anew, box by box: those of events that were shed are void, and a flood makes more of them."""
        left = [(box, len(box)) for box in self._boxes]
        most = max(count for _, count in left)
        self.turns = deque(box for at in range(most) for box, count in left if at < count)

    def _claim_by_turns(self) -> Event:
        turns = self.turns
        while True:
            box = turns.popleft()
            try:
                return box.popleft()  # type: ignore[no-any-return]  # a deque of events
            except IndexError:
                continue  # shed meanwhile: its turn is void


def take_all(box: Any) -> list[Event]:
    """Empty an inbox; the oldest event is the first of the list.

    From the new end, as workers take from the old one meanwhile: what they get is older than all that is taken here.
    """
    plain = getattr(type(box), "popleft", None) is deque.popleft
    take = box.pop if plain else box.popleft
    taken: list[Event] = []
    try:
        while True:
            taken.append(take())
    except IndexError:
        pass
    return taken[::-1] if plain else taken


def _nothing() -> Event:
    raise IndexError
