"""Who sees the events of a recorded trigger come and end: it stands in the place of its source and of its `submit`.

The end of an event is the one moment that every way of handling it has in common: `trigger.source.settle`. An event for
which nobody waits gets a token of ours, so that it is settled too. The handler of a recorded function is called by a
wrapper which tells when and on which worker; what it asks of bindings goes through `Heard`.

A note of what was sent is [to, call, arguments, named, result]: of an output `call` is "" and the arguments are its
body. Results are kept, so that a replay can give the handler what the world answered.
"""

from __future__ import annotations

from nuclio_edge.core import port
from nuclio_edge.delivery.stored import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response

    from .recorder import Recorder

MOST_NOTES = 100  # of one event
_SHED = b"shed: "


class _Witnessed:
    """The token of an event for which nobody waits."""

    def __repr__(self) -> str:
        return "WITNESSED"


WITNESSED: Any = _Witnessed()


class Seen:
    """One event between its admission and its end."""

    __slots__ = ("began", "came_ms", "ended", "kept", "key", "left_out", "parts", "queued", "sent", "worker")

    def __init__(self, parts: tuple[bytes, bytes], came_ms: int) -> None:
        self.parts = parts  # until they are handed to the recorder
        self.came_ms = came_ms
        self.queued = port.clock()
        self.key = b""
        self.kept = False
        self.worker: str | None = None
        self.began = self.ended = 0  # of the last attempt
        self.left_out = 0
        self.sent: list[list[Any]] = []

    def ran(self, worker: str | None, began: int, ended: int) -> None:
        """A handler was called; on a worker's thread."""
        self.worker = worker
        self.began, self.ended = began, ended

    def note(self, to: str, call: str, arguments: tuple[Any, ...], named: dict[str, Any], result: Any = None) -> None:
        """Something was sent, or asked for; on any thread."""
        from .recorder import kept

        if len(self.sent) >= MOST_NOTES:
            self.left_out += 1
            return
        known = {str(name): kept(value) for name, value in named.items()}
        self.sent.append([to, call, [kept(value) for value in arguments], known, kept(result)])


