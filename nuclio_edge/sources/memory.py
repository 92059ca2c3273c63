"""The memory source: events that the embedding program or a test hands in, and the outcomes it gets back."""

from __future__ import annotations

from collections import deque

from nuclio_edge.core.event import Event, TriggerInfo
from nuclio_edge.core.port import lean
from nuclio_edge.core.response import Response
from nuclio_edge.manifest.schema import Field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.manifest.schema import Fields, Values

    Settled = Callable[[Event, "Response | None", "BaseException | None"], Any]

BACKLOG = 10_000  # events handed in that found no room yet; more are refused
KEPT = 1_000  # outputs kept for whoever looks; older ones go


class MemoryEvent(Event):
    """An event as it was handed in."""

    __slots__ = ("path",)  # always set: it is lean

    if TYPE_CHECKING:
        path: str

    def __init__(self, trigger: Trigger | None, token: Any, path: str, body: bytes, about: dict[str, Any]) -> None:
        self._trigger = trigger
        self._token = token
        self.path = path
        self.raw_body = body
        for name, value in about.items():
            setattr(self, name, value)


lean(MemoryEvent)


def to_parts(event: MemoryEvent) -> tuple[int, bytes, bytes]:
    """What `stored` keeps beside body and time: the attributes that are set."""
    from nuclio_edge.delivery.stored_other import set_parts

    return set_parts(event, path=event.path)


def from_parts(trigger: Trigger | None, _first: int, _path: bytes, rest: bytes, body: bytes, wall: int) -> MemoryEvent:
    """The event of what was kept of it."""
    from nuclio_edge.delivery.stored_other import attributes

    event = MemoryEvent(trigger, None, "", body, attributes(rest))
    event.timestamp_ms = wall
    return event


class Handed:
    """What was handed in: it becomes an event for each function that is still `waiting` for its own."""

    __slots__ = ("about", "body", "path", "routed", "settled", "waiting")

    def __init__(self, path: str, body: bytes, settled: Settled | None, about: dict[str, Any]) -> None:
        self.path = path
        self.body = body
        self.settled = settled
        self.about = about
        self.waiting: list[Trigger] = []
        self.routed = False

    def event(self, trigger: Trigger | None) -> MemoryEvent:
        """The event of one function."""
        return MemoryEvent(trigger, self.settled, self.path, self.body, self.about)


