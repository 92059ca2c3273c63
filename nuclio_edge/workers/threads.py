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

from nuclio_edge.core import port
from nuclio_edge.core.failure import HandlerTimeout
from nuclio_edge.core.worker import conclude

from .carriers import IDLE_MS, SLOW
from .queues import Queue
from .thread_worker import STARTING, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.functions.function import Function

    from .carriers import Pool

FETCH_MS, SELDOM_MS = 5, 160  # between two looks for what a busy worker has done; doubled while it has done nothing


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
        low = 1 if self.function.beside else self.low
        while len(self.workers) < low:
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
                worker.expired = worker.current if worker.current is not STARTING else None
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
                    self.look_after()
                    break
        if not waiting or self._closing or self.function.suspended:
            return
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        led = True
        for worker in self.workers:
            if not worker.busy:
                led = self.pool.start(worker) and led
                waiting -= 1
                if not waiting:
                    break
        else:
            while waiting and len(self.workers) < self.high:
                led = self.pool.start(self._new_worker()) and led
                waiting -= 1
        if self._deadline is None:
            self._watch()
        if not led and (queued > 1 or waiting):  # else one event found one worker, which tells at once
            self.look_after()

    def look_after(self) -> None:
        """Conclude from time to time what workers have done that other threads than the loop's serve."""
        if self._fetcher is None:
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
        event: Event | None = None if current is STARTING else current
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
