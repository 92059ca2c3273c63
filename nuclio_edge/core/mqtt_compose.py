"""MQTT 3.1.1 and 5 packets as bytes to be sent, sans-IO; section numbers are those of MQTT 5."""


def variable(value: int) -> bytes:
    """A variable byte integer (1.5.5): 1 to 4 bytes."""
    if value < 128:
        return bytes([value])
    if not value < 268_435_456:
        raise ValueError("%d does not fit in 4 bytes" % value)
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def string(value: "str | bytes") -> bytes:
    """Text or binary data with its length before it (1.5.4, 1.5.6)."""
    raw = value.encode() if isinstance(value, str) else value
    if len(raw) > 65535:
        raise ValueError("%d bytes of text; 65535 fit" % len(raw))
    return len(raw).to_bytes(2, "big") + raw


def packet(first: int, body: bytes) -> bytes:
    """A packet of that first byte."""
    return bytes([first]) + variable(len(body)) + body


def publish(
    topic: "str | bytes", body: bytes, flags: int = 0, packet_id: int = 0, props: "bytes | None" = None
) -> bytes:
    """A PUBLISH. flags: QoS times 2, plus 1 for retain, plus 8 for a duplicate; props: raw, None before version 5."""
    head = string(topic)
    if flags & 6:
        head += packet_id.to_bytes(2, "big")
    if props is not None:
        head += variable(len(props)) + props
    return bytes([0x30 | flags]) + variable(len(head) + len(body)) + head + body


def answer(first: int, packet_id: int, reason: int = 0) -> bytes:
    """A PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70); a reason only in version 5."""
    if reason:
        return bytes([first, 3, packet_id >> 8, packet_id & 255, reason])
    return bytes([first, 2, packet_id >> 8, packet_id & 255])


def disconnect(v5: bool, reason: int = 0) -> bytes:
    """A DISCONNECT; before version 5 it can say no reason."""
    return bytes([0xE0, 1, reason]) if v5 and reason else b"\xe0\x00"
