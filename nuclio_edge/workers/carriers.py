"""The threads that carry workers, and the deque by which what they did reaches the loop.

A worker whose `user_data` holds something keeps its carrier, as sqlite3 and others bind objects to a thread. The other
carriers serve whichever worker has something to do, so that a thousand functions need a handful of threads, and end
after a minute of idleness.
"""

from __future__ import annotations

import sys
import threading
from collections import deque

from nuclio_edge.supervision.slots import set_name, start_of

from .asynchronous import raise_into
from .seat import Seat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.loop import Loop
    from nuclio_edge.supervision.watchdog import Watchdog

    from .thread_worker import Worker

IDLE_MS = 60_000
# One busy thread cuts the loop's round trips from 39,800/s to 65/s at CPython's 5 ms; 3,790/s at 0.1 ms.
SWITCH_S = 0.0001
# So many carriers are made without hesitation; more when a worker has waited for one that long. A burst over a thousand
# functions with short handlers is served by these, a thousand handlers that wait get a thread each within 25 ms.
AT_ONCE = 8
PATIENCE_MS = 2
SHORT_OF_THREADS_MS = 100  # between two attempts to start a thread where there is none to be had
# A handler whose calls took longer on the average, in ns, is not called on the loop's own thread. Not by one call:
# that may take a millisecond more for no fault of its own, as it waited for the interpreter's lock.
SHORT_NS = 200_000
SLOW = 32  # hand-overs of a short handler after a slow one, before it is led (again)
# Beside a worker in `Pool.done`: it has nothing left to do, and whether its thread has ended with it.
HANDED_BACK = -1
ENDED = -2


class Carrier:
    """A thread that carries one worker after another; `duty` and `worker` belong to the loop between two jobs."""

    __slots__ = ("duty", "go", "idle_since", "noted", "row", "started", "thread", "worker")

    def __init__(self, number: int, row: Any) -> None:
        self.row = row  # where the watchdog reads whose handler runs here since when
        self.noted = 0  # when an event of its worker was noted there last
        self.started: Any = [0] if row is None else start_of(row)
        self.go = threading.Lock()
        self.go.acquire()
        self.worker: Worker | None = None
        self.duty: Callable[[Carrier], bool] | None = None  # of the loop's seat; true when the thread's time is over
        self.idle_since = 0
        self.thread = threading.Thread(target=self._carry, name=f"worker-{number}", daemon=True)
        self.thread.start()

    def take(self, worker: Worker) -> None:
        """Carry this worker from now on."""
        self.worker = worker
        worker.carrier = self
        if self.row is not None:
            set_name(self.row, worker.runner.function.name)
            self.noted = 0

    def bound(self) -> bool:
        """Whether it belongs to a worker that holds state."""
        return self.worker is not None and self.worker.holds_state()

    def _carry(self) -> None:
        self.go.acquire()
        while True:
            duty, self.duty = self.duty, None
            if duty is not None:
                if duty(self):
                    return
                self.go.acquire()
                continue
            worker = self.worker
            if worker is None:
                return
            error, ended = worker.carry()
            follower = None
            if not ended and not worker.holds_state():
                try:
                    follower = worker.runner.pool.ready.popleft()
                except IndexError:
                    pass
                else:  # before the hand-back: the loop must find the worker without a carrier then
                    worker.carrier = None
                    self.take(follower)
            worker.hand_back(error, ended)
            if ended:
                return
            if follower is None:
                self.go.acquire()

    def raise_into(self, error: type[BaseException], worker: Worker) -> None:
        """Raise an exception in the thread at its next bytecode, then set `worker.told`; see asynchronous.py."""

        def then() -> None:
            awaiter = worker.awaiter  # which its thread closes when it has been told
            if awaiter is not None:
                awaiter.wake()
            worker.told = True

        raise_into(self.thread, error, then)


