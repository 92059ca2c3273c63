"""What a processor answers over HTTP to who administers it; imported for the first connection.

GET  /healthz     {"status": "ok", …}; 503 while it starts or stops
GET  /ledger      every source, every trigger, the spool, and what does not add up
GET  /metrics     the same for Prometheus, with durations and the process
GET  /functions   what runs, its state and triggers
POST /invoke/NAME one event through a function that runs; see invoke.py

The server is that of the http source with its limits, smaller ones here: a client that is slow, silent or hostile costs
a connection of sixteen, and the loop nothing. Long answers are made in pieces, between which the loop turns.

Who may ask: at the unix socket whoever may open it. At `listen` whoever reaches it; so that no web page is among those,
by a name that it has had resolved to the loopback, Host is an address, localhost or the device's name, and Origin,
where there is one, the same host. What runs code (POST) is served on the loopback only.
"""

from __future__ import annotations

import os
import socket

from nuclio_edge.core.port import json_dumps
from nuclio_edge.sources.http_head import headers
from nuclio_edge.sources.http_server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from nuclio_edge.manifest.model import Manifest
    from nuclio_edge.processor import Processor
    from nuclio_edge.sources.http_exchange import Exchange
    from nuclio_edge.sources.http_head import Head

CONNECTIONS = 16
MAX_BODY = 4 << 20
HELD = 8 << 20  # of all bodies on their way in
WRITINGS = 4  # long answers at a time
PIECE = 16 * 1024  # bytes of a long answer that are made in one go
JSON = "application/json"


class Door:
    """A listening socket; what the server asks of one."""

    def __init__(self, sock: Any, name: str) -> None:
        self.socket = socket.socket(fileno=sock.detach())
        self.tcp = name == "listen"
        self.loopback = not self.tcp or _is_loopback(self.socket.getsockname()[0])

    def peer(self, _sock: Any, _address: Any) -> str:
        """By which door somebody has come: "unix", "loopback" or "network"."""
        return "unix" if not self.tcp else "loopback" if self.loopback else "network"

    def close(self) -> None:
        """Listen no more."""
        self.socket.close()


class AdminServer:
    """The HTTP side of a processor's administration."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.doors: list[Door] = []
        self._names = {"localhost", processor.manifest.device.name.lower()}
        self._invocations: Any = None
        self._writings: list[Writing] = []
        self.server = server = Server(processor.loop, self._respond)
        server.on_trouble = lambda what, why: processor.logger.warn_with(what, "where", "admin", "reason", why)
        server.max_connections = CONNECTIONS
        server.max_body = MAX_BODY
        server.max_held = HELD
        server.header_timeout = 5_000
        server.body_timeout = 10_000
        server.idle_timeout = 30_000
        server.write_timeout = 10_000

    def take(self, name: str, sock: Any) -> None:
        """Serve at one more listening socket, which is the server's from now on."""
        door = Door(sock, name)
        self.doors.append(door)
        self.server.open([door])  # type: ignore[list-item]  # it has what a Listener has, as far as a server goes

    def answered(self) -> bool:
        """Whether nobody waits for anything."""
        return self.server.answered()

    def close(self) -> None:
        """Hang up on everybody."""
        self.server.close()

    # -- requests -----------------------------------------------------------------------------------------------------

    def _respond(self, exchange: Exchange) -> None:
        head = exchange.head
        origin = exchange.connection.origin[0] if exchange.connection is not None else "unix"
        if origin != "unix" and not self._may_ask(head):
            refuse(exchange, 403, "Host and Origin have to be this device's address or name")
            return
        path, method = head.path, head.method
        if path.startswith("/invoke/"):
            if method != "POST":
                refuse(exchange, 405, "a function is invoked by POST", {"Allow": "POST"})
            elif origin == "network":
                refuse(exchange, 403, "functions are invoked over the unix socket or the loopback only")
            else:
                self._invoke(exchange, path[8:])
            return
        answer = {
            "/healthz": self._health, "/ledger": self._ledger, "/metrics": self._metrics, "/functions": self._functions,
        }.get(path)  # fmt: skip
        if answer is None:
            refuse(exchange, 404, "there are /healthz, /ledger, /metrics, /functions and /invoke/NAME")
        elif method not in ("GET", "HEAD"):
            refuse(exchange, 405, f"{path} is read by GET", {"Allow": "GET, HEAD"})
        else:
            answer(exchange)

    def _may_ask(self, head: Head) -> bool:
        host = origin = b""
        for name, value in headers(head.raw):
            low = name.lower()
            if low == b"host":
                host = value.lower()
            elif low == b"origin":
                origin = value.lower()
            elif low == b"sec-fetch-site" and value not in (b"same-origin", b"none"):
                return False
        if origin and origin != b"http://" + host:
            return False
        asked = host.decode("latin-1")
        asked = asked[: asked.find("]") + 1] if asked[:1] == "[" else asked.partition(":")[0]
        return asked.removesuffix(".local") in self._names or _is_address(asked)

    def _health(self, exchange: Exchange) -> None:
        processor = self.processor
        wrong = processor.differences()
        suspended = {one.name: one.suspended for one in processor.functions.values() if one.suspended is not None}
        away = {source.name: source.state for source in processor.sources.values() if source.state != "open"}
        serving = processor.ready and not processor.stopping
        status = "stopping" if processor.stopping else "starting" if not processor.ready else "ok"
        trouble = processor.delivery.spool.trouble if processor.delivery is not None else ""
        if status == "ok" and (wrong or suspended or away or trouble):
            status = "degraded"
        said = {
            "status": status,
            "manifest": _file_of(processor.manifest),
            "pid": os.getpid(),
            "uptime_s": (processor.loop.wall - processor.begun_ms) // 1000,
            "functions": len(processor.functions),
            "suspended": suspended,
            "sources": len(processor.sources),
            "not_open": away,
            "spool": trouble or "ok",
            "ledger": wrong or "balanced",
        }
        exchange.answer(200 if serving else 503, JSON, json_dumps(said).encode())

    def _ledger(self, exchange: Exchange) -> None:
        from nuclio_edge.ledger_sheet import Sheet

        self._write(exchange, JSON, lambda: Sheet(self.processor).lines())

    def _metrics(self, exchange: Exchange) -> None:
        from nuclio_edge.metrics import CONTENT_TYPE, exposition

        self._write(exchange, CONTENT_TYPE, lambda: exposition(self.processor))

    def _functions(self, exchange: Exchange) -> None:
        self._write(exchange, JSON, lambda: _listing(self.processor))

    def _write(self, exchange: Exchange, content_type: str, begin: Callable[[], Iterator[str]]) -> None:
        """Begin a long answer, unless too many are on their way: each holds a copy of all counters."""
        self._writings = [one for one in self._writings if not one.over()]
        if len(self._writings) >= WRITINGS:
            refuse(exchange, 503, "others are being answered; come again", {"Retry-After": "1"})
            return
        writing = Writing(exchange, content_type, begin())
        if not writing.over():
            self._writings.append(writing)

    def _invoke(self, exchange: Exchange, name: str) -> None:
        if self._invocations is None:
            from .invoke import Invocations

            self._invocations = Invocations(self.processor)
        self._invocations.begin(exchange, name)


