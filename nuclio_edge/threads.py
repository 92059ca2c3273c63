"""Worker threads: a deque a function, claimed by atomic `popleft`; each notes what it did, a deque says who has news.

Laws:
- The loop alone starts workers, gives them a carrier (the thread) and concludes events; a worker claims and calls.
- While events stream, the carrier of a short handler turns the loop and serves its worker itself; see seat.py.
- Work is handed over once a turn, outcomes once a millisecond or when the queue is empty, so that a flood costs about
  what it costs inline and a single event two wake-ups. Nobody waits for another's handler: what was done quickly before
  a call that takes long is fetched meanwhile.
- Past its function's timeout an event fails; its worker is abandoned (context revoked, HandlerTimeout raised into the
  thread) and replaced. While one abandoned thread lives nothing of that function is retried; a second one suspends it.
"""

from __future__ import annotations

from time import sleep

from .carriers import ENDED, HANDED_BACK, IDLE_MS, SHORT_NS, SLOW
from .core import port
from .core.context import UserData
from .core.failure import HandlerTimeout
from .core.worker import conclude
from .queues import Queue
from .ran import Ran
from .slots import set_event
from .streams import WHOLE, deliver, is_stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .carriers import Carrier, Pool
    from .core.context import Context
    from .core.event import Event
    from .core.inbox import Trigger
    from .function import Function

_HAND_BACK = port.TICKS_PER_MS
# A worker whose queue never empties gives its thread back after so long, if its handler is short: from then on the
# loop's own thread may serve it, which costs half as much. See seat.py.
_GIVE_WAY = 4 * port.TICKS_PER_MS
FETCH_MS, SELDOM_MS = 5, 160  # between two looks for what a busy worker has done; doubled while it has done nothing
_STARTING: Any = object()  # what a worker is at while it imports and runs init_context


