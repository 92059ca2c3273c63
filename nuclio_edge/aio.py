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
import threading
from collections import deque

from .carriers import SWITCH_S
from .core import port
from .core.failure import HandlerTimeout
from .core.worker import conclude
from .queues import Queue
from .watchdog import set_name, start_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

    from .core.context import Context
    from .core.event import Event
    from .core.inbox import Trigger
    from .core.loop import Loop
    from .function import Function
    from .watchdog import Watchdog

CONCURRENCY = 100
# How long a cancelled task may take to clean up, and a thread to come round to cancelling it.
GRACE_MS = 1_000
CLOSE_S = 1.0
# How long one slot goes on without letting the others run.
_TURN = port.TICKS_PER_MS


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


class Slot:
    """A place in which one event at a time is handled; its task lives while there is something to do."""

    __slots__ = (
        "cancelled",
        "context",
        "current",
        "expired",
        "expired_at",
        "lost",
        "runner",
        "settled",
        "task",
        "worker",
        "written_off",
    )

    def __init__(self, worker: Worker, context: Context) -> None:
        self.worker = worker
        self.runner = worker.runner
        self.context = context
        self.task: asyncio.Task[None] | None = None
        self.current: tuple[Event, int] | None = None  # replaced as a whole: the loop reads it at any moment
        self.settled: tuple[Event, int] | None = None  # the loop's; a late HandlerTimeout can bring an outcome twice
        self.expired: tuple[Event, int] | None = None  # failed by timeout, the loop says; nothing more is handled here
        self.expired_at = 0
        self.lost = False  # the loop's
        self.cancelled = False  # the thread has come round to it
        self.written_off = False  # the thread's

    async def serve(self) -> None:
        """Handle what is queued; on the function's asyncio thread."""
        from asyncio import sleep

        worker = self.worker
        runner = worker.runner
        function = runner.function
        context = self.context
        handler = function.handler
        clock = port.clock
        claim = runner.queue.claim
        done = runner.pool.done
        started = worker.started
        tainted = getattr(self.task, "cancelling", self.must_cancel)  # asked by somebody to end; Python 3.11
        function.bind(context)
        current: tuple[Event, int] | None = None
        start = turn = clock()
        try:
            while self.expired is None and not worker.abandoned and not worker.finishing:
                try:
                    event = claim()
                except IndexError:
                    break
                current = self.current = (event, start)
                started[0] = start
                context._event = event
                if not worker.beginning:
                    worker.another()
                result: Any = None
                error: BaseException | None = None
                try:
                    result = handler(context, event)
                    if hasattr(result, "__await__"):
                        result = await result
                except BaseException as caught:  # noqa: BLE001 - sys.exit of a handler is a failure of that handler
                    error = caught
                end = clock()
                done.append((self, current, result, error, end - start))
                current = None
                if tainted():
                    break
                start = end
                if end - turn > _TURN:
                    worker.hand_back()
                    self.current = None
                    await sleep(0)
                    start = turn = clock()
        finally:
            if current is not None:  # by a HandlerTimeout that was meant for another handler of this thread
                done.append((self, current, None, HandlerTimeout("its thread was given up"), clock() - current[1]))
            self.current = None
            context._event = None
            worker.vacate(self)

    def must_cancel(self) -> bool:
        """Whether the task is to be cancelled at its next step, as Python 3.10 tells it."""
        return bool(getattr(self.task, "_must_cancel", False))


