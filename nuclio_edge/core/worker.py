"""The call of a handler, the inline runner, and the conclusion that every event comes to exactly once."""

from . import port
from .port import const
from .response import Response

clock = port.clock  # at hand for the inner loop
bucket = port.bucket

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .context import Context
    from .event import Event
    from .inbox import Trigger


def conclude(
    trigger: "Trigger", event: "Event", result: "Any", error: "BaseException | None", ticks: int, pending: bool = True
) -> None:
    """Bring an event to its end, or to its next attempt: counters, outputs, then the source's settle.

    Runs on the loop's thread, once for each call of a handler. `ticks` is the time of the call by `port.clock`;
    `pending`: whether the event is counted as such, which one that ran at once is not.
    """
    if trigger.kind == "batch":
        event.conclude(result, error, ticks)  # a list of them: they end one by one
        return
    buckets = trigger.buckets = trigger.buckets or [0] * 65
    if ticks < 0:  # the 30-bit counter of a microcontroller wrapped during the call
        ticks += 1 << 30
    trigger.busy += ticks
    buckets[bucket(ticks)] += 1
    try:
        size = len(event.raw_body)
    except BaseException:  # noqa: BLE001 - what a handler has made of it takes no other event along
        event.raw_body = b""
        size = 0
    response: "Any" = None
    status = 200
    function = trigger.function
    token = event._token
    if error is not None:
        from .failure import error_response

        response = error_response(error, function)
        status = response.status_code
    elif result is not None:
        if token is not None or function.outputs:
            if not ENCODER:
                from . import encode  # noqa: F401 - it fills the list
            response = ENCODER[0](result)
            status = response.status_code
        else:
            status = status_of(result)
    if status >= 400:
        if not pending:
            trigger.charge(event)
            pending = True
        if trigger.attempts > 1 and (status >= 500 or error is not None):
            from .failure import again

            if again(trigger, event, error, status, result):
                return
        trigger.failed += 1
    else:
        trigger.handled += 1
    if pending:
        trigger.leave(1, size, event)
    if status >= 400:
        function.on_failure(event, error, status, result)
    elif response is not None and function.outputs:
        ENCODER[1](trigger, event, response)
    if token is not None:
        trigger.source.settle(event, response, error)


# to_response and tell, by encode.py itself, once a value has somewhere to go: a board without outputs never loads it.
ENCODER: "list[Any]" = []


def status_of(result: "Any") -> int:
    """The status that a returned value carries, without encoding it."""
    try:
        if isinstance(result, Response):
            return int(result.status_code)
        if isinstance(result, tuple) and len(result) == 2:
            return int(result[0])
        return 200
    except Exception:  # noqa: BLE001 - inf, or whatever a value of the handler's makes of it
        return 500