class Worker:
    """One of a function's workers: a context, and the thread that carries it while there is something to do."""

    __slots__ = (
        "abandoned",
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
        self.busy = False
        self.ready = False
        self.abandoned = False
        self.told = False  # whether who abandoned it has raised what is to be raised into the thread
        self.expired: Event | None = None
        # The loop reads both at any moment, `current` first: `since` is then the start of that call or of a later one.
        self.current: Any = None  # the event in the handler, or _STARTING
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
            self.current = _STARTING
            function.prepare(context)
            self.ready = True
            loop.post(function.on_started)
        handler = function.handler
        # What is called first and once a millisecond: it notes the event. While the function is a suspect, always.
        call = noting = handler if carrier is None or carrier.row is None else self.note
        if function.suspect:
            handler = noting
        elif carrier is not None and stamp[0] - carrier.noted < _HAND_BACK:
            call = handler
        ran = self.ran.calls.append
        took = self.ran.ticks.append
        calls = self.calls = 0
        error = None
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
                if result is not None and type(result) not in WHOLE and is_stream(result):
                    result, error = deliver(loop, event, result)
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


class ThreadRunner:
    """Runs a function on worker threads; `low` to `high` of them, made when there is work for them."""

    __slots__ = (
        "_closing",
        "_context",
        "_deadline",
        "_fetch_ms",
        "_fetcher",
        "_idle",
        "_numbers",
        "function",
        "high",
        "lost",
        "low",
        "pool",
        "queue",
        "slow",
        "workers",
    )

    def __init__(self, function: Function, pool: Pool, low: int, high: int, context: Callable[[int], Context]) -> None:
        self.function = function
        self.pool = pool
        self.low = low
        self.high = high
        self.workers: list[Worker] = []
        self.lost = 0  # abandoned workers whose thread has not ended yet
        self.slow = SLOW  # so many hand-overs until its handler may be called on the loop's own thread; see seat.py
        self.queue = Queue(function, self._flush)
        self._context = context
        self._deadline: Any = None
        self._fetcher: Any = None
        self._fetch_ms = FETCH_MS
        self._numbers = 0
        self._idle: Any = None  # the timer that unloads a function without a least number of workers
        self._closing = False

    def attach(self, trigger: Trigger) -> None:
        """Make the trigger's `submit` fill the queue."""
        self.queue.attach(trigger)

    def again(self, event: Event) -> None:
        """Queue the next attempt of an event that failed; it is counted as pending already."""
        self.queue.again(event)

    def start(self) -> None:
        """Start the workers that init_context needs before the first event, those that could not start among them."""
        for worker in self.workers:
            if not worker.ready and not worker.busy:
                self.pool.start(worker)
        while len(self.workers) < self.low:
            self.pool.start(self._new_worker())
        self._watch()

    def starting(self) -> bool:
        """Whether a worker is importing or in init_context."""
        return any(worker.busy and not worker.ready for worker in self.workers)

    def handed_back(self, worker: Worker, error: BaseException | None, *, ended: bool) -> None:
        """A worker found its queue empty, or ended; on the loop."""
        worker.busy = False
        if worker not in self.workers:
            self.pool.busy += 1  # `lose` took it out already
        self.pool.busy -= 1
        if ended:
            self.pool.forget(worker)
            if worker in self.workers:  # ended by itself in the moment in which it was to be abandoned
                self.workers.remove(worker)
                self.pool.carriers -= 1
            else:
                self.lost -= 1
                self.pool.abandoned -= 1
                if self.lost == 0:
                    self.function.on_thread_ended()
        elif self._closing:
            self.workers.remove(worker)
            self.pool.end(worker)
        else:
            worker.abandoned = False  # it had handed back in the moment in which it was to be abandoned
            self.pool.release(worker)
            if error is not None and not worker.ready:
                self.function.on_start_failed(error)
        if not self._closing:
            self._flush()
            if not self.low:
                self._rest()

    def served(self, worker: Worker) -> None:
        """`handed_back` of a worker that was served on the loop's own thread, and nothing went wrong."""
        pool = self.pool
        worker.busy = False
        pool.busy -= 1
        pool._ended += 1
        worker.book()
        pool.judge(worker)
        if self.queue:
            self._flush()
        elif not self.low:
            self._rest()

    def failed_to_start(self, reason: str) -> None:
        """Turn away what is queued: the function was suspended."""
        self.queue.turn_away(reason)

    def drain(self) -> bool:
        """Whether nothing is queued or running."""
        return not self.queue and not any(worker.busy for worker in self.workers)

    def close(self) -> None:
        """Let the workers go; those still busy are abandoned."""
        self._closing = True
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        for timer in (self._deadline, self._fetcher):
            if timer is not None:
                timer.cancel()
        self._deadline = self._fetcher = None
        for worker in list(self.workers):
            self.workers.remove(worker)
            if worker.busy and not self.pool.withdraw(worker):
                worker.abandoned = True
                worker.context.revoke()
                worker.expired = worker.current if worker.current is not _STARTING else None
                self.lost += 1
                self.pool.lose()
                if worker.carrier is not None and worker.current is not None:
                    worker.carrier.raise_into(HandlerTimeout, worker)
                else:
                    worker.told = True
            else:
                self.pool.end(worker)

    def _rest(self) -> None:
        if self._idle is None and self.drain():
            self._idle = self.pool.loop.call_later(IDLE_MS, self._unload)

    def _unload(self) -> None:
        """Nothing came for a while: the workers and the code go, until the next event."""
        self._idle = None
        if not self.drain() or self.lost:
            return
        for worker in self.workers:
            self.pool.end(worker)
        self.workers.clear()
        self.function.forget()

    def _new_worker(self) -> Worker:
        worker = Worker(self, self._context(self._numbers))
        self._numbers += 1
        self.workers.append(worker)
        return worker

    def _flush(self) -> None:
        queued = waiting = len(self.queue)
        if self._fetcher is None:
            for worker in self.workers:
                if worker.busy:  # it may have claimed what has just come, and not have told what it did before that
                    self._begin_fetching()
                    break
        if not waiting or self.function.suspended:
            return
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        for worker in self.workers:
            if not worker.busy:
                self.pool.start(worker)
                waiting -= 1
                if not waiting:
                    break
        else:
            while waiting and len(self.workers) < self.high:
                self.pool.start(self._new_worker())
                waiting -= 1
        if self._deadline is None:
            self._watch()
        if self._fetcher is None and (queued > 1 or waiting):  # else one event found one worker, which tells at once
            self._begin_fetching()

    def _begin_fetching(self) -> None:
        self._fetch_ms = FETCH_MS
        self._fetcher = self.pool.loop.call_later(FETCH_MS, self._fetch)

    def _fetch(self) -> None:
        """Conclude what busy workers have done and not told: they may be in a call that takes long."""
        self._fetcher = None
        busy = False
        self._fetch_ms = min(self._fetch_ms * 2, SELDOM_MS)
        for worker in self.workers:
            if worker.busy:
                busy = True
                worker.book()
                if worker.since != worker.seen:
                    worker.seen = worker.since
                    self._fetch_ms = FETCH_MS
        if busy and self._fetcher is None:
            self._fetcher = self.pool.loop.call_later(self._fetch_ms, self._fetch)

    def _watch(self) -> None:
        timeout = self.function.timeout_ms
        self._deadline = self.pool.loop.call_later(timeout, self._check)

    def _check(self) -> None:
        """Fail what is past its deadline; one timer for all workers, gone when none is busy."""
        self._deadline = None
        self.pool.collect()
        now = port.clock()
        limit = self.function.timeout_ms * port.TICKS_PER_MS
        next_ms = 0
        for worker in list(self.workers):
            current = worker.current
            if not worker.busy:
                continue
            ran = now - worker.since if current is not None else 0
            if current is not None and ran >= limit:
                self._abandon(worker, current, ran)
                if worker not in self.workers:
                    continue
                ran = 0  # it had ended, and may be at the next event
            left = (limit - ran) // port.TICKS_PER_MS + 1
            next_ms = left if not next_ms else min(left, next_ms)
        if next_ms:
            if self._deadline is not None:  # a replacement has begun
                self._deadline.cancel()
            self._deadline = self.pool.loop.call_later(next_ms, self._check)

    def _abandon(self, worker: Worker, current: Any, ran: int) -> None:
        worker.abandoned = True  # from here on it claims nothing more
        event: Event | None = None if current is _STARTING else current
        if worker.current is not current:
            worker.told = True
            return  # it was done in this very moment: its outcome counts, and the thread ends by itself
        worker.expired = event
        worker.context.revoke()
        worker.book()
        self.workers.remove(worker)
        self.lost += 1
        self.pool.lose()
        if worker.carrier is not None:
            worker.carrier.raise_into(HandlerTimeout, worker)
        else:
            worker.told = True
        error = HandlerTimeout(f"still running after {self.function.timeout_ms / 1000:g} s")
        if event is not None and event._trigger is not None:
            conclude(event._trigger, event, None, error, ran)
        self.function.on_abandoned(self.lost, starting=event is None)
        self._flush()
