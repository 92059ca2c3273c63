"""Confirmable messages that we begin: sent again until they are acknowledged (RFC 7252, 4.2); message ids."""

from __future__ import annotations

import os

from nuclio_edge.core import coap_codec as coap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.loop import Loop
    from nuclio_edge.sources.coap_peer import Peer

ACK_TIMEOUT_MS = 2000
RANDOM_FACTOR = 1.5
MAX_RETRANSMIT = 4
MOST = 1024  # under way at a time

ACKNOWLEDGED, RESET, LOST = "acknowledged", "reset", "lost"


def chance() -> float:
    """A random number from 0 to 1, for jitter; the module `random` would cost half a megabyte."""
    return int.from_bytes(os.urandom(4), "big") / 0x1_0000_0000


class Transmission:
    """One message under way; `renew`, if given, makes a further attempt's datagram if there is news."""

    __slots__ = ("attempt", "datagram", "done", "key", "peer", "renew", "timeout", "timer")

    def __init__(self, peer: Peer, datagram: bytes, done: Callable[[str], Any], renew: Any) -> None:
        self.peer = peer
        self.datagram = datagram
        self.done = done
        self.renew = renew
        self.attempt = 0
        self.key: Any = None
        self.timeout = 0
        self.timer: Any = None


class Sender:
    """All that is under way of one source. A timer lives only while something is."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._id = int(chance() * 65536)  # so that an earlier run's ids do not come again
        self._under_way: dict[tuple[Any, ...], Transmission] = {}
        self.retransmitted = 0
        self.lost = 0  # never acknowledged
        self.overflow = 0  # sent without asking for an acknowledgement, as too much was under way

    def __len__(self) -> int:
        return len(self._under_way)

    def next_id(self) -> int:
        """The next message id."""
        self._id = (self._id + 1) & 0xFFFF
        return self._id

    def send(
        self,
        peer: Peer,
        datagram: bytes,
        done: Callable[[str], Any],
        renew: Callable[[], bytes | None] | None = None,
    ) -> None:
        """Send a CON message until it is acknowledged; `done(outcome)` comes once, unless everything is closed."""
        if len(self._under_way) >= MOST:
            self.overflow += 1
            peer.endpoint.send(bytes((datagram[0] | 0x10,)) + datagram[1:], peer)  # NON
            return
        made = Transmission(peer, datagram, done, renew)
        made.timeout = int(ACK_TIMEOUT_MS * (1 + chance() * (RANDOM_FACTOR - 1)))
        self._start(made)

    def answered(self, address: tuple[Any, ...], kind: int, message_id: bytes) -> bool:
        """An ACK or RST has come; whether it was for something under way."""
        made = self._under_way.pop((address, message_id), None)
        if made is None:
            return False
        made.timer.cancel()
        made.done(ACKNOWLEDGED if kind == coap.ACK else RESET)
        return True

    def close(self) -> None:
        """Give everything up."""
        for made in self._under_way.values():
            made.timer.cancel()
        self._under_way.clear()

    def _start(self, made: Transmission) -> None:
        made.key = (made.peer.address, made.datagram[2:4])
        self._under_way[made.key] = made
        made.peer.endpoint.send(made.datagram, made.peer)
        made.timer = self._loop.call_later(made.timeout, lambda: self._late(made))

    def _late(self, made: Transmission) -> None:
        self._under_way.pop(made.key, None)
        if made.attempt >= MAX_RETRANSMIT:
            self.lost += 1
            made.done(LOST)
            return
        made.attempt += 1
        made.timeout *= 2
        self.retransmitted += 1
        if made.renew is not None:
            made.datagram = made.renew() or made.datagram
        self._start(made)
