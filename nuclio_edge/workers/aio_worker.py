"""The thread of an async function with its asyncio loop, and the slots in which its events are handled; see aio.py."""

from __future__ import annotations

import threading

from nuclio_edge.core import port
from nuclio_edge.core.encode import seal, seal_answers
from nuclio_edge.core.failure import HandlerTimeout
from nuclio_edge.functions.returned import FIRM, WHOLE, is_stream
from nuclio_edge.functions.streams import deliver_async
from nuclio_edge.supervision.slots import set_event

from .asynchronous import raise_into

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event

    from .aio import AsyncRunner

CLOSE_S = 1.0
# How long one slot goes on without letting the others run.
_TURN = port.TICKS_PER_MS


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
        row = worker.row
        noted = 0
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
                if row is not None and (start > noted or function.suspect):
                    set_event(row, event)
                    noted = start + _TURN
                if not worker.beginning:
                    worker.another()
                result: Any = None
                error: BaseException | None = None
                try:
                    result = handler(context, event)
                    if hasattr(type(result), "__await__"):
                        result = await result
                    if type(result) not in WHOLE and is_stream(result):
                        result, error = await deliver_async(runner.pool.loop, event, result)
                    elif result is not None and type(result) not in FIRM and not isinstance(event, list):
                        result = seal(result, event._token is not None or bool(function.outputs))
                    if isinstance(event, list):
                        result = seal_answers(result)
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
        raise_into(self.thread, error)

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
                if hasattr(type(value), "__await__"):
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
            from nuclio_edge.functions.loader import format_user_error

            said = "" if error is None else format_user_error(error, self.runner.function.spec.path)
            self.context.logger.error_with("asyncio: " + what, "error", said)
