"""What waits for the workers of one function: a deque a trigger, claimed in the order of arrival.

The loop fills it; `claim` takes one event off and may be called by any thread (an atomic `popleft`).
"""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .core.event import Event
    from .core.inbox import Trigger
    from .function import Function


class Queue:
    """The queue of one function. `flush()` is called on the loop at the end of a turn that brought something."""

    __slots__ = ("_boxes", "_flagged", "_flush", "_function", "_several", "_turns", "claim")

    def __init__(self, function: Function, flush: Callable[[], Any]) -> None:
        self._function = function
        self._flush = flush
        self._boxes: list[Any] = []
        self._turns: deque[Any] = deque()
        self._flagged = False
        self._several = len(function.trigger_specs) > 1
        self.claim: Callable[[], Event] = _nothing

    def attach(self, trigger: Trigger) -> None:
        """Give the trigger its deque (unless it brings one) and make its `submit` fill it."""
        box = trigger.box
        if box is None:
            box = trigger.box = deque()
        self._boxes.append(box)
        self.claim = self._claim_by_turns if self._several else box.popleft
        append = box.append
        enter = trigger.enter
        function = self._function
        several = self._several
        turns = self._turns.append
        at_turn_end = function.loop.at_turn_end

        def submit(event: Event) -> bool:
            if function.suspended:
                trigger.turn_away(event, "suspended")
                return True
            verdict = enter(event)
            if verdict != 1:
                return verdict < 0
            append(event)
            if several:
                turns(box)
            if not self._flagged:
                self._flagged = True
                at_turn_end(self._end_of_turn)
            return True

        trigger.submit = submit

    def again(self, event: Event) -> None:
        """Queue the next attempt of an event that failed; it is counted as pending already."""
        trigger = event._trigger
        if trigger is None:
            return
        if self._function.suspended:
            trigger.drop(event, "suspended")
            return
        trigger.box.append(event)
        if self._several:
            self._turns.append(trigger.box)
        self._flush()

    def turn_away(self, reason: str) -> None:
        """Settle all that is queued without running it: the function was suspended."""
        for box in self._boxes:
            try:
                while True:
                    event = box.popleft()
                    if event._trigger is not None:
                        event._trigger.drop(event, reason)
            except IndexError:
                pass
        self._turns.clear()

    def __len__(self) -> int:
        return sum(map(len, self._boxes))

    def __bool__(self) -> bool:
        return any(self._boxes)

    def _end_of_turn(self) -> None:
        self._flagged = False
        self._flush()

    def _claim_by_turns(self) -> Event:
        turns = self._turns
        while True:
            box = turns.popleft()
            try:
                return box.popleft()  # type: ignore[no-any-return]  # a deque of events
            except IndexError:
                continue  # shed meanwhile: its turn is void


def _nothing() -> Event:
    raise IndexError
