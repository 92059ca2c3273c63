"""paho-mqtt without its socket: it keeps CONNECT, version 5, SUBSCRIBE, keepalive and what it sent with QoS 1 and 2.

The subclass uses private names of paho (`PRIVATE`); `missing()` tells which of them this paho does not have, and then
`StockClient` reads and writes by paho's public calls, slower (30 us a packet instead of 1).
"""

from __future__ import annotations

import sys

from nuclio_edge.sources.mqtt_lean import import_lean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import paho.mqtt.client as paho

    from nuclio_edge.sources.mqtt_subscribe import Wire


# urllib.request (for proxies), ssl, logging, hashlib and others cost 10 MB and 24 ms of paho's 13 MB and 31 ms. A
# function with a paho client of its own misses nothing: a stand-in becomes the real module on first use.
_STAND_INS: dict[str, dict[str, Any]] = {
    "base64": {},
    "hashlib": {},
    "logging": {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40},
    "platform": {"system": sys.platform.capitalize},
    "ssl": {},
    "string": {"digits": "0123456789", "ascii_letters": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"},
    "urllib": {},
    "urllib.parse": {},
    "urllib.request": {},
    "uuid": {},
}

if not TYPE_CHECKING:
    paho = sys.modules.get("paho.mqtt.client") or import_lean("paho.mqtt.client", _STAND_INS)

ALIASES = 16  # topic aliases that the broker may use towards us

_VERSION2: Any = paho.CallbackAPIVersion.VERSION2  # type: ignore[attr-defined]

# What the fast path uses of paho beyond its documentation.
PRIVATE = (
    "_create_socket",
    "_packet_handle",
    "_packet_queue",
    "_in_packet",
    "_sock",
    "_sock_close",
    "_ping_t",
    "_out_packet",
)
_IN_PACKET = {
    "command",
    "have_remaining",
    "packet",
    "pos",
    "remaining_count",
    "remaining_length",
    "remaining_mult",
    "to_process",
}


def missing() -> list[str]:
    """The private names that this paho does not have; none means that the fast path works."""
    probe = paho.Client(_VERSION2, "probe")
    lost = [name for name in PRIVATE if not hasattr(probe, name)]
    if "_in_packet" not in lost:
        lost += [f"_in_packet[{key}]" for key in sorted(_IN_PACKET ^ set(probe._in_packet))]
    return lost


class StockClient(paho.Client):
    """paho as it is, but for the socket: `reconnect()` takes the one that was put in `handed`.

    What is published before the broker has accepted the connection (`accepted`) waits for that: only then it is known
    what the broker takes. paho by itself would send it at once. A packet of which paho makes no sense is told to
    `unreadable`, where there is one, so that it can still be acknowledged.
    """

    handed: Any = None
    accepted = False
    unreadable: Callable[[int, bytes, Exception], Any] | None = None

    def _packet_handle(self) -> Any:
        try:
            return super()._packet_handle()
        except Exception as error:
            if self.unreadable is None:
                raise
            packet: Any = self._in_packet
            self.unreadable(packet["command"], bytes(packet["packet"]), error)
            return paho.MQTT_ERR_SUCCESS

    def _send_publish(self, *args: Any, **named: Any) -> Any:
        return super()._send_publish(*args, **named) if self.accepted else paho.MQTT_ERR_NO_CONN

    def _create_socket(self) -> Any:
        handed, self.handed = self.handed, None
        if handed is None:
            raise OSError("no socket was handed over")
        return handed


class FastClient(StockClient):
    """paho that neither reads nor writes: packets come by `take`, and go out by `write`."""

    def __init__(self, *args: Any, write: Callable[[bytes], Any], **named: Any) -> None:
        super().__init__(*args, **named)
        self.write = write

    def take(self, first: int, rest: bytes) -> int:
        """Give paho one packet that is no PUBLISH; its error code, 0 for none. Raises paho's MalformedPacket."""
        packet: Any = self._in_packet
        packet["command"] = first
        packet["have_remaining"] = 1
        packet["remaining_length"] = len(rest)
        packet["packet"] = bytearray(rest)
        packet["to_process"] = 0
        packet["pos"] = 0
        return int(self._packet_handle())

    def _packet_queue(self, command: int, packet: Any, mid: int, qos: int, info: Any = None) -> Any:
        self.write(bytes(packet))
        if info is not None and not qos:
            info._set_as_published()
        return paho.MQTT_ERR_SUCCESS

    def loop_write(self) -> Any:
        """Nothing: what paho wants to write is written when the turn ends."""
        return paho.MQTT_ERR_SUCCESS


def make(params: Any, target: Any, v5: bool, fast: bool, write: Callable[[bytes], Any]) -> Any:
    """A client for one broker and version, with will, name and session as the manifest says; not yet connected."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    named: dict[str, Any] = {
        "client_id": params.client_id,
        "protocol": paho.MQTTv5 if v5 else paho.MQTTv311,
        "manual_ack": True,
    }
    if not v5:
        named["clean_session"] = params.clean_start
    kind: Any = FastClient if fast else StockClient
    if fast:
        named["write"] = write
    client = kind(_VERSION2, reconnect_on_failure=False, **named)
    if params.username is not None or params.password is not None:
        username = params.username
        password = params.password
        client.username_pw_set(
            (username.text if hasattr(username, "text") else username) or "",
            None if password is None else password.content,
        )
    will = params.will
    if will is not None:
        client.will_set(will.topic, will.payload, will.qos, will.retain)
    more: dict[str, Any] = {}
    if v5:
        props = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        props.SessionExpiryInterval = 0 if params.clean_start else params.session_expiry // 1000
        props.ReceiveMaximum = params.receive_maximum
        if fast:
            props.TopicAliasMaximum = ALIASES
        more = {"clean_start": bool(params.clean_start), "properties": props}
    client.connect_async(target.host, target.port, params.keepalive // 1000, **more)
    return client


def subscribe(client: Any, wires: list[Wire], v5: bool, at_once: int) -> list[tuple[int, list[str]]]:
    """Ask for subscriptions; (message id, filters) of each packet. One with an identifier needs a packet of its own.

    Retained messages come with a subscription that is new to the broker, not with a repeated one (retain handling 1);
    3.1.1 cannot tell them apart and sends them each time.
    """
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.subscribeoptions import SubscribeOptions

    plain = [wire for wire in wires if not wire.identifier]
    groups = [[wire] for wire in wires if wire.identifier]
    groups += [plain[at : at + at_once] for at in range(0, len(plain), at_once)]
    asked = []
    for group in groups:
        props = None
        if group[0].identifier:
            props = Properties(PacketTypes.SUBSCRIBE)  # type: ignore[no-untyped-call]
            props.SubscriptionIdentifier = group[0].identifier
        options: list[tuple[str, Any]] = []
        for wire in group:
            qos = wire.options & 3
            local = wire.options & 4 == 0
            handling = 0 if wire.shared else 1
            said = SubscribeOptions(qos, noLocal=not local, retainHandling=handling) if v5 else qos
            options.append((wire.filter, said))
        _, mid = client.subscribe(options, properties=props)
        if mid is not None:
            asked.append((mid, [wire.filter for wire in group]))
    return asked


def unsubscribe(client: Any, filters: list[str], at_once: int) -> list[int]:
    """Give subscriptions up; the message ids."""
    mids = [client.unsubscribe(filters[at : at + at_once])[1] for at in range(0, len(filters), at_once)]
    return [mid for mid in mids if mid is not None]


def forget_socket(client: Any) -> None:
    """Make paho know that the connection is gone."""
    if client is not None and hasattr(client, "_sock"):
        client._sock = None
