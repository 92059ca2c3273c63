"""Makes a function of its table: code, contexts, runner, triggers and outputs."""

from __future__ import annotations

from _thread import allocate_lock, start_new_thread
from collections import deque

from .bindings.named import Bindings
from .core import port
from .core.context import Context
from .core.inbox import Trigger
from .core.log import Logger
from .core.worker import ACTIVE, InlineRunner
from .errors import LoadError
from .functions import capture, environment, running
from .functions.function import Function
from .functions.loader import load as load_code
from .logs import FunctionLogger
from .nuclio_sdk.platform import Platform
from .registry import ON_DEMAND
from .supervision.slots import set_event, set_name, start_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .core.event import Event
    from .core.response import Response
    from .functions.calls import Calls
    from .functions.farewell import Farewell
    from .functions.loader import Loaded
    from .manifest.model import FunctionSpec, OutputSpec, TriggerSpec
    from .processor import Processor


IMPORT_PATIENCE_MS = 30_000  # an import that takes longer has failed
_CALLS = allocate_lock()  # for the moment in which the first call is made


class Assembly:
    """What a processor's functions are made with: the pools of threads and asyncio loops, each begun when needed."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.loop = processor.loop
        self.threads: Any = None
        self.asyncs: Any = None
        self.made_calls: Calls | None = None  # once a function has called another
        self.importing = 0  # threads that do; `busy` as long as there is one
        self.farewells: dict[Function, Farewell] = {}
        self.beside: list[Function] = []  # whose first worker starts while an earlier version runs
        self.row: Any = None  # the watchdog's, of the loop's own thread
        self.output_hook: Callable[[OutputSpec, Response, Event], Any] | None = None
        self.recorder: Any = None  # where [record] names triggers
        self._versions: dict[str, int] = {}
        self._begin, self._end = self._begin_inline, self._end_inline  # bound once
        self._invoke = self._call_function  # and for all contexts

    def make(self, spec: FunctionSpec) -> Function:
        """A function of a table, with its number as version; nothing is imported yet."""
        number = self._versions[spec.name] = self._versions.get(spec.name, 0) + 1
        if spec.isolation == "inline":
            self.processor.seat.pin()  # now, not with its runner: by then the loop is on the thread on which it stays
        return Function(spec, str(number), self)

    def load(self, function: Function) -> None:
        """Import the code if it is to be there at the start; what goes wrong is told by the function's own start."""
        if function.spec.load == "start" and function.spec.isolation != "process":
            context = Context()
            context.env = _environment(function)  # os.environ while the module is imported
            self.bind(function, context)
            try:
                function.load()
                function.streams = context._running.streams
                capture.install_hooks()  # the import may have been the first of logging or threading
            except LoadError as error:
                function.load_error = error
            except BaseException as error:  # noqa: BLE001 - a KeyboardInterrupt that the module raises
                function.load_error = LoadError(f"{type(error).__name__} while it is imported")
            finally:
                running.bind(None)

    def load_all(self, functions: Iterable[Function], patience_ms: int) -> None:
        """Import what is to be there at the start, one after the other, on a thread: a module may wait for ever.

        The loop turns meanwhile, so that a signal to stop is heard; then this returns at once. It returns after
        `patience_ms`, too: what is not imported by then begins later, each function when its own import has ended.
        """
        todo = deque(f for f in functions if f.spec.load == "start" and f.spec.isolation != "process")
        if not todo:
            return
        wanted = list(todo)
        over: list[bool] = []
        begun = self.import_on_thread(todo, lambda: over.append(True))
        late = port.ticks_ms() + patience_ms
        while not over and not self.processor.stopping and (left := late - port.ticks_ms()) > 0:
            self.loop.turn(left)
        if self.processor.stopping:
            begun.clear()
        elif not over:
            from .functions.late import Late

            Late(self, wanted, todo, begun, IMPORT_PATIENCE_MS)

    def import_on_thread(self, todo: deque[Function], done: Callable[[], Any]) -> list[int]:
        """Import one after the other on a thread of its own, then call `done()` on the loop.

        Returns when the present import began, in `port.ticks_ms`; emptied by the caller: begin no other one.
        """
        begun = [port.ticks_ms()]
        watchdog = self.processor.watchdog
        row = None
        self.importing += 1
        if watchdog is not None:
            row = watchdog.slots.take()
            watchdog.touch()

        def over() -> None:
            self.importing -= 1
            if watchdog is not None:
                watchdog.renew()
                if row is not None:
                    watchdog.slots.give_back(row)
            done()

        start_new_thread(self._import, (todo, begun, row, over))
        return begun

    def _import(self, todo: deque[Function], begun: list[int], row: Any, over: Callable[[], Any]) -> None:
        try:
            while todo and begun:
                begun[0] = port.ticks_ms()
                function = todo.popleft()
                if row is not None:
                    set_name(row, function.name)
                    start_of(row)[0] = port.clock()
                self.load(function)
        except IndexError:
            pass  # the last one was taken by the thread that came after this one
        finally:
            self.loop.post(over)

    def start_beside(self, function: Function, told: Callable[[BaseException | None], Any], *, warm: bool) -> None:
        """Have a worker start while an earlier version runs, then call `told(error)` on the loop.

        To be `warm` it calls init_context; else it is a process that imports the code and waits. `equip` takes it over,
        `discard` ends it.
        """
        self.beside.append(function)
        function.runner = self.make_runner(function)
        (function.warm if warm else function.runner.load)(told)

    def discard(self, function: Function) -> None:
        """Let go of a function that was loaded and is not to run after all."""
        if function in self.beside:
            self.beside.remove(function)
        function.close()

    def equip(self, function: Function) -> None:
        """Give a function its runner, outputs and triggers."""
        spec = function.spec
        if function.runner is None:
            function.runner = self.make_runner(function)
        else:
            self.beside.remove(function)
        function.outputs = tuple(self._make_output(output) for output in spec.outputs)
        if function.loading:
            function.hold()
        for trigger_spec in spec.triggers:
            trigger = self._make_trigger(function, trigger_spec)
            function.triggers += (trigger,)
            _attach(function, trigger, trigger_spec)
            if trigger_spec.durable or trigger_spec.dead_letter:
                self.processor.make_durable(trigger)
        if self.recorder is not None:
            self.recorder.watch(function)

    def record(self, table: Any) -> None:
        """Record what `[record]` names, from the functions on that are imported after this."""
        if table.triggers and self.recorder is None:
            from .recorder.recorder import Recorder

            self.recorder = Recorder(self.processor)
        if self.recorder is not None:
            self.recorder.configure(table)

    def recorded(self, spec: FunctionSpec) -> bool:
        """Whether a trigger of the function is recorded."""
        return self.recorder is not None and any(self.recorder.wants(trigger) for trigger in spec.triggers)

    def context(self, function: Function, worker: int) -> Context:
        """The context of one worker of a function."""
        spec = function.spec
        manifest = self.processor.manifest
        platform = Platform("edge", manifest.device.namespace, invoke=self._invoke)
        context = Context(None, platform, str(worker))
        context.logger = FunctionLogger(manifest.log.level, spec.name, self.processor.log.emit, context)
        context.function_name = spec.name
        context.function_version = function.version
        context.labels = dict(spec.labels)
        if function.env is None:
            function.env = _environment(function)
        context.env = function.env
        makers = self.binding_makers(spec)
        if self.recorded(spec):
            makers = self.recorder.heard(makers)
        context.bindings = Bindings(context, makers)
        return context

    def calls(self) -> Calls:
        """The source of the events by which functions call each other; from any thread."""
        with _CALLS:
            if self.made_calls is None:
                from .functions.calls import Calls

                self.made_calls = Calls(self.processor)
            return self.made_calls

    def _call_function(self, name: str, event: Event, timeout: float | None) -> Response | None:
        """A platform's way to another function; None when there is none of that name here."""
        return self.calls().invoke(name, event, timeout) if name in self.processor.functions else None

    def logger(self, function: Function) -> Logger:
        """The logger for what is to be said of a function outside its handler."""
        return Logger(self.processor.manifest.log.level, function.name, self.processor.log.emit)

    def import_code(self, function: Function) -> Loaded:
        """Import a function's code; raises LoadError. On whichever thread needs it."""
        spec = function.spec
        loaded = load_code(
            spec.name, module=spec.module, callable=spec.callable, folder=spec.path, file=spec.file, code=spec.code
        )
        if self.recorded(spec):
            from .recorder.witness import watched

            loaded.handler = watched(self.recorder, loaded.handler)
        return loaded

    def noting(self, function: Function) -> Any:
        """The handler of an inline function that is a suspect: each event is noted in what outlives the process."""
        handler, row = function.handler, self.row

        def call(context: Context, event: Event) -> Any:
            set_event(row, event)
            return handler(context, event)

        return handler if row is None else call

    def bind(self, function: Function, context: Context) -> None:
        """Make the present thread run for this function's worker."""
        who = context._running
        if who is None or who.space != function.package:
            before = who
            who = context._running = running.Running(function.name, context.env, context, function.package)
            if before is not None and before.streams:  # it was imported in the meantime
                function.streams = before.streams
            if function.streams:
                who.streams = dict(function.streams)
            running.register(who)
        running.bind(who)

    def _make_trigger(self, function: Function, spec: TriggerSpec) -> Trigger:
        made: type[Trigger] = Trigger
        if spec.rate_limit is not None or spec.order_by is not None:
            from .workers.shaped import ShapedTrigger

            made = ShapedTrigger
        return made(
            function,
            self.processor.sources[spec.source],
            self.loop,
            spec.ledger_id,
            spec.name,
            spec.inbox_size,
            spec.when_full,
            spec.retry.attempts,
            spec.retry.backoff_ms,
            spec.retry.max_backoff_ms,
            spec,
            self.processor.budget,
        )

    def _make_output(self, spec: OutputSpec) -> Callable[[Response, Event], Any]:
        if self.output_hook is not None:
            hook = self.output_hook
            return lambda response, event: hook(spec, response, event)
        source = self.processor.sources[spec.to]
        params = spec.params
        if hasattr(source, "output"):
            return source.output(params)  # type: ignore[no-any-return]  # by the contract of sources
        return lambda response, event: source.send(params, response, event)

    def binding_makers(self, spec: FunctionSpec) -> dict[str, Callable[[Context], Any]]:
        """What a function may write to, by name."""
        names = self.processor.sources if spec.bindings is None else spec.bindings
        makers = {
            name: self.processor.sources[name].binding
            for name in names
            if hasattr(self.processor.sources.get(name), "binding")
        }
        if spec.bindings is None:
            for name in ON_DEMAND:
                if name in self.processor.manifest.sources and name not in makers:
                    makers[name] = self._on_demand(name)
        return makers

    def _on_demand(self, name: str) -> Callable[[Context], Any]:
        return lambda context: self.processor.source_on_demand(name).binding(context)

    def make_runner(self, function: Function) -> Any:
        """What runs a function's handlers, by its isolation."""
        spec = function.spec
        context = function.make_context
        if spec.isolation == "inline":
            return InlineRunner(function, context, self._begin, _whole)
        if spec.isolation == "process":
            from .workers.processes import ProcessRunner

            return ProcessRunner(function, self.loop, context, self.calls)
        if function.is_async or (function.handler is None and _will_be_async(spec)):
            from .workers.aio import AsyncPool, AsyncRunner

            if self.asyncs is None:
                self.asyncs = AsyncPool(self.loop, self.processor.watchdog)
            return AsyncRunner(function, self.asyncs, context)
        from .workers.carriers import Pool
        from .workers.threads import ThreadRunner

        if self.threads is None:
            self.threads = Pool(self.loop, self.processor.watchdog, self.processor.seat)
        return ThreadRunner(function, self.threads, spec.workers_min, spec.workers_max, context)

    def farewell(self, function: Function, limit_ms: int) -> Farewell:
        """The last words of a function that has handled its last event; begun by the first call."""
        found = self.farewells.get(function)
        if found is None:
            from .functions.farewell import Farewell

            found = self.farewells[function] = Farewell(function, limit_ms)
        return found

    def busy(self) -> bool:
        """Whether a handler or an import is running on the loop or on a thread at this moment."""
        if ACTIVE[0] is not None or self.importing or (self.threads is not None and self.threads.busy > 0):
            return True
        return self.asyncs is not None and self.asyncs.busy()

    def close(self) -> None:
        """End the threads that idle; functions have ended theirs."""
        if self.made_calls is not None:
            self.made_calls.close()
        for function in list(self.beside):
            self.discard(function)
        if self.threads is not None:
            self.threads.close()
        if self.asyncs is not None:
            self.asyncs.close()
        if self.recorder is not None:
            self.recorder.close()

    def _begin_inline(self, function: Function, context: Context) -> None:
        """Give the loop's thread to a function, until another one begins or the turn ends."""
        if ACTIVE[0] is None:
            self.loop.at_turn_end(self._end)
        watchdog = self.processor.watchdog
        if watchdog is not None:
            watchdog.begin(self.row, function.name, context._event)
        who = context._running
        if who is None or who.space != function.package:
            self.bind(function, context)
        else:
            running.bind(who)

    def _end_inline(self) -> None:
        """Give the loop's thread back to the processor, after the inline functions of a turn."""
        ACTIVE[0] = None
        running.bind(None)
        if self.processor.watchdog is not None:
            self.processor.watchdog.end(self.row)


