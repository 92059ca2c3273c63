"""A CoAP client that does nothing but send prepared requests, a window of them at a time, and count the answers."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from nuclio_edge.core.coap_codec import CON
from nuclio_edge.core.coap_compose import compose
from tests.bench.broker import LostError
from tests.bench.measure import cpu_ns

if TYPE_CHECKING:
    from tests.bench.subject import Subject

BODY = b'{"temperature":21.5}'
PATIENCE_S = 20.0


def free_port() -> int:
    """A UDP port of the loopback that nobody has at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Load:
    """One client of one server. Message ids go round, as a peer's do that asks as fast as it can."""

    def __init__(self, port: int, code: int, path: bytes, window: int = 16) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._window = window
        tokens = [number.to_bytes(2, "big") for number in range(1 << 16)]
        self._requests = [
            compose(CON, code, number, token, [(11, path), (12, b"\x32")], BODY) for number, token in enumerate(tokens)
        ]
        self._next = 0

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def until_it_answers(self, subject: Subject) -> None:
        """Wait for the server."""
        self._socket.settimeout(0.1)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and subject.running:
            try:
                self._socket.send(self._take())
                self._socket.recv(2048)
                return
            except OSError:
                continue
        raise LostError(f"{subject.name} does not answer: {subject.output[-300:]}")

    def run(self, subject: Subject, count: int) -> dict[str, float]:
        """Requests in a window; µs of the server's CPU and of the wall clock for each."""
        self._socket.settimeout(2.0)
        send, receive, requests = self._socket.send, self._socket.recv, self._requests
        at = self._next
        wrong = 0
        cpu, began = subject.cpu_ns(), time.perf_counter_ns()
        try:
            for _ in range(self._window):
                at = (at + 1) & 0xFFFF
                send(requests[at])
            for _ in range(count - self._window):
                if receive(2048)[1] >> 5 != 2:
                    wrong += 1
                at = (at + 1) & 0xFFFF
                send(requests[at])
            for _ in range(self._window):
                receive(2048)
        except TimeoutError as error:
            raise LostError("an answer did not come") from error
        took, used = time.perf_counter_ns() - began, cpu_ns(subject.pid) - cpu
        self._next = at
        if wrong:
            raise LostError(f"{wrong} of {count} answers were errors")
        return {"cpu": used / count / 1000, "wall": took / count / 1000}

    def _take(self) -> bytes:
        self._next = (self._next + 1) & 0xFFFF
        return self._requests[self._next]
