"""The CoAP source: a server on our own loop, and through aiocoap what other devices say.

    coap_listen     a socket                             coap_intake     what a datagram becomes
    coap_peer       who asks, and what was answered      coap_plan       what is to be done, by the raw options
    coap_answer     what goes back                       coap_send       CON messages until they are acknowledged
    coap_blocks     bodies in blocks                     coap_observe    who is told of changes
    coap_links      /.well-known/core                    coap_formats    numbers and names
    coap_client     aiocoap, on a thread of its own      coap_watch      resources of others, observed

States: "closed" -> open() -> "open" once all addresses are bound; until then, and while one is not to be had (another
process has the port, an interface has no address yet), "connecting": it is tried again for ever, the others serve.
"""

from __future__ import annotations

from nuclio_edge.sources.coap_answer import Answers
from nuclio_edge.sources.coap_blocks import Blocks
from nuclio_edge.sources.coap_intake import Intake
from nuclio_edge.sources.coap_listen import Endpoint
from nuclio_edge.sources.coap_observe import Observers
from nuclio_edge.sources.coap_params import OUTPUT, PARAMS, PORT, TRIGGER, parse_listen
from nuclio_edge.sources.coap_plan import Planner
from nuclio_edge.sources.coap_publish import CoapBinding, Resource
from nuclio_edge.sources.coap_send import Sender, chance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.schema import Values

FIRST_PAUSE_MS = 1_000
LONGEST_PAUSE_MS = 60_000
RESOURCES = 1024