class Witness:
    """What a recorded trigger has in the place of its source; `origin` is the source itself."""

    def __init__(self, recorder: Recorder, trigger: Trigger, version: str) -> None:
        self.recorder = recorder
        self.trigger = trigger
        self.version = version
        self.real: Any = trigger.source
        self.origin: Any = getattr(self.real, "origin", self.real)
        self.wrapped = trigger.submit
        # A source that is not the trigger's own, but stands for it, hears of every event already.
        self._hears = trigger.source is not self.origin
        trigger.source = self
        trigger.submit = self.submit

    def __getattr__(self, name: str) -> Any:
        """What else is asked of a source is the real one's to say."""
        return getattr(self.real, name)

    def submit(self, event: Event) -> bool:
        """Take an event; the trigger's `submit`."""
        recorder = self.recorder
        bare = event._token is None and not self._hears
        if bare:
            event._token = WITNESSED
        try:
            seen = Seen(pack(event), port.now_ms())
        except Exception as error:  # noqa: BLE001 - an event of another package's kind: what it makes is its affair
            recorder.loop.on_error(error, self.submit)
            recorder.dropped += 1
            return self.wrapped(event)
        id_ = event.id
        recorder.remember(id_, seen)
        if self.wrapped(event):
            recorder.came(self.trigger, seen)
            return True
        if recorder.open.get(id_) is seen:
            del recorder.open[id_]
        if bare:
            event._token = None
        return False

    def settle(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """An event has come to its end."""
        try:
            self._ended(event, response, error)
        except Exception as wrong:  # noqa: BLE001 - whoever waits for the answer gets it all the same
            self.recorder.loop.on_error(wrong, self.settle)
        if event._token is WITNESSED:
            event._token = None
        else:
            self.real.settle(event, response, error)

    def _ended(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        recorder = self.recorder
        seen = recorder.open.pop(event.id, None)
        if seen is None:
            seen = from_disk(event)
        recorder.came(self.trigger, seen)
        if seen.kept:
            recorder.ended(seen, self._outcome(seen, event, response, error))

    def _outcome(
        self, seen: Seen, event: Event, response: Response | None, error: BaseException | None
    ) -> dict[str, Any]:
        from .recorder import LONGEST_ERROR, kept

        status = response.status_code if response is not None else 200 if error is None else 500
        outcome: dict[str, Any] = {
            "status": status,
            "attempts": min(event._attempt, 254) + 1,
            "version": self.version,
            "at_ms": port.now_ms(),
        }
        if seen.began:
            outcome["worker"] = seen.worker
            outcome["ran_us"] = (seen.ended - seen.began) // 1000
            if seen.queued and not event._attempt:
                outcome["waited_us"] = max(seen.began - seen.queued, 0) // 1000
        if error is not None:
            outcome["error"] = self.trigger.function.explain(error)[-LONGEST_ERROR:]
        if response is not None:
            body = response.body
            if isinstance(body, bytes) and body.startswith(_SHED) and status >= 500 and not seen.began:
                outcome["shed"] = body[len(_SHED) :].decode("utf-8", "replace")
            elif isinstance(body, (bytes, str)) and not hasattr(event._reply, "parts"):
                outcome["body"] = kept(body)
                outcome["content_type"] = response.content_type
                if response.headers:
                    outcome["headers"] = kept(dict(response.headers))
            else:
                outcome["stream"] = True
        if seen.sent:
            outcome["sent"] = seen.sent
            if seen.left_out:
                outcome["sent_left_out"] = seen.left_out
        return outcome


def from_disk(event: Event) -> Seen:
    """An event of which it is not known when it came to its inbox."""
    seen = Seen(pack(event, repeated=bool(getattr(event, "duplicate", False))), event.timestamp_ms)
    seen.queued = 0
    return seen


def watched(recorder: Recorder, handler: Any) -> Any:
    """A handler whose calls are told to the recorder."""
    clock = port.clock

    def call(context: Context, event: Any) -> Any:
        for one in event if isinstance(event, list) else (event,):
            recorder.seen(one)
        began = clock()
        try:
            result = handler(context, event)
        except BaseException:
            recorder.ran(context, event, began)
            raise
        if hasattr(type(result), "__await__"):
            return awaited(context, event, result, began)
        recorder.ran(context, event, began)
        return result

    async def awaited(context: Context, event: Any, result: Any, began: int) -> Any:
        try:
            return await result
        finally:
            recorder.ran(context, event, began)

    return call


class Heard:
    """A binding whose calls are noted, with what they returned; else it is as the real one. Made by `stand_in`."""

    __slots__ = ("_context", "_name", "_real", "_recorder")

    def __init__(self, real: Any, name: str, context: Context, recorder: Recorder) -> None:
        for slot, value in (("_real", real), ("_name", name), ("_context", context), ("_recorder", recorder)):
            object.__setattr__(self, slot, value)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if not callable(real):
            return real

        def call(*arguments: Any, **named: Any) -> Any:
            result = real(*arguments, **named)
            event = self._context._event
            seen = self._recorder.seen(event) if event is not None else None
            if seen is not None:
                seen.note(self._name, name, arguments, named, result)
            return result

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)


def real_of(binding: Any) -> Any:
    """The binding itself, where it may be one whose calls are noted."""
    return binding._real if isinstance(binding, Heard) else binding


_PYTHONS_OWN = {*dir(object), *dir(Heard), "__annotations__", "__orig_bases__", "__parameters__", "__class_getitem__"}
_kinds: dict[tuple[type, type], type] = {}


def stand_in(kind: type, real: Any, *about: Any) -> Any:
    """A `kind(real, …)` that also has the special methods of the real object: with, [], in, iteration and the like."""
    made = _kinds.get((kind, type(real)))
    if made is None:
        special = {
            name: _special(name)
            for name in dir(type(real))
            if name.startswith("__") and name.endswith("__") and name not in _PYTHONS_OWN
        }
        made = _kinds[kind, type(real)] = type(kind.__name__, (kind,), {"__slots__": (), **special})
    return made(real, *about)


def _special(name: str) -> Any:
    return lambda self, *arguments: self.__getattr__(name)(*arguments)
