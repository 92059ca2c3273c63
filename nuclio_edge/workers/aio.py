"""Handlers that are `async def`: each function has an asyncio loop on a worker thread of its own.

Laws:
- A slot is one of up to `concurrency` places in which an event is handled: a context, and a task while there is work.
  The task serves one event after the other, so a handler that never suspends costs a `send`, not a task; another slot
  begins when the running one suspends. `user_data` is one object for all slots: they share the thread.
- Only the processor's loop decides what timed out. It then fails the event (408), revokes the slot's context and has
  the task cancelled. A task that swallows that, or a thread that does not even get to cancelling because something
  blocks it, is lost a second later: the slot or the thread is replaced, by the rules of worker threads.
- asyncio is imported on the first such thread, never before.
"""

from __future__ import annotations

import sys
from collections import deque

from nuclio_edge.core import port
from nuclio_edge.core.failure import HandlerTimeout
from nuclio_edge.core.worker import conclude
from nuclio_edge.supervision.slots import set_name, start_of

from .aio_worker import CLOSE_S, Slot, Worker
from .carriers import SWITCH_S
from .queues import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.loop import Loop
    from nuclio_edge.functions.function import Function
    from nuclio_edge.supervision.watchdog import Watchdog

CONCURRENCY = 100
# How long a cancelled task may take to clean up, and a thread to come round to cancelling it.
GRACE_MS = 1_000


class AsyncPool:
    """The deque by which the outcomes of all async functions reach the loop."""

    def __init__(self, loop: Loop, watchdog: Watchdog | None = None) -> None:
        self.loop = loop
        self.watchdog = watchdog
        self.workers: list[Worker] = []  # those whose thread has not ended
        # (slot, its `current`, result, error, ticks); without a current event: a slot or a worker has ended.
        self.done: deque[tuple[Any, tuple[Event, int] | None, Any, BaseException | None, int]] = deque()
        loop.add_inlet(self.done, self.collect)

    def collect(self) -> None:
        """Conclude what has come back."""
        done = self.done
        for _ in range(len(done)):
            who, current, result, error, ticks = done.popleft()
            if current is None:
                who.runner.ended(who, error)
            elif who.expired is not current and who.settled is not current:
                who.settled = current
                event = current[0]
                conclude(event._trigger, event, result, error, ticks)  # type: ignore[arg-type]  # a source's event has one

    def busy(self) -> bool:
        """Whether a handler, an import or an init_context is running."""
        return any(worker.running or worker.begun for worker in self.workers)

    def begin(self, worker: Worker) -> None:
        """A thread is about to start; on the loop."""
        if sys.getswitchinterval() > SWITCH_S:
            sys.setswitchinterval(SWITCH_S)
        self.workers.append(worker)
        if self.watchdog is not None:
            worker.row = self.watchdog.slots.take()
            if worker.row is not None:
                set_name(worker.row, worker.runner.function.name)
                worker.started = start_of(worker.row)
            self.watchdog.touch()

    def end(self, worker: Worker) -> None:
        """A thread has ended; on the loop."""
        self.workers.remove(worker)
        if worker.row is not None and self.watchdog is not None:
            self.watchdog.slots.give_back(worker.row)

    def close(self) -> None:
        """Nothing is held: each runner ends its own thread."""


