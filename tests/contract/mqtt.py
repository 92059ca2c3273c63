"""The outside world of the MQTT source: a real mosquitto, and a client that publishes and waits for replies."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from nuclio_edge.sources.mqtt import MqttSource
from nuclio_edge.testing import SourceRig
from tests.stock_paho import leave
from tests.waiting import LIMIT, wait_until

if TYPE_CHECKING:
    from nuclio_edge.manifest.schema import Values
    from tests.mosquitto import Mosquitto

_numbers = itertools.count(1)


class MqttRig(SourceRig):
    """Publishes at the source's own QoS, so that nothing is delivered at a lower one."""

    source = MqttSource
    pushes_back = True

    def __init__(self, broker: Mosquitto, qos: int, version: int, *, fast: bool) -> None:
        self._broker = broker
        self._qos = qos
        self._v5 = version == 5
        self._version = version
        self._fast = fast
        self._client: Any = None

    def begin(self) -> None:
        self._id = f"rig-{next(_numbers)}"
        self._topic = f"{self._id}/in"
        self._replies: list[bytes] = []
        self.params = {"url": self._broker.url, "client_id": self._id, "version": self._version}
        self.trigger = {"topic": self._topic, "qos": self._qos}
        self.path = self._topic
        self._connect()

    def make(self, name: str, params: Values, host: Any) -> MqttSource:
        made = MqttSource(name, params, host)
        made.connection.fast = self._fast
        return made

    def end(self) -> None:
        self._disconnect()

    def can(self, method: str) -> bool:
        if method == "acknowledged":
            return self._qos > 0
        if method == "replied":
            return self._v5 and self._qos > 0
        return super().can(method)

    def emit(self, body: bytes) -> None:
        properties = None
        if self.can("replied"):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ResponseTopic = f"{self._id}/reply"
        self._client.publish(self._topic, body, self._qos, properties=properties).wait_for_publish(LIMIT)

    def acknowledged(self) -> int:
        answer = "PUBACK" if self._qos == 1 else "PUBREC" if self._fast else "PUBCOMP"  # stock paho delivers at PUBREL
        return self._broker.log.count(f"Received {answer} from {self._id} ")

    def replied(self) -> list[bytes]:
        return list(self._replies)

    def lose(self) -> None:
        self._disconnect()
        self._broker.stop()

    def restore(self) -> None:
        self._broker.start()
        self._connect()

    def routes_in_force(self, source: Any) -> bool:
        return not source.connection._grants.waiting

    def _connect(self) -> None:
        protocol = paho.MQTTv5 if self._v5 else paho.MQTTv311
        self._client = client = paho.Client(CallbackAPIVersion.VERSION2, f"{self._id}-world", protocol=protocol)
        ready: list[object] = []
        client.on_subscribe = lambda *_: ready.append(1)
        client.on_message = lambda _client, _data, message: self._replies.append(bytes(message.payload))
        client.connect("127.0.0.1", self._broker.port)
        client.subscribe(f"{self._id}/reply", 1)
        client.loop_start()
        wait_until(lambda: ready, "the world's subscription")

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            leave(client)