def _attach(function: Function, trigger: Any, spec: TriggerSpec) -> None:
    """Have a function handle a trigger's events, as many at a time, in such an order and as fast as its table says."""
    runner: Any = function.runner
    # One worker keeps the order by itself, and so does the loop.
    several = getattr(runner, "concurrency", getattr(runner, "high", 1)) > 1
    order_by = spec.order_by if several else None
    if spec.batch is not None:
        from .workers import batch

        batcher = batch.attach(runner, trigger, spec.batch.size, spec.batch.timeout_ms, order_by)
        function.batchers += (batcher,)
    else:
        runner.attach(trigger)
        if order_by is not None:
            from .workers import ordered

            ordered.attach(runner.queue, trigger, order_by)
    if spec.rate_limit is not None:
        from .workers import rate

        rate.limit(trigger, spec.rate_limit)


def _environment(function: Function) -> environment.Environment:
    """What the function sees as os.environ."""
    spec = function.spec
    handler = f"{spec.module}:{spec.callable}"
    return environment.function_environment(
        spec.name, spec.env, description=spec.description, version=function.version, handler=handler
    )


def _whole(event: Event, result: Any) -> Any:
    from .functions.streams import whole  # not at the start: few inline functions return what needs it

    return whole(event, result)


def _will_be_async(spec: FunctionSpec) -> bool:
    """Whether a handler that is imported later is `async def`, by its text."""
    from .manifest.handler import names_of

    try:
        code = spec.code if spec.code is not None else _read(spec.file or "")
        found = names_of(code, spec.file or "").bound.get(spec.callable)
    except (OSError, SyntaxError):
        return False  # the import will say it
    return found is not None and found.runs_async


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
