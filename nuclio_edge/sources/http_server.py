"""An HTTP/1.1 server on the processor's loop: listening sockets, the connections they bring, and what bounds them.

It knows requests, not events: `respond(exchange)` is called for each whole request and answers it now or later;
`refused(status)` tells of bytes that were no request; `foresee(head)` may refuse one before its body is sent. One timer
serves the limits of all connections, and wakes at most once a second.
"""

from __future__ import annotations

from nuclio_edge.core.port import IN
from nuclio_edge.sources.http_connection import Connection
from nuclio_edge.sources.http_head import Head, Heads
from nuclio_edge.sources.http_limits import FOREVER
from nuclio_edge.sources.http_reply import Replies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.loop import Loop
    from nuclio_edge.sources.http_exchange import Exchange
    from nuclio_edge.sources.http_head import Opinion
    from nuclio_edge.sources.http_listen import Listener

COALESCE_MS = 1000
ACCEPTS = 64  # connections a wake-up
PAUSE_MS = 1000  # after the system has refused another descriptor


class Server:
    """One server. Limits are attributes: bytes, milliseconds; they may be set before `open`."""

    def __init__(self, loop: Loop, respond: Callable[[Exchange], Any], strict: Opinion | None = None) -> None:
        self.loop = loop
        self.respond = respond
        self.refused: Callable[[int], Any] = _nothing
        self.foresee: Callable[[Head], Callable[[Exchange], Any] | None] = _nothing
        self.on_trouble: Callable[[str, str], Any] = _nothing  # (what, why), said once for each kind
        self.heads = Heads(strict)
        self.replies = Replies()
        self.no_head = Head(b"", "GET", b"/", 1)
        self.connections: set[Connection] = set()
        self.counters: dict[str, int] = {}
        self.max_body = 4 << 20
        self.max_held = 24 << 20  # bytes of all bodies on their way in
        self.budget: Any = None  # the memory that they share with all inboxes
        self.max_connections = 512
        self.header_timeout = 10_000
        self.body_timeout = 20_000
        self.idle_timeout = 75_000
        self.write_timeout = 20_000
        self.make: Callable[..., Connection] = Connection  # TLS has a class of its own
        self.closing = False
        self._held = 0
        self._listeners: list[Listener] = []
        self._timer: Any = None
        self._due = 0
        self._pause: Any = None
        self._said: set[str] = set()

    # -- opening and closing ------------------------------------------------------------------------------------------

    def open(self, listeners: list[Listener]) -> None:
        """Take connections of these sockets too, which listen already and are closed by `deaf`."""
        self.closing = False
        self._listeners = [*self._listeners, *listeners]
        for listener in listeners:
            self.loop.add(listener.socket, _acceptor(self, listener))

    def deaf(self) -> None:
        """Take no more connections, and no more requests on those that are there; what is in flight is answered."""
        self.closing = True
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            self.loop.remove(listener.socket)
            listener.close()
        for connection in list(self.connections):
            connection.retire()

    def close(self) -> None:
        """Close everything; what is in flight goes unanswered. Idempotent."""
        self.deaf()
        for connection in list(self.connections):
            connection.lost()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def answered(self) -> bool:
        """Whether nobody waits for anything."""
        return not any(connection.flight or connection.sending or connection.out for connection in self.connections)

    # -- what connections ask for -------------------------------------------------------------------------------------

    def hold(self, size: int) -> bool:
        """Count bytes of bodies that are not whole yet; whether there is room for them.

        Whatever else takes the memory, there is room for one body of the largest size.
        """
        self._held += size
        budget = self.budget
        if budget is not None:
            budget.used += size
            if budget.used > budget.limit and self._held > self.max_body:
                return False
        return self._held <= self.max_held

    def count(self, what: str) -> None:
        """Count something that went wrong with a connection."""
        self.counters[what] = self.counters.get(what, 0) + 1

    def gone(self, connection: Connection) -> None:
        """A connection is closed."""
        self.connections.discard(connection)

    def watch(self, deadline: int) -> None:
        """See to it that `expire` is called when this deadline, rounded up to a second, has passed."""
        if deadline >= FOREVER or (self._timer is not None and self._due <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = max(deadline, self.loop.now + COALESCE_MS)
        self._timer = self.loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self.loop.now
        earliest = FOREVER
        for connection in list(self.connections):
            deadline = connection.deadline()
            if deadline <= now:
                connection.expire()
                deadline = connection.deadline() if connection in self.connections else FOREVER
            earliest = min(earliest, deadline)
        if self.connections:  # one that was at work may be idle by then
            self.watch(min(earliest, now + self.idle_timeout))

    # -- accepting ----------------------------------------------------------------------------------------------------

    def accept(self, listener: Listener) -> None:
        """Take what has connected, a bounded number."""
        for _ in range(ACCEPTS):
            try:
                sock, address = listener.socket.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # it went away while it waited
            except OSError as error:  # no descriptor or memory left: those who wait keep waiting
                self._rest("cannot take connections for a moment", str(error))
                return
            try:
                sock.setblocking(False)
                if listener.tcp:
                    sock.setsockopt(6, 1, 1)  # IPPROTO_TCP, TCP_NODELAY: answers go out in one piece and at once
                make = self.make if listener.tcp else Connection
                connection = make(self, sock, listener.peer(sock, address))
            except OSError:
                sock.close()
                continue
            if len(self.connections) >= self.max_connections and not self._evict():
                self._turn_away(sock)
                continue
            self.connections.add(connection)
            connection.attach()
            self.watch(connection.deadline())

    def _evict(self) -> bool:
        """Close a silent connection, or the one that has been idle for the longest time; False when all are in use."""
        idle = [connection for connection in self.connections if connection.idle()]
        if not idle:
            return False
        min(idle, key=lambda connection: connection.deadline()).lost()
        self.count("evicted")
        return True

    def _turn_away(self, sock: Any) -> None:
        self.count("turned away")
        self._say("too many connections", f"all {self.max_connections} are in use (max_connections)")
        start = self.replies.first(503) + b"Retry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        try:
            if self.make is Connection:
                sock.send(start)
        except OSError:
            pass
        sock.close()

    def _rest(self, what: str, why: str) -> None:
        self.count("not accepted")
        self._say(what, why)
        for listener in self._listeners:
            self.loop.modify(listener.socket, False, False)
        if self._pause is None:
            self._pause = self.loop.call_later(PAUSE_MS, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        for listener in self._listeners:
            self.loop.modify(listener.socket, True, False)

    def _say(self, what: str, why: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self.on_trouble(what, why)


def _acceptor(server: Server, listener: Listener) -> Callable[[int], None]:
    def ready(mask: int) -> None:
        if mask & IN:
            server.accept(listener)

    return ready


def _nothing(*_: Any) -> None:
    return None
