"""The composition root: builds the processor from a manifest, opens, runs, replaces, drains and closes it.

Only this file knows which concrete classes make up a processor; everything it builds belongs to the loop's thread.
"""

from __future__ import annotations

import os

from . import capture, environment, running
from .bindings.named import Bindings
from .core.context import Context
from .core.inbox import Budget, Trigger
from .core.log import Logger
from .core.loop import Loop
from .core.worker import ACTIVE, InlineRunner
from .errors import LoadError
from .function import Function
from .ledger import differences, tally
from .loader import load as load_code
from .registry import source_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .core.event import Event
    from .core.response import Response
    from .ledger import Tally
    from .loader import Loaded
    from .logs import Log
    from .manifest.model import FunctionSpec, Manifest, OutputSpec, SourceSpec, TriggerSpec
    from .watchdog import Watchdog

# A source that is still trying to connect for the first time does not hold `ready` back for longer.
READY_PATIENCE_MS = 2_000
LEAST_FLOOR = 8192  # bytes that every inbox may hold however small the budget: some twenty small events
OK, FAULT, UNDRAINED, RESTART = 0, 1, 5, 75


class Host:
    """What a source or binding is given of the processor that it lives in."""

    __slots__ = ("device", "log", "loop", "secret", "state_changed", "state_dir", "stopping")

    def __init__(self, processor: Processor, log: Logger, secret: Callable[[str], bytes]) -> None:
        self.loop = processor.loop
        self.log = log
        self.device = processor.manifest.device
        self.state_dir: str = processor.manifest.device.state_dir
        self.secret = secret
        self.state_changed: Callable[[Any], Any] = processor.source_changed
        self.stopping = False