class InlineCall:
    """What a trigger's `submit` is for a function that runs on the loop: the call, and the quick way through it."""

    # One object with slots, not a closure: with a thousand functions its cells would cost a cache miss each.
    __slots__ = ("context", "finish", "function", "handler", "limit", "runner", "trigger")

    def __init__(self, runner: "InlineRunner", trigger: "Trigger") -> None:
        self.runner = runner
        self.trigger = trigger
        self.function = runner.function
        self.finish = runner.finish
        self.handler: "Any" = None
        self.context: "Any" = None
        self.limit = 0

    def submit(self, event: "Event") -> bool:
        """Run the handler and bring the event to its end; always taken."""
        trigger = self.trigger
        function = self.function
        context = self.context
        if function.suspended or (context is None and not self.prepare()):
            trigger.turn_away(event, "suspended")
            return True
        if context is None:
            context = self.context
        context._event = event  # before it begins: whoever notes what runs may ask
        if ACTIVE[0] is not function:
            self.runner.take()
        trigger.admitted += 1
        handler = self.handler  # called at once, it would be looked for as a method first
        start = clock()
        try:
            result = handler(context, event)
            if result is not None:
                kind = type(result)  # spelled out: a set of them would be 100 bytes of a board's heap
                if kind is not dict and kind is not bytes and kind is not str and kind is not int and self.finish:
                    result = self.finish(event, result)
        except BaseException as error:  # noqa: BLE001 - sys.exit of a handler is a failure of that handler
            conclude(trigger, event, None, error, clock() - start, False)
            return True
        ticks = clock() - start
        token = event._token
        if ticks > self.limit:
            trigger.late += 1
            function.on_late(event, ticks)
        elif ticks >= 0 and (
            result is None
            or (
                (token is not None or function.outputs)
                and ENCODER
                and trigger.kind != "batch"
                and (result := ENCODER[0](result)).status_code < 400
            )
        ):
            trigger.handled += 1
            trigger.busy += ticks
            trigger.buckets[bucket(ticks)] += 1
            if result is not None and function.outputs:
                ENCODER[1](trigger, event, result)
            if token is not None:
                trigger.source.settle(event, result, None)
            return True
        conclude(trigger, event, result, None, ticks, False)
        return True

    def prepare(self) -> bool:
        """Before the first event, and after a start that failed: import what is to be imported."""
        function = self.function
        if not self.runner.ready:
            self.runner.start()
            if function.suspended:
                return False
        self.handler = function.handler
        self.context = self.runner.context
        self.limit = function.timeout_ms * port.TICKS_PER_MS
        self.trigger.buckets = self.trigger.buckets or [0] * 65
        return True


class InlineRunner:
    """Runs a function on the loop itself: for small, pure handlers; a late one is recorded, not interrupted.

    `context(worker)` is called for the first event or init_context. `begin(function, context)` is called, in place of
    the function's `bind`, when another function's turn on the loop begins; it sees to the turn's end. `finish(event,
    result)` makes of a result that is not None what it comes to, or raises why it fails.
    """

    __slots__ = ("_begin", "_make", "context", "finish", "function", "ready")

    def __init__(
        self,
        function: "Any",
        context: "Callable[[int], Context]",
        begin: "Callable[[Any, Context], Any] | None" = None,
        finish: "Callable[[Event, Any], Any] | None" = None,
    ) -> None:
        self.function = function
        self.ready = False
        self.context: "Any" = None
        self._make = context
        self._begin = begin or _bind
        self.finish = finish

    def attach(self, trigger: "Trigger") -> None:
        """Make the trigger's `submit` run the handler."""
        trigger.submit = InlineCall(self, trigger).submit

    def again(self, event: "Event") -> None:
        """Run the next attempt of an event that failed; it is counted as pending already."""
        trigger: "Any" = event._trigger
        if self.function.suspended:
            trigger.drop(event, "suspended")
            return
        self.context._event = event
        self.take()
        start = port.clock()
        result = error = None
        try:
            result = self.function.handler(self.context, event)
            if result is not None and self.finish:
                result = self.finish(event, result)
        except BaseException as caught:  # noqa: BLE001 - as above
            error = caught
        conclude(trigger, event, result, error, port.clock() - start)

    def start(self) -> None:
        """Import if need be, and run init_context, once."""
        if self.ready:
            return
        self.take()
        try:
            self.function.prepare(self.context)
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
            self.function.on_start_failed(error)
            return
        self.ready = True
        self.function.on_started()

    def starting(self) -> bool:
        """Whether it is importing or in init_context: never, between two calls of the loop."""
        return False

    def failed_to_start(self, reason: str) -> None:
        """Nothing is queued that could be turned away."""

    def drain(self) -> bool:
        """Whether nothing is queued or running; an inline call is over when it returns."""
        return True

    def close(self) -> None:
        """Nothing is held."""

    def take(self) -> None:
        """Make environment and output those of this function, until the turn ends."""
        if self.context is None:
            self.context = self._make(0)
        self._begin(self.function, self.context)
        ACTIVE[0] = self.function


def _bind(function: "Any", context: "Context") -> None:
    function.bind(context)


# The function whose environment and output are bound to the loop's thread: set again only when another one runs.
ACTIVE: "list[Any]" = [None]
