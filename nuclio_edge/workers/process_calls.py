"""What crosses between the processor and a worker process beside outcomes: events as their sources made them, calls."""

from __future__ import annotations

import marshal
import threading

from nuclio_edge.clock import Stamped
from nuclio_edge.core.event import Event
from nuclio_edge.core.port import slot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.loop import Loop

CLOSE_S = 0.5
_NOT_SENT = ("_trigger", "_token", "_reply", "_attempt", "_fields")
_slots_of: dict[type, list[tuple[str, Any]]] = {}


def state_of(event: Event) -> tuple[str, dict[str, Any]]:
    """An event as it can travel: its class, and the attributes that its source set; the rest is made over there."""
    made = type(event)
    slots = _slots_of.get(made)
    if slots is None:
        slots = _slots_of[made] = _slots(made)
    event.id  # noqa: B018 - made here, so that it is the same on both sides
    state: dict[str, Any] = {}
    if not hasattr(made, "__getattr__"):  # a lean class, of which every own slot is set over there as well
        state = {name: None for name in made.__slots__ if name in _NOT_SENT and name not in Event.__slots__}
    for name, get in slots:
        try:
            state[name] = get(event)
        except AttributeError:
            pass  # not set
    if type(state.get("timestamp_ms")) is Stamped:  # marshal takes no derived type
        state["_stamped"] = state.pop("timestamp_ms").stamp
    more = state.pop("_more", {})
    state.update({name: more[name] for name in more if name not in _NOT_SENT})
    try:
        marshal.dumps(state)
    except ValueError:
        state = {name: plain for name, value in state.items() for plain in _plain(value)}
    if made._lazy is Event._lazy and all(name in Event.__slots__ for name in made.__slots__):
        made = Event  # so that the source's module is not imported over there
    return f"{made.__module__}:{made.__qualname__}", state


class Caller:
    """The thread that calls bindings for worker processes which wait for the answer."""

    def __init__(self, loop: Loop, name: str) -> None:
        from queue import SimpleQueue

        self._loop = loop
        self.jobs: Any = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread after the call that it is in."""
        self.jobs.put(None)
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while True:
            job = self.jobs.get()
            if job is None:
                return
            run, done = job
            try:
                answer = (True, run(), "")
            except BaseException as error:  # noqa: BLE001 - it is the function's, and travels there
                answer = (False, type(error).__name__, str(error))
            self._loop.post(lambda done=done, answer=answer: done(answer))  # type: ignore[misc]  # bound at once


def _slots(made: type) -> list[tuple[str, Any]]:
    return [
        (name, slot(one, name).__get__)
        for one in made.__mro__
        for name in getattr(one, "__slots__", ())
        if name not in _NOT_SENT
    ]


def _plain(value: Any) -> list[Any]:
    """The value if it can travel, as what it derives from if that can, else nothing."""
    for form in (lambda: value, lambda: str(value) if isinstance(value, str) else bytes(value), lambda: dict(value)):
        try:
            plain = form()
            marshal.dumps(plain)
            return [plain]
        except (TypeError, ValueError):
            pass
    return []
