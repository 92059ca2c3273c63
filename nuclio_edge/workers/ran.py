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
    run = Run(None, on_error)
    for call, took in zip(calls, ticks, strict=True):
        event, result, error = call if type(call) is tuple else (call, None, None)
        if event._trigger is not run.trigger:
            run.end()
            run = Run(event._trigger, on_error)
        if error is not None or event is expired or run.apart or not run.take(event, result, took):
            run.end()
            if event is not expired:
                _conclude(event, result, error, took, on_error)
    run.end()


class Run:
    """Calls of one trigger that ended well, one after another: counted in one go, then told to outputs and source."""

    __slots__ = ("_answered", "_buckets", "_busy", "_events", "_on_error", "_responses", "_size", "apart", "outputs",
                 "trigger")  # fmt: skip

    def __init__(self, trigger: Any, on_error: OnError) -> None:
        self.trigger = trigger
        self.apart = trigger is None or _is_apart(trigger)  # what becomes of each is more than a count
        self.outputs = () if trigger is None else trigger.function.outputs
        self._on_error = on_error
        self._events: list[Event] = []
        self._responses: list[Response | None] = []
        self._answered = False
        self._busy = self._size = 0
        self._buckets: list[int] = []
        if not self.apart:
            self._buckets = trigger.buckets = trigger.buckets or [0] * 65

    def take(self, event: Event, result: Any, took: int) -> bool:
        """Add a call without an error; False, with nothing done, when its answer says that it failed all the same."""
        response = None
        if result is not None:
            if event._token is not None or self.outputs:
                response = to_response(result)
                if response.status_code >= BAD:
                    return False
                self._answered = True
            elif status_of(result) >= BAD:
                return False
        self._size += _size_of(event)
        self._events.append(event)
        self._responses.append(response)
        self._busy += took
        self._buckets[took.bit_length()] += 1
        return True

    def end(self) -> None:
        """Conclude what was added, and begin anew."""
        events, responses = self._events, self._responses
        if not events:
            return
        _count(self.trigger, len(events), self._busy, self._size)
        self._events, self._responses = [], []
        self._busy = self._size = 0
        if not self._answered:
            _settle(self.trigger, events, self._on_error)
            return
        self._answered = False
        settle = self.trigger.source.settle
        for event, response in zip(events, responses, strict=True):
            try:
                if response is not None:
                    for send in self.outputs:
                        send(response, event)
                if event._token is not None:
                    settle(event, response, None)
            except Exception as error:  # noqa: BLE001 - the others are concluded all the same
                self._on_error(error, settle)


def _is_apart(trigger: Trigger) -> bool:
    return trigger.kind == "batch" or getattr(trigger, "one_by_one", False)


def _size_of(event: Event) -> int:
    try:
        return len(event.raw_body)
    except Exception:  # noqa: BLE001 - what a handler has made of it must not take the others along
        event.raw_body = b""
        return 0


def _conclude(event: Any, result: Any, error: BaseException | None, took: int, on_error: OnError) -> None:
    _size_of(event)
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
