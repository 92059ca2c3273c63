"""Calls that a worker has made and the loop has not concluded: noted on the worker's thread, booked on the loop."""

from __future__ import annotations

from .core.worker import conclude

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .core.event import Event
    from .core.inbox import Trigger


class Ran:
    """Two lists beside each other, in the order in which the handler was called; only the worker lengthens them.

    `calls` has the event alone when the handler returned None, else (event, result, error), as always of a worker that
    was abandoned. `ticks`, which is lengthened last, has how long each call took, by `port.clock`. The loop may take
    what there is at any moment: nobody waits for the handler of the event behind. One event at a time would cost it
    0.4 us more, a third of what an event costs in a flood.
    """

    __slots__ = ("calls", "ticks")

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.ticks: list[int] = []

    def book(self, expired: Event | None, on_error: Callable[[BaseException, Any], Any]) -> None:
        """Conclude all that there is, in order, but for the `expired` event, which was concluded; on the loop."""
        count = len(self.ticks)
        if count == 1:  # most often, where nothing streams
            _conclude(self.calls.pop(0), self.ticks.pop(0), expired, on_error)
            return
        calls, ticks = self.calls[:count], self.ticks[:count]
        del self.calls[:count], self.ticks[:count]
        if count and not _book_alike(calls, ticks, on_error):
            _book_mixed(calls, ticks, expired, on_error)


def _book_alike(calls: list[Any], ticks: list[int], on_error: Callable[[BaseException, Any], Any]) -> bool:
    """Book calls that are all of one trigger and returned None, 70 ns less each; False, with nothing done, if not."""
    trigger: Trigger = getattr(calls[0], "_trigger", None)  # type: ignore[assignment]  # of a tuple None
    if trigger is None or _one_by_one(trigger):
        return False
    size = 0
    try:
        for event in calls:
            if event._trigger is not trigger:
                return False
            size += len(event.raw_body)
    except Exception:  # noqa: BLE001 - a tuple among them, or a body that a handler has spoiled
        return False
    buckets = trigger.buckets = trigger.buckets or [0] * 65
    for took in ticks:
        buckets[took.bit_length()] += 1
    _book(trigger, calls, sum(ticks), size, on_error)
    return True


def _book_mixed(
    calls: list[Any], ticks: list[int], expired: Event | None, on_error: Callable[[BaseException, Any], Any]
) -> None:
    trigger: Any = None
    run: list[Event] = []  # calls of this trigger that returned None, so far
    busy = size = 0
    for call, took in zip(calls, ticks, strict=True):
        if type(call) is tuple or call._trigger is not trigger:
            if run:
                _book(trigger, run, busy, size, on_error)
                run = []
                busy = size = 0
            if type(call) is tuple or _one_by_one(call._trigger):
                _conclude(call, took, expired, on_error)
                trigger = None
                continue
            trigger = call._trigger
            buckets = trigger.buckets = trigger.buckets or [0] * 65
        try:
            size += len(call.raw_body)
        except Exception:  # noqa: BLE001 - what a handler has made of it must not take the others along
            call.raw_body = b""
        run.append(call)
        busy += took
        buckets[took.bit_length()] += 1
    if run:
        _book(trigger, run, busy, size, on_error)


def _one_by_one(trigger: Trigger) -> bool:
    return trigger.kind == "batch" or getattr(trigger, "one_by_one", False)


def _conclude(call: Any, took: int, expired: Event | None, on_error: Callable[[BaseException, Any], Any]) -> None:
    event, result, error = call if type(call) is tuple else (call, None, None)
    if event is not expired:
        try:
            len(event.raw_body)
        except Exception:  # noqa: BLE001 - as above
            event.raw_body = b""
        try:
            conclude(event._trigger, event, result, error, took)
        except Exception as fault:  # noqa: BLE001 - the others are concluded all the same
            on_error(fault, conclude)


def _book(
    trigger: Trigger, run: list[Event], busy: int, size: int, on_error: Callable[[BaseException, Any], Any]
) -> None:
    """Add calls that returned None to the trigger's counters, then settle those whose source wants to know."""
    trigger.handled += len(run)
    trigger.busy += busy
    trigger.leave(len(run), size, None)
    waiting = [event for event in run if event._token is not None]
    source = trigger.source
    if len(waiting) > 1 and hasattr(type(source), "settle_many"):
        try:
            waiting = source.settle_many(waiting)
        except Exception as error:  # noqa: BLE001 - as above
            on_error(error, source.settle_many)
    for event in waiting:
        try:
            source.settle(event, None, None)
        except Exception as error:  # noqa: BLE001 - as above
            on_error(error, source.settle)
