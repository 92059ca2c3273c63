"""A function at run time: a named, versioned handler with its limits, and what happens when it fails."""

from __future__ import annotations

from _thread import allocate_lock

from nuclio_edge.core import port
from nuclio_edge.core.encode import to_response
from nuclio_edge.core.failure import HandlerTimeout
from nuclio_edge.errors import LoadError

from . import capture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.assembly import Assembly
    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.log import Logger
    from nuclio_edge.core.loop import Loop
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.model import FunctionSpec
    from nuclio_edge.workers.batch import Batcher

FIRST_PAUSE_MS = 1_000
LONGEST_PAUSE_MS = 60_000
# A function fails whatever comes when so many events in a row have failed, over at least so long a time.
FAILURES_IN_A_ROW = 20
FAILING_FOR_MS = 30_000
FIRST_WAIT_MS = 5_000
LONGEST_WAIT_MS = 300_000
# Failures said in full a second; the rest are counted and said in one line. A handler that fails 10,000 times a second
# must not make the log the load.
FAILURES_SAID = 5
# Of the body of an answer that says why an event has failed: characters in the log, and bytes that are looked at.
SHOWN, LOOKED_AT = 200, 16 * 1024
LOADING = "loading"  # why an inline function turns events away meanwhile
SHED_SAID_MS = 60_000  # between two words on events that are shed

_LOADING = allocate_lock()  # for the moment in which a function gets its own


