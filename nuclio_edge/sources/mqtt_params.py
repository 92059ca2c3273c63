"""What the manifest says of an MQTT source, its triggers and its outputs; read without paho.

url         parse_url() below takes it apart
version     5 or 3 (3.1.1); a broker that refuses 5 is asked again with 3.1.1
key         a path, or a Secret with the content
keepalive, session_expiry   milliseconds, whole seconds
topic       a filter in a trigger (`$share/group/filter` is a shared subscription), a name in an output
"""

from __future__ import annotations

import os.path

from nuclio_edge.manifest.problems import quote
from nuclio_edge.manifest.schema import Field, Secret, known, separately
from nuclio_edge.sources.mqtt_text import forbidden

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from nuclio_edge.manifest.schema import Values
    from nuclio_edge.registry import Fault

SHARED_WINDOW = True

_QOS = Field("integer", 1, minimum=0, maximum=2, doc="0 at most once, 1 at least once, 2 exactly once")
_MESSAGE = {
    "topic": Field("string", required=True, doc="where it is published"),
    "payload": Field("string", "", doc="its text"),
    "qos": Field("integer", 0, minimum=0, maximum=2, doc="0 at most once, 1 at least once, 2 exactly once"),
    "retain": Field("boolean", default=False, doc="the broker keeps it for later subscribers"),
}

PARAMS = {
    "url": Field("string", required=True, doc="mqtt://host:1883, mqtts://host:8883, ws://host/path, wss://host/path"),
    "version": Field("integer", 5, choices=(3, 5), doc="3 (3.1.1) or 5"),
    "client_id": Field(
        "string",
        "{device.name}-{device.id}-{source}",
        template=True,
        minimum=1,
        doc="stable, and different on two cloned cards",
    ),
    "username": Field("string", secret=True, doc="text or a secret"),
    "password": Field("secret", doc="always a secret"),
    "ca": Field("path", doc="certificates that the server's is checked against; default: the system's"),
    "cert": Field("path", doc="the client's certificate"),
    "key": Field("path", secret=True, doc="the client's key: a path, or a secret with its content"),
    "keepalive": Field("duration", 60_000, minimum=1000, maximum=65_535_000, doc="a ping after this silence"),
    "clean_start": Field("boolean", default=False, doc="true: forget the session at every connect"),
    "session_expiry": Field("duration", 604_800_000, minimum=0, maximum=4_294_967_295_000, doc="kept by the broker"),
    "receive_maximum": Field("integer", 64, minimum=1, maximum=65_535, doc="unacknowledged messages at most (5)"),
    "max_packet": Field("size", 16 << 20, minimum=1024, maximum=(1 << 28) + 4, doc="larger ones are discarded"),
    "insecure": Field("boolean", default=False, doc="true: no check of the server's certificate"),
    "content_type": Field("string", minimum=1, doc="of messages that do not say theirs"),
    "will": Field("table", fields=_MESSAGE, doc="published by the broker when the connection is lost"),
    "birth": Field("table", fields=_MESSAGE, doc="published at every connect"),
}

TRIGGER = {
    "topic": Field("string", required=True, wildcards="+#", doc="a topic filter: + is one level, # the rest"),
    "qos": _QOS,
    "no_local": Field("boolean", default=False, doc="not what this client published itself (5)"),
}

OUTPUT = {
    "topic": Field("string", required=True, doc="a topic name"),
    "qos": _QOS,
    "retain": Field("boolean", default=False, doc="the broker keeps it for later subscribers"),
}

_SCHEMES = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_MEANT = {
    "tcp": "mqtt://…",
    "ssl": "mqtts://…",
    "tls": "mqtts://…",
    "http": "mqtt://…, or ws://… for MQTT over WebSocket",
    "https": "mqtts://…, or wss://… for MQTT over WebSocket",
}
_ONLY_5 = ("session_expiry", "receive_maximum")  # of a connection, said to the broker in properties of CONNECT
_LONGEST = 65_535  # bytes of a string on the wire
_HIGHEST_PORT = 65_535


