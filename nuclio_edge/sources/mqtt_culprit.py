"""The published message at which the broker closes every connection: it is found, counted and given up.

A message of QoS 1 or 2 is sent again after each reconnect. One that a broker does not take, and a broker of 3.1.1 can
only say so by closing (above a size of its own, a topic that is not allowed: AWS IoT), would close every connection for
ever. Law: none is given up on suspicion. When `LOSSES` connections in a row end with the same message first among the
unacknowledged, those that were in flight are sent one at a time, each behind a ping. A connection that the broker
closes after answering the ping, with that one message in flight, is proof; after `PROOFS` in a row the message goes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LOSSES = 2
PROOFS = 3
_KNOWN = 64  # topics of messages that were given up: for the next one on such a topic one loss and one proof are enough

# Reason codes of a DISCONNECT (MQTT 5, 2.4) that may be about something that we sent.
ABOUT_A_MESSAGE = frozenset((0x80, 0x81, 0x82, 0x83, 0x87, 0x90, 0x93, 0x94, 0x95, 0x97, 0x99, 0x9A, 0x9B))


class Culprit:
    """The suspicion of one source, over its connections. Loop thread only; messages go by paho's ids."""

    def __init__(self) -> None:
        self.alone = 0  # messages that are still to go one at a time
        self._first = 0
        self._losses = 0
        self._proofs = 0
        self._known: dict[str, None] = {}

    def lost(self, flying: Sequence[int], topics: Sequence[str], *, closed: bool, proven: bool) -> int:
        """A connection has ended; the id of the message to give up, or 0.

        `flying`: messages sent on it and not answered, in order, with their topics. `closed`: by the broker, perhaps
        for what we sent. `proven`: a ping that went ahead of the only one was answered.
        """
        first = flying[0] if flying else 0
        if first != self._first:
            self._first = first
            self._losses = self._proofs = 0
        if not closed or not first:
            return 0
        known = not self._known.keys().isdisjoint(topics)
        self._losses += 1
        if self.alone:
            if proven and len(flying) == 1:
                self._proofs += 1
                if self._proofs >= (1 if known else PROOFS):
                    return first
        elif self._losses >= (1 if known else LOSSES):
            self.alone = len(flying)
        return 0

    def gave_up(self, topic: str) -> bool:
        """Remember the topic of a message that was given up; whether it is new."""
        new = topic not in self._known
        if new and len(self._known) >= _KNOWN:
            del self._known[next(iter(self._known))]
        self._known[topic] = None
        return new

    def settled(self) -> bool:
        """A message was acknowledged or given up; true when that was the last one that had to go alone."""
        if not self.alone:
            return False
        self.alone -= 1
        return not self.alone
