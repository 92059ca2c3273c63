"""A processor that runs recorded events again: nothing is opened, and what the world answered then it answers now."""

from __future__ import annotations

import inspect

from nuclio_edge.cli.beside import Beside
from nuclio_edge.cli.replay_clock import ReplayClock
from nuclio_edge.delivery.stored import UnreadableError
from nuclio_edge.manifest.model import changed
from nuclio_edge.recorder.recorder import LONG, STRANGE, Recorder, kept
from nuclio_edge.recorder.witness import stand_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.functions.function import Function
    from nuclio_edge.logs import Log
    from nuclio_edge.manifest.model import FunctionSpec, Manifest, SourceSpec
    from nuclio_edge.recorder.recording import Entry
    from nuclio_edge.recorder.witness import Seen

LOOK_MS = 20  # how often it is looked whether the functions are there
# Kinds whose bindings only queue while the source is closed: a call that was not recorded is made, so that a topic or
# a payload that the real one would refuse is refused here as well.
_QUEUEING = ("mqtt", "memory")


class Quiet:
    """Stands for a source: opens nothing, tells nobody."""

    replies = True
    acks = True
    streams = False  # an answer in parts is taken as a whole
    state = "open"

    def __init__(self, real: Any) -> None:
        self.real = real
        self.received = self.routed = self.unrouted = 0
        self.rejected: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        """Its names, URLs and bindings are the real one's."""
        return getattr(self.real, name)

    def routes(self, triggers: list[Trigger]) -> None:
        """Nothing is subscribed to."""

    def settle(self, event: Any, response: Any, error: Any) -> None:
        """Nobody waits."""

    def send(self, output: Any, response: Any, event: Any) -> None:
        """Nothing is sent."""

    def sent(self) -> bool:
        """Nothing is on its way."""
        return True

    def stop_receiving(self) -> None:
        """Nothing was received."""

    def close(self) -> None:
        """Close the real one, which was never opened."""
        self.real.close()


