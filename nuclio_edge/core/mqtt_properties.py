"""What stands in MQTT packets beside the payload, sans-IO: topic names, and the properties of version 5 as pairs."""

from .mqtt_codec import ProtocolError, read_variable
from .mqtt_compose import string, variable
from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# Properties that a PUBLISH may have (3.3.2.3), by identifier.
MESSAGE_EXPIRY = 2
CONTENT_TYPE = 3
RESPONSE_TOPIC = 8
CORRELATION_DATA = 9
SUBSCRIPTION_ID = 11
TOPIC_ALIAS = 35
USER_PROPERTY = 38

# 2.2.2.2, by identifier: b one byte, h two, i four, v variable, d binary, s text, p pair of texts; "-" is none.
_TYPES = "-bis----sd-v-----ish-sdbibs-s--s-hhhbbpibbb"


def check_topic(topic: bytes) -> str:
    """The text of a topic name (4.7.3, 1.5.4); ProtocolError when it is no valid one."""
    if b"\0" in topic:
        raise ProtocolError(0x81, "a topic with NUL")
    if b"+" in topic or b"#" in topic:
        raise ProtocolError(0x90, "a topic with a wildcard")
    try:
        return str(topic, "utf-8")
    except ValueError:
        raise ProtocolError(0x81, "a topic that is not UTF-8")  # noqa: B904 - `from` only warns on MicroPython


def unpack_properties(raw: bytes) -> "list[tuple[int, Any]]":
    """The properties of a packet, in order, as (identifier, value); ProtocolError when they are broken."""
    found = []
    at = 0
    size = len(raw)
    while at < size:
        identifier = raw[at]
        at += 1
        kind = _TYPES[identifier] if identifier < len(_TYPES) else "-"
        value: "Any"
        if kind == "b":
            stop = at + 1
            value = raw[at] if at < size else 0
        elif kind in "hi":
            stop = at + (2 if kind == "h" else 4)
            value = int.from_bytes(raw[at:stop], "big")
        elif kind == "v":
            value, stop = read_variable(raw, at, size)
        elif kind == "-":
            raise ProtocolError(0x81, "an unknown property %d" % identifier)
        else:
            value, stop = _field(raw, at, kind)
            if kind == "p":
                second, stop = _field(raw, stop, kind)
                value = (value, second)
        if stop > size:
            raise ProtocolError(0x81, "a property cut short")
        at = stop
        found.append((identifier, value))
    return found


def _field(raw: bytes, at: int, kind: str) -> "tuple[Any, int]":
    stop = at + 2 + int.from_bytes(raw[at : at + 2], "big")
    if at + 2 > len(raw) or stop > len(raw):
        raise ProtocolError(0x81, "a property cut short")
    value = raw[at + 2 : stop]
    try:
        return value if kind == "d" else str(value, "utf-8"), stop
    except ValueError:
        raise ProtocolError(0x81, "a property that is not UTF-8")  # noqa: B904 - `from` only warns on MicroPython


def pack_properties(pairs: "Iterable[tuple[int, Any]]") -> bytes:
    """Properties as bytes, without the length that goes before them; ValueError for one that cannot be said."""
    out = bytearray()
    for identifier, value in pairs:
        kind = _TYPES[identifier]
        out.append(identifier)
        if kind == "b":
            out.append(value)
        elif kind == "h":
            out.extend(value.to_bytes(2, "big"))
        elif kind == "i":
            out.extend(value.to_bytes(4, "big"))
        elif kind == "v":
            out.extend(variable(value))
        elif kind == "p":
            out.extend(string(value[0]) + string(value[1]))
        else:
            out.extend(string(value))
    return bytes(out)


def resolve_alias(topic: bytes, props: bytes, aliases: "dict[int, bytes]", most: int) -> bytes:
    """The topic that a PUBLISH means (3.3.2.3.4); sets `aliases` of its connection, up to the number `most`."""
    try:
        pairs = unpack_properties(props)
    except ProtocolError:
        if not topic:
            raise
        return topic  # what is wrong is told to who reads them, with the packet at hand
    for identifier, value in pairs:
        if identifier == TOPIC_ALIAS:
            if not 0 < value <= most:
                raise ProtocolError(0x94, "topic alias %d" % value)
            if not topic:
                if value not in aliases:
                    raise ProtocolError(0x82, "topic alias %d stands for nothing" % value)
                return aliases[value]
            aliases[value] = topic
    return topic
