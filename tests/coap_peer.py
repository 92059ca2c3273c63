"""A CoAP peer of a test that chooses every byte: it sends datagrams, and reads what comes back as messages."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.core.coap_codec import CON, EMPTY, Message, parse
from nuclio_edge.core.coap_compose import compose
from nuclio_edge.sources.coap_formats import GET, dotted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.rig import Rig

MANIFEST = """
[source.lan]
kind = "coap"
listen = "127.0.0.1:0"
"""


def function(name: str, path: str, more: str = "", trigger: str = "", isolation: str = "inline") -> str:
    """The tables of a function in `NAME.py` with one trigger."""
    return f"""
[function.{name}]
handler = "{name}.py"
isolation = "{isolation}"
{more}
[[function.{name}.trigger]]
source = "lan"
path = "{path}"
{trigger}
"""


class CoapPeer:
    """One endpoint; use as a context manager. `rig` is the processor whose loop is turned while it waits."""

    def __init__(self, rig: Rig, host: str = "127.0.0.1", source: str = "lan") -> None:
        self.rig = rig
        self.source: Any = rig.processor.sources[source]
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((host, self.source.port))
        self._socket.setblocking(False)
        self._id = 0
        self.came: list[Message] = []
        self._seen = 0  # how many of them `receive` has returned

    def __enter__(self) -> CoapPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(
        self,
        code: int = GET,
        path: str = "",
        payload: bytes = b"",
        *,
        kind: int = CON,
        token: bytes | None = None,
        options: Iterable[tuple[int, bytes]] = (),
    ) -> bytes:
        """Send a request; the datagram. The token is that of the message id unless it is given."""
        self._id += 1
        parts = [(coap.URI_PATH, part.encode()) for part in path.strip("/").split("/") if part]
        token = b"t%d" % self._id if token is None else token
        datagram = compose(kind, code, self._id, token, [*parts, *options], payload)
        self.raw(datagram)
        return datagram

    def raw(self, datagram: bytes) -> None:
        """Send these bytes."""
        self._socket.send(datagram)

    def answer(self, message: Message, kind: int) -> None:
        """Acknowledge or reset a message."""
        self.raw(compose(kind, EMPTY, message.message_id))

    def receive(self, what: str = "a message") -> Message:
        """The next message."""
        self._seen += 1
        self.rig.until(lambda: self._poll() >= self._seen, what)
        return self.came[self._seen - 1]

    def ask(self, *request: Any, **more: Any) -> Message:
        """Send a request, and the next message."""
        self.send(*request, **more)
        return self.receive("an answer")

    def nothing_comes(self, ms: int = 60) -> None:
        """See that no message comes for a while."""
        self.rig.turn_for(ms)
        assert self._poll() == self._seen, said(self.came[self._seen])

    def _poll(self) -> int:
        try:
            while True:
                self.came.append(parse(self._socket.recv(65535)))
        except BlockingIOError:
            return len(self.came)


def said(message: Message) -> tuple[str, str, bytes]:
    """A message in short: its type, its code as people write it, its payload."""
    return ("CON", "NON", "ACK", "RST")[message.kind], dotted(message.code), message.payload


def number(message: Message, option: int) -> int | None:
    """An option as a number, None without it."""
    value = message.option(option)
    return None if value is None else coap.number(value)
