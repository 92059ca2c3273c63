"""The composition root: builds the processor from a manifest, opens, runs, replaces, drains and closes it.

Only this file knows which concrete classes make up a processor; everything it builds belongs to the loop's thread.
"""

from __future__ import annotations

import os
from _thread import allocate_lock, get_ident

from .assembly import IMPORT_PATIENCE_MS, Assembly
from .clock import CLOCK
from .core.inbox import Budget
from .core.log import Logger
from .core.loop import Loop
from .functions import capture, environment
from .ledger import Gone, counted, tally
from .registry import source_class
from .stop import Stop
from .workers import forks
from .workers.seat import Seat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .admin.admin import Admin
    from .core.event import Event
    from .core.inbox import Trigger
    from .core.response import Response
    from .delivery.delivery import Delivery
    from .functions.function import Function
    from .ledger import Tally
    from .logs import Log
    from .manifest.model import FunctionSpec, Manifest, OutputSpec, SourceSpec
    from .supervision.crash import End
    from .supervision.suspects import Suspects
    from .supervision.watchdog import Watchdog

# Longer than this no import holds the start back; and `ready`, after it, no source that still tries to connect for the
# first time, and no worker that still starts.
READY_PATIENCE_MS = 2_000
ON_DEMAND_PATIENCE_S = 10  # of a handler's thread, for the loop to open a source
LEAST_FLOOR = 8192  # bytes that every inbox may hold however small the budget: some twenty small events
OK, FAULT, RESTART = 0, 1, 75


class Host:
    """What a source or binding is given of the processor that it lives in."""

    __slots__ = ("budget", "delivery", "device", "log", "loop", "secret", "state_changed", "state_dir", "stopping")

    def __init__(self, processor: Processor, log: Logger, secret: Callable[[str], bytes]) -> None:
        self.loop = processor.loop
        self.log = log
        self.budget = processor.budget  # for what a source holds before it is an event
        self.device = processor.manifest.device
        self.state_dir: str = processor.manifest.device.state_dir
        self.secret = secret
        self.state_changed: Callable[[Any], Any] = processor.source_changed
        self.stopping = False
        self.delivery = processor.delivery  # where a publisher keeps what cannot be sent; None: in memory only