class Function:
    """One function of the manifest; everything here runs on the loop but `bind` and `prepare`.

    `suspended` is None, or the reason for which its events are turned away at present; `fault` is why it could not
    start, in its author's words, as long as it has not started since. A `suspect` was running when an earlier process
    died: each of its events is noted before it runs.
    """

    __slots__ = (
        "_assembly",
        "_closed",
        "_failing",
        "_failures",
        "_handled",
        "_loading",
        "_pause_ms",
        "_resume",
        "_said",
        "_said_in",
        "_shed_said",
        "_unsaid",
        "_wait_ms",
        "batchers",
        "beside",
        "env",
        "fault",
        "handler",
        "init_context",
        "is_async",
        "labels",
        "load_error",
        "loading",
        "loop",
        "name",
        "outputs",
        "package",
        "runner",
        "spec",
        "streams",
        "suspect",
        "suspended",
        "timeout_ms",
        "tried",
        "trigger_specs",
        "triggers",
        "unload",
        "version",
    )

    def __init__(self, spec: FunctionSpec, version: str, assembly: Assembly) -> None:
        self.spec = spec
        self.name: str = spec.name
        self.version = version
        self.labels = spec.labels
        self.timeout_ms: int = spec.timeout_ms
        self.trigger_specs = spec.triggers
        self.loop: Loop = assembly.loop
        self.env: Any = None  # what it sees as os.environ; made with the first context
        self.handler: Any = None
        self.init_context: Any = None
        self.is_async = False
        self.package = ""
        self.load_error: BaseException | None = None
        self.loading: bool = False  # longer than the start would wait for it
        self.unload: Callable[[], Any] | None = None
        self.streams: dict[str, Any] | None = None  # what its module has put in the place of sys.stdout and sys.stderr
        self.runner: Any = None
        self.triggers: tuple[Trigger, ...] = ()
        self.batchers: tuple[Batcher, ...] = ()  # of those triggers whose events it handles in batches
        self.outputs: tuple[Callable[[Response, Event], Any], ...] = ()
        self.suspended: str | None = None
        self.fault = ""
        self.suspect = False
        self.tried: dict[str, int] | None = None  # its files when it did not start, None since it has
        self.beside: Callable[[BaseException | None], Any] | None = None  # who waits for `warm`, until `start`
        self._assembly = assembly
        self._loading: Any = None
        self._pause_ms = FIRST_PAUSE_MS
        self._resume: Any = None
        self._said = 0
        self._said_in = 0
        self._shed_said = -SHED_SAID_MS
        self._closed = False
        self._unsaid = 0
        self._failures = 0  # in a row
        self._failing = 0  # since when
        self._handled = 0  # by then
        self._wait_ms = 0  # the last suspension for failing; 0 when an event was handled since

    @property
    def logger(self) -> Logger:
        """For what is to be said of the function outside its handler; made anew, as that is rare."""
        return self._assembly.logger(self)

    def load(self) -> None:
        """Import the code; raises LoadError. On whichever thread needs it, one at a time."""
        with _LOADING:
            lock = self._loading = self._loading or allocate_lock()
        # One for each function: an import that hangs holds up no other. The loop cannot wait for it.
        if not lock.acquire(self.spec.isolation != "inline"):
            raise LoadError("its import has not ended yet")
        try:
            if self.handler is None:
                loaded = self._assembly.import_code(self)
                self.init_context = loaded.init_context
                self.is_async = loaded.is_async
                self.package = loaded.package
                self.unload = loaded.unload
                self.handler = loaded.handler
                if self._closed:  # while it was imported
                    self._unload()
                if self.suspect and self.spec.isolation == "inline":
                    self.handler = self._assembly.noting(self)
        finally:
            lock.release()
        self._loading = None

    def forget(self) -> None:
        """Give the code back, to be imported again by the next event; no worker is left that could run it."""
        if self.unload is not None:
            self.unload()
        self.handler = self.init_context = self.unload = None
        self.package = ""

    def make_context(self, worker: int) -> Context:
        """The context of one of its workers, by number."""
        return self._assembly.context(self, worker)

    def bind(self, context: Context) -> None:
        """Make environment and output of the present thread those of this function."""
        self._assembly.bind(self, context)

    def prepare(self, context: Context, run: Callable[[Any], Any] | None = None) -> None:
        """Import if need be and run init_context: once for each worker, on its thread.

        `run` is an Awaiter's, for one that is `async def`; else a loop is made for it alone.
        """
        self.bind(context)
        if self.handler is None:
            self.load()
            capture.install_hooks()  # the import may have been the first of logging or threading
            self.bind(context)  # now with the package by which threads of its own are known
        if self.init_context is not None:
            value = self.init_context(context)
            if hasattr(type(value), "__await__"):
                if run is None:
                    from .awaiter import run_once

                    run = run_once
                run(value)

    def settled(self) -> bool:
        """Whether the function is as far as it gets before its first event."""
        return not self.loading and (self.suspended is not None or not self.runner.starting())

    def may_retry(self) -> bool:
        """Whether a failed event may be tried again now."""
        return self.suspended is None and not getattr(self.runner, "lost", 0)

    def on_failure(self, event: Event, error: BaseException | None, status: int, result: Any = None) -> None:
        """An event has failed for good: by an exception, or by the status of what its handler returned."""
        self._say("failed", event, error, result, "status", status)
        if error is not None or status >= 500:
            self._count_failure()

    def on_retry(
        self, event: Event, error: BaseException | None, delay_ms: int, status: int, result: Any = None
    ) -> None:
        """An event has failed and will be tried again."""
        self._say("failed, will be tried again", event, error, result, "in_ms", delay_ms, "status", status)
        self._count_failure()

    def on_shed(self, trigger: Trigger, reason: str) -> None:
        """An event was shed, as more comes than the function can or may do."""
        now = self.loop.now
        if now - self._shed_said >= SHED_SAID_MS:
            self._shed_said = now
            so_far = sum(trigger.shed.values())
            self.logger.warn_with("events are shed", "trigger", trigger.ledger_id, "reason", reason, "so_far", so_far)

    def on_late(self, event: Event, ticks: int) -> None:
        """An inline handler took longer than the timeout."""
        self._say("took longer than its timeout on the loop", event, None, None, "ms", ticks // port.TICKS_PER_MS)

    def on_start_failed(self, error: BaseException) -> None:
        """Import or init_context raised: suspend, with back-off; the rest of the processor goes on."""
        if self.beside is not None:
            self.suspended = "could not start"  # it is not tried again
            self.beside(error)
            return
        pause = self._pause_ms
        self.fault = self.explain(error)
        self.logger.error_with("function could not start", "error", self.fault, "again_in_ms", pause)
        self._has_not_started()
        self.suspend("could not start", pause)
        self._pause_ms = min(pause * 2, LONGEST_PAUSE_MS)

    def _has_not_started(self) -> None:
        if self.tried is None:
            from .files import in_folder

            self.tried = in_folder(self)

    def on_suspected(self, what: str, pause_ms: int) -> None:
        """The last process ended while it ran, and it is taken for the cause: begin suspended."""
        self.logger.error_with(
            f'function suspended: {what}; isolation = "process" keeps the others safe from it',
            "again_in_ms",
            pause_ms,
        )
        self._has_not_started()
        self.suspend(what, pause_ms)

    def _count_failure(self) -> None:
        """Suspend when nothing has come of anything for long enough; after that, at the first event that fails, too."""
        handled = sum(trigger.handled for trigger in self.triggers)
        now = self.loop.now
        if handled != self._handled:
            self._handled = handled
            self._failures = self._wait_ms = 0
        if not self._failures:
            self._failing = now
        self._failures += 1
        if self.suspended is not None:
            return
        if self._wait_ms or (self._failures >= FAILURES_IN_A_ROW and now - self._failing >= FAILING_FOR_MS):
            self._wait_ms = min(self._wait_ms * 2, LONGEST_WAIT_MS) or FIRST_WAIT_MS
            self.logger.error_with(
                "function suspended: it fails whatever comes",
                "failures_in_a_row",
                self._failures,
                "again_in_ms",
                self._wait_ms,
            )
            self.suspend("keeps failing", self._wait_ms)

    def on_abandoned(self, lost: int, *, starting: bool) -> None:
        """A worker went past the timeout and was abandoned, `lost` of them by now."""
        if starting and self.beside is not None:
            self.on_start_failed(HandlerTimeout(f"init_context still running after {self.timeout_ms / 1000:g} s"))
        elif starting or lost > 1:
            self.logger.error_with(
                'function suspended: its handlers hang; isolation = "process" can stop what a thread cannot',
                "abandoned_threads",
                lost,
            )
            if starting:
                self._has_not_started()
            self.suspend("handlers hang", 0)

    def on_thread_ended(self) -> None:
        """The last abandoned thread has ended after all."""
        if self._closed:
            self._unload()
        elif self.suspended == "handlers hang":
            self.resume()

    def suspend(self, reason: str, pause_ms: int) -> None:
        """Turn events away from now on; with a pause, try again after it."""
        self.suspended = reason
        self.runner.failed_to_start("suspended")
        if self._resume is not None:
            self._resume.cancel()
        self._resume = self.loop.call_later(pause_ms, self.resume) if pause_ms else None

    def resume(self) -> None:
        """Take events again, and say so when it is seen that it can."""
        self._resume = None
        self.suspended = None
        if self.tried is None:
            self.logger.info_with("function runs again")
        self.start()

    def rest(self) -> None:
        """Stay suspended, if it is: another version is about to take its place."""
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None

    def warm(self, told: Callable[[BaseException | None], Any]) -> None:
        """Start the first worker while an earlier version has the events; the others follow with `start`.

        `told(error)` on the loop when that one has started, or cannot.
        """
        self.beside = told
        self.runner.start()

    def hold(self) -> None:
        """Let its events wait until `release`, as its code is still being imported; an inline function has no queue."""
        self._has_not_started()
        queue = getattr(self.runner, "queue", None)
        if queue is None:
            self.suspended = LOADING
        else:
            queue.hold()

    def release(self) -> None:
        """Begin: its import has ended, or has taken too long."""
        self.loading = False
        if self.load_error is None:
            self.tried = None
        queue = getattr(self.runner, "queue", None)
        if queue is None:
            self.suspended = None
            self.start()
        else:
            self.start()
            queue.end_of_turn()

    def start(self) -> None:
        """Bring it to the point at which its first event only needs the call."""
        if self.loading:
            return
        if self.beside is not None:
            self.beside = self.suspended = None
        error, self.load_error = self.load_error, None
        if error is not None:
            self.on_start_failed(error)
        elif self.spec.load == "start" and (self.handler is None or self.init_context is not None):
            self.runner.start()

    def on_started(self) -> None:
        """A worker has imported and initialised: the next failure to start begins with a short pause again."""
        self._pause_ms = FIRST_PAUSE_MS
        self.fault = ""
        if self.tried is not None:
            self.tried = None
            self.logger.info_with("function runs again")
        if self.beside is not None:
            self.beside(None)

    def hasten(self) -> None:
        """It gets no new events: batches do not wait for more."""
        for batcher in self.batchers:
            batcher.hasten()

    def close(self) -> None:
        """Give back what the function holds, its code included: at the latest when no thread runs it any more."""
        self._closed = True
        self.rest()
        self.loading = False
        if self.runner is not None:  # None: the processor failed before it had one
            self.runner.close()
        if not getattr(self.runner, "lost", 0):
            self._unload()

    def _unload(self) -> None:
        if self.unload is not None:
            self.unload()

    def _say(self, what: str, event: Event, error: BaseException | None, result: Any, *more: Any) -> None:
        second = self.loop.now // 1000
        if second != self._said_in:
            if self._unsaid:
                self.logger.warn_with("more failures like these", "count", self._unsaid)
            self._said_in = second
            self._said = self._unsaid = 0
        if self._said >= FAILURES_SAID:
            self._unsaid += 1
            return
        self._said += 1
        trigger: Any = event._trigger
        who = ("event_id", _text(event.id), "trigger", trigger.info.name, "path", _text(event.path))
        pairs: list[Any] = [*who, *more]
        if error is not None:
            pairs += ["error", self.explain(error)]
        elif result is not None:
            body = to_response(result).body
            if type(body) is bytes and body:
                pairs += ["body", self._excerpt(body)]
        self.logger.error_with(what, *pairs)

    def explain(self, error: BaseException) -> str:
        """What went wrong in the words of the function's author: only their frames, none for a timeout."""
        if isinstance(error, HandlerTimeout):
            return str(error)
        from .loader import format_user_error

        return self.masked(format_user_error(error, self.spec.path))

    def masked(self, text: str) -> str:
        """A text that the function has a part in, with *** in the place of secrets, as in the log."""
        return self._assembly.processor.log.masked(text)

    def _excerpt(self, body: bytes) -> str:
        """The beginning of an answer for the log: cut when its secrets are out, none of which shows by half then."""
        text = self.masked(body[:LOOKED_AT].decode("utf-8", "replace"))
        return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _text(value: Any) -> Any:
    """An attribute of an event as a log takes it: its handler may have put anything there."""
    if value is None or type(value) is str:
        return value
    try:
        return str(value)
    except BaseException:  # noqa: BLE001 - a __str__ of the user's
        return "it raises"
