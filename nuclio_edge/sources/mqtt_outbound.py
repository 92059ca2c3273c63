"""What paho keeps of the messages of QoS 1 and 2 that it has not been told are with the broker; read and put right.

By private names of paho that every version 2 has. Without them (`missing` in mqtt_client names those that the fast path
needs besides) nothing here takes effect: paho then sends everything at once after a reconnect, and a message that the
broker closes the connection at comes again for ever.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INFLIGHT = 100  # messages sent and not yet acknowledged, at most
# paho.mqtt.enums.MessageState
_PUBLISH, _FOR_PUBACK, _FOR_PUBREC, _RESEND_PUBREL, _QUEUED = 1, 2, 3, 4, 9


def begin(client: Any, window: int) -> None:
    """Before paho sends again what waits, right after a CONNACK: let it send `window` messages unacknowledged.

    paho 2 would send all that waits at once, however small the broker's receive maximum. The PUBRELs that are due go
    first: they are no new messages, and paho stops at the first one that is to wait.
    """
    open_window(client, window)
    waiting = _waiting(client)
    for mid in [mid for mid, message in waiting.items() if message.state == _RESEND_PUBREL][::-1]:
        waiting.move_to_end(mid, last=False)
    sent = 0
    for message in waiting.values():
        if message.state == _PUBLISH:
            sent += 1
            if sent > window:
                message.state = _QUEUED


def open_window(client: Any, window: int) -> None:
    """How many messages may be unacknowledged from now on; paho's own setter refuses while it is connected."""
    if hasattr(client, "_max_inflight_messages"):
        client._max_inflight_messages = max(1, min(window, INFLIGHT))


def flying(client: Any) -> list[tuple[int, str]]:
    """The messages (id, topic) that were sent on the last connection and not answered, in that order."""
    return [
        (mid, message.topic) for mid, message in _waiting(client).items() if message.state in (_FOR_PUBACK, _FOR_PUBREC)
    ]


def sizes_on_the_wire(client: Any) -> list[tuple[int, int]]:
    """Of each message that waits, the id and the bytes of its packet."""
    found = []
    for mid, message in _waiting(client).items():
        properties = message.properties
        props = 0 if properties is None else len(properties.pack())
        size = 4 + len(message.topic.encode()) + max(props, 1) + len(message.payload)
        found.append((mid, size + (2 if size < 128 else 3 if size < 16_384 else 4 if size < 2_097_152 else 5)))
    return found


def discard(client: Any, mid: int) -> bool:
    """Have paho forget a message that waits; whether it did."""
    return _waiting(client).pop(mid, None) is not None


def take_back(client: Any) -> list[tuple[str, bytes, int, bool, Any]]:
    """Have paho forget all that waits: (topic, payload, QoS, retain, properties) each."""
    from nuclio_edge.core.mqtt_properties import unpack_properties

    taken = []
    for message in client.drop_out_messages():
        pairs: tuple[tuple[int, Any], ...] = ()
        if message.properties is not None:
            packed = message.properties.pack()
            head = 1
            while packed[head - 1] > 127:
                head += 1
            pairs = tuple(unpack_properties(packed[head:]))
        taken.append((message.topic, bytes(message.payload), message.qos, message.retain, pairs))
    return taken


def _waiting(client: Any) -> Any:
    return getattr(client, "_out_messages", {})
