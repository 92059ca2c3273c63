"""What is owed to the broker: acknowledgements, each by connection and packet identifier, written once a turn.

Laws: an acknowledgement is written on the connection whose PUBLISH it answers, or never. A delivery that comes again
while it is unsettled is not run a second time; it is bound to the connection on which it came again. Those of one turn
are written in the order of arrival (MQTT 5, 4.6), and none waits for a slower one.
"""

from __future__ import annotations

from struct import pack

from nuclio_edge.core.mqtt_compose import answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.inbox import Trigger

# A token is an int: the number of the arrival above 32 bits that are the acknowledgement as it will be written. Tokens
# therefore sort by arrival, and those of earlier connections are smaller than `_first_token`.
ARRIVAL = 1 << 32
PUBACK = 0x40020000  # with the packet identifier in the lower half
_QOS2 = 0x10000000  # makes it a PUBREC
_ID = 0xFFFF
_PLAIN = _ID | _QOS2
_SETTLED = -1  # the token of what was settled while no connection could carry the acknowledgement

SHARED_REPLY = False  # the same of a delivery that went to several functions
REPLY_ONLY = 0  # the token of a QoS 0 request: settle answers it, and there is nothing to acknowledge


class Shared:
    """One delivery that went to several functions: acknowledged when the last of them has settled."""

    __slots__ = ("_first", "_token", "_topic", "_trigger", "left", "raw_body")

    def __init__(self, token: int, first: int, topic: bytes, body: bytes, trigger: Trigger, left: int) -> None:
        self._token: int | None = token  # None: not to be acknowledged, whoever settles
        self._topic = topic
        self._first = first
        self._trigger = trigger
        self.raw_body = body
        self.left = left


class Session:
    """The inbound half of one client id's session. Loop thread only.

    `write(data)` sends bytes on the present connection; `at_end(call)` calls at the end of the turn.
    """

    def __init__(self, write: Callable[[bytes], Any], at_end: Callable[[Callable[[], Any]], Any]) -> None:
        self._write = write
        self._at_end = at_end
        self.unsettled: dict[int, Any] = {}  # packet identifier -> MqttEvent or Shared
        self.received: set[int] = set()  # QoS 2: settled, PUBREC sent, PUBREL not yet seen (4.3.3)
        self.arrivals = 0  # times ARRIVAL; the way in counts those of QoS 1 itself, and binds them
        self._first_token = 0
        # A new delivery of QoS 1 that is being submitted, and has not settled yet; if it is still here after that,
        # `keep` it.
        self.arriving: Any = None
        self._acks: list[int] = []
        self.stale = 0  # settled when their connection had gone: not acknowledged before the broker sends them again

    def connected(self, *, session_present: bool) -> None:
        """A connection begins; without a session at the broker, what was owed to the old one is forgotten."""
        self.disconnected()
        if not session_present:
            self.unsettled.clear()
            self.received.clear()

    def disconnected(self) -> None:
        """The connection is gone: nothing that came on it can be acknowledged any more."""
        self.arrivals += ARRIVAL
        self._first_token = self.arrivals
        self._acks.clear()

    def keep(self, event: Any, packet_id: int) -> None:
        """Keep a delivery that will settle later."""
        self.arriving = None
        self.unsettled[packet_id] = event

    def token(self, first: int, packet_id: int) -> int:
        """The token of a delivery of QoS 1 or 2 that has just come."""
        self.arrivals += ARRIVAL
        return self.arrivals + PUBACK + (_QOS2 if first & 4 else 0) + packet_id

    def again(self, first: int, packet_id: int, topic: bytes, body: bytes) -> Any:
        """Whether a PUBLISH is one that we have: the delivery, now bound to this connection; True if it is settled.

        None means that it is new. The body is compared too, as a broker that lost its session may use an identifier
        again for another message. What was settled while the broker was away is known again by the DUP flag alone: the
        broker may have dropped it, and use its identifier for an equal message.
        """
        if first & 4 and packet_id in self.received:
            self.acknowledge(self.token(first, packet_id))
            return True
        if packet_id not in self.unsettled:
            return None
        old = self.unsettled[packet_id]
        if (
            old._topic != topic
            or old.raw_body != body
            or (old._first ^ first) & 6
            or not (first & 8 or (old._token < self._first_token and old._token != _SETTLED))
        ):
            return None
        if old._token == _SETTLED:
            del self.unsettled[packet_id]
            self.acknowledge(self.token(first, packet_id))
            return True
        old._token = self.token(first, packet_id)
        return old

    def settle(self, packet: Any) -> None:
        """Acknowledge a delivery, if the connection that it is bound to is the present one."""
        token: int = packet._token
        if packet is self.arriving and token >= self._first_token:
            self.arriving = None  # `acknowledge` spelled out: a call less
            acks = self._acks
            acks.append(token)
            if len(acks) == 1:
                self._at_end(self.flush)
            return
        packet_id = token & _ID
        if packet is self.arriving:
            self.keep(packet, packet_id)  # the connection was lost meanwhile
        if packet_id not in self.unsettled or self.unsettled[packet_id] is not packet:
            self.stale += 1
        elif token < self._first_token:
            # The broker will send it again on this connection, and is told then that it is done.
            packet._token = _SETTLED
            self.stale += 1
        else:
            del self.unsettled[packet_id]
            self.acknowledge(token)

    def settle_many(self, packets: list[Any]) -> list[Any]:
        """`settle` of those that are plain, 0.20 us each against 0.35; the others are returned, still to be settled."""
        others = []
        least = self._first_token
        take = self.unsettled.pop
        acks = self._acks
        if not acks:
            self._at_end(self.flush)
        for packet in packets:
            token = packet._token
            if type(token) is int and token >= least and not packet._props:
                held = take(token & _PLAIN, None)  # of QoS 2 no such identifier is held: it keeps its own way
                if held is packet:
                    acks.append(token)
                    continue
                if held is not None:
                    self.unsettled[token & _PLAIN] = held
            others.append(packet)
        return others

    def part(self, packet: Any) -> None:
        """The delivery was settled while no connection could carry that: let go of the event itself."""
        if packet._token == _SETTLED:
            for packet_id, held in self.unsettled.items():
                if held is packet:
                    stand_in = Shared(_SETTLED, packet._first, packet._topic, packet.raw_body, packet._trigger, 0)
                    self.unsettled[packet_id] = stand_in
                    break

    def acknowledge(self, token: int) -> None:
        """Owe an acknowledgement, written when the turn ends."""
        if token & _QOS2:
            self.received.add(token & _ID)
        self._acks.append(token)
        if len(self._acks) == 1:
            self._at_end(self.flush)

    def released(self, packet_id: int, *, v5: bool) -> None:
        """A PUBREL has come: the identifier is free."""
        known = packet_id in self.received
        self.received.discard(packet_id)
        self.flush()
        self._write(answer(0x70, packet_id, 0 if known or not v5 else 0x92))

    def flush(self) -> None:
        """Write all acknowledgements that are owed, as one piece."""
        acks = self._acks
        if not acks:
            return
        self._acks = []
        acks.sort()
        if acks[-1] >> 64:  # after 2**32 deliveries
            acks = [token & 0xFFFFFFFF for token in acks]
        tokens = memoryview(pack(f">{len(acks)}Q", *acks))
        self._write(tokens.cast("I")[1::2].tobytes())  # of each its second half
