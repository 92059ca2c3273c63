"""Worker processes: spawned, fed in order over a socketpair, killed when they overstay, held to limits.

Laws:
- A process handles one event after the other and writes each outcome before it begins the next. What it had not begun
  when it ended goes to the next process, in the same order; the event that it was handling fails, and no other.
- The deadline of an event runs from the end of the one before it in the same process (perf_counter is one clock for
  all processes). Past it the whole process group gets SIGKILL: nothing is ever abandoned.
- An idle process that is to end may do so by itself; one that is kept by a thread of its own is killed.
- A process ends with the processor: the kernel kills it when the processor goes away without a word.
- After two deaths with no event handled between them the next process waits: 100 ms, doubled up to 10 s.
- At a reload a process of the new version imports its code beside those of the old one. It goes on to init_context at
  once, or when it takes their place where sources change with it; when it fails before that, nothing has changed.
- All here runs on the loop but binding calls that want an answer, which have a thread.
"""

from __future__ import annotations

import marshal
import os
from collections import deque

from nuclio_edge.core import port
from nuclio_edge.core.failure import HandlerTimeout
from nuclio_edge.core.worker import conclude

from .frames import ANSWER, frame
from .limits import Limits, find_tree
from .process_calls import Caller, state_of
from .process_worker import Child, DiedError
from .queues import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.loop import Loop
    from nuclio_edge.functions.calls import Calls
    from nuclio_edge.functions.function import Function

IDLE_MS = 60_000
# Starting an interpreter and importing may take this much longer than the function's timeout.
START_MS = 20_000
AHEAD = 1 << 18  # bytes that wait for a process to read them, until which it is given more
PAUSE_MS, LONGEST_PAUSE_MS = 100, 10_000
CLOSE_S = 0.5