class Processor:
    """The running whole of one manifest.

    `open()` builds and starts everything and returns; `run()` turns the loop until `stop()` has drained it, and returns
    the exit code. `on_ready` is called once, when functions are loaded and sources open or retrying.
    """

    keeps = True  # in its state directory, what is durable; to be set before `open`

    def __init__(self, manifest: Manifest, log: Log, *, offline: bool = False, guarded: bool = False) -> None:
        self.manifest = manifest
        self.loop = Loop()
        self.loop.thread = get_ident()
        self.seat = Seat(self.loop)
        self.watchdog: Watchdog | None = None
        self.last_end: End | None = None  # how the last process ended, if not by itself
        self.suspects: Suspects | None = None
        self.pauses: dict[str, tuple[str, int]] = {}  # function -> why it begins suspended, for how many ms
        # A watchdog ends the process when a handler freezes it: `run` wants that, a test does not.
        self._guarded = guarded
        self.log = log
        self.logger = Logger(manifest.log.level, "nuclio-edge", log.emit)
        self.loop.on_error = self._on_loop_error
        self.sources: dict[str, Any] = {}
        self.functions: dict[str, Function] = {}
        self.retired: list[Function] = []  # replaced or removed, draining
        self.leaving: list[Any] = []  # sources that were replaced or removed, settling
        self.budget = Budget(manifest.device.memory_budget, 0)
        self.begun_ms = self.loop.wall
        self.ready = False
        self.on_ready: Callable[[Processor], Any] = _nothing
        self.offline = offline  # nothing is opened: `invoke` runs one event through the real path
        self.exit_code = OK
        self.assembly = Assembly(self)
        self.delivery: Delivery | None = None  # where something of the manifest is durable
        self.stopping = False
        self._stop: Stop | None = None
        self._demanded: set[str] = set()  # sources without a table that only handlers use
        self._opened = False
        self._patience = 0
        self._ready_timer: Any = None
        self.gone = Gone()  # what was counted by those that are there no more
        self.own_sources: list[Any] = []  # that count, and are none of the manifest's
        self.admin: Admin | None = None

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Build sources and functions, load what is to be loaded at start, and open the sources."""
        manifest = self.manifest
        self.loop.thread = get_ident()
        self.log.open(self.loop)
        CLOCK.open(self.loop, manifest.device.state_dir)
        environment.install()
        capture.install(self.log)
        forks.install()
        if self._guarded:
            self._guard()
        self._open_delivery()
        suspect = self.pauses.keys()
        for name in self.wanted_sources(manifest):
            self.sources[name] = self.make_source(manifest.sources[name])
        self.assembly.record(manifest.record)
        self.functions = {s.name: self.assembly.make(s) for s in manifest.functions.values() if not s.disabled}
        for name in self.suspects.names() if self.suspects is not None else ():
            if name in self.functions:
                self.functions[name].suspect = True
        # Where there is no end but the last event's, as in `invoke`, nothing is gained by going on.
        patience = READY_PATIENCE_MS if self._guarded else IMPORT_PATIENCE_MS
        self.assembly.load_all((f for name, f in self.functions.items() if name not in suspect), patience)
        if self.stopping:
            self._open_no_more()
            return
        for function in self.functions.values():
            self.assembly.equip(function)
        self.share_budget()
        if self.delivery is not None:
            self.delivery.begin()
        self.route()
        for function in self.functions.values():
            if function.name in suspect:
                function.on_suspected(*self.pauses[function.name])
            else:
                function.start()
        if not self.offline:
            for source in self.sources.values():
                source.open()
        self._patience = self.loop.now + READY_PATIENCE_MS
        self._opened = True
        if self._guarded:
            from .admin.admin import Admin

            self.admin = Admin(self)
            self.admin.open()
        self._check_ready()

    def _open_no_more(self) -> None:
        """Told to stop while a module was imported: nothing has begun that would have to come to its end."""
        self.functions = {}
        self._stop = Stop(self)
        self.loop.call_soon(self._stop.look)

    def intercept(self, hook: Callable[[OutputSpec, Response, Event], Any]) -> None:
        """Give what outputs would send to `hook` instead; before `open`."""
        self.assembly.output_hook = hook

    def run(self) -> int:
        """Turn the loop until `stop` is done with its work, which it may be already; returns the exit code."""
        if self._stop is None or not self._stop.over:
            self.seat.run()
        return self.exit_code

    def source_changed(self, _source: Any) -> None:
        """A source has opened, or lost or regained its connection."""
        self._check_ready()

    # -- stopping -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Take nothing more in, let what was admitted come to its end within `stop_timeout`, then close everything."""
        if self.stopping:
            return
        self.stopping = True
        if not self._opened:
            return  # an import is waited for, which ends with this: `open` goes on from here
        self._stop = Stop(self)
        self._stop.begin()

    def waits_for(self) -> list[str]:
        """What a stop waits for: functions, else sources that are still sending."""
        return self._stop.waits_for() if self._stop is not None else []

    def close(self) -> None:
        """Close sources and functions; idempotent. What is still pending stays unsettled: a broker sends it again.

        A step that fails keeps no other from its turn: whatever handlers have done to the process, it ends.
        """
        attempt = self.attempt
        if self.delivery is not None:
            attempt(self.delivery.finish)  # first: sources tell what of theirs is lost
        for source in [*self.sources.values(), *self.leaving]:
            attempt(source.close)
        if self.admin is not None:
            attempt(self.admin.close)
        if self.delivery is not None:
            attempt(self.delivery.close)
        attempt(self._count)
        for function in self.all_functions():
            attempt(function.close)
        attempt(self._tell_stuck)
        attempt(self.assembly.close)
        self.sources = {}
        self.functions = {}
        self.retired = []
        self.leaving = []
        self.own_sources = []
        if self.watchdog is not None:
            attempt(self.watchdog.close)
        for last in (CLOCK.close, capture.uninstall, environment.uninstall, self.log.close):
            attempt(last)

    def attempt(self, step: Callable[[], Any]) -> None:
        """Do a step of the end; what goes wrong with it is told, and the exit code says so."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the next step is done all the same
            self.loop.on_error(error, step)

    def _count(self) -> None:
        """Say what does not add up, and keep the counts of what is closed."""
        for text in self.differences():
            self.exit_code = FAULT
            self.logger.error_with("the ledger does not balance: a defect of nuclio-edge", "difference", text)
        self.gone.take(*counted(self))

    def _tell_stuck(self) -> None:
        """Say whose threads do not end, and have the exit code ask for a new process."""
        stuck = {function.name for function in self.all_functions() if getattr(function.runner, "lost", 0)}
        if stuck:
            if self.exit_code == OK:
                self.exit_code = RESTART
            self.logger.warn_with(
                "a handler's thread does not end: start the process anew",
                "functions",
                ", ".join(sorted(stuck)),
                "exit",
                self.exit_code,
            )

    # -- replacing ----------------------------------------------------------------------------------------------------

    def replace(self, spec: FunctionSpec, done: Callable[[], Any] = lambda: None) -> None:
        """Put a function's new version in the place of the running one; `done()` when events go to the new one.

        The one call by which releases reach the runtime; see reload.py.
        """
        from .reload import replace

        replace(self, spec, done)

    def reload(
        self,
        manifest: Manifest,
        changed_code: Iterable[str] = (),
        done: Callable[[list[str]], Any] = lambda lines: None,
    ) -> None:
        """Become another manifest: unchanged tables keep running untouched.

        `changed_code` names functions whose files changed. `done(lines)` is called on the loop with what was done.
        """
        from .reload import reload

        reload(self, manifest, changed_code, done)

    # -- counting -----------------------------------------------------------------------------------------------------

    def tally(self) -> Tally:
        """What was received, handled, failed and shed up to now, over everything that ran in this process."""
        total = tally(*counted(self), self.gone)
        if self.delivery is not None:
            total.recovered = sum(self.delivery.recovered.values())
        return total

    def differences(self) -> list[str]:
        """What does not add up at this moment, a sentence each: at sources, at triggers, on disk."""
        return [*self.tally().wrong, *(self.delivery.differences() if self.delivery is not None else ())]

    # -- building -----------------------------------------------------------------------------------------------------

    def wanted_sources(self, manifest: Manifest) -> list[str]:
        """Every declared source, and those without a table (the clock, the pins) that something uses."""
        running = [f for f in manifest.functions.values() if not f.disabled]
        used = {t.source for f in running for t in f.triggers} | {o.to for f in running for o in f.outputs}
        used.update(name for f in running for name in f.bindings or ())
        used.update(self._demanded)
        return [name for name, spec in manifest.sources.items() if spec.declared or name in used]

    def make_source(self, spec: SourceSpec) -> Any:
        """A source of a table, not opened."""
        made = source_class(spec.kind)
        host = Host(self, self.logger.get_child(spec.name), self._secret)
        return made(spec.name, spec.params, host)

    def source_on_demand(self, name: str) -> Any:
        """A source without a table, opened when a handler first asks for it; from any thread.

        OSError when the loop does not come to it.
        """
        if name in self.sources:
            return self.sources[name]
        if get_ident() == self.loop.thread:
            return self._begin_on_demand(name)
        done = allocate_lock()
        done.acquire()

        def begin() -> None:
            try:
                self._begin_on_demand(name)
            finally:
                done.release()

        self.loop.post(begin)
        done.acquire(timeout=ON_DEMAND_PATIENCE_S)
        if name not in self.sources:
            raise OSError(f"source {name} could not be opened")
        return self.sources[name]

    def _begin_on_demand(self, name: str) -> Any:
        if name not in self.sources and not self.stopping:
            self._demanded.add(name)
            source = self.sources[name] = self.make_source(self.manifest.sources[name])
            source.routes([])
            if not self.offline:
                source.open()
        return self.sources[name]

    def _secret(self, name: str) -> bytes:
        from .manifest.secrets import read_secret

        return read_secret(name, self.manifest.device.secrets_dir)

    def _guard(self) -> None:
        """Begin to watch over frozen handlers and to leave traces; judge what the last process has left."""
        from .supervision.watchdog import Watchdog, limit_ms

        def limit() -> int:
            # An import may hold the interpreter's lock for long, for a good reason: a large extension on a slow card.
            more = IMPORT_PATIENCE_MS if self.assembly.importing else 0
            return limit_ms(self.manifest.functions.values()) + more

        self.watchdog = Watchdog(self.loop, self.manifest.device.state_dir, limit)
        self.watchdog.watch(self.assembly.busy)
        from .supervision.inquest import inquire

        inquire(self, self.watchdog)
        self.assembly.row = self.watchdog.slots.take()

    def make_durable(self, trigger: Trigger) -> None:
        """Have a trigger's events or dead letters kept on disk."""
        if self.delivery is None and self.keeps and not self.offline:
            self._make_delivery().begin()
        if self.delivery is not None:
            self.delivery.attach(trigger)

    def _open_delivery(self) -> None:
        """Have what may be durable kept on disk; a guest of a running processor's has no disk."""
        if not self.keeps or self.offline:
            return
        specs = [t for f in self.manifest.functions.values() if not f.disabled for t in f.triggers]
        folder = os.path.join(self.manifest.device.state_dir, "spool")
        brokers = any(source.kind == "mqtt" for source in self.manifest.sources.values())
        if brokers or any(t.durable or t.dead_letter for t in specs) or os.path.isdir(folder):
            self._make_delivery()

    def _make_delivery(self) -> Delivery:
        from .delivery.delivery import Delivery

        self.delivery = Delivery(self)
        self.delivery.open()
        return self.delivery

    def share_budget(self) -> None:
        """Share an eighth of the memory budget out as floors, so that a flooded inbox cannot starve the others.

        What one inbox may take beyond its floor ends where the others still find theirs: together they keep to it.
        """
        whole: int = self.manifest.device.memory_budget
        count = sum(len(function.triggers) for function in self.functions.values())
        self.budget.floor = max(whole // 8 // max(count, 1), LEAST_FLOOR)
        self.budget.limit = max(whole - count * self.budget.floor, whole // 2)

    def route(self) -> None:
        """Tell every source which triggers it now serves."""
        for source in self.sources.values():
            source.routes([t for function in self.functions.values() for t in function.triggers if origin(t) is source])

    def all_functions(self) -> list[Function]:
        """Those that run and those that drain."""
        return [*self.functions.values(), *self.retired]

    def _check_ready(self) -> None:
        if self.ready or self.stopping or not self._opened:
            return
        if self._ready_timer is not None:
            self._ready_timer.cancel()
            self._ready_timer = None
        waiting = [f for f in self.functions.values() if not f.settled()]
        connecting = [s for s in self.sources.values() if s.state == "connecting" and getattr(s, "attempts", 0) < 2]
        if not self.offline and (waiting or connecting) and self.loop.now < self._patience:
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


def origin(trigger: Any) -> Any:
    """The source of a trigger, also where something stands in its place that hears what comes of events."""
    return getattr(trigger.source, "origin", trigger.source)


def _nothing(_processor: Processor) -> None:
    pass
