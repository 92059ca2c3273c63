"""Calls that a worker has made and the loop has not concluded: noted on the worker's thread, booked on the loop."""

from __future__ import annotations

from nuclio_edge.core.encode import to_response
from nuclio_edge.core.worker import conclude, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response

    OnError = Callable[[BaseException, Any], Any]

BAD = 400  # a status from here on says that the event has failed


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

    def book(self, expired: Event | None, on_error: OnError) -> None:
        """Conclude all that there is, in order, but for the `expired` event, which was concluded; on the loop."""
        count = len(self.ticks)
        if count == 1:  # most often, where nothing streams
            call, took = self.calls.pop(0), self.ticks.pop(0)
            event, result, error = call if type(call) is tuple else (call, None, None)
            if event is not expired:
                _conclude(event, result, error, took, on_error)
            return
        calls, ticks = self.calls[:count], self.ticks[:count]
        del self.calls[:count], self.ticks[:count]
        if count and not _book_alike(calls, ticks, on_error):
            _book_mixed(calls, ticks, expired, on_error)


def _book_alike(calls: list[Any], ticks: list[int], on_error: OnError) -> bool:
    """Book calls that are all of one trigger and returned None, 70 ns less each; False, with nothing done, if not."""
    trigger: Trigger = getattr(calls[0], "_trigger", None)  # type: ignore[assignment]  # of a tuple None
    if trigger is None or _is_apart(trigger):
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
    _count(trigger, len(calls), sum(ticks), size)
    _settle(trigger, calls, on_error)
    return True


def _book_mixed(calls: list[Any], ticks: list[int], expired: Event | None, on_error: OnError) -> None:
    """Book whatever there is: what ended well in runs of one trigger, the others each by itself."""
    trigger: Any = None
    outputs: Any = ()
    buckets: list[int] = []
    apart = True  # what becomes of each of its events is more than a count
    events: list[Event] = []
    responses: list[Response | None] = []
    busy = size = 0
    for call, took in zip(calls, ticks, strict=True):
        event, result, error = call if type(call) is tuple else (call, None, None)
        if event._trigger is not trigger:
            if events:
                _end_run(trigger, events, responses, busy, size, on_error)
                events, responses, busy, size = [], [], 0, 0
            trigger = event._trigger
            apart = trigger is None or _is_apart(trigger)
            if not apart:
                outputs = trigger.function.outputs
                buckets = trigger.buckets = trigger.buckets or [0] * 65
        if error is None and not apart and event is not expired:
            response = None
            status = 200
            if result is not None:
                if outputs or event._token is not None:
                    response = to_response(result)
                    status = response.status_code
                else:
                    status = status_of(result)
            if status < BAD:
                try:
                    size += len(event.raw_body)
                except Exception:  # noqa: BLE001 - what a handler has made of it must not take the others along
                    event.raw_body = b""
                busy += took
                buckets[took.bit_length()] += 1
                events.append(event)
                responses.append(response)
                continue
        if events:
            _end_run(trigger, events, responses, busy, size, on_error)
            events, responses, busy, size = [], [], 0, 0
        if event is not expired:
            _conclude(event, result, error, took, on_error)
    if events:
        _end_run(trigger, events, responses, busy, size, on_error)


def _end_run(
    trigger: Trigger, events: list[Event], responses: list[Response | None], busy: int, size: int, on_error: OnError
) -> None:
    """Count events of one trigger that ended well, in one go, then tell their outputs and their source.

    In this order: an output may lead back to the trigger, which has room by then.
    """
    _count(trigger, len(events), busy, size)
    if not any(responses):
        _settle(trigger, events, on_error)
        return
    outputs = trigger.function.outputs
    settle = trigger.source.settle
    for event, response in zip(events, responses, strict=True):
        try:
            if response is not None:
                for send in outputs:
                    send(response, event)
            if event._token is not None:
                settle(event, response, None)
        except Exception as error:  # noqa: BLE001 - the others are concluded all the same
            on_error(error, settle)


def _is_apart(trigger: Trigger) -> bool:
    return trigger.kind == "batch" or getattr(trigger, "one_by_one", False)


def _conclude(event: Any, result: Any, error: BaseException | None, took: int, on_error: OnError) -> None:
    try:
        len(event.raw_body)
    except Exception:  # noqa: BLE001 - as above
        event.raw_body = b""
    try:
        conclude(event._trigger, event, result, error, took)
    except Exception as fault:  # noqa: BLE001 - as above
        on_error(fault, conclude)


def _count(trigger: Trigger, count: int, busy: int, size: int) -> None:
    trigger.handled += count
    trigger.busy += busy
    trigger.leave(count, size, None)


def _settle(trigger: Trigger, events: list[Event], on_error: OnError) -> None:
    """Settle events whose handlers returned None, if their source wants to know."""
    waiting = [event for event in events if event._token is not None]
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
