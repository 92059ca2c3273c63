"""What may stand as text in a packet that we send.

Law: nothing that passes here makes a broker close the connection. A message of QoS 1 that does is repeated after every
reconnect, so that one handler's topic would keep the whole source away for ever.
"""

from __future__ import annotations

from nuclio_edge.core.mqtt_properties import (
    CONTENT_TYPE,
    CORRELATION_DATA,
    MESSAGE_EXPIRY,
    RESPONSE_TOPIC,
    USER_PROPERTY,
    pack_properties,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_LONGEST = 65_535
# Keyword of publish() -> property.
_PROPERTIES = {
    "message_expiry": MESSAGE_EXPIRY,
    "response_topic": RESPONSE_TOPIC,
    "correlation_data": CORRELATION_DATA,
    "user_properties": USER_PROPERTY,
}


def check_text(text: Any, what: str) -> None:
    """ValueError unless brokers take it as text: mosquitto hangs up at control characters and others (1.5.4)."""
    if not isinstance(text, str):
        raise ValueError(f"{what} is of the wrong type: text, not {type(text).__name__}")  # noqa: TRY004 - the contract
    if len(text) * 3 > _LONGEST and len(text.encode("utf-8", "surrogatepass")) > _LONGEST:
        raise ValueError(f"{what} is too long: {_LONGEST} bytes fit")
    wrong = forbidden(text)
    if wrong is not None:
        raise ValueError(f"{what} {text[:80]!r} holds {wrong}, for which brokers close the connection")


def forbidden(text: str) -> str | None:
    """The first character that a broker may hang up at, as U+0007; None where there is none."""
    if text.isprintable():
        return None
    for char in text:
        code = ord(char)
        if (
            code < 0x20
            or 0x7F <= code <= 0x9F
            or 0xD800 <= code <= 0xDFFF
            or 0xFDD0 <= code <= 0xFDEF
            or code & 0xFFFE == 0xFFFE
        ):
            return f"U+{code:04X}"
    return None


def check_topic_name(topic: Any, what: str = "topic") -> None:
    """ValueError unless it is a name that a message can be published to (4.7)."""
    check_text(topic, what)
    if not topic or "+" in topic or "#" in topic:
        raise ValueError(f"{topic!r} is not a topic to publish to: it is a name, without +, # and NUL")


def property_pairs(content_type: Any, properties: Mapping[str, Any] | None) -> tuple[tuple[int, Any], ...]:
    """The keywords of `publish` as pairs, each hashable and fit to be sent; ValueError for one that is not."""
    found: list[tuple[int, Any]] = []
    if content_type:
        check_text(content_type, "content_type")
        found.append((CONTENT_TYPE, content_type))
    for name, value in (properties or {}).items():
        number = _PROPERTIES.get(name)
        if number is None:
            known = ", ".join(sorted(_PROPERTIES))
            raise ValueError(f"publish knows no property {name!r}; there are content_type, {known}")
        if value is None:
            continue
        if number == USER_PROPERTY:
            if not hasattr(value, "items"):
                raise ValueError(f"user_properties is of the wrong type: a dict, not {type(value).__name__}")
            for key, one in value.items():
                pair = (str(key), str(one))
                check_text(pair[0], "the name of a user property")
                check_text(pair[1], f"user property {pair[0]}")
                found.append((number, pair))
        elif number == RESPONSE_TOPIC:
            check_topic_name(value, "response_topic")
            found.append((number, value))
        elif number == CORRELATION_DATA:
            data = value.encode() if isinstance(value, str) else value
            try:
                found.append((number, data if type(data) is bytes else bytes(memoryview(data))))
            except TypeError:
                raise ValueError(f"correlation_data is of the wrong type: bytes, not {type(value).__name__}") from None
        else:
            if not isinstance(value, int):
                raise ValueError(f"message_expiry is of the wrong type: whole seconds, not {value!r:.40}")
            if not 0 <= value < 1 << 32:
                raise ValueError(f"message_expiry is {value}: 0 to {(1 << 32) - 1} seconds can be said")
            found.append((number, value))
    pairs = tuple(found)
    try:
        pack_properties(pairs)
        hash(pairs)
    except (AttributeError, TypeError, OverflowError) as error:
        raise ValueError(f"a property of publish is of the wrong type: {error}") from None
    return pairs