class Pool:
    """The carriers of a processor and the deque by which their outcomes reach the loop."""

    def __init__(self, loop: Loop, watchdog: Watchdog | None = None, seat: Seat | None = None) -> None:
        self.loop = loop
        self.watchdog = watchdog
        self.seat = seat if seat is not None else Seat(loop)
        self.seat.attach(self)
        self.busy = 0  # workers between their start and their hand-back
        # Who has done something: (worker, error, what). `what` is 0, or HANDED_BACK or ENDED at the worker's end, and
        # `error` why it could not start.
        self.done: deque[tuple[Worker, BaseException | None, int]] = deque()
        self.idle: dict[Carrier, None] = {}  # oldest first; their workers hold no state
        self.ready: deque[Worker] = deque()  # to be carried by whichever carrier is free first
        self.carriers = 0
        self.abandoned = 0
        self._ended = 0  # hand-backs so far: whether anything moves
        self._seen = 0
        self._step = 1
        self._growing = False
        self._short = False  # whether the system had no thread for us the last time
        self._number = 0
        self._reaper: Any = None
        loop.add_inlet(self.done, self.collect)

    def start(self, worker: Worker) -> bool:
        """Let a worker serve its queue: on the loop's own thread if its handler is short (true), else on a carrier."""
        worker.busy = True
        self.busy += 1
        if self.watchdog is not None:
            self.watchdog.touch()
        led = self.seat.leads(worker)
        if not led:
            self.dispatch(worker)
        return led

    def dispatch(self, worker: Worker) -> None:
        """Hand a worker over: to its own carrier, an idle one, a new one, or the first that is free."""
        carrier = worker.carrier
        if carrier is not None and carrier is self.seat.carrier:
            if worker.holds_state():
                if not self.seat.leave(worker):
                    self.loop.call_later(SHORT_OF_THREADS_MS, lambda: self._again(worker))
                    return
            else:
                carrier.worker = worker.carrier = None
                carrier = None
        if carrier is None:
            if self.idle:
                carrier = next(iter(self.idle))
                if carrier.worker is not None:
                    carrier.worker.carrier = None
            elif self.carriers < AT_ONCE:
                carrier = self._new(worker)
            if carrier is None:
                self.ready.append(worker)
                if not self._growing:
                    self._growing = True
                    self._seen = self._ended
                    self._step = 1
                    self.loop.call_later(PATIENCE_MS, self._grow)
                return
            carrier.take(worker)
        self.idle.pop(carrier, None)
        carrier.go.release()

    def _again(self, worker: Worker) -> None:
        """Hand a worker over for which the loop's seat could not be left."""
        if worker.busy and not worker.abandoned:
            self.dispatch(worker)

    def seize(self, carrier: Carrier, worker: Worker) -> bool:
        """Give an idle worker to this carrier, the calling thread's; false when one of the two is bound elsewhere."""
        theirs = worker.carrier
        if carrier.bound() or (theirs is not None and worker.holds_state()):
            return False
        if theirs is not None:
            theirs.worker = None
        if carrier.worker is not None:
            carrier.worker.carrier = None
        carrier.take(worker)
        return True

    def spare(self, worker: Worker) -> Carrier | None:
        """A carrier for another duty: an idle one, else a new one; None when there is no thread to be had.

        `worker` is the one for whose sake it is wanted.
        """
        if not self.idle:
            return self._new(worker)
        carrier = next(iter(self.idle))
        del self.idle[carrier]
        if carrier.worker is not None:
            carrier.worker.carrier = None
            carrier.worker = None
        return carrier

    def dismiss(self, carrier: Carrier) -> None:
        """End a carrier that had another duty, begun or not."""
        carrier.duty = None
        self._end(carrier)

    def rest(self, carrier: Carrier) -> None:
        """Count a carrier as free to serve any worker, unless it is bound to one."""
        if not carrier.bound():
            carrier.idle_since = self.loop.now
            self.idle[carrier] = None
            if self._reaper is None:
                self._reaper = self.loop.call_later(IDLE_MS, self._reap)

    def withdraw(self, worker: Worker) -> bool:
        """Take a worker that waits for its turn or a carrier back; whether it was still waiting."""
        if not self.seat.withdraw(worker):
            try:
                self.ready.remove(worker)
            except ValueError:
                return False
        worker.busy = False
        self.busy -= 1
        return True

    def release(self, worker: Worker) -> None:
        """Count a worker's carrier as free to serve others, unless the worker holds state."""
        self._ended += 1
        carrier = worker.carrier
        if carrier is None or carrier is self.seat.carrier or worker.holds_state():
            return
        try:
            follower = self.ready.popleft()
        except IndexError:
            pass
        else:
            worker.carrier = None
            carrier.take(follower)
            carrier.go.release()
            return
        self.rest(carrier)

    def end(self, worker: Worker) -> None:
        """Give up an idle worker and its carrier for good."""
        worker.close()
        carrier, worker.carrier = worker.carrier, None
        if carrier is None:
            return
        if self.seat.holds(carrier):
            carrier.worker = None  # its thread turns the loop: it goes on with that
        else:
            self.idle.pop(carrier, None)
            self._end(carrier)

    def forget(self, worker: Worker) -> None:
        """An abandoned worker's thread has ended: its row is free again."""
        carrier, worker.carrier = worker.carrier, None
        if carrier is not None and carrier.row is not None and self.watchdog is not None:
            self.watchdog.slots.give_back(carrier.row)

    def lose(self) -> None:
        """A carrier is no longer ours: its thread is stuck in a handler."""
        self.carriers -= 1
        self.busy -= 1
        self.abandoned += 1

    def close(self) -> None:
        """End the idle carriers; the others were ended by their runners, the loop's own ends with the loop."""
        self.seat.close()
        for carrier in list(self.idle):
            self.idle.pop(carrier)
            if carrier.worker is not None:
                carrier.worker.carrier = None
            self._end(carrier)
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None

    def _new(self, worker: Worker) -> Carrier | None:
        """A carrier whose thread has started; None when the system has no thread left, which the worker's log says."""
        if self.carriers == 0 and sys.getswitchinterval() > SWITCH_S:
            sys.setswitchinterval(SWITCH_S)
        row = self.watchdog.slots.take() if self.watchdog is not None else None
        try:
            carrier = Carrier(self._number + 1, row)
        except RuntimeError as error:  # TasksMax, or memory: a handler's threads must not end the others' work
            if row is not None and self.watchdog is not None:
                self.watchdog.slots.give_back(row)
            if not self._short:
                self._short = True
                worker.runner.function.logger.error_with("no thread for its handler: it waits", "error", str(error))
            return None
        self._short = False
        self._number += 1
        self.carriers += 1
        return carrier

    def _grow(self) -> None:
        """Make more carriers for workers that have waited too long: twice as many each time that nothing moved."""
        self._growing = False
        self._step = self._step * 2 if self._ended == self._seen else 1
        self._seen = self._ended
        for _ in range(self._step):
            try:
                worker = self.ready.popleft()
            except IndexError:
                return
            carrier = self._new(worker)
            if carrier is None:
                self.ready.appendleft(worker)
                self._step = 1
                break
            carrier.take(worker)
            carrier.go.release()
        self._growing = True
        self.loop.call_later(SHORT_OF_THREADS_MS if self._short else PATIENCE_MS, self._grow)

    def _end(self, carrier: Carrier) -> None:
        carrier.worker = None
        self.carriers -= 1
        if carrier.go.locked():  # else it was told to go already, and finds nothing to do
            carrier.go.release()
        carrier.thread.join(1.0)
        if carrier.row is not None and self.watchdog is not None:
            self.watchdog.slots.give_back(carrier.row)

    def _reap(self) -> None:
        self._reaper = None
        last = self.loop.now - IDLE_MS
        for carrier in list(self.idle):
            if carrier.idle_since > last:
                self._reaper = self.loop.call_at(carrier.idle_since + IDLE_MS, self._reap)
                return
            worker = carrier.worker
            del self.idle[carrier]
            if worker is not None:
                worker.carrier = None
            self._end(carrier)

    def collect(self) -> None:
        """Conclude what workers have done since the last time."""
        done = self.done
        for _ in range(len(done)):
            worker, error, what = done.popleft()
            worker.book()
            if what:
                self.judge(worker)
                worker.runner.handed_back(worker, error, ended=what == ENDED)

    def judge(self, worker: Worker) -> None:
        """Judge by its last hand-over whether a worker's handler is short."""
        runner = worker.runner
        if not worker.calls:
            return
        self.seat.last_ms = self.loop.now
        if worker.pace > SHORT_NS:
            runner.slow = SLOW
        elif runner.slow:
            runner.slow = max(0, runner.slow - worker.calls)