class ProcessRunner:
    """Runs a function in worker processes, `workers_min` to `workers_max` of them."""

    lost = 0  # nothing is ever abandoned

    def __init__(
        self, function: Function, loop: Loop, context: Callable[[int], Context], calls: Callable[[], Calls]
    ) -> None:
        self.function = function
        self.calls = calls
        self.loop = loop
        self.make_context = context
        spec = function.spec
        self.low: int = spec.workers_min
        self.high: int = spec.workers_max
        self.limits = Limits(spec.limits.memory, spec.limits.cpu, _tree() if _limited(spec) else None)
        self.queue = Queue(function, self.flush)
        self.children: list[Child] = []
        self.beside = False  # importing while an earlier version runs, until `start`
        self._told: Callable[[BaseException | None], Any] | None = None  # who waits for that import
        self.deaths = 0  # without an event handled between them
        self._not_before = 0
        self._triggers: list[Trigger] = []
        self._numbers: dict[int, int] = {}  # id of a trigger -> its number in the child
        self._returned: deque[Event] = deque()  # given to a process that ended before their turn
        self._count = 0
        self._timer: Any = None
        self._pause: Any = None
        self._caller: Caller | None = None
        self._closing = False

    def describe(self) -> str:
        """The limits in force and how they are enforced."""
        return self.limits.describe()

    def attach(self, trigger: Trigger) -> None:
        """Make the trigger's `submit` queue its events here."""
        origin = trigger.source.trigger if trigger.kind == "batch" else trigger  # of the events in a batch
        self._numbers[id(origin)] = len(self._triggers)
        self._triggers.append(origin)
        self.queue.attach(trigger)

    def again(self, event: Event) -> None:
        """Queue the next attempt of an event that failed; it is counted as pending already."""
        self.queue.again(event)

    def load(self, told: Callable[[BaseException | None], Any]) -> None:
        """Have one process import the code and wait for `start`; `told(error)` on the loop when it has or cannot."""
        self.beside = True
        self._told = told
        self._spawn()
        self._watch()

    def start(self) -> None:
        """Start the processes that there are at least, of which one may have been loaded before."""
        if self.beside:
            self.beside = False
            for child in self.children:
                child.context = self.make_context(child.number)  # sources may have been exchanged since
                child.begin()
                child.flush()
        low = 1 if self.function.beside else max(self.low, 1)
        while len(self.children) < low and self._spawn() is not None:
            pass
        self._watch()

    def starting(self) -> bool:
        """Whether a process is importing or in init_context."""
        return any(not child.ready for child in self.children)

    def failed_to_start(self, reason: str) -> None:
        """Turn away what is queued: the function was suspended."""
        for event in self._returned:
            if event._trigger is not None:
                event._trigger.drop(event, reason)
        self._returned.clear()
        self.queue.turn_away(reason)

    def drain(self) -> bool:
        """Whether nothing is queued or running."""
        return not self.queue and not self._returned and not any(child.inflight for child in self.children)

    def close(self) -> None:
        """Let idle processes end by themselves for half a second, kill the others; all are gone afterwards."""
        self._closing = True
        for timer in (self._timer, self._pause):
            if timer is not None:
                timer.cancel()
        for child in self.children:
            if child.ready and not child.inflight and not child.dying:
                child.spawned.hang_up()
            else:
                child.kill()
        end = port.ticks_ms() + int(CLOSE_S * 1000)
        for child in self.children:
            child.spawned.wait(max(end - port.ticks_ms(), 0))
            child.close()
        self.children.clear()
        if self._caller is not None:
            self._caller.close()

    def about(self, context: Context) -> dict[str, Any]:
        """What a process is told before it imports the code."""
        spec = self.function.spec
        code = {
            "module": spec.module,
            "callable": spec.callable,
            "folder": spec.path,
            "file": spec.file,
            "code": spec.code,
        }
        return {
            "name": self.function.name,
            "version": self.function.version,
            "labels": dict(spec.labels),
            "worker": context.worker_id,
            "level": context.logger.level,
            "namespace": context.platform.namespace,
            "path": spec.path,
            "code": code,
            "data_limit": self.limits.data_limit(),
        }

    def surroundings(self, context: Context) -> tuple[list[str], list[Any]]:
        """What a process is told before its init_context: what it may write to, and where its events come from."""
        return list(context.bindings), self.triggers_from(0)

    def triggers_from(self, known: int) -> list[Any]:
        """What a process is told of the triggers that it does not know yet."""
        return [_about(trigger) for trigger in self._triggers[known:]]

    def state_of(self, event: Event) -> tuple[str, int, dict[str, Any]]:
        """An event as it can travel: its class, its trigger's number, and the attributes that its source set."""
        name, state = state_of(event)
        return name, self._numbers[id(event._trigger)], state

    def flush(self) -> None:
        """Hand events to processes that have room, and start processes as they are needed."""
        if not self.function.suspended and not self._closing:
            touched = set()
            while self.queue or self._returned:
                child = self._roomy()
                if child is None:
                    break
                event = self._claim()
                if event is None:
                    break
                child.give(event)
                touched.add(child)
            for child in touched:
                child.flush()
            # The moment for an idle process may be later than what the events just given wait for.
            if touched and self._timer is not None and self._timer.at - self.loop.now > self.function.timeout_ms + 1:
                self._watch()
        if self._timer is None:
            self._watch()

    def child_loaded(self) -> None:
        """A process has imported the code."""
        self._tell(None)
        self._watch()

    def child_ready(self, child: Child) -> None:
        """A process has imported and initialised."""
        self.function.on_started()
        self._watch()

    def child_ended(self, child: Child, status: int) -> None:
        """A process is gone: fail what it was handling, pass the rest on, find out what that means."""
        self.children.remove(child)
        died = child.error or DiedError(self._why(child, status))
        child.close()
        if child.ready and child.inflight and not child.expired:
            _, event = child.inflight.popleft()
            self._died()
            if event._trigger is not None:
                conclude(event._trigger, event, None, died, port.clock() - child.since)
        self._returned.extendleft(event for _, event in reversed(child.inflight))
        child.inflight.clear()
        if self._closing:
            return
        if self.beside:
            self._tell(died)
            return
        if not child.ready and not child.expired:
            self.function.on_start_failed(died)
        if not self.function.suspended:
            self.flush()
            if len(self.children) < self.low:
                self._spawn()
                self._watch()

    def call(self, child: Child, content: bytes) -> None:
        """Call a binding's method, or another function, for a process."""
        from nuclio_edge.core.msgpack import unpack

        number, name, method, args, named = unpack(content)
        event = child.inflight[0][1] if child.inflight else None
        if not name:
            wanted, given, timeout = args
            caller, tell = self.function.name, lambda run: self._on_caller(child, number, run)
            self.calls().begin_for_process(caller, event, wanted, given, timeout, tell)
            return
        child.context._event = event

        def run() -> Any:
            if method.startswith("_"):
                raise AttributeError(method)
            return getattr(child.context.bindings[name], method)(*args, **named)

        if number:
            self._on_caller(child, number, run)
            return
        try:
            run()
        except Exception as error:  # noqa: BLE001 - whatever the binding raises is the function's
            child.context.logger.error_with(
                "a binding call has failed",
                "binding",
                name,
                "method",
                method,
                "error",
                f"{type(error).__name__}: {error}",
            )

    def _on_caller(self, child: Child, number: int, run: Callable[[], Any]) -> None:
        """Give a process what `run()` comes to, on a thread that may wait."""
        if self._caller is None:
            self._caller = Caller(self.loop, f"calls-{self.function.name}")
        self._caller.jobs.put((run, lambda answer: self._answer(child, number, answer)))

    def _answer(self, child: Child, number: int, answer: tuple[bool, Any, str]) -> None:
        try:
            content = marshal.dumps(answer)
        except ValueError:
            content = marshal.dumps((False, "TypeError", "the answer cannot reach a worker process"))
        if child in self.children:
            child.write(frame(ANSWER, marshal.dumps(number), content))
            child.flush()

    def _claim(self) -> Event | None:
        if self._returned:
            return self._returned.popleft()
        try:
            return self.queue.claim()
        except IndexError:
            return None

    def _roomy(self) -> Child | None:
        """The process that has the least to do and takes one more; a new one if there may be more of them."""
        best = None
        for child in self.children:
            if not child.dying and (best is None or len(child.inflight) < len(best.inflight)):
                best = child
        if (best is None or best.inflight) and len(self.children) < self.high:
            best = self._spawn() or best
        if best is None or len(best.inflight) >= best.window:
            return None
        # What it has not read lies here a second time: beyond the event that it handles there is no haste.
        return best if not best.inflight or best.unsent < AHEAD else None

    def _spawn(self) -> Child | None:
        if self._pause is not None or self._closing:
            return None
        wait = self._not_before - port.ticks_ms()
        if wait > 0:
            self._pause = self.loop.call_later(wait, self._resume)
            return None
        try:
            child = Child(self, self.make_context(self._count), self._count)
        except OSError as error:
            if self.beside:
                self._tell(error)
            else:
                self.function.on_start_failed(error)
            return None
        self._count += 1
        self.children.append(child)
        child.flush()
        return child

    def _tell(self, error: BaseException | None) -> None:
        told, self._told = self._told, None
        if told is not None:
            self.loop.call_soon(lambda: told(error))

    def _resume(self) -> None:
        self._pause = None
        if len(self.children) < self.low:
            self._spawn()
        self.flush()

    def _died(self) -> None:
        self.deaths += 1
        if self.deaths > 1:
            pause = min(PAUSE_MS << min(self.deaths - 2, 16), LONGEST_PAUSE_MS)
            self._not_before = port.ticks_ms() + pause

    def _watch(self) -> None:
        """Set the timer to the next moment at which something is to be decided."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        next_ms: int | None = None
        now = port.clock()
        for child in self.children:
            left = None
            if child.kill_at is not None:
                left = child.kill_at - self.loop.now
            elif child.dying or (self.beside and child.loaded):
                continue
            elif not child.ready or child.inflight:
                left = (child.since + self._limit(child) - now) // port.TICKS_PER_MS + 1
            elif len(self.children) > self.low:
                left = child.idle_since + IDLE_MS - self.loop.now
            if left is not None and (next_ms is None or left < next_ms):
                next_ms = left
        if next_ms is not None and not self._closing:
            self._timer = self.loop.call_later(max(next_ms, 1), self._check)

    def _limit(self, child: Child) -> int:
        patience = 0 if child.ready or child.initialising else START_MS
        return (self.function.timeout_ms + patience) * port.TICKS_PER_MS

    def _check(self) -> None:
        self._timer = None
        for child in list(self.children):
            child.read()  # an outcome may be waiting
            if child.kill_at is not None and self.loop.now >= child.kill_at:
                child.kill()
            if child.dying or (self.beside and child.loaded):
                continue
            ran = port.clock() - child.since
            if not child.ready or child.inflight:
                if ran >= self._limit(child):
                    self._expire(child, ran)
            elif len(self.children) > self.low and self.loop.now - child.idle_since >= IDLE_MS:
                child.hang_up(self.loop.now + int(CLOSE_S * 1000))
        self._watch()

    def _expire(self, child: Child, ran: int) -> None:
        said = f"still running after {self.function.timeout_ms / 1000:g} s"
        child.kill()
        if not child.ready:
            child.error = HandlerTimeout("init_context " + said if child.initialising else "import " + said)
            return
        child.expired = True
        self._died()
        _, event = child.inflight.popleft()
        if event._trigger is not None:
            conclude(event._trigger, event, None, HandlerTimeout(said), ran)

    def _why(self, child: Child, status: int) -> str:
        if os.WIFSIGNALED(status):
            from signal import Signals

            number = os.WTERMSIG(status)
            try:
                name = Signals(number).name
            except ValueError:
                name = f"signal {number}"
            if child.hold is not None and child.hold.out_of_memory():
                return f"the worker process was killed by the kernel: more than {self.limits.describe()}"
            return f"the worker process was killed by {name}"
        return f"the worker process ended with exit code {os.WEXITSTATUS(status)}"


def _limited(spec: Any) -> bool:
    return spec.limits.memory is not None or spec.limits.cpu is not None


_found: list[Any] = []


def _tree() -> Any:
    if not _found:
        _found.append(find_tree())
    return _found[0]


def _about(trigger: Trigger) -> tuple[str, str, dict[str, Any], dict[str, Any], str | None]:
    """What the attributes of its events are made of beside the event: kind, name, source, address, content type."""
    source, address = trigger.source, trigger.address
    return (
        trigger.kind,
        trigger.name,
        {"name": source.name, "url": getattr(source, "url", ""), "content_type": getattr(source, "content_type", None)},
        {"body": getattr(address, "body", ""), "headers": dict(getattr(address, "headers", None) or {})},
        None if trigger.spec is None else trigger.spec.content_type,
    )
