"""MQTT packets for tests, read and written plainly: what the fake broker and the benchmarks speak.

Independent of nuclio_edge on purpose, so that a misreading of the standard is not shared. OASIS MQTT 3.1.1 and 5.0,
chapters 2 and 3.
"""

from __future__ import annotations

import struct
import time
from typing import Any

KINDS = (
    "RESERVED CONNECT CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK"
    " PINGREQ PINGRESP DISCONNECT AUTH"
).split()

# Property names by identifier, and how the value is written (MQTT 5.0, 2.2.2.2).
PROPERTIES = {
    0x01: ("payload_format", "B"), 0x02: ("message_expiry", "I"), 0x03: ("content_type", "s"),
    0x08: ("response_topic", "s"), 0x09: ("correlation_data", "b"), 0x0B: ("subscription_identifier", "v"),
    0x11: ("session_expiry", "I"), 0x12: ("assigned_client_id", "s"), 0x13: ("server_keep_alive", "H"),
    0x15: ("auth_method", "s"), 0x16: ("auth_data", "b"), 0x17: ("request_problem_information", "B"),
    0x18: ("will_delay", "I"), 0x19: ("request_response_information", "B"), 0x1A: ("response_information", "s"),
    0x1C: ("server_reference", "s"), 0x1F: ("reason_string", "s"), 0x21: ("receive_maximum", "H"),
    0x22: ("topic_alias_maximum", "H"), 0x23: ("topic_alias", "H"), 0x24: ("maximum_qos", "B"),
    0x25: ("retain_available", "B"), 0x26: ("user_property", "p"), 0x27: ("maximum_packet_size", "I"),
    0x28: ("wildcard_available", "B"), 0x29: ("subscription_identifiers_available", "B"),
    0x2A: ("shared_subscriptions_available", "B"),
}  # fmt: skip
PROPERTY_IDS = {name: (number, how) for number, (name, how) in PROPERTIES.items()}


class Packet:
    """One packet as received: `kind`, `flags`, `raw` (the body), `at` (monotonic), and the fields of its kind."""

    mid: int | None
    properties: dict[str, Any]
    protocol: str  # CONNECT
    version: int
    clean_start: bool
    keepalive: int
    client_id: str
    will: dict[str, Any] | None
    username: str | None
    password: bytes | None
    topic: str  # PUBLISH
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    code: int  # acknowledgements, DISCONNECT, AUTH
    filters: list[Any]  # SUBSCRIBE: (filter, options byte); UNSUBSCRIBE: filter

    def __init__(self, first: int, raw: bytes) -> None:
        self.kind = KINDS[first >> 4]
        self.flags = first & 15
        self.raw = raw
        self.at = time.monotonic()
        self.mid = None
        self.properties = {}

    def __repr__(self) -> str:
        fields = {k: v for k, v in self.__dict__.items() if k not in ("kind", "raw", "at") and v not in (None, {})}
        return f"{self.kind}({', '.join(f'{k}={v!r}' for k, v in fields.items())})"


# -- writing ----------------------------------------------------------------------------------------------------------