class AsyncRunner:
    """Runs an async function: up to `concurrency` of its handlers at once, on one thread."""

    def __init__(self, function: Function, pool: AsyncPool, context: Callable[[int], Context]) -> None:
        self.function = function
        self.pool = pool
        self.make_context = context
        self.concurrency: int = function.spec.concurrency or CONCURRENCY
        self.queue = Queue(function, self._flush)
        self.worker: Worker | None = None
        self.lost = 0  # threads that something blocks, and tasks that swallowed their cancellation
        self._abandoned: list[Worker] = []
        self._zombies: set[Slot] = set()
        self._numbers = 0
        self._timer: Any = None
        self._closing = False

    def attach(self, trigger: Trigger) -> None:
        """Make the trigger's `submit` queue its events here."""
        self.queue.attach(trigger)

    def again(self, event: Event) -> None:
        """Queue the next attempt of an event that failed; it is counted as pending already."""
        self.queue.again(event)

    def start(self) -> None:
        """Start the thread, which imports and calls init_context."""
        if self.worker is None and not self._closing:
            self.worker = Worker(self, self.make_context(self._numbers), self._numbers)
            self._numbers += 1
            self.worker.start()
            self._watch(self.function.timeout_ms)

    def starting(self) -> bool:
        """Whether the thread is importing or in init_context."""
        return self.worker is not None and not self.worker.ready

    def failed_to_start(self, reason: str) -> None:
        """Turn away what is queued: the function was suspended."""
        self.queue.turn_away(reason)

    def drain(self) -> bool:
        """Whether nothing is queued or running."""
        return not self.queue and (self.worker is None or not self.worker.running)

    def ended(self, who: Slot | Worker, error: BaseException | None) -> None:
        """A slot that had timed out is free at last, or a thread has ended; on the loop."""
        if isinstance(who, Slot):
            if who in self._zombies:
                self._zombies.remove(who)
                self._found_again()
            return
        self.pool.end(who)
        if who.abandoned:
            self._abandoned.remove(who)
            self._found_again()
        else:
            self.worker = None
            if not self._closing:
                if error is not None and not who.ready:
                    self.function.on_start_failed(error)
                self._flush()

    def close(self) -> None:
        """Cancel what still runs and end the thread; one that does not end within a second is lost."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for worker in [*self._abandoned, self.worker]:
            if worker is not None:
                for slot in list(worker.running):
                    slot.context.revoke()
                worker.end()
        worker = self.worker
        if worker is not None:
            worker.thread.join(CLOSE_S)
            if worker.thread.is_alive():
                self._give_up(worker)

    def _found_again(self) -> None:
        self.lost -= 1
        if self.lost == 0:
            self.function.on_thread_ended()

    def _flush(self) -> None:
        if self.queue and not self.function.suspended and not self._closing:
            if self.worker is None:
                self.start()
            else:
                self.worker.kick()
                if self.pool.watchdog is not None:
                    self.pool.watchdog.touch()
            if self._timer is None:
                self._watch(self.function.timeout_ms)

    def _watch(self, delay_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.pool.loop.call_later(delay_ms, self._check)

    def _check(self) -> None:
        """Fail what is past its deadline, write off what does not end after that; gone when nothing runs."""
        self._timer = None
        self.pool.collect()
        now = port.clock()
        limit = self.function.timeout_ms * port.TICKS_PER_MS
        grace = GRACE_MS * port.TICKS_PER_MS
        waits: list[int] = []
        for worker in [*self._abandoned, self.worker]:
            if worker is None:
                continue
            begun = worker.begun
            if begun and not worker.abandoned:
                if now - begun >= limit + grace:
                    self._abandon(worker, starting=True)
                    continue
                waits.append(begun + limit + grace - now)
            for slot in list(worker.running):
                current = slot.current
                if slot.lost:
                    continue
                if slot.expired is not None:
                    if now - slot.expired_at < grace:
                        waits.append(slot.expired_at + grace - now)
                    elif not worker.abandoned:
                        self._lose(worker, slot)
                elif current is None:
                    waits.append(limit)
                elif now - current[1] < limit:
                    waits.append(current[1] + limit - now)
                else:
                    self._expire(worker, slot, current, now)
                    waits.append(grace)
        if self.queue and self.worker is not None and self.worker.ready:
            waits.append(limit)  # for what the thread has not begun
        if waits and not self._closing and self._timer is None:
            self._watch(min(waits) // port.TICKS_PER_MS + 1)

    def _expire(self, worker: Worker, slot: Slot, current: tuple[Event, int], now: int) -> None:
        event = current[0]
        slot.expired = current  # from here on it claims nothing more
        over = slot.current is not current or slot.settled is current
        if over or any(one[1] is current for one in self.pool.done.copy()):
            slot.expired = None  # it was done in this very moment: its outcome counts
            return
        slot.expired_at = now
        slot.context.revoke()
        worker.cancel(slot)
        error = HandlerTimeout(f"still running after {self.function.timeout_ms / 1000:g} s")
        if event._trigger is not None:
            conclude(event._trigger, event, None, error, now - current[1])

    def _lose(self, worker: Worker, slot: Slot) -> None:
        if not slot.cancelled:
            self._abandon(worker, starting=False)
            return
        slot.lost = True
        self._zombies.add(slot)
        self.lost += 1
        worker.write_off(slot)
        self.function.on_abandoned(self.lost, starting=False)

    def _abandon(self, worker: Worker, *, starting: bool) -> None:
        self._give_up(worker)
        self.function.on_abandoned(self.lost, starting=starting)
        self._flush()

    def _give_up(self, worker: Worker) -> None:
        worker.abandoned = True
        for slot in [slot for slot in self._zombies if slot.worker is worker]:
            self._zombies.remove(slot)  # counted with its thread from now on
            self.lost -= 1
        worker.context.revoke()
        self.worker = None
        self._abandoned.append(worker)
        self.lost += 1
        worker.raise_into(HandlerTimeout)
