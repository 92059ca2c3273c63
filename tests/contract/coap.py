"""The outside world of the CoAP source: a UDP socket that sends requests and reads what comes back."""

from __future__ import annotations

import itertools
import socket
from typing import TYPE_CHECKING, Any

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.core.coap_compose import compose
from nuclio_edge.sources.coap import CoapSource
from nuclio_edge.testing import SourceRig

if TYPE_CHECKING:
    from collections.abc import Mapping


class CoapRig(SourceRig):
    """Sends CON or NON requests. What finds no room waits in the kernel's buffer, which holds a hundred of them."""

    source = CoapSource
    trigger: Mapping[str, Any] = {"path": "/in"}
    path = "/in"
    pushes_back = True

    def __init__(self, kind: int, host: str) -> None:
        self._kind = kind
        self._host = host

    def begin(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((self._host, 0))
            port = probe.getsockname()[1]
        self._socket.connect((self._socket.getsockname()[0], port))
        self._socket.setblocking(False)
        self._ids = itertools.count(1)
        self._replies: list[bytes] = []
        self.params = {"listen": (f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}",)}

    def end(self) -> None:
        self._socket.close()

    def emit(self, body: bytes, path: bytes = b"in") -> None:
        number = next(self._ids)
        self._socket.send(compose(self._kind, 2, number, b"t%d" % number, [(coap.URI_PATH, path)], body))

    def emit_unrouted(self) -> None:
        self.emit(b"x", b"nowhere")

    def replied(self) -> list[bytes]:
        try:
            while True:
                message = coap.parse(self._socket.recv(4096))
                if message.code:
                    self._replies.append(message.payload)
        except BlockingIOError:
            return list(self._replies)