def variable(number: int) -> bytes:
    """A Variable Byte Integer."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def binary(value: bytes | str) -> bytes:
    """Two bytes of length, then the bytes (a str as UTF-8)."""
    raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return struct.pack("!H", len(raw)) + raw


def packet(first: int, *parts: bytes) -> bytes:
    """A whole packet: the first byte, the length, the parts."""
    body = b"".join(parts)
    return bytes((first,)) + variable(len(body)) + body


def properties(values: dict[str, Any]) -> bytes:
    """A property section. `user_property` is a list of pairs, `subscription_identifier` a number or a list of them."""
    out = bytearray()
    for name, value in values.items():
        number, how = PROPERTY_IDS[name]
        for one in value if isinstance(value, list) else [value]:
            out.append(number)
            if how == "p":
                out += binary(one[0]) + binary(one[1])
            elif how == "v":
                out += variable(one)
            elif how in "sb":
                out += binary(one)
            else:
                out += struct.pack("!" + how, one)
    return variable(len(out)) + bytes(out)


def publish(
    topic: str | bytes,
    payload: bytes = b"",
    qos: int = 0,
    mid: int = 0,
    *,
    retain: bool = False,
    dup: bool = False,
    version: int = 4,
    **props: Any,
) -> bytes:
    """The bytes of a PUBLISH."""
    return packet(
        0x30 | dup << 3 | qos << 1 | retain,
        binary(topic),
        struct.pack("!H", mid) if qos else b"",
        properties(props) if version == 5 else b"",
        payload,
    )


# -- reading ----------------------------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.raw):
            raise AssertionError(f"the client sent a packet that ends too early: {self.raw!r}")
        self.at += size
        return self.raw[self.at - size : self.at]

    def number(self, how: str) -> int:
        value: int = struct.unpack("!" + how, self.take(struct.calcsize("!" + how)))[0]
        return value

    def variable(self) -> int:
        value = shift = 0
        while True:
            byte = self.number("B")
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def binary(self) -> bytes:
        return self.take(self.number("H"))

    def text(self) -> str:
        return self.binary().decode()

    def rest(self) -> bytes:
        return self.take(len(self.raw) - self.at)

    def properties(self) -> dict[str, Any]:
        end = self.variable() + self.at
        found: dict[str, Any] = {}
        while self.at < end:
            name, how = PROPERTIES[self.variable()]
            if how == "p":
                found.setdefault(name, []).append((self.text(), self.text()))
            elif how == "v":
                found.setdefault(name, []).append(self.variable())
            elif name in found:
                raise AssertionError(f"the client sent {name} twice")
            else:
                found[name] = self.text() if how == "s" else self.binary() if how == "b" else self.number(how)
        if self.at != end:
            raise AssertionError("the client's property length does not fit its properties")
        return found


def parse(first: int, raw: bytes, version: int) -> Packet:
    """The packet of a client. Raises AssertionError for what no client may send."""
    found = Packet(first, raw)
    read = _Reader(raw)
    kind = found.kind
    if kind == "CONNECT":
        found.protocol, found.version = read.text(), read.number("B")
        flags, found.keepalive = read.number("B"), read.number("H")
        version = found.version
        found.clean_start = bool(flags & 2)
        found.properties = read.properties() if version == 5 else {}
        found.client_id = read.text()
        found.will = None
        if flags & 4:
            will_properties = read.properties() if version == 5 else {}
            found.will = {
                "topic": read.text(), "payload": read.binary(), "qos": flags >> 3 & 3, "retain": bool(flags & 32),
                "properties": will_properties,
            }  # fmt: skip
        found.username = read.text() if flags & 128 else None
        found.password = read.binary() if flags & 64 else None
    elif kind == "PUBLISH":
        found.qos, found.retain, found.dup = first >> 1 & 3, bool(first & 1), bool(first & 8)
        found.topic = read.text()
        found.mid = read.number("H") if found.qos else None
        found.properties = read.properties() if version == 5 else {}
        found.payload = read.rest()
    elif kind in ("PUBACK", "PUBREC", "PUBREL", "PUBCOMP"):
        found.mid = read.number("H")
        found.code = read.number("B") if raw[read.at :] else 0
        found.properties = read.properties() if raw[read.at :] else {}
    elif kind in ("SUBSCRIBE", "UNSUBSCRIBE"):
        found.mid = read.number("H")
        found.properties = read.properties() if version == 5 else {}
        found.filters = []
        while raw[read.at :]:
            name = read.text()
            found.filters.append((name, read.number("B")) if kind == "SUBSCRIBE" else name)
    elif kind in ("DISCONNECT", "AUTH"):
        found.code = read.number("B") if raw else 0
        found.properties = read.properties() if raw[read.at :] else {}
    elif kind != "PINGREQ":
        raise AssertionError(f"a client may not send {kind}")
    if raw[read.at :]:
        raise AssertionError(f"the client sent bytes after the end of {found!r}: {raw[read.at :]!r}")
    return found
