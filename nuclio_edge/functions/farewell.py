"""What a function's workers do last: the callbacks that they gave to `context.platform`, for drain and termination.

Laws:
- They are called when a version of a function has handled its last event: at a stop, and when a reload has put another
  one in its place or taken it out. First drain, then termination, once for each worker, where its handler ran: on the
  thread that its objects may be bound to, in its process, on its asyncio loop, inline on the loop.
- One that raises is logged, and changes nothing. What has not ended in time is given up like a handler at its timeout.
- All here runs on the loop but `part` and what a thread is given.
"""

from __future__ import annotations

from nuclio_edge.core import port
from nuclio_edge.core.failure import HandlerTimeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.workers.aio import AsyncRunner
    from nuclio_edge.workers.processes import ProcessRunner
    from nuclio_edge.workers.thread_worker import Worker
    from nuclio_edge.workers.threads import ThreadRunner

    from .function import Function

KINDS = ("drain", "termination")


class Farewell:
    """The last words of one function; `over` when all of its workers have spoken, or were not waited for any more."""

    def __init__(self, function: Function, limit_ms: int) -> None:
        self.over = False
        self._function = function
        self._left: set[Any] = set()
        self._give_up: dict[Any, Callable[[], Any]] = {}
        limit_ms = min(limit_ms, function.timeout_ms)
        self._limit = f"{limit_ms / 1000:g} s"
        runner = function.runner
        kind = type(runner).__name__
        if function.suspended is None and kind in _WAYS:
            _WAYS[kind](self, runner)
        self._timer = function.loop.call_later(max(limit_ms, 1), self.expire) if self._left else None
        self.over = not self._left

    def expire(self) -> None:
        """Wait no longer."""
        if self.over:
            return
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        for who in list(self._left):
            self._function.logger.error_with("drain and termination callbacks still running", "after", self._limit)
            self._give_up[who]()

    def _expect(self, who: Any, give_up: Callable[[], Any]) -> None:
        self._left.add(who)
        self._give_up[who] = give_up

    def _done(self, who: Any) -> None:
        self._left.discard(who)
        if not self._left and self._timer is not None:
            self._timer.cancel()
            self.over = True

    def _on_loop(self, runner: Any) -> None:
        context = runner.context
        if runner.ready and wanted(context):
            runner.take()
            part(context, self._function.spec.path)

    def _on_threads(self, runner: ThreadRunner) -> None:
        for worker in runner.workers:
            if worker.ready and not worker.busy and wanted(worker.context):
                last = Last(worker, self._done)
                self._expect(last, last.give_up)
                last.begin()

    def _on_asyncio(self, runner: AsyncRunner) -> None:
        worker = runner.worker
        if worker is None or not worker.ready or worker.running or not wanted(worker.context):
            return
        function, loop = self._function, self._function.loop
        tasks: list[Any] = []

        async def last() -> None:
            import asyncio

            awaited: list[Any] = []
            try:
                function.bind(worker.context)
                for kind in KINDS:
                    part(worker.context, function.spec.path, awaited.append, (kind,))
                    while awaited:
                        try:
                            await awaited.pop()
                        except asyncio.CancelledError:
                            raise
                        except BaseException as error:  # noqa: BLE001 - sys.exit is a failure of the callback
                            tell(worker.context, kind, error, function.spec.path)
            finally:
                loop.post(lambda: self._done(worker))

        def begin() -> None:
            tasks.append(worker.aio.create_task(last()))  # type: ignore[union-attr]  # we are running on it

        self._expect(worker, lambda: worker._call(lambda: [task.cancel() for task in tasks]))
        worker._call(begin)

    def _in_processes(self, runner: ProcessRunner) -> None:
        runner._closing = True  # one that ends now is not replaced
        for child in runner.children:
            if child.ready and not child.dying and not child.inflight:
                self._expect(child, child.kill)
                child.part(self._done)
                child.flush()


_WAYS: dict[str, Callable[[Farewell, Any], None]] = {
    "InlineRunner": Farewell._on_loop,
    "ThreadRunner": Farewell._on_threads,
    "AsyncRunner": Farewell._on_asyncio,
    "ProcessRunner": Farewell._in_processes,
}


