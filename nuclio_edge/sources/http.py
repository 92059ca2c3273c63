"""The HTTP source: requests become events, what handlers return becomes the answer.

The server (http_server.py and what it stands on) knows connections and requests; here they meet triggers. Answered
without an event: `/__internal/health`, OPTIONS that no trigger asked for, what has no route (404, 405), and what is no
request. A request for which its function has no room gets 503 with Retry-After; with `when_full = "block"` it is kept,
and its connection not read until there is room.
"""

from __future__ import annotations

from nuclio_edge.jitter import up_to
from nuclio_edge.sources.http_event import HttpEvent
from nuclio_edge.sources.http_listen import Listener, parse
from nuclio_edge.sources.http_params import OUTPUT, PARAMS, TRIGGER, mode
from nuclio_edge.sources.http_routes import Routes, allowed, choose
from nuclio_edge.sources.http_server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.schema import Fields, Values
    from nuclio_edge.sources.http_exchange import Exchange
    from nuclio_edge.sources.http_head import Head

HEALTH = "/__internal/health"
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 500, 30_000
_RETRY_AFTER = {"Retry-After": "1"}
# Under which name bytes that were no request are counted.
_REFUSED = {
    400: "malformed", 408: "too-slow", 413: "too-big", 417: "not-supported", 431: "too-big", 501: "not-supported",
    503: "no-memory", 505: "not-supported",
}  # fmt: skip