class CoapSource:
    """One CoAP server, with as many sockets as it has addresses; everything but the binding is the loop's."""

    kind = "coap"
    replies = True
    acks = False
    PARAMS = PARAMS
    TRIGGER = TRIGGER
    OUTPUT = OUTPUT

    def __init__(self, name: str, params: Values, host: Any) -> None:
        self.name = name
        self.params = params
        self.host = host
        self.loop = host.loop
        self.log = host.log
        self.state = "closed"
        self.attempts = 0
        self.planner = Planner()
        self.sender = Sender(self.loop)
        self.blocks = Blocks(self.loop, params.max_body, getattr(host, "budget", None))
        self.answers = Answers(self.loop, self.sender, self.blocks, params.block_size)
        self.observers = Observers(self.loop, self.planner, self.sender, self.answers, params.max_observers)
        self.intake = Intake(self.loop, self.planner, self.answers, self.blocks, self.sender)
        self.answers.observers = self.intake.observers = self.observers
        self.answers.watched = self.observers.at
        self.settle: Any = self.answers.settle  # (event, response, error); bound here, which is a call less a request
        self.watcher: Any = None  # of other devices' resources, once a trigger wants one
        self.client: Any = None  # aiocoap's, once somebody needs it
        self._missing: list[tuple[str, int, str]] = []  # (host, port, group) not bound yet
        self._timer: Any = None
        self._pause = FIRST_PAUSE_MS
        self._said: set[str] = set()
        self._full = 0  # publications for which there was no room

    # -- what the processor calls -------------------------------------------------------------------------------------

    def routes(self, triggers: list[Trigger]) -> None:
        """The complete list of triggers from now on."""
        self.planner.follow(triggers)
        self.intake.follow(triggers)
        self.observers.follow()
        watched: list[Any] = [trigger for trigger in triggers if trigger.address.observe is not None]  # type: ignore[union-attr]
        if watched and self.watcher is None:
            from nuclio_edge.sources.coap_watch import Watcher

            self.watcher = Watcher(self)
        if self.watcher is not None:
            self.watcher.follow(watched)

    def open(self) -> None:
        """Bind the sockets."""
        if self.state != "closed":
            return
        wanted = [(*parse_listen(text), "") for text in dict.fromkeys(self.params.listen)]
        port = wanted[0][1] or PORT if wanted else PORT
        self._missing = [*wanted, *(("", port, group) for group in self.params.multicast)]
        self._bind()
        if self.watcher is not None:
            self.watcher.open()

    def stop_receiving(self) -> None:
        """Refuse further requests (5.03); replies still go out, and their acknowledgements are read."""
        self.intake.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.watcher is not None:
            self.watcher.stop()

    def sent(self) -> bool:
        """Whether every separate response has been acknowledged."""
        return not len(self.sender)

    def close(self) -> None:
        """Leave no socket, timer or thread."""
        self.stop_receiving()
        self.settle = _too_late
        if self.client is not None:
            self.client.close()
            self.client = None
        if self.state != "closed":
            self._tell()
        parts: tuple[Any, ...] = (self.answers, self.sender, self.blocks, self.observers)
        for part in (*parts, *self.intake.endpoints):
            part.close()
        self.intake.endpoints.clear()
        self._become("closed")

    def send(self, output: Values, response: Response, _event: Event) -> None:
        """An output: the response becomes the value of a resource."""
        if response.status_code < 300:
            _, options, body = self.answers.represent(response, _ANY)
            self.publish(output.path, Resource(options, body))

    def binding(self, context: Context) -> CoapBinding:
        """What a handler finds under the source's name."""
        return CoapBinding(self, context)

    # -- what handlers do ---------------------------------------------------------------------------------------------

    def publish(self, path: str, resource: Resource) -> None:
        """Make this the value of a path, and tell who observes it; on the loop."""
        resources = self.planner.resources
        if path not in resources:
            if len(resources) >= RESOURCES:
                self._full += 1
                return
            self.planner.forget()  # the path was 4.04 up to now
        resources[path] = resource
        self.observers.publish(path, resource.format, resource.options, resource.body)

    @property
    def authority(self) -> str:
        """host:port for the events' URLs; before it listens, of what the manifest says."""
        if self.intake.endpoints:
            endpoint = self.intake.endpoints[0]
            host, port, everywhere = endpoint.host, endpoint.port, endpoint.everywhere
        elif self.params.listen:
            host, port = parse_listen(self.params.listen[0])
            everywhere = host in ("::", "0.0.0.0")  # noqa: S104 - compared with, not bound to
        else:
            return ""
        if everywhere:
            host = self.host.device.name
        place = f"[{host}]" if ":" in host else host
        return place if port == PORT else f"{place}:{port}"

    @property
    def port(self) -> int:
        """The port of the first address: which one it is when 0 was asked for."""
        return self.intake.endpoints[0].port if self.intake.endpoints else 0

    # -- counting -----------------------------------------------------------------------------------------------------

    @property
    def received(self) -> int:
        """Requests that were new and whole, and values of observed resources."""
        return self.intake.received

    @property
    def routed(self) -> int:
        """Those that became events, or were answered by what an output had published."""
        return self.intake.routed

    @property
    def unrouted(self) -> int:
        """Those for which there is no path (4.04) or no method (4.05)."""
        return self.intake.unrouted

    @property
    def rejected(self) -> dict[str, int]:
        """Those that became no event, by reason."""
        return self.intake.rejected

    def counts(self) -> dict[str, int]:
        """What else happened, by name; every bound that turned something away is here."""
        endpoints = self.intake.endpoints
        return {
            "duplicates": self.answers.duplicates,
            "exchanges_forgotten": sum(endpoint.peers.forgotten for endpoint in endpoints),
            "unsent": sum(endpoint.unsent for endpoint in endpoints),
            "ignored": self.intake.ignored,
            "pings": self.intake.pings,
            "listings": self.intake.listings,
            "retransmitted": self.sender.retransmitted,
            "unacknowledged": self.sender.lost,
            "sent_unconfirmed": self.sender.overflow,
            "uploads_unfinished": self.blocks.unfinished,
            "replies_dropped": self.blocks.dropped,
            "observers_refused": self.observers.refused,
            "notifications": self.observers.notified,
            "publications_dropped": self._full,
        }

    # -- sockets ------------------------------------------------------------------------------------------------------

    def _bind(self) -> None:
        self._timer = None
        self.attempts += 1
        left = []
        for host, port, group in self._missing:
            take = self.intake.take_group if group else self.intake.take
            try:
                self.intake.endpoints.append(Endpoint(self.loop, host, port, take, group))
            except OSError as error:
                left.append((host, port, group))
                where = f"{group or host}:{port}"
                if where not in self._said:
                    self._said.add(where)
                    self.log.warn_with("cannot listen, trying again", "address", where, "error", error.strerror)
        self._missing = left
        if left:
            pause = int(self._pause * (0.5 + chance() / 2))
            self._pause = min(2 * self._pause, LONGEST_PAUSE_MS)
            self._timer = self.loop.call_later(pause, self._bind)
            self._become("connecting")
            return
        if self._said:
            self.log.info_with("listening", "addresses", ", ".join(self.params.listen), "attempts", self.attempts)
            self._said.clear()
        self._become("open")

    def _become(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.host.state_changed(self)

    def _tell(self) -> None:
        """Say at the end what was turned away by a bound: nothing is lost silently."""
        lost = {name: count for name, count in self.counts().items() if count and name in _LOSSES}
        if lost:
            self.log.warn_with("some of it came to nothing", *(part for pair in lost.items() for part in pair))


_LOSSES = (
    "exchanges_forgotten", "unsent", "unacknowledged", "uploads_unfinished", "replies_dropped", "observers_refused",
    "publications_dropped",
)  # fmt: skip


class _Any:
    """Stands for a plan that accepts everything."""

    code = 1
    accept = None


_ANY: Any = _Any()


def _too_late(_event: Any, _response: Any, _error: Any) -> None:
    """A handler was done after the source was closed: nobody can be told."""