class Last:
    """The last job of a worker's thread: carried in the worker's place, see workers/carriers.py."""

    __slots__ = ("_done", "abandoned", "carrier", "over", "runner", "told", "worker")

    def __init__(self, worker: Worker, done: Callable[[Any], Any]) -> None:
        self.worker = worker
        self.runner = worker.runner
        self.carrier: Any = None
        self.abandoned = self.told = False  # as a Worker's
        self.over = False  # the callbacks are; before the thread looks at `abandoned`
        self._done = done

    @property
    def awaiter(self) -> Any:
        """The worker's."""
        return self.worker.awaiter

    def begin(self) -> None:
        """Have the worker's own thread do it, or any where it has none: then nothing is bound to one."""
        pool, worker = self.runner.pool, self.worker
        carrier = worker.carrier
        if carrier is not None and carrier is pool.seat.carrier:
            if worker.holds_state():
                if not pool.seat.leave(worker):  # its thread turns the loop at present
                    self._give_in()
                    return
            else:
                carrier.worker = None
                carrier = None
        if carrier is None or carrier.worker is not worker:
            carrier = pool._new(worker)
            if carrier is None:
                self._give_in()
                return
            worker.carrier = carrier
        pool.idle.pop(carrier, None)
        pool.busy += 1
        if pool.watchdog is not None:
            pool.watchdog.touch()
        carrier.take(self)  # type: ignore[arg-type]  # as good as a worker to it
        carrier.go.release()

    def carry(self) -> tuple[BaseException | None, bool]:
        """Call the callbacks; returns None, and whether the thread is to end; on the thread. As a Worker's."""
        function = self.runner.function
        try:
            self.carrier.started[0] = port.clock()
            function.bind(self.worker.context)
            part(self.worker.context, function.spec.path, self.worker.wait_for)
        except HandlerTimeout:
            pass
        self.over = True
        ended = self.abandoned
        if ended:
            from nuclio_edge.workers.thread_worker import outlast

            outlast(self)
            self.worker.close()
        self.carrier.started[0] = 0
        return None, ended

    def holds_state(self) -> bool:
        """Whether the thread is to take up no other worker: it ends with this one."""
        return True

    def hand_back(self, error: BaseException | None, ended: bool) -> None:
        """Tell the loop; on the thread."""
        self.runner.pool.loop.post(lambda: self._handed_back(ended))

    def give_up(self) -> None:
        """Wait no longer: the thread ends with the callback, if that ever ends."""
        runner, worker = self.runner, self.worker
        self.abandoned = True
        worker.carrier = None
        worker.context.revoke()
        runner.lost += 1
        runner.pool.lose()
        if not self.over:
            self.carrier.raise_into(HandlerTimeout, self)
        else:
            self.told = True

    def _give_in(self) -> None:
        """There is no thread to be had, which was logged: the callbacks are not called."""
        self.runner.pool.loop.post(lambda: self._done(self))

    def _handed_back(self, ended: bool) -> None:
        pool = self.runner.pool
        if self.abandoned:
            pool.abandoned -= 1
            self.runner.lost -= 1
            if self.carrier.row is not None and pool.watchdog is not None:
                pool.watchdog.slots.give_back(self.carrier.row)
            if not ended:  # it was over in the moment in which it was given up
                self.carrier.worker = None
                self.carrier.go.release()
        else:
            pool.busy -= 1
            self.carrier.worker = self.worker
            self._done(self)


def wanted(context: Context | None) -> bool:
    """Whether a worker has something to say."""
    platform = None if context is None else context.platform
    return platform is not None and (platform._drain_callback is not None or platform._termination_callback is not None)


def part(context: Context, path: str, wait: Callable[[Any], Any] | None = None, kinds: tuple[str, ...] = KINDS) -> None:
    """Call a worker's callbacks, where its handler runs; `wait(awaitable)` is for what an async one returns."""
    context._event = None
    for kind in kinds:
        try:
            value = context.platform._on_signal(kind)
            if hasattr(type(value), "__await__"):
                if wait is None:
                    from .awaiter import run_once

                    wait = run_once
                wait(value)
        except HandlerTimeout:
            return  # given up, which was said
        except BaseException as error:  # noqa: BLE001 - sys.exit is a failure of the callback
            tell(context, kind, error, path)


def tell(context: Context, kind: str, error: BaseException, path: str) -> None:
    """Log what a callback has raised."""
    from .loader import format_user_error

    context.logger.error_with(f"the {kind} callback has failed", "error", format_user_error(error, path))
