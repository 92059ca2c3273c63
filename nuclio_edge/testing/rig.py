"""What an author says of a source so that check_source can try it, and the bench on which it is tried."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from _thread import get_ident

from nuclio_edge.core.inbox import Trigger
from nuclio_edge.core.loop import Loop
from nuclio_edge.core.worker import conclude
from nuclio_edge.manifest.schema import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.manifest.schema import Field, Values

LIMIT_S = 30.0  # for whatever must come to pass; generous, as tests share their machine
QUIET_MS = 60  # how long it is watched that something does not come to pass


class SourceRig:
    """Derive a class that says how to make your source and how to play its outside world.

    `source` and `trigger` are needed, and `emit`. Every other method that you override says that the source can do
    this, and has it checked; those left alone are not called. All of them run between two turns of the source's loop
    and may wait for the world, not for the source.
    """

    source: Any = None  # the class
    params: Mapping[
        str, Any
    ] = {}  # of [source.NAME], as the source gets them (durations in ms …); defaults are filled in
    trigger: Mapping[str, Any] = {}  # an address to which `emit` sends
    body: bytes | None = None  # what every event brings, if `emit` cannot choose it
    path: str | None = None  # the events' path; None: not looked at
    pushes_back = False  # events that find no room are never lost: the world keeps them
    exclusive = False  # an address is one function's: two at the same one are an error of the manifest
    own_schedule = False  # every trigger brings events of its own (timer): two of them in one function mean two events

    def begin(self) -> None:
        """Prepare the world before each check: a source is made afterwards. What `params` name may change here."""

    def end(self) -> None:
        """Clear up after each check; the source is closed."""

    def make(self, name: str, params: Values, host: Any) -> Any:
        """The source of one check; override it to keep hold of the object."""
        return self.source(name, params, host)

    def emit(self, body: bytes) -> None:
        """Make the world produce one event that fits `trigger`."""
        raise NotImplementedError

    def emit_unrouted(self) -> None:
        """Make the world produce one event that fits no trigger."""

    def lose(self) -> None:
        """Take the connection or the device away."""

    def restore(self) -> None:
        """Give it back."""

    def acknowledged(self) -> int:
        """How many events the world has been told are done, since `begin`."""
        return 0

    def replied(self) -> list[bytes]:
        """The bodies of the replies that the world has got, since `begin`."""
        return []

    def routes_in_force(self, source: Any) -> bool:
        """Whether what `routes` asked for is in force, for sources that have to ask somebody else."""
        return True

    def can(self, method: str) -> bool:
        """Whether a method is overridden."""
        return getattr(type(self), method) is not getattr(SourceRig, method)


class Log:
    """A logger that keeps (level, message with its values)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        level = name.partition("_")[0]
        return lambda message, *pairs, **named: self.lines.append(
            (level, " ".join(str(part) for part in (message, *pairs, *named.items())))
        )

    def complaints(self) -> list[str]:
        """What was said at warning and above."""
        return [text for level, text in self.lines if level in ("warn", "warning", "error", "exception")]


class Device:
    """A device of no consequence."""

    id, name, namespace = "c0ffee", "bench", "default"
    labels: Mapping[str, str] = {}
    board = "generic/linux"


class Host:
    """What a source is given of a processor."""

    stopping = False

    def __init__(self, loop: Loop, state_dir: str) -> None:
        self.loop = loop
        self.log = Log()
        self.device = Device()
        self.state_dir = state_dir
        self.counters: dict[str, int] = {}
        self.states: list[str] = []

    def secret(self, name: str) -> bytes:
        """Whatever the name, the same."""
        return b"secret"

    def state_changed(self, source: Any) -> None:
        """Keep the states in order."""
        self.states.append(source.state)


class Function:
    """Stands for a function: holds its events until the check finishes them, or (`holds` False) is done at once."""

    suspended = None

    def __init__(self, bench: Bench, name: str, *, holds: bool = False, size: int = 1024) -> None:
        self.bench = bench
        self.name = name
        self.holds = holds
        self.size = size
        self.outputs: list[Any] = []
        self.triggers: list[Trigger] = []
        self.arrived: list[Event] = []
        self.held: list[Event] = []

    def bodies(self) -> list[bytes]:
        """What has arrived, in order."""
        return [event.raw_body for event in self.arrived]

    def finish(self, result: Any = None, error: BaseException | None = None) -> None:
        """Bring the oldest event that is held to its end, as a worker does."""
        event = self.held.pop(0)
        assert event._trigger is not None  # noqa: S101 - it came through one
        conclude(event._trigger, event, result, error, 0)

    def listen(self, address: Mapping[str, Any]) -> Trigger:
        """Another trigger of this function."""
        bench = self.bench
        trigger = Trigger(
            self,
            bench.source,
            bench.loop,
            ledger_id=f"function.{self.name}.trigger[{len(self.triggers)}]",
            size=self.size,
            when_full="block",
            spec=Spec(filled(bench.rig.source.TRIGGER, address), bench.source.name),
        )

        def submit(event: Event) -> bool:
            verdict = trigger.enter(event)
            if verdict != 1:
                return verdict < 0
            self.arrived.append(event)
            self.held.append(event)
            if not self.holds:
                self.finish()
            return True

        trigger.submit = submit
        self.triggers.append(trigger)
        return trigger

    def may_retry(self) -> bool:
        """No second attempts here."""
        return False

    def on_failure(self, event: Event, error: BaseException | None, status: int, result: Any = None) -> None:
        """Counted by the trigger; nobody is told."""


class Spec:
    """A TriggerSpec, as far as sources read it."""

    content_type: str | None = None

    def __init__(self, address: Values, source: str) -> None:
        self.address = address
        self.name = self.source = source


