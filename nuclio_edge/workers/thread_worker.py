"""A worker of a function on threads: it claims, calls the handler, notes what came of it, and tells the loop.

Its methods run on the thread that carries it, unless they say otherwise; the laws are those of threads.py.
"""

from __future__ import annotations

from time import sleep

from nuclio_edge.core import port
from nuclio_edge.core.context import UserData
from nuclio_edge.core.encode import seal, seal_answers, to_json
from nuclio_edge.core.failure import HandlerTimeout
from nuclio_edge.core.response import JSON
from nuclio_edge.functions.returned import FIRM, WHOLE, is_stream
from nuclio_edge.supervision.slots import DENSE, NOTE_DENSE_NS, NOTE_GAP_NS, NOTE_NS, set_event

from .carriers import ENDED, HANDED_BACK, SHORT_NS
from .ran import Ran

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event

    from .carriers import Carrier
    from .threads import ThreadRunner

_HAND_BACK = port.TICKS_PER_MS
# A worker whose queue never empties gives its thread back after so long, if its handler is short: from then on the
# loop's own thread may serve it, which costs half as much. See seat.py.
_GIVE_WAY = 4 * port.TICKS_PER_MS
STARTING: Any = object()  # what a worker is at while it imports and runs init_context


class Worker:
    """One of a function's workers: a context, and the thread that carries it while there is something to do."""

    __slots__ = (
        "abandoned",
        "awaiter",
        "busy",
        "calls",
        "carrier",
        "context",
        "current",
        "expired",
        "pace",
        "ran",
        "ready",
        "runner",
        "seen",
        "since",
        "told",
    )

    def __init__(self, runner: ThreadRunner, context: Context) -> None:
        self.runner = runner
        self.context = context
        self.carrier: Carrier | None = None
        self.awaiter: Any = None  # once it was given something to await
        self.busy = False
        self.ready = False
        self.abandoned = False
        self.told = False  # whether who abandoned it has raised what is to be raised into the thread
        self.expired: Event | None = None
        # The loop reads both at any moment, `current` first: `since` is then the start of that call or of a later one.
        self.current: Any = None  # the event in the handler, or STARTING
        self.since = 0
        self.calls = self.pace = (
            0  # calls in the last hand-over, and the ns that each took in the last one that had any
        )
        self.ran = Ran()
        self.seen = 0  # `since`, when the loop looked last

    def carry(self, limit_ns: int = 1 << 62) -> tuple[BaseException | None, bool]:
        """Serve; returns why it could not start, and whether the thread is to end as the worker was abandoned.

        A HandlerTimeout that was on its way when the handler ended has come, and gone, when this returns: in what
        follows it would leave the worker without its hand-back, and the loop without its thread.
        """
        error = None
        try:
            self.serve(limit_ns)
        except BaseException as caught:  # noqa: BLE001 - import or init_context, or a late HandlerTimeout
            error = caught
        # No call from there to here: between them no HandlerTimeout comes.
        self.current = None
        ended = self.abandoned
        if ended:
            outlast(self)
            self.close()
        carrier = self.carrier
        if carrier is not None:
            carrier.started[0] = 0
        return error, ended

    def serve(self, limit_ns: int) -> None:
        """Handle what is queued, or as much of it as there is time for; on the carrier's thread."""
        runner = self.runner
        function = runner.function
        context = self.context
        loop = runner.pool.loop
        claim = runner.queue.claim
        clock = port.clock
        carrier = self.carrier
        stamp = carrier.started if carrier is not None else [0]
        stamp[0] = clock()
        if self.ready:
            function.bind(context)
        else:
            self.since = clock()
            self.current = STARTING
            function.prepare(context, self.wait_for)
            self.ready = True
            loop.post(function.on_started)
        handler = function.handler
        # What is called first, and after each time that it tells: it notes the event. While the function is a suspect,
        # always; else not as often, see slots.py.
        call = noting = handler if carrier is None or carrier.row is None else self.note
        if function.suspect:
            handler = noting
        elif carrier is not None:
            dense = self.calls >= DENSE and stamp[0] - self.since < NOTE_GAP_NS
            if stamp[0] - carrier.noted < (NOTE_DENSE_NS if dense else NOTE_NS):
                call = handler
        ran = self.ran.calls.append
        took = self.ran.ticks.append
        wanted = bool(function.outputs)
        calls = self.calls = 0
        error: Any = None
        start = told = begun = clock()
        until = start + limit_ns
        while start < until:
            try:
                event = claim()
            except IndexError:
                break
            calls += 1
            self.since = start
            self.current = event
            context._event = event
            try:
                result = call(context, event)
                if result is not None:
                    if type(result) is dict and (wanted or event._token is not None):
                        try:
                            result, error = to_json(result), JSON  # `seal` spelled out: 0.5 us less
                        except Exception:  # noqa: BLE001 - it has the words for what JSON cannot say
                            result = seal(result, True)
                    elif type(result) not in FIRM:
                        result, error = self.finish(event, result)
            except BaseException as caught:  # noqa: BLE001 - sys.exit of a handler is a failure of that handler
                result, error = None, caught
            end = clock()
            # In this order: `_abandon` marks the worker, then looks at `current`. Whichever is first, one of the two
            # sees the other, and the event is concluded once.
            self.current = None
            abandoned = self.abandoned
            if result is None and error is None and not abandoned:
                ran(event)
            else:
                ran((event, result, error))
                error = None
            took(end - start)
            if abandoned:
                break
            call = handler
            if end - told > _HAND_BACK:
                stamp[0] = told = end
                call = noting
                self.tell()
                if calls * SHORT_NS > end - begun > _GIVE_WAY and not runner.pool.seat.pinned:
                    break
            start = end
        self.calls = calls
        if calls:
            self.pace = (start - begun) // calls

    def finish(self, event: Event, result: Any) -> tuple[Any, BaseException | None]:
        """What is noted of a result that is to be awaited, comes in parts, or that its handler can still change."""
        error = None
        if type(result) not in WHOLE:
            if hasattr(type(result), "__await__"):
                result = self.wait_for(result)
            if is_stream(result):
                from nuclio_edge.functions.streams import deliver, is_async_stream, join_async

                if is_async_stream(result):
                    result = self.wait_for(join_async(result))
                else:
                    result, error = deliver(self.runner.pool.loop, event, result)
                    if not isinstance(event, list):
                        return result, error
        if isinstance(event, list):
            return seal_answers(result), error
        if result is None or type(result) in FIRM:
            return result, None
        return seal(result, bool(self.runner.function.outputs) or event._token is not None), None

    def wait_for(self, value: Any) -> Any:
        """The result of what is to be awaited."""
        if self.awaiter is None:
            from nuclio_edge.functions.awaiter import Awaiter

            self.awaiter = Awaiter()
        return self.awaiter.run(value)

    def close(self) -> None:
        """Give back what it holds, unless its last words still run: whoever ends them has to find it."""
        if self.awaiter is not None and self.awaiter.close():
            self.awaiter = None

    def tell(self) -> None:
        """Let the loop look at what is done."""
        pool = self.runner.pool
        pool.done.append((self, None, 0))
        pool.loop.wake()

    def note(self, context: Context, event: Event) -> Any:
        """Call the handler, the event noted in what outlives the process."""
        carrier: Any = self.carrier
        set_event(carrier.row, event)
        carrier.noted = self.since
        return self.runner.function.handler(context, event)

    def hand_back(self, error: BaseException | None, ended: bool) -> None:
        """Tell the loop that nothing is left to do, or that this worker could not start, or that its thread ends."""
        pool = self.runner.pool
        pool.done.append((self, error, ENDED if ended else HANDED_BACK))
        pool.loop.wake()

    def book(self) -> None:
        """Conclude what is done; on the loop."""
        if self.ran.ticks:
            on_error = self.runner.pool.loop.on_error
            try:
                self.ran.book(self.expired, on_error)
            except Exception as error:  # noqa: BLE001 - whatever it is, the worker's hand-back counts
                on_error(error, self.book)

    def holds_state(self) -> bool:
        """Whether user_data holds anything: then the worker keeps its thread."""
        data = self.context.user_data
        return type(data) is not UserData or bool(vars(data))


def outlast(worker: Any) -> None:
    """Wait, on the thread of an abandoned worker, for the HandlerTimeout that may be on its way to it."""
    try:
        while not worker.told:
            sleep(0.001)
        sleep(0)
    except HandlerTimeout:
        pass