class Writing:
    """A long answer on its way: made piece by piece as the client takes it, with the loop's other work in between."""

    def __init__(self, exchange: Exchange, content_type: str, parts: Iterator[str]) -> None:
        self._exchange = exchange
        self._parts = parts
        self._due = False
        try:
            piece, whole = self._next()
        except Exception:
            exchange.answer(500, "text/plain", b"a defect of nuclio-edge; its log has more")
            raise
        if whole:
            exchange.answer(200, content_type, piece)
            return
        exchange.begin(200, content_type)
        exchange.on_room = self._soon
        if exchange.write(piece):
            self._soon()

    def over(self) -> bool:
        """Whether it is written, or nobody reads it."""
        return self._exchange.ended or self._exchange.connection is None

    def _next(self) -> tuple[bytes, bool]:
        """The next piece, and whether it is the last."""
        text: list[str] = []
        size = 0
        for part in self._parts:
            text.append(part)
            size += len(part)
            if size >= PIECE:
                return "".join(text).encode(), False
        return "".join(text).encode(), True

    def _soon(self) -> None:
        if not self._due:
            self._due = True
            if self._exchange.connection is not None:
                self._exchange.connection.server.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._due = False
        exchange = self._exchange
        if self.over() or exchange.waiting or not exchange.connection.has_room():  # type: ignore[union-attr]  # it is not over
            return
        try:
            piece, whole = self._next()
        except BaseException:
            exchange.abort()
            raise
        room = exchange.write(piece)
        if whole:
            exchange.on_room = None
            exchange.end()
        elif room:
            self._soon()


def refuse(exchange: Exchange, status: int, why: str, more: dict[str, str] | None = None) -> None:
    """Answer instead of what was asked for: a JSON object that says why."""
    exchange.answer(status, JSON, json_dumps({"error": why}).encode(), {REFUSED: "yes", **(more or {})})


REFUSED = "X-Nuclio-Edge-Refused"  # by which an answer of ours is told from one of a function


def _listing(processor: Processor) -> Iterator[str]:
    """All functions as one JSON object, one a piece."""
    yield '{"functions":['
    for at, function in enumerate(list(processor.functions.values())):
        spec = function.spec
        said = {
            "name": function.name,
            "version": function.version,
            "description": spec.description,
            "labels": function.labels,
            "isolation": spec.isolation,
            "async": function.is_async,
            "state": "loading" if function.loading else "running" if function.suspended is None else "suspended",
            "reason": function.suspended,
            "workers": spec.workers_max,
            "timeout_ms": function.timeout_ms,
            "triggers": [
                {"id": one.ledger_id, "name": one.name, "kind": one.kind, "source": one.source.name,
                 "address": _address(one), "pending": one.pending}
                for one in function.triggers
            ],
            "outputs": [output.to for output in spec.outputs],
        }  # fmt: skip
        yield ("," if at else "") + json_dumps(said)
    yield "]}\n"


def _address(trigger: Any) -> dict[str, Any]:
    """What a trigger listens to, in the manifest's words; what it leaves out is left out."""
    address = trigger.address
    names = getattr(address, "__slots__", ())
    return {name: value for name in names if isinstance(value := getattr(address, name), (str, int, float, tuple))}


def _file_of(manifest: Manifest) -> str:
    """The file that a manifest is read from, whatever links lead there now."""
    return os.path.realpath(os.path.join(manifest.folder, os.path.basename(manifest.path)))


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("::1", "::ffff:127.0.0.1")


def _is_address(name: str) -> bool:
    """Whether a Host is an IP address: those cannot be made to mean another machine."""
    family = socket.AF_INET6 if name[:1] == "[" else socket.AF_INET
    try:
        socket.inet_pton(family, name.strip("[]"))
    except (OSError, ValueError):
        return False
    return True