def parse_url(url: str) -> tuple[str, str, int, str]:
    """Return (scheme, host, port, path) of a broker's address; ValueError says what is wrong, not repeating it."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        known = _MEANT.get(scheme) if separator else None
        raise ValueError(f"write {known}" if known else "it begins with mqtt://, mqtts://, ws:// or wss://")
    place, slash, path = rest.partition("/")
    if "@" in place:
        raise ValueError("secrets are never inline: a user name and a password have keys of their own")
    if path and scheme in ("mqtt", "mqtts"):
        raise ValueError("only ws:// and wss:// have a path")
    if "?" in rest or "#" in rest:
        raise ValueError("no ? and no # may stand in it")
    if place.startswith("["):
        host, bracket, port = place[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError("an IPv6 address is written [::1]:1883")
        port = port[1:] if port else ""
    else:
        host, colon, port = place.partition(":")
        if ":" in port:
            raise ValueError("an IPv6 address is written in brackets: [::1]:1883")
        if colon and not port:
            raise ValueError("a port follows the colon")
    if not host or any(c.isspace() or not c.isprintable() for c in host):
        raise ValueError("the host is missing")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) <= _HIGHEST_PORT):
        raise ValueError(f"{quote(port)} is not a port from 1 to {_HIGHEST_PORT}")
    if scheme in ("ws", "wss"):
        path = slash + path if path else "/mqtt"
    return scheme, host, int(port) if port else _SCHEMES[scheme], path


def check_params(params: Values) -> Iterator[Fault]:
    """What a single field cannot know: the address, TLS without TLS, halves of a pair, missing files."""
    yield from separately(params, _check_url, _check_pair, _check_login)
    for key, path in known(params, "ca", "cert", "key"):
        if path is not None and not isinstance(path, Secret) and not os.path.isfile(path):
            yield key, "there is no such file", None
    for key, pause in known(params, "keepalive", "session_expiry"):
        if pause % 1000:
            yield key, "must be whole seconds", None
    for key, text in known(params, "client_id", "username", "content_type"):
        if isinstance(text, str) and (found := forbidden(text)):
            yield key, f"{quote(text)} holds {found}, for which brokers close the connection", None
    for key, message in known(params, "will", "birth"):
        for _, topic in known(message, "topic") if message is not None else ():
            if wrong := topic_fault(topic):
                yield f"{key}.topic", wrong, None


def _check_url(params: Values) -> Iterator[Fault]:
    try:
        secure = parse_url(params.url)[0] in ("mqtts", "wss")
    except ValueError as error:
        yield "url", f"not the address of a broker: {error}", None
        return
    for key, value in known(params, "ca", "cert", "key", "insecure"):
        if value and not secure:
            yield key, "means nothing without TLS, and url says none", "write mqtts:// or wss:// in url"


def _check_pair(params: Values) -> Iterator[Fault]:
    if (params.cert is None) != (params.key is None):
        there, missing = ("cert", "key") if params.key is None else ("key", "cert")
        yield there, f"needs {missing} beside it", None


def _check_login(params: Values) -> Iterator[Fault]:
    if params.password is not None and params.username is None and params.version == 3:
        yield "password", "needs a username beside it in MQTT 3.1.1", None


def warn_params(params: Values) -> Iterator[Fault]:
    """What MQTT 3.1.1 has no place for."""
    for key, value in known(params, *_ONLY_5) if params.version == 3 else ():
        if value != PARAMS[key].default:
            yield key, "is not told to the broker: MQTT 3.1.1 has no place for it", "the broker's own setting holds"


def warn_triggers(params: Values, addresses: list[Values]) -> Iterator[tuple[int, str, str, str, str]]:
    """What triggers of one source want and MQTT 3.1.1 has no place for: (which, code, key, message, hint)."""
    if params.version != 3:
        return
    for at, address in enumerate(addresses):
        if address.no_local:
            hint = "what this client publishes comes back to it"
            yield at, "W508", "no_local", "cannot be asked for in MQTT 3.1.1", hint
    filters = [address.topic for address in addresses]
    if not any(map(_is_shared, filters)):
        return
    from nuclio_edge.sources.mqtt_subscribe import mixed

    for name in mixed(filters):
        other = next(one for one in filters if one != name and mixed((name, one)))
        message = f"{quote(name)} overlaps {quote(other)}, and MQTT 3.1.1 does not say which of them a message came for"
        hint = "the function runs for both, in each client of the group: version = 5, or a source of its own for one"
        yield filters.index(name), "W509", "topic", message, hint


def claims(params: Values) -> Iterator[tuple[str, str]]:
    """A client id is one client's: the second one to connect throws the first one out, for ever in turn."""
    _, host, port, _ = parse_url(params.url)
    yield "client_id", f"client id {quote(params.client_id)} at {host}:{port}"


def check_trigger(address: Values) -> Iterator[Fault]:
    """Whether the topic is a filter."""
    wrong = filter_fault(address.topic)
    if wrong:
        yield "topic", wrong, None
    elif address.no_local and _is_shared(address.topic):
        yield "no_local", "cannot be asked for in a shared subscription (MQTT 5, 3.8.3.1)", None


def check_output(output: Values) -> Iterator[Fault]:
    """Whether the topic is a name."""
    wrong = topic_fault(output.topic)
    if wrong:
        yield "topic", wrong, None


def durable(address: Values) -> bool:
    """QoS 1 and 2 are: a slow function never holds the connection that it shares."""
    return bool(address.qos)


def when_full(address: Values) -> str:
    """QoS 0 sheds, because nothing would come again; QoS 1 and 2 push back on the broker."""
    return "block" if address.qos else "drop-oldest"


def topic_fault(topic: str) -> str | None:
    """Return why this is no topic name (MQTT 5, 4.7), or None."""
    if "+" in topic or "#" in topic:
        return f"{quote(topic)} is a filter; a topic to publish to has no + and no #"
    return _text_fault(topic)


def filter_fault(topic: str) -> str | None:
    """Return why this is no topic filter or shared subscription (MQTT 5, 4.7 and 4.8.2), or None."""
    rest = topic
    if topic == "$share" or _is_shared(topic):
        _, _, rest = topic.partition("/")
        group, _, rest = rest.partition("/")
        if not group or not rest or "+" in group or "#" in group:
            return f"{quote(topic)} is not a shared subscription; write $share/GROUP/FILTER"
    levels = rest.split("/")
    for at, level in enumerate(levels):
        if "#" in level and (level != "#" or at + 1 < len(levels)):
            return f"{quote(topic)} is not a topic filter: # stands alone in the last level"
        if "+" in level and level != "+":
            return f"{quote(topic)} is not a topic filter: + stands alone in its level"
    return _text_fault(topic)


def _is_shared(topic: str) -> bool:
    return topic.startswith("$share/")


def _text_fault(topic: str) -> str | None:
    if not topic:
        return "a topic must not be empty"
    if "\0" in topic:
        return "a topic cannot hold a NUL"
    if wrong := forbidden(topic):
        return f"{quote(topic)} holds {wrong}, for which brokers close the connection"
    if len(topic.encode()) > _LONGEST:
        return f"a topic has {_LONGEST} bytes at most"
    return None
