"""Who asks, and what was answered: a message that comes again is not handled again (RFC 7252, 4.5).

What one peer sent is known for EXCHANGE_LIFETIME, and the bounds are per peer first, so that a flood of one makes only
its own exchanges forgotten: 512 to 1,024 exchanges a peer, 16,384 altogether, 2,048 to 4,096 peers. What had to be
forgotten earlier is counted. Nothing here has a timer: age is looked at when something arrives.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIFETIME_MS = 247_000  # EXCHANGE_LIFETIME (4.8.2)
EACH = 512
ALL = 16_384
PEERS = 2_048


class Peer:
    """One remote endpoint at one of our sockets.

    `new` and `old` are two generations of exchanges: message id and token -> the datagram to send again (b"" for none)
    or the event that is still being handled. The key holds the token although the id alone would do: a device that was
    switched off and on may begin with the same ids.
    """

    __slots__ = ("address", "control", "due", "endpoint", "info", "new", "old", "segments", "sendto", "until")

    def __init__(self, endpoint: Any, address: tuple[Any, ...], until: int) -> None:
        self.endpoint = endpoint
        self.sendto = endpoint.sendto
        self.address = address
        self.until = until
        self.new: dict[bytes, Any] = {}
        self.old: dict[bytes, Any] = {}
        self.info: Any = None  # at which of our addresses it sent (IP_PKTINFO), as the kernel told it
        self.due: list[bytes] = []  # replies that go out together
        self.segments = True  # … by one call, as far as is known
        self.control: Any = ()  # what to send with, where the kernel would choose another address of ours


class Peers:
    """The peers of one socket. The intake looks into `new` by itself, counts `exchanges`, and calls when it must."""

    __slots__ = ("_endpoint", "_old", "_until", "exchanges", "forgotten", "new")

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint
        self.new: dict[tuple[Any, ...], Peer] = {}
        self._old: dict[tuple[Any, ...], Peer] = {}
        self._until = 0
        self.exchanges = 0  # known at present, of all peers
        self.forgotten = 0  # exchanges that were forgotten before their time

    def meet(self, address: tuple[Any, ...], now: int) -> Peer:
        """The peer of an address, with room for one more exchange."""
        peer = self.new.get(address)
        if peer is None:
            peer = self._old.pop(address, None) or Peer(self._endpoint, address, now + LIFETIME_MS)
            if len(self.new) >= PEERS or now >= self._until:
                self._turn(now)
            self.new[address] = peer
        if now >= peer.until or len(peer.new) >= EACH:
            self.exchanges -= len(peer.old)
            if now < peer.until:
                self.forgotten += len(peer.old)
            elif now >= peer.until + LIFETIME_MS:
                self.exchanges -= len(peer.new)
                peer.new = {}
            peer.old = peer.new
            peer.new = {}
            peer.until = now + LIFETIME_MS
        return peer

    def shrink(self, now: int) -> None:
        """Make room: peers that were silent go first, then the older half of everybody's exchanges, then all."""
        self._turn(now)
        for generation in ("old", "new"):
            if self.exchanges < ALL:
                return
            for peer in (*self.new.values(), *self._old.values()):
                gone = len(getattr(peer, generation))
                setattr(peer, generation, {})
                self.exchanges -= gone
                self.forgotten += gone

    def _turn(self, now: int) -> None:
        """Another generation: peers that were silent for a whole one are forgotten."""
        early = now < self._until
        for peer in self._old.values():
            gone = len(peer.old) + len(peer.new)
            self.exchanges -= gone
            if early:
                self.forgotten += gone
        self._old = self.new
        self.new = {}
        self._until = now + LIFETIME_MS

    def __len__(self) -> int:
        return len(self.new) + len(self._old)