class MemorySource:
    """A source without a world: what is put in comes out as events."""

    kind = "memory"
    replies = True
    acks = True

    PARAMS: ClassVar[Fields] = {}
    TRIGGER: ClassVar[Fields] = {"path": Field("string", required=True, minimum=1, doc="the events' path")}
    OUTPUT: ClassVar[Fields] = {"path": Field("string", "/", minimum=1, doc="where a returned value is kept")}

    def __init__(self, name: str, params: Values, host: Any) -> None:
        self.name = name
        self.params = params
        self.host = host
        self.state = "closed"
        self.received = self.routed = self.unrouted = 0
        self.rejected: dict[str, int] = {}
        self.outputs: deque[tuple[str, bytes]] = deque(maxlen=KEPT)
        self._loop = host.loop
        self._triggers: dict[str, list[Trigger]] = {}
        self._backlog: deque[Handed] = deque()
        self._waits_for: Trigger | None = None

    def routes(self, triggers: list[Trigger]) -> None:
        """Send events to these triggers, by path; once a function. What found no room yet goes to the new ones, too."""
        table: dict[str, list[Trigger]] = {}
        for trigger in triggers:
            address: Any = trigger.address
            at = table.setdefault(address.path, [])
            if all(other.function is not trigger.function for other in at):
                at.append(trigger)
        self._triggers = table
        for handed in self._backlog:
            here = {trigger.ledger_id: trigger for trigger in table.get(handed.path, ())}
            handed.waiting = [here[old.ledger_id] for old in handed.waiting if old.ledger_id in here]
        if self._backlog:
            self._waits_for = None
            self._loop.call_soon(self._push)

    def open(self) -> None:
        """Begin to take events."""
        self._set_state("open")

    def deliver(self, path: str, body: bytes = b"", settled: Settled | None = None, **about: Any) -> None:
        """Hand an event in, from any thread; `settled(event, response, error)` is called on the loop with its outcome.

        Several functions settle it once each. One that becomes no event is settled as well: 404 when no trigger has
        the path, 503 when the source is closed or holds too many. `about` sets attributes of the event (content_type,
        headers, method …). Handlers may call this: the event runs after theirs.
        """
        self._loop.post(lambda: self._receive(Handed(path, body, settled, about)))

    def settle(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """Tell whoever handed the event in what came of it."""
        settled = event._token
        if settled is not None:
            # When the turn ends: now the loop's thread may be an inline function's, to which a print would be ascribed.
            self._loop.at_turn_end(lambda: settled(event, response, error))

    def binding(self, context: Context) -> MemoryBinding:
        """What a handler gets as `context.bindings[name]`."""
        return MemoryBinding(self, context)

    def send(self, output: Values, response: Response, event: Event) -> None:
        """Keep a returned value, and hand it to the functions whose triggers have that path."""
        self.outputs.append((output.path, response.body))
        if output.path in self._triggers:
            self.deliver(output.path, response.body, content_type=response.content_type)

    def stop_receiving(self) -> None:
        """Refuse what is handed in from now on; what waits for room still gets it."""
        self._set_state("closed")

    def close(self) -> None:
        """Turn away what found no room."""
        self._set_state("closed")
        left, self._backlog = self._backlog, deque()
        for handed in left:
            self._refuse(handed, "closed")

    def _set_state(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.host.state_changed(self)

    def _receive(self, handed: Handed) -> None:
        if self.state != "open":
            self._refuse(handed, "closed")
        elif len(self._backlog) >= BACKLOG:
            self._refuse(handed, "backlog")
        else:
            handed.waiting = list(self._triggers.get(handed.path, ()))
            self._backlog.append(handed)
            if self._waits_for is None:
                self._push()

    def _push(self) -> None:
        """Submit what is at hand, in order, up to the first event for which there is no room."""
        self._waits_for = None
        while self._backlog:
            handed = self._backlog[0]
            while handed.waiting:
                trigger = handed.waiting[0]
                if not trigger.submit(handed.event(trigger)):
                    self._wait(trigger)
                    return
                handed.routed = True
                del handed.waiting[0]
            self._backlog.popleft()
            self.received += 1
            if handed.routed:
                self.routed += 1
            else:
                self.unrouted += 1
                self._answer(handed, 404, "no trigger has this path")

    def _wait(self, trigger: Trigger) -> None:
        def room() -> None:
            if self._waits_for is trigger:  # else routes() has found another way meanwhile
                self._push()

        self._waits_for = trigger
        trigger.on_room(room)

    def _refuse(self, handed: Handed, reason: str) -> None:
        self.received += 1
        if handed.routed:  # a function had it already: as a whole it was no loss, and whoever waits is told the rest
            self.routed += 1
        else:
            self.rejected[reason] = self.rejected.get(reason, 0) + 1
        self._answer(handed, 503, reason)

    def _answer(self, handed: Handed, status: int, why: str) -> None:
        """Tell whoever handed it in that it becomes no event (for a function that has not had it)."""
        if handed.settled is not None:
            event = handed.event(None)
            event.trigger = TriggerInfo(self.kind, self.name)
            event._token = handed.settled
            self.settle(event, Response(status_code=status, body=why.encode()), None)


class MemoryBinding:
    """Hands events in from a handler."""

    __slots__ = ("_context", "_source")

    def __init__(self, source: MemorySource, context: Context) -> None:
        self._source = source
        self._context = context

    def publish(self, path: str, body: bytes | str = b"", **about: Any) -> None:
        """Hand an event in; it runs after the present one."""
        self._context.check()
        self._source.deliver(path, body.encode() if isinstance(body, str) else body, **about)