class Collector(Recorder):
    """A recorder that keeps no file: outcomes go to the replay, and bindings answer as they are recorded to have."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        super().__init__(replay)

    def configure(self, table: Any) -> None:
        """All triggers."""
        self._size = table.max_size
        self._patterns = ("*/*",)

    def heard(self, makers: dict[str, Any]) -> dict[str, Any]:
        """The makers of bindings, which give played ones instead."""
        return {
            name: lambda context, name=name, make=make: stand_in(Played, make(context), name, context, self._replay)
            for name, make in makers.items()
        }

    def came(self, trigger: Trigger, seen: Seen) -> None:
        """Every event is wanted, and written nowhere."""
        seen.kept = True

    def ended(self, seen: Seen, outcome: dict[str, Any]) -> None:
        """It has run again."""
        self._replay.ended(outcome)

    def close(self) -> None:
        """There is no file."""


class Played:
    """A binding that does nothing: its calls are noted, and return what the same call returned when it was recorded."""

    __slots__ = ("_context", "_name", "_real", "_replay")

    def __init__(self, real: Any, name: str, context: Context, replay: Replay) -> None:
        for slot, value in (("_real", real), ("_name", name), ("_context", context), ("_replay", replay)):
            object.__setattr__(self, slot, value)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if not callable(real):
            return real
        replay = self._replay
        replay.signatures[self._name, name] = real

        def call(*arguments: Any, **named: Any) -> Any:
            self._context.check()
            note = [self._name, name, [kept(one) for one in arguments], {key: kept(one) for key, one in named.items()}]
            known, result = replay.answer(note)
            if not known:
                source = replay.manifest.sources.get(self._name)
                if source is not None and source.kind in _QUEUEING:
                    real(*arguments, **named)
                else:
                    inspect.signature(real).bind(*arguments, **named)
            event = self._context._event
            seen = replay.collector.open.get(event.id) if event is not None else None
            if seen is not None:
                seen.note(self._name, name, arguments, named, result)
            return result

        return call


class Replay(Beside):
    """Runs entries one after the other; `told(entry, outcome, why)` with each: an outcome, or why there is none."""

    def __init__(
        self,
        manifest: Manifest,
        log: Log,
        functions: dict[str, FunctionSpec],
        entries: list[Entry],
        told: Callable[[Entry, dict[str, Any] | None, str], Any],
        speed: float = 0,
    ) -> None:
        super().__init__(manifest, log, "replay", {name: _calm(spec) for name, spec in functions.items()})
        self.offline = True
        self.clock = ReplayClock(speed)
        self.signatures: dict[tuple[str, str], Any] = {}
        self.collector = self.assembly.recorder = Collector(self)
        self.failed = ""  # the function that could not start
        self._speed = speed
        self._entries = iter(entries)
        self._first = entries[0].event.timestamp_ms
        self._told = told
        self._entry: Entry | None = None
        self._answers: list[list[Any]] = []
        self._before = 0
        self._dressed: set[str] = set()
        self.intercept(lambda spec, response, event: None)

    def run_all(self) -> None:
        """Run all of them; returns when it is done."""
        with self.clock:
            self.clock.set(self._first)
            self.open()
            self.loop.call_soon(self._begin)
            self.run()

    def make_source(self, spec: SourceSpec) -> Any:
        """The stand-in of a source."""
        return Quiet(super().make_source(spec))

    def answer(self, note: list[Any]) -> tuple[bool, Any]:
        """Whether this call was recorded of the present event, and what it returned; on a worker's thread."""
        wanted = canonical(note, self.signatures)
        for old in self._answers:
            if canonical(old, self.signatures) == wanted:
                self._answers.remove(old)
                result = old[4]
                lost = isinstance(result, dict) and (LONG in result or STRANGE in result)
                return True, None if lost else result
        return False, None

    def ended(self, outcome: dict[str, Any]) -> None:
        """The present event has come to its end."""
        entry, self._entry = self._entry, None
        if entry is not None:
            self._told(entry, outcome, "")
            self.loop.call_soon(self._next)

    def _begin(self) -> None:
        waiting = [f for f in self.functions.values() if not f.settled()]
        suspended = [f.name for f in self.functions.values() if f.suspended]
        if suspended:
            self.failed = suspended[0]
            self.stop()
        elif waiting or self.assembly.importing:
            self.loop.call_later(LOOK_MS, self._begin)
        else:
            self._next()

    def _next(self) -> None:
        entry = next(self._entries, None)
        if entry is None:
            self.stop()
            return
        came = entry.event.timestamp_ms
        pause = int((came - self._before) / self._speed) if self._speed and self._before else 0
        self._before = came
        if pause > 0:
            self.loop.call_later(pause, lambda: self._run_again(entry))
        else:
            self._run_again(entry)

    def _run_again(self, entry: Entry) -> None:
        function = self.functions[entry.function]
        trigger = trigger_of(function, entry)
        try:
            event = None if trigger is None else entry.event.event(trigger)
        except UnreadableError as error:
            self._skip(entry, str(error))
            return
        if trigger is None or event is None:
            self._skip(entry, "its function has no trigger of that kind")
            return
        self._dress(function)
        self.clock.set(entry.event.timestamp_ms)
        self._entry = entry
        self._answers = [note for note in (entry.outcome or {}).get("sent", ()) if note[1]]
        event._attempt = 0
        if entry.event.repeated and hasattr(event, "duplicate"):
            setattr(event, "duplicate", True)  # noqa: B010 - not every version of the class has it
        trigger.submit(event)

    def _skip(self, entry: Entry, why: str) -> None:
        self._told(entry, None, why)
        self.loop.call_soon(self._next)

    def _dress(self, function: Function) -> None:
        if function.package and function.package not in self._dressed:
            self._dressed.add(function.package)
            self.clock.dress(function.package)


def trigger_of(function: Function, entry: Entry) -> Trigger | None:
    """The trigger that an entry goes to: of that number, of that name or at least of that kind; else None."""
    kind = entry.event.kind
    there = [trigger for trigger in function.triggers if trigger.kind == kind or not kind]
    by_number = [trigger for trigger in there if trigger.ledger_id == entry.trigger]
    by_name = [trigger for trigger in there if trigger.name == entry.trigger_name]
    return next(iter([*by_number, *by_name, *there]), None)


def canonical(note: list[Any], signatures: dict[tuple[str, str], Any]) -> list[Any]:
    """A note of what was sent, however it was spelled: arguments by name, without those that are as by default."""
    to, call, arguments, named = note[:4]
    real = signatures.get((to, call))
    if real is not None:
        try:
            bound = inspect.signature(real).bind(*arguments, **named)
        except (TypeError, ValueError):
            return [to, call, list(arguments), named]
        arguments, named = [], {}
        for key, value in bound.arguments.items():
            parameter = bound.signature.parameters[key]
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                named.update(value)
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                arguments += value
            elif value != parameter.default:
                named[key] = value
    return [to, call, list(arguments), named]


def _calm(spec: FunctionSpec) -> FunctionSpec:
    """A function as it is replayed: one event at a time, retries at once, batches of one."""
    triggers = tuple(
        changed(
            trigger,
            retry=changed(trigger.retry, backoff_ms=1, max_backoff_ms=1),
            batch=None if trigger.batch is None else changed(trigger.batch, size=1),
            durable=False,
            dead_letter=False,
            order_by=None,
            rate_limit=None,
            when_full="block",
        )
        for trigger in spec.triggers
    )
    return changed(spec, triggers=triggers, workers_min=1, workers_max=1, load="start", disabled=False)
