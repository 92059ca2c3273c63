"""The memory source: events that the embedding program or a test hands in, and the outcomes it gets back."""

from __future__ import annotations

from collections import deque

from nuclio_edge.core.event import Event
from nuclio_edge.manifest.schema import Field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.schema import Fields, Values

    Settled = Callable[[Event, "Response | None", "BaseException | None"], Any]

BACKLOG = 10_000  # events handed in that found no room yet; more are refused
KEPT = 1_000  # outputs kept for whoever looks; older ones go


class MemoryEvent(Event):
    """An event as it was handed in."""

    __slots__ = ()

    def __init__(self, trigger: Trigger, token: Any, path: str, body: bytes, about: dict[str, Any]) -> None:
        self._trigger = trigger
        self._token = token
        self.path = path
        self.raw_body = body
        for name, value in about.items():
            setattr(self, name, value)


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
        self.state = "closed"
        self.received = self.routed = self.unrouted = 0
        self.rejected: dict[str, int] = {}
        self.outputs: deque[tuple[str, bytes]] = deque(maxlen=KEPT)
        self._loop = host.loop
        self._triggers: dict[str, list[Trigger]] = {}
        self._backlog: deque[tuple[Event, Trigger, bool]] = deque()  # with: whether it is the last of its fan-out
        self._waits = False

    def routes(self, triggers: list[Trigger]) -> None:
        """Send events to these triggers, by path; once a function."""
        table: dict[str, list[Trigger]] = {}
        for trigger in triggers:
            at = table.setdefault(trigger.address.path, [])
            if all(other.function is not trigger.function for other in at):
                at.append(trigger)
        self._triggers = table

    def open(self) -> None:
        """Begin to take events."""
        self.state = "open"

    def deliver(self, path: str, body: bytes = b"", settled: Settled | None = None, **about: Any) -> None:
        """Hand an event in, from any thread; `settled(event, response, error)` is called on the loop at its end.

        `about` sets attributes of the event (content_type, headers, method …). Handlers may call this: the event runs
        after theirs.
        """
        self._loop.post(lambda: self._receive(path, body, settled, about))

    def settle(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """Tell whoever handed the event in what came of it."""
        settled = event._token
        if settled is not None:
            settled(event, response, error)

    def binding(self, context: Context) -> MemoryBinding:
        """What a handler gets as `context.bindings[name]`."""
        return MemoryBinding(self, context)

    def send(self, output: Values, response: Response, event: Event) -> None:
        """Keep a returned value, and hand it to the functions whose triggers have that path."""
        self.outputs.append((output.path, response.body))
        if output.path in self._triggers:
            self.deliver(output.path, response.body, content_type=response.content_type)

    def stop_receiving(self) -> None:
        """Refuse what is handed in from now on."""
        self.state = "closed"

    def close(self) -> None:
        """Turn away what found no room."""
        self.state = "closed"
        left = sum(last for _, _, last in self._backlog)
        self._backlog.clear()
        if left:
            self.received += left
            self.rejected["closed"] = self.rejected.get("closed", 0) + left

    def _receive(self, path: str, body: bytes, settled: Settled | None, about: dict[str, Any]) -> None:
        triggers = self._triggers.get(path, [])
        if self.state != "open" or len(self._backlog) >= BACKLOG:
            reason = "closed" if self.state != "open" else "backlog"
            self.received += 1
            self.rejected[reason] = self.rejected.get(reason, 0) + 1
        elif not triggers:
            self.received += 1
            self.unrouted += 1
        else:
            for trigger in triggers:
                event = MemoryEvent(trigger, settled, path, body, about)
                self._backlog.append((event, trigger, trigger is triggers[-1]))
            if not self._waits:
                self._push()

    def _push(self) -> None:
        self._waits = False
        while self._backlog:
            event, trigger, last = self._backlog[0]
            if not trigger.submit(event):
                self._waits = True
                trigger.on_room(self._push)
                return
            self._backlog.popleft()
            if last:
                self.received += 1
                self.routed += 1


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