class HttpSource:
    """Listens; every whole request that has a route is an event."""

    kind = "http"
    replies = True
    acks = False
    streams = True

    PARAMS: ClassVar[Fields] = PARAMS
    TRIGGER: ClassVar[Fields] = TRIGGER
    OUTPUT: ClassVar[Fields | None] = OUTPUT

    def __init__(self, name: str, params: Values, host: Any) -> None:
        self.name = name
        self.params = params
        self.host = host
        self.state = "closed"
        self.received = self.routed = self.unrouted = 0
        self.rejected: dict[str, int] = {}
        self.attempts = 0
        self._loop = host.loop
        self._routes = Routes()
        self._listeners: dict[str, Listener] = {}
        self._kept: list[HttpEvent] = []  # requests for which their function had no room, oldest first
        self._retry: Any = None
        self._pause = FIRST_PAUSE_MS
        self._said = False
        self.server = server = Server(host.loop, self._respond)
        self._replies = server.replies
        server.refused = self._refused
        server.foresee = self._foresee
        server.on_trouble = lambda what, why: host.log.warn_with(what, "reason", why)
        for key in ("max_body", "max_connections", "header_timeout", "body_timeout", "idle_timeout", "write_timeout"):
            setattr(server, key, getattr(params, key))
        budget = server.budget = getattr(host, "budget", None)
        server.max_held = max(params.max_body, (48 << 20 if budget is None else budget.limit) // 2)

    # -- the contract -------------------------------------------------------------------------------------------------

    def routes(self, triggers: list[Trigger]) -> None:
        """Send requests to these triggers; one that waits for room goes to the new version of its function."""
        self._routes = Routes(triggers)
        self.server.heads.forget()
        here = {trigger.ledger_id: trigger for trigger in triggers}
        kept, self._kept = self._kept, []
        for event in kept:
            new = here.get(event._trigger.ledger_id)  # type: ignore[union-attr]  # it was submitted to one
            if new is None:
                self._give_up(event)
            else:
                event._trigger = new
                self._kept.append(event)
        if self._kept:
            self._loop.call_soon(self._room)

    def open(self) -> None:
        """Begin to listen; an address that is not to be had now is tried again."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self.params.cert is not None and not self._listeners:
            self._load_certificate()
        addresses = [parse(text) for text in self.params.listen]
        wrong: OSError | None = None
        opened = []
        for address in addresses:
            if address.text not in self._listeners:
                try:
                    listener = Listener(
                        address, addresses, mode(self.params.socket_mode) or 0, shared=self.params.reuse_port
                    )
                except OSError as error:
                    wrong = error
                    self._complain(address.text, error)
                    continue
                self._listeners[address.text] = listener
                opened.append(listener)
        self.server.open(opened)
        if wrong is None:
            self._pause = FIRST_PAUSE_MS
            self._said = False
            self._become("open")
            return
        self.attempts += 1
        self._retry = self._loop.call_later(self._pause // 2 + up_to(self._pause - self._pause // 2), self.open)
        self._pause = min(self._pause * 2, LONGEST_PAUSE_MS)
        self._become("connecting")

    def settle(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """Answer."""
        exchange: Exchange = event._token
        if response is None:
            if exchange.plain and event._reply is None:
                exchange.answer(200)
                return
        elif (
            exchange.plain
            and not response.headers
            and event._reply is None
            and type(response.body) is bytes
            and self._replies.second == self._loop.wall // 1000
        ):
            body = response.body
            kind = (response.status_code, response.content_type, len(body))
            head = self._replies.known.get(kind) or self._replies.likely(*kind)
            if head is not None:
                connection = exchange.connection
                if connection is not None and not exchange.ended:
                    exchange.ended = True
                    if not connection.alone(head + body):
                        exchange.waiting = head + body
                        connection.advance(exchange)
                return
        from nuclio_edge.sources.http_settle import settle

        try:
            settle(event, exchange, response, error)
        except ValueError as wrong:
            self._unsendable(event, wrong)

    def stream(self, event: Event) -> None:
        """There are parts of an answer; see functions/streams.py."""
        from nuclio_edge.sources.http_settle import stream

        stream(event, event._token)

    def sent(self) -> bool:
        """Whether every answer has gone out."""
        return self.server.answered()

    def stop_receiving(self) -> None:
        """Take no more connections and requests; those in flight are answered, with `Connection: close`."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        kept, self._kept = self._kept, []
        for event in kept:
            self._give_up(event)
        self._listeners = {}
        self.server.deaf()

    def close(self) -> None:
        """Close listeners and connections."""
        self.stop_receiving()
        self.server.close()
        self._become("closed")

    def addresses(self) -> list[str]:
        """Where it listens now: a port 0 of the manifest is the one that the system chose."""
        return [listener.name() for listener in self._listeners.values()]

    # -- requests -----------------------------------------------------------------------------------------------------

    def _respond(self, exchange: Exchange) -> None:
        head = exchange.head
        trigger = head.route
        if trigger is None:
            trigger = self._route(exchange)
            if trigger is None:
                return
        connection = exchange.connection
        event: HttpEvent = HttpEvent()  # `http_event`, spelled out
        event._trigger = trigger
        event._token = exchange
        event._reply = None
        event._head = head.raw
        event.path = head.path
        if not head.cloud:
            event._cloud = None
        event.raw_body = exchange.body
        event._origin = connection.origin  # type: ignore[union-attr]  # it has just come from there
        event.timestamp_ms = self._loop.wall
        if head.notes:
            from nuclio_edge.sources.http_settle import Note

            exchange.note = Note(event, self._cors(trigger), head.logs, self.host.log)
            exchange.plain = False
        waits = bool(self._kept) and any(kept._trigger is trigger for kept in self._kept)  # none overtakes another
        if not waits and trigger.submit(event):
            self.received += 1
            self.routed += 1
        else:
            self._kept.append(event)
            connection.stalled = True  # type: ignore[union-attr]  # as above
            if not waits:
                trigger.on_room(self._room)

    def _route(self, exchange: Exchange) -> Any:
        """The trigger of a request whose like was not seen before; None when it has been answered without one."""
        head = exchange.head
        if head.path == HEALTH and head.method in ("GET", "HEAD"):
            exchange.answer(200)
            return None
        at = self._routes.at(head.path) if head.path != "*" else None
        trigger = choose(at, head.method) if at else None
        if trigger is not None and (head.method != "OPTIONS" or "OPTIONS" in at):  # type: ignore[operator]  # then there is one
            head.notes = head.logs or self._cors(trigger) is not None
            head.route = trigger
            return trigger
        from nuclio_edge.sources.http_settle import options

        if head.method == "OPTIONS" and (at or head.path == "*"):
            wanted = choose(at, "GET") or next(iter(at.values())) if at else None
            options(exchange, allowed(at), self._cors(wanted) if wanted is not None else self.params.cors)
            return None
        self.received += 1
        self.unrouted += 1
        cors = self.params.cors
        if at:
            options(exchange, allowed(at), cors, status=405, why="the path has no such method")
        else:
            options(exchange, "", cors, status=404, why="no trigger has this path")
        return None

    def _cors(self, trigger: Any) -> Any:
        return getattr(trigger.address, "cors", None) or self.params.cors

    def _foresee(self, head: Head) -> Callable[[Exchange], Any] | None:
        """The answer to a request whose body need not be sent, else None."""
        if head.route is not None:
            return None
        at = self._routes.at(head.path)
        return None if at and choose(at, head.method) else self._route

    def _refused(self, status: int) -> None:
        self.received += 1
        reason = _REFUSED.get(status, "malformed")
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def _room(self) -> None:
        """Submit what was kept; of each trigger up to the first for which there still is no room."""
        kept, self._kept = self._kept, []
        full: list[Any] = []
        taken = []
        for event in kept:
            trigger: Any = event._trigger
            if trigger in full:
                self._kept.append(event)
            elif trigger.submit(event):
                self.received += 1
                self.routed += 1
                taken.append(event._token.connection)
            else:
                full.append(trigger)
                self._kept.append(event)
                trigger.on_room(self._room)
        for connection in taken:  # only now: the requests behind these must not overtake those that are still kept
            if connection is not None:
                connection.resume()

    def _give_up(self, event: Event) -> None:
        """Nobody will have room for this one."""
        trigger: Any = event._trigger
        self.received += 1
        self.routed += 1
        trigger.turn_away(event, "closed")
        if event._token.connection is not None:
            event._token.connection.resume()

    # -- the rest -----------------------------------------------------------------------------------------------------

    def _unsendable(self, event: Event, wrong: ValueError) -> None:
        """An answer that HTTP does not allow: who asked gets a 500, the function's author is told."""
        function = event._trigger.function.name if event._trigger is not None else ""
        self.host.log.error_with("an answer could not be sent", "function", function, "error", str(wrong))
        event._token.answer(500, "text/plain", str(wrong).encode())

    def _load_certificate(self) -> None:
        from functools import partial

        from nuclio_edge.sources.http_tls import Certificate, TlsConnection

        params = self.params
        certificate = Certificate(params.cert, params.key, params.client_ca, self.host.log)
        self.server.make = partial(TlsConnection, certificate=certificate)

    def _complain(self, where: str, error: OSError) -> None:
        if not self._said:
            self._said = True
            self.host.log.warn_with(
                "cannot listen, trying again", "address", where, "error", error.strerror or str(error)
            )

    def _become(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.host.state_changed(self)