class Bench:
    """One source on a loop of its own, turned by the check; a context manager that finds what was left behind."""

    def __init__(self, rig: SourceRig) -> None:
        self.rig = rig
        self.functions: list[Function] = []

    def __enter__(self) -> Bench:
        self.folder = tempfile.TemporaryDirectory(prefix="nuclio-edge-check-")
        self.loop = Loop()
        self.loop.thread = get_ident()
        self.before = _held()
        self.rig.begin()
        world = _held()
        self.errors: list[str] = []
        self.loop.on_error = lambda error, call: self.errors.append(f"{call} raised {error!r}")
        self.host = Host(self.loop, self.folder.name)
        self.source: Any = self.rig.make("checked", filled(self.rig.source.PARAMS, self.rig.params), self.host)
        self.made_with = _left(world)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        ended = False
        try:
            self.source.close()
            if kind is None:
                self.turn_for(QUIET_MS)
                ended = True
                self.rig.end()  # first: what the rig holds is not the source's
                self.check_nothing_is_left()
        finally:
            self.loop.close()
            self.folder.cleanup()
            if not ended:
                self.rig.end()

    def function(self, *, holds: bool = False, size: int = 1024) -> Function:
        """Another function with a trigger at the rig's address; `routes` is still to be called."""
        function = Function(self, f"f{len(self.functions)}", holds=holds, size=size)
        self.functions.append(function)
        function.listen(self.rig.trigger)
        return function

    def route(self) -> None:
        """Tell the source the triggers of all functions."""
        self.source.routes([trigger for function in self.functions for trigger in function.triggers])

    def open(self) -> None:
        """Open the source and wait for it."""
        self.route()
        self.source.open()
        self.until(lambda: self.source.state == "open", "the source to be open")
        self.until_in_force()

    def until_in_force(self) -> None:
        """Wait for the routes."""
        self.until(lambda: self.rig.routes_in_force(self.source), "the routes to be in force")

    def emit(self, count: int = 1, first: int = 0) -> list[bytes]:
        """Have the world produce events; their bodies."""
        bodies = []
        for number in range(first, first + count):
            bodies.append(self.rig.body if self.rig.body is not None else b"%d" % number)
            self.rig.emit(bodies[-1])
            if self.rig.own_schedule:
                self.turn()
        return bodies

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Turn the loop until something is so."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            self.turn()
            if time.monotonic() > deadline:
                said = "\n".join(text for _, text in self.host.log.lines)
                raise AssertionError(f"waited {LIMIT_S:g} s in vain for {what}; the log says:\n{said}")

    def until_arrived(self, function: Function, count: int) -> None:
        """Wait for that many events, then see that no more come."""
        self.until(lambda: len(function.arrived) >= count, f"event {count} in {function.name}")
        self.turn_for(QUIET_MS)
        ensure(len(function.arrived) == count, f"{len(function.arrived)} events came, {count} were to come")

    def turn_for(self, ms: int) -> None:
        """Turn the loop for a while, to see that something does not happen."""
        deadline = time.monotonic() + ms / 1000
        while time.monotonic() < deadline:
            self.turn()

    def turn(self) -> None:
        """One turn, after which the books must balance."""
        self.loop.turn(5)
        self.audit()

    def audit(self) -> None:
        """Raise unless received = routed + unrouted + rejected and admitted = handled + failed + … shed + pending."""
        ensure(not self.errors, "; ".join(self.errors))
        source = self.source
        books = (source.received, source.routed, source.unrouted, source.rejected)
        accounted = source.routed + source.unrouted + sum(source.rejected.values())
        ensure(source.received == accounted, f"the source's books do not balance: received, routed … {books}")
        for function in self.functions:
            for trigger in function.triggers:
                ends = trigger.handled + trigger.failed + trigger.dead_lettered + sum(trigger.shed.values())
                ensure(trigger.admitted == ends + trigger.pending, f"{trigger.ledger_id}'s books do not balance")

    def check_nothing_is_left(self) -> None:
        """After close: no descriptor, thread or timer of the source."""
        self.audit()
        ensure(self.source.state == "closed", f"closed, the source calls itself {self.source.state!r}")
        ensure(not self.loop._calls, f"descriptors are still registered: {list(self.loop._calls.values())}")
        timers = [timer for _, _, timer in self.loop._timers if timer.call is not None]
        ensure(not timers, f"timers are still set: {[timer.call for timer in timers]}")
        deadline = time.monotonic() + LIMIT_S
        while _left(self.before) and time.monotonic() < deadline:  # a thread that was told to end may take a moment
            self.turn()
        ensure(not _left(self.before), "left behind: " + ", ".join(_left(self.before)))


def ensure(true: object, otherwise: str) -> None:
    """Raise AssertionError unless it is so; also under python -O."""
    if not true:
        raise AssertionError(otherwise)


def filled(fields: Mapping[str, Field], given: Mapping[str, Any]) -> Values:
    """The values of a table as a manifest would give them."""
    for key in given:
        ensure(key in fields, f"the source's tables have no key {key!r}")
    for key, field in fields.items():
        ensure(not field.required or key in given, f"the key {key!r} is required")
    return values(tuple(fields), {key: given.get(key, field.default) for key, field in fields.items()})


def _held() -> tuple[set[threading.Thread], dict[str, str]]:
    descriptors = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            descriptors[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # the one that listdir had open
    return set(threading.enumerate()), descriptors


def _left(before: tuple[set[threading.Thread], dict[str, str]]) -> list[str]:
    threads, descriptors = _held()
    left = [f"thread {thread.name}" for thread in threads - before[0]]
    return left + [f"descriptor {n} -> {to}" for n, to in descriptors.items() if before[1].get(n) != to]
