"""The outside world of the HTTP source: clients that send requests and read answers on threads of their own."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import threading
from collections import deque
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
    """One connection; a thread reads from it, as the source's loop does not run meanwhile, and with TLS writes as well.

    One thread for both: an SSL object must not be read and written at the same time.
    """

    def __init__(self, address: str, context: ssl.SSLContext | None, answers: list[tuple[int, bytes]]) -> None:
        host, _, port = address.rpartition(":")
        self._socket: socket.socket = socket.create_connection((host, int(port)), 30)
        self._context = context
        self._answers = answers
        self._todo: deque[bytes] = deque()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def post(self, path: str, body: bytes) -> None:
        if self._context is None:  # at once, so that requests on several connections keep their order
            with contextlib.suppress(OSError):  # the server has gone
                self._socket.sendall(_request(path, body))
        else:
            self._todo.append(_request(path, body))
            self._wake.send(b"x")

    def close(self) -> None:
        self._wake.close()
        self._thread.join(30)
        self._socket.close()
        self._woken.close()

    def _talk(self) -> None:
        # Whatever the source does with the connection, it is its end here.
        with contextlib.suppress(OSError):
            if self._context is not None:
                self._socket = self._context.wrap_socket(self._socket, server_hostname="127.0.0.1")
            came = b""
            while True:
                ready = select.select([self._socket, self._woken], [], [])[0]
                if self._woken in ready:
                    if not self._woken.recv(100):
                        return
                    while self._todo:
                        self._socket.sendall(self._todo.popleft())
                if self._socket in ready:
                    data = self._socket.recv(65536)
                    if not data:
                        return
                    came = self._understand(came + data)

    def _understand(self, came: bytes) -> bytes:
        """Keep the answers that are whole; returns the rest."""
        while b"\r\n\r\n" in came:
            head, _, rest = came.partition(b"\r\n\r\n")
            found = re.search(rb"(?i)content-length: (\d+)", head)
            length = int(found[1]) if found else 0
            if len(rest) < length:
                break
            self._answers.append((int(head.split()[1]), rest[:length]))
            came = rest[length:]
        return came


def _request(path: str, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: rig\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