class Processor:
    """The running whole of one manifest.

    `open()` builds and starts everything and returns; `run()` turns the loop until `stop()` has drained it, and returns
    the exit code. `on_ready` is called once, when functions are loaded and sources open or retrying.
    """

    def __init__(self, manifest: Manifest, log: Log, *, offline: bool = False, guarded: bool = False) -> None:
        self.manifest = manifest
        self.loop = Loop()
        self.watchdog: Watchdog | None = None
        self._guarded = (
            guarded  # a watchdog ends the process when a handler freezes it: `run` wants that, a test does not
        )
        self._row: Any = None
        self.log = log
        self.logger = Logger(manifest.log.level, "nuclio-edge", log.emit)
        self.loop.on_error = self._on_loop_error
        self.sources: dict[str, Any] = {}
        self.functions: dict[str, Function] = {}
        self.retired: list[Function] = []
        self.budget = Budget(manifest.device.memory_budget, 0)
        self.ready = False
        self.on_ready: Callable[[Processor], Any] = _nothing
        self.offline = offline  # nothing is opened: `invoke` runs one event through the real path
        self.exit_code = OK
        self._pool: Any = None
        self._async: Any = None
        self._stopping = False
        self._deadline: Any = None
        self._opened = False
        self._patience = 0
        self._ready_timer: Any = None
        self._closed_tally: list[Tally] = []
        self._versions: dict[str, int] = {}
        self._output_hook: Callable[[OutputSpec, Response, Event], Any] | None = None

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Build sources and functions, load what is to be loaded at start, and open the sources."""
        manifest = self.manifest
        self.log.open(self.loop)
        environment.install()
        capture.install(self.log)
        suspects = self._guard() if self._guarded else []
        for name in self._wanted_sources(manifest):
            self.sources[name] = self._make_source(manifest.sources[name])
        for spec in manifest.functions.values():
            if not spec.disabled:
                function = self._make_function(spec)
                self._load(function)
                self._equip(function)
                self.functions[spec.name] = function
        self._share_budget()
        self._route()
        for function in self.functions.values():
            if function.name in suspects:
                function.on_froze()
            else:
                function.start()
        if not self.offline:
            for source in self.sources.values():
                source.open()
        self._patience = self.loop.now + READY_PATIENCE_MS
        self._opened = True
        self._check_ready()

    def intercept(self, hook: Callable[[OutputSpec, Response, Event], Any]) -> None:
        """Give what outputs would send to `hook` instead; before `open`."""
        self._output_hook = hook

    def run(self) -> int:
        """Turn the loop until `stop` is done with its work; returns the exit code."""
        self.loop.run()
        return self.exit_code

    def source_changed(self, _source: Any) -> None:
        """A source has opened, or lost or regained its connection."""
        self._check_ready()

    # -- stopping -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Take nothing more in, let what was admitted come to its end within `stop_timeout`, then close everything."""
        if self._stopping:
            return
        self._stopping = True
        for source in self.sources.values():
            source.stop_receiving()
        self._deadline = self.loop.now + self.manifest.device.stop_timeout_ms
        self._drain()

    def _drain(self) -> None:
        busy = [f for f in self._all_functions() if not f.runner.drain() or any(t.pending for t in f.triggers)]
        unsent = [s for s in self.sources.values() if not getattr(s, "sent", _yes)()]
        if (busy or unsent) and self.loop.now < self._deadline:
            self.loop.call_later(5, self._drain)
            return
        if busy:
            self.exit_code = UNDRAINED
            self.logger.warn_with(
                "stopped with events undrained", "functions", ", ".join(sorted({f.name for f in busy}))
            )
        self.close()
        self.loop.stop()

    def close(self) -> None:
        """Close sources and functions; idempotent. What is still pending stays unsettled, for the broker to send again."""
        for source in self.sources.values():
            try:
                source.close()
            except Exception as error:  # noqa: BLE001 - the others are closed all the same
                self._on_loop_error(error, source.close)
        self._closed_tally.append(self.tally())
        wrong = differences(self.tally())
        if wrong:
            self.exit_code = FAULT
            for text in wrong:
                self.logger.error_with("the ledger does not balance: a defect of nuclio-edge", "difference", text)
        for function in self._all_functions():
            function.close()
        stuck = sum(getattr(function.runner, "lost", 0) for function in self._all_functions())
        if self._pool is not None:
            self._pool.close()
            if stuck and self.exit_code == OK:
                self.exit_code = RESTART
        if self._async is not None:
            self._async.close()
        self.sources = {}
        self.functions = {}
        self.retired = []
        if self.watchdog is not None:
            self.watchdog.close()
        capture.uninstall()
        environment.uninstall()
        self.log.close()

    # -- replacing ----------------------------------------------------------------------------------------------------

    def replace(self, spec: FunctionSpec, done: Callable[[], Any] = lambda: None) -> None:
        """Put a function's new version in the place of the running one, which drains beside it; no event is dropped.

        The new code is imported on a thread of its own; `done()` is called on the loop when the route is switched.
        """
        new = self._make_function(spec)

        def switch() -> None:
            self._install(new)
            self._route()
            done()

        self._import_beside([new], switch)

    def reload(
        self,
        manifest: Manifest,
        changed_code: Iterable[str] = (),
        done: Callable[[list[str]], Any] = lambda lines: None,
    ) -> None:
        """Become another manifest: unchanged tables keep running untouched.

        `changed_code` names functions whose files changed. `done(lines)` is called on the loop with what was done.
        """
        before = self.manifest
        wanted = self._wanted_sources(manifest)
        fresh = {
            name for name in wanted if before.sources.get(name) != manifest.sources[name] or name not in self.sources
        }
        code = set(changed_code)
        changed = []
        for spec in manifest.functions.values():
            old = self.functions.get(spec.name)
            moved = any(t.source in fresh for t in spec.triggers) or any(o.to in fresh for o in spec.outputs)
            if not spec.disabled and (old is None or old.spec != spec or spec.name in code or moved):
                changed.append(self._make_function(spec))

        def switch() -> None:
            done(self._become(manifest, wanted, fresh, changed))

        self._import_beside(changed, switch)

    def _become(self, manifest: Manifest, wanted: list[str], fresh: set[str], changed: list[Function]) -> list[str]:
        lines: list[str] = []
        if self._stopping:
            return lines
        before, self.manifest = self.manifest, manifest
        if before.device != manifest.device:
            lines.append("[device] changed: that needs a restart")
        old_sources = self.sources
        self.sources = {
            name: self._make_source(manifest.sources[name]) if name in fresh else old_sources[name] for name in wanted
        }
        for function in changed:
            old = self.functions.get(function.name)
            lines.append(f"function {function.name} {'added' if old is None else 'replaced'}")
            self._install(function)
        for name in list(self.functions):
            if name not in manifest.functions or manifest.functions[name].disabled:
                self._retire(self.functions.pop(name))
                lines.append(f"function {name} removed")
        self._share_budget()
        self._route()
        for name, source in old_sources.items():
            if self.sources.get(name) is not source:
                source.stop_receiving()
                self._close_when_settled(source)
                lines.append(f"source {name} {'reopened' if name in self.sources else 'closed'}")
        for name in fresh:
            self.sources[name].open()
            if name not in old_sources:
                lines.append(f"source {name} opened")
        return lines

    def _install(self, function: Function) -> None:
        old = self.functions.get(function.name)
        self._equip(function)
        self.functions[function.name] = function
        function.start()
        if old is not None:
            self._retire(old)

    def _import_beside(self, functions: list[Function], then: Callable[[], Any]) -> None:
        """Import on a thread, so that the loop goes on, then call `then` on the loop."""

        def work() -> None:
            for function in functions:
                self._load(function)
            self.loop.post(then)

        import threading

        threading.Thread(target=work, name="import", daemon=True).start()

    def _load(self, function: Function) -> None:
        """Import the code if it is to be there at the start; what goes wrong is told by the function's own start."""
        if function.spec.load == "start":
            context = Context()
            context.env = _environment(function)  # os.environ while the module is imported
            function.bind(context)
            try:
                function.load()
            except LoadError as error:
                function.load_error = error
            finally:
                running.bind(None)

    def _retire(self, function: Function) -> None:
        self.retired.append(function)
        self.loop.call_later(0, lambda: self._let_go(function))  # after the turn that still holds its events

    def _let_go(self, function: Function) -> None:
        if function not in self.retired:
            return
        if function.runner.drain() and not any(trigger.pending for trigger in function.triggers):
            self.retired.remove(function)
            self._closed_tally.append(tally((), function.triggers))
            function.close()
        else:
            self.loop.call_later(50, lambda: self._let_go(function))

    def _close_when_settled(self, source: Any) -> None:
        """Close a source that the manifest no longer has, once nothing of it is pending."""
        if (
            any(t.pending for f in self._all_functions() for t in f.triggers if t.source is source)
            and not self._stopping
        ):
            self.loop.call_later(50, lambda: self._close_when_settled(source))
            return
        self._closed_tally.append(tally((source,), ()))
        source.close()

    # -- counting -----------------------------------------------------------------------------------------------------

    def tally(self) -> Tally:
        """What was received, handled, failed and shed up to now, over everything that ran in this process."""
        if not self.functions and not self.sources and self._closed_tally:
            return tally((), (), self._closed_tally)
        triggers = [trigger for function in self._all_functions() for trigger in function.triggers]
        return tally(self.sources.values(), triggers, self._closed_tally)

    # -- building -----------------------------------------------------------------------------------------------------

    def _wanted_sources(self, manifest: Manifest) -> list[str]:
        """Every declared source, and those without a table (the clock) that something uses."""
        used = {t.source for f in manifest.functions.values() if not f.disabled for t in f.triggers}
        return [name for name, spec in manifest.sources.items() if spec.kind != "timer" or name in used]

    def _make_source(self, spec: SourceSpec) -> Any:
        made = source_class(spec.kind)
        host = Host(self, self.logger.get_child(spec.name), self._secret)
        return made(spec.name, spec.params, host)

    def _secret(self, name: str) -> bytes:
        from .manifest.secrets import read_secret

        return read_secret(name, self.manifest.device.secrets_dir)

    def _make_function(self, spec: FunctionSpec) -> Function:
        number = self._versions[spec.name] = self._versions.get(spec.name, 0) + 1

        def load() -> Loaded:
            return load_code(
                spec.name,
                module=spec.module,
                callable=spec.callable,
                folder=spec.path,
                file=spec.file,
                code=spec.code,
            )

        logger = Logger(self.manifest.log.level, spec.name, self.log.emit)
        return Function(spec, str(number), self.loop, logger, load, _bind)

    def _equip(self, function: Function) -> None:
        """Give a function its runner, outputs and triggers."""
        spec = function.spec
        env = _environment(function)
        makers = self._binding_makers(spec)

        def make_context(worker: int) -> Context:
            context = Context(None, None, str(worker))
            context.logger = Logger(self.manifest.log.level, spec.name, self.log.emit, context)
            context.function_name = spec.name
            context.function_version = function.version
            context.labels = dict(spec.labels)
            context.env = env
            context.bindings = Bindings(context, makers)
            return context

        function.runner = self._make_runner(function, make_context)
        for output in spec.outputs:
            function.outputs.append(self._make_output(output))
        for trigger_spec in spec.triggers:
            trigger = self._make_trigger(function, trigger_spec)
            function.triggers.append(trigger)
            function.runner.attach(trigger)

    def _make_trigger(self, function: Function, spec: TriggerSpec) -> Trigger:
        return Trigger(
            function,
            self.sources[spec.source],
            self.loop,
            spec.ledger_id,
            spec.name,
            spec.inbox_size,
            spec.when_full,
            spec.retry.attempts,
            spec.retry.backoff_ms,
            spec.retry.max_backoff_ms,
            spec,
            self.budget,
        )

    def _make_output(self, spec: OutputSpec) -> Callable[[Response, Event], Any]:
        if self._output_hook is not None:
            hook = self._output_hook
            return lambda response, event: hook(spec, response, event)
        source = self.sources[spec.to]
        params = spec.params
        return lambda response, event: source.send(params, response, event)

    def _binding_makers(self, spec: FunctionSpec) -> dict[str, Callable[[Context], Any]]:
        names = self.sources if spec.bindings is None else spec.bindings
        return {name: self.sources[name].binding for name in names if hasattr(self.sources.get(name), "binding")}

    def _make_runner(self, function: Function, context: Callable[[int], Context]) -> Any:
        spec = function.spec
        if spec.isolation == "inline":
            return InlineRunner(function, context(0), self._begin_inline, self._end_inline)
        if spec.isolation == "process":
            from .processes import ProcessRunner

            return ProcessRunner(function, self.loop, context)
        if function.is_async or (function.handler is None and _will_be_async(spec)):
            from .aio import AsyncPool, AsyncRunner

            if self._async is None:
                self._async = AsyncPool(self.loop)
            return AsyncRunner(function, self._async, context)
        from .threads import Pool, ThreadRunner

        if self._pool is None:
            self._pool = Pool(self.loop, self.watchdog)
        return ThreadRunner(function, self._pool, spec.workers_min, spec.workers_max, context)

    def _guard(self) -> list[str]:
        """Begin to watch over frozen handlers; returns the functions that were running when the last process froze."""
        from .watchdog import Watchdog

        limits = [spec.timeout_ms for spec in self.manifest.functions.values() if spec.isolation != "process"]
        self.watchdog = Watchdog(self.loop, self.manifest.device.state_dir, min(limits, default=30_000))
        self.watchdog.watch(lambda: ACTIVE[0] is not None or (self._pool is not None and self._pool.busy > 0))
        self._row = self.watchdog.slots.take()
        report, running_then = self.watchdog.last()
        if not report:
            return []
        self.logger.error_with(
            "the last process was ended because a handler froze it",
            "running",
            ", ".join(running_then) or "unknown",
            "report",
            os.path.join(self.manifest.device.state_dir, "crash.last.txt"),
        )
        return running_then[:1]

    def _begin_inline(self, function: Function) -> None:
        if self.watchdog is not None:
            self.watchdog.begin(self._row, function.name)

    def _end_inline(self) -> None:
        """Give the loop's thread back to the processor, after the inline functions of a turn."""
        ACTIVE[0] = None
        running.bind(None)
        if self.watchdog is not None:
            self.watchdog.end(self._row)

    def _share_budget(self) -> None:
        count = sum(len(function.triggers) for function in self.functions.values())
        # Half of the budget is shared out as floors, so that a flooded inbox cannot starve the others of memory.
        self.budget.floor = max(self.budget.limit // 2 // max(count, 1), LEAST_FLOOR)

    def _route(self) -> None:
        for source in self.sources.values():
            source.routes([t for function in self.functions.values() for t in function.triggers if t.source is source])

    def _all_functions(self) -> list[Function]:
        return [*self.functions.values(), *self.retired]

    def _check_ready(self) -> None:
        if self.ready or self._stopping or not self._opened:
            return
        if self._ready_timer is not None:
            self._ready_timer.cancel()
            self._ready_timer = None
        waiting = [f for f in self.functions.values() if not f.settled()]
        connecting = [s for s in self.sources.values() if s.state == "connecting" and getattr(s, "attempts", 0) < 2]
        if not self.offline and (waiting or (connecting and self.loop.now < self._patience)):
            self._ready_timer = self.loop.call_later(20, self._check_ready)
            return
        self.ready = True
        self.on_ready(self)

    def _on_loop_error(self, error: BaseException, call: Any) -> None:
        from .core.port import error_text

        self.logger.error_with(
            "a defect of nuclio-edge", "where", getattr(call, "__qualname__", repr(call)), "error", error_text(error)
        )
        if self.exit_code == OK:
            self.exit_code = FAULT


def _bind(function: Function, context: Context) -> None:
    """Make the present thread run for this function's worker."""
    who = context._running
    if who is None or who.space != function.package:
        who = context._running = running.Running(function.name, context.env, context, function.package)
        running.register(who)
    running.bind(who)


def _environment(function: Function) -> environment.Environment:
    """What the function sees as os.environ."""
    spec = function.spec
    handler = f"{spec.module}:{spec.callable}"
    return environment.function_environment(
        spec.name, spec.env, description=spec.description, version=function.version, handler=handler
    )


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


def _nothing(_processor: Processor) -> None:
    pass


def _yes() -> bool:
    return True
