"""A trigger with `rate_limit` or `order_by`: what a plain one does, and what these two need to be told.

Made only where one of them is configured: every other trigger is a plain `Trigger`, and pays nothing.
"""

from __future__ import annotations

from nuclio_edge.core.inbox import Trigger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.core.response import Response

    from .ordered import Order
    from .rate import Rate


class ShapedTrigger(Trigger):
    """A trigger whose `rate` or `order`, or both, are told of what happens to its events."""

    __slots__ = ("order", "rate")

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.rate: Rate | None = None
        self.order: Order | None = None

    @property
    def one_by_one(self) -> bool:
        """Whether each event is to be booked by itself, rather than many in one go."""
        return self.order is not None

    def charge(self, event: Event) -> None:
        """Take an event into the count of pending ones."""
        super().charge(event)
        if self.order is not None:
            self._hold(self.order.cost)

    def leave(self, count: int, size: int, event: Event | None) -> None:
        """Take settled events out of the count; the next one of the same key gets its turn."""
        if self.order is not None:
            self._hold(-count * self.order.cost)
        super().leave(count, size, event)
        if self.order is not None and event is not None:
            self.order.left(event)

    def on_room(self, call: Callable[[], Any]) -> None:
        """Call once when a refused event may be submitted again."""
        rate = self.rate
        if rate is not None and rate.refused:
            self._waiting += (call,)
            rate.wait()
        else:
            super().on_room(call)

    def _shed(self, event: Event, reason: str, status: int) -> None:
        if self.rate is None or event._token is None or reason != self.rate.reason:
            super()._shed(event, reason, status)
            return
        self.shed[reason] = self.shed.get(reason, 0) + 1
        answer: Response = self.rate.answer(status)
        self.source.settle(event, answer, None)

    def _hold(self, size: int) -> None:
        budget = self.budget
        if budget is not None:
            self.held += size
            budget.used += size