class Worker:
    """The thread of an async function with its asyncio loop; what is not said to be the loop's runs on that thread."""

    def __init__(self, runner: AsyncRunner, context: Context, number: int) -> None:
        self.runner = runner
        self.context = context
        self.number = number
        self.ready = False
        self.begun = 0  # clock of the start of import and init_context; 0 when they are over
        self.abandoned = False  # by the loop
        self.ending = False  # by the loop
        self.running: dict[Slot, None] = {}
        self.row: Any = None  # where the watchdog reads since when something runs here
        self.started: Any = [0]
        self.aio: asyncio.AbstractEventLoop | None = None
        self._free: list[Slot] = []
        self._zombies = 0
        self._kicked = False
        self.beginning = False
        self._handing = False
        self.finishing = False
        self._final: asyncio.Task[None] | None = None
        self.thread = threading.Thread(target=self._run, name=f"async-{runner.function.name}", daemon=True)

    # -- called by the processor's loop -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread: import, init_context, then whatever is queued."""
        self.begun = port.clock()
        self.runner.pool.begin(self)
        self.started[0] = self.begun
        self.thread.start()

    def kick(self) -> None:
        """Have the queue looked at; costs a system call once a burst."""
        if not self._kicked:
            self._kicked = True
            self._call(self._pump)

    def cancel(self, slot: Slot) -> None:
        """Have a slot's task cancelled."""
        self._call(lambda: self._cancel(slot))

    def write_off(self, slot: Slot) -> None:
        """Give the place of a slot whose task swallows cancellation to another one."""
        self._call(lambda: self._write_off(slot))

    def end(self) -> None:
        """Have every task cancelled and the thread end."""
        self.ending = True
        self._call(self._finish)

    def raise_into(self, error: type[BaseException]) -> None:
        """Raise an exception in the thread at its next bytecode; what waits in C does not notice."""
        import ctypes

        ident = self.thread.ident
        if ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error))

    def _call(self, call: Callable[[], Any]) -> None:
        aio = self.aio
        if aio is not None:
            from contextlib import suppress

            with suppress(RuntimeError):  # it has just been closed: the thread is over
                aio.call_soon_threadsafe(call)

    # -- on the asyncio thread ----------------------------------------------------------------------------------------

    def another(self) -> None:
        """Let one more slot begin, should the present one suspend while there is more to do."""
        if not self.beginning and self.runner.queue:
            self.beginning = True
            self.aio.call_soon(self._begin)  # type: ignore[union-attr]  # we are running on it

    def hand_back(self) -> None:
        """Wake the loop for outcomes, once a turn of this one."""
        if self.finishing:
            self.runner.pool.loop.wake()
        elif not self._handing:
            self._handing = True
            self.aio.call_soon(self._handed)  # type: ignore[union-attr]  # as above

    def vacate(self, slot: Slot) -> None:
        """A slot's task is about to end."""
        slot.task = None
        self.running.pop(slot, None)
        if not self.running:
            self.started[0] = 0
        if slot.written_off:
            self._zombies -= 1
        if slot.expired is not None or slot.context._revoked:
            self.runner.pool.done.append((slot, None, None, None, 0))
        else:
            self._free.append(slot)
        self.hand_back()
        if self.abandoned:
            if not self.running:
                self._finish()
        else:
            self._pump()

    def _run(self) -> None:
        import asyncio

        aio = asyncio.new_event_loop()
        aio.set_exception_handler(self._report)
        first = aio.create_task(self._prepare())
        self.aio = aio
        if self.ending:
            self._finish()
        error: BaseException | None = None
        try:
            while not self.finishing or self._final is not None:
                try:
                    aio.run_forever()
                except BaseException as caught:  # noqa: BLE001 - sys.exit in a background task, or a late HandlerTimeout
                    self._say("a background task ended by", caught)
                    if self.abandoned and not self.running:
                        self._finish()
            if first.done() and not first.cancelled():
                error = first.exception()
            aio.close()
        except BaseException as caught:  # noqa: BLE001 - a HandlerTimeout that arrives late
            error = error or caught
        finally:
            pool = self.runner.pool
            pool.done.append((self, None, None, error, 0))
            pool.loop.wake()

    async def _prepare(self) -> None:
        function = self.runner.function
        context = self.context
        try:
            function.bind(context)
            if function.handler is None:
                function.load()
                function.bind(context)
            if function.init_context is not None:
                value = function.init_context(context)
                if hasattr(value, "__await__"):
                    await self._in_time(value)
            self.ready = True
            self.begun = self.started[0] = 0
            self.runner.pool.loop.post(function.on_started)
        finally:
            if not self.ready:
                self._finish()
        self.aio.call_soon(self._pump)  # type: ignore[union-attr]  # we are running on it

    async def _in_time(self, value: Any) -> None:
        from asyncio import ensure_future, wait

        task = ensure_future(value)
        done, _ = await wait((task,), timeout=self.runner.function.timeout_ms / 1000)
        if not done:
            task.cancel()
            raise HandlerTimeout(f"init_context still running after {self.runner.function.timeout_ms / 1000:g} s")
        await task

    def _pump(self) -> None:
        self._kicked = False
        if not self.beginning and self.runner.queue:
            self._begin()

    def _begin(self) -> None:
        self.beginning = False
        if not self.ready or self.abandoned or self.finishing:
            return
        if self.runner.queue and len(self.running) - self._zombies < self.runner.concurrency:
            slot = self._free.pop() if self._free else self._new_slot()
            self.running[slot] = None
            slot.task = self.aio.create_task(slot.serve())  # type: ignore[union-attr]  # as above

    def _new_slot(self) -> Slot:
        context = self.runner.make_context(self.number)
        mine = self.context
        context.user_data = mine.user_data
        context.platform = mine.platform
        context.logger._bound = mine.logger._bound
        return Slot(self, context)

    def _cancel(self, slot: Slot) -> None:
        slot.cancelled = True
        if slot.task is not None:
            slot.task.cancel()

    def _write_off(self, slot: Slot) -> None:
        if slot in self.running:
            slot.written_off = True
            self._zombies += 1
            self._pump()

    def _handed(self) -> None:
        self._handing = False
        self.runner.pool.loop.wake()

    def _finish(self) -> None:
        if not self.finishing and self.aio is not None:
            self.finishing = True
            self._final = self.aio.create_task(self._end())

    async def _end(self) -> None:
        from asyncio import all_tasks, current_task, wait

        try:
            others = [task for task in all_tasks() if task is not current_task()]
            for task in others:
                task.cancel()
            if others:
                await wait(others, timeout=CLOSE_S / 2)
            await self.aio.shutdown_asyncgens()  # type: ignore[union-attr]  # as above
        finally:
            self._final = None
            self.aio.stop()  # type: ignore[union-attr]  # as above

    def _report(self, _aio: Any, about: dict[str, Any]) -> None:
        self._say(str(about.get("message")), about.get("exception"))

    def _say(self, what: str, error: BaseException | None) -> None:
        if not self.finishing and not self.abandoned:
            from .loader import format_user_error

            said = "" if error is None else format_user_error(error, self.runner.function.spec.path)
            self.context.logger.error_with("asyncio: " + what, "error", said)


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
        if self.lost == 0 and not self._closing:
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
        if waits and not self._closing and self._timer is None:
            self._watch(min(waits) // port.TICKS_PER_MS + 1)

    def _expire(self, worker: Worker, slot: Slot, current: tuple[Event, int], now: int) -> None:
        event = current[0]
        slot.expired = current  # from here on it claims nothing more
        if slot.current is not current or any(one[1] is current for one in self.pool.done.copy()):
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
