"""The outside world of the HTTP source: clients that send requests and read answers on threads of their own."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

from nuclio_edge.sources.http import HttpSource
from nuclio_edge.testing import SourceRig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nuclio_edge.manifest.schema import Values
    from tests.certificates import Certificates


class HttpRig(SourceRig):
    """Every request on a connection of its own, or all of them on one, none waiting for the answer of another."""

    source = HttpSource
    trigger: Mapping[str, Any] = {"path": "/in/*", "method": ("POST",)}
    path = "/in/x"
    pushes_back = True
    exclusive = True

    def __init__(self, certificates: Certificates | None, *, pipelined: bool) -> None:
        self._certificates = certificates
        self._pipelined = pipelined

    def begin(self) -> None:
        self.params = {"listen": ("127.0.0.1:0",), "max_connections": 200}
        if self._certificates is not None:
            self.params |= {"cert": str(self._certificates.server), "key": str(self._certificates.server_key)}
        self._answers: list[tuple[int, bytes]] = []
        self._clients: list[Client] = []
        self._made: Any = None

    def end(self) -> None:
        for client in self._clients:
            client.close()

    def make(self, name: str, params: Values, host: Any) -> HttpSource:
        made = self._made = HttpSource(name, params, host)
        return made

    def can(self, method: str) -> bool:
        if method == "acknowledged" and self._pipelined:
            return False  # answers keep the order of the requests, so a late one does hold up others
        return super().can(method)

    def emit(self, body: bytes) -> None:
        self._post("/in/x", body)

    def emit_unrouted(self) -> None:
        self._post("/elsewhere", b"")

    def acknowledged(self) -> int:
        return len([status for status, _ in self._answers if status != 404])

    def replied(self) -> list[bytes]:
        return [body for status, body in self._answers if status != 404]

    def _post(self, path: str, body: bytes) -> None:
        if not self._clients or not self._pipelined:
            address = self._made.addresses()
            if not address:
                return  # it listens no more
            context = None
            if self._certificates is not None:
                context = ssl.create_default_context(cafile=self._certificates.ca)
            self._clients.append(Client(address[0], context, self._answers))
        self._clients[-1].post(path, body)


class Client:
    """One connection; it is made, written to and read on a thread, as the source's loop does not run meanwhile."""

    def __init__(self, address: str, context: ssl.SSLContext | None, answers: list[tuple[int, bytes]]) -> None:
        host, _, port = address.rpartition(":")
        self._plain = self._socket = socket.create_connection((host, int(port)), 30)
        self._context = context
        self._answers = answers
        self._todo: list[bytes] = []
        self._ready = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._start(self._talk)

    def _start(self, call: Any) -> None:
        thread = threading.Thread(target=call, daemon=True)
        self._threads.append(thread)
        thread.start()

    def post(self, path: str, body: bytes) -> None:
        with self._ready:
            if self._context is None and self._plain.fileno() >= 0:  # at once, so that requests keep their order
                self._send(_request(path, body))
            else:
                self._todo.append(_request(path, body))
                self._ready.notify()

    def close(self) -> None:
        with self._ready:
            self._todo.append(b"")
            self._ready.notify()
        try:
            self._plain.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        for thread in self._threads:
            thread.join(30)
        self._socket.close()
        self._plain.close()

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            pass  # the server has gone

    def _talk(self) -> None:
        try:
            if self._context is not None:
                self._socket = self._context.wrap_socket(self._plain, server_hostname="127.0.0.1")
                self._start(self._write)
            file = self._socket.makefile("rb")
            with file:
                while line := file.readline():
                    status = int(line.split()[1])
                    length = 0
                    while (header := file.readline()) not in (b"\r\n", b""):
                        if header.lower().startswith(b"content-length:"):
                            length = int(header.split(b":")[1])
                    self._answers.append((status, file.read(length)))
        except (OSError, ValueError):
            pass  # closed

    def _write(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._todo)
                data = self._todo.pop(0)
            if not data:
                return
            self._send(data)


def _request(path: str, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: rig\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
