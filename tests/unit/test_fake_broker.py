"""The fake broker is trusted by other tests, so stock paho, which we did not write, checks it in both versions."""

from __future__ import annotations

import threading

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.fake_broker import FakeBroker, FullBacklog, Peer, serve
from tests.mqtt_packets import publish
from tests.stock_paho import leave

VERSIONS = [4, 5]


def client(version: int, port: int) -> tuple[paho.Client, list[paho.MQTTMessage]]:
    seen: list[paho.MQTTMessage] = []
    one = paho.Client(CallbackAPIVersion.VERSION2, client_id="c", protocol=MQTTProtocolVersion(version))
    one.on_connect = lambda c, *_: c.subscribe([("a/#", 1), ("b", 2)])
    one.on_message = lambda _c, _u, message: seen.append(message)
    one.connect("127.0.0.1", port)
    one.loop_start()
    return one, seen


@pytest.mark.parametrize("version", VERSIONS)
def test_a_test_plays_the_broker_step_by_step(version: int) -> None:
    with FakeBroker() as broker:
        one, seen = client(version, broker.port)
        peer = broker.accept()
        connect = peer.expect("CONNECT", client_id="c", version=version, clean_start=True)
        peer.connack(connect)
        subscribe = peer.expect("SUBSCRIBE")
        assert [(name, options & 3) for name, options in subscribe.filters] == [("a/#", 1), ("b", 2)]
        peer.suback(subscribe)
        peer.publish("a/x", b"one", qos=1, mid=7)
        peer.expect("PUBACK", mid=7)
        peer.publish("b", b"two", qos=2, mid=8, retain=True)
        peer.expect("PUBREC", mid=8)
        peer.ack("PUBREL", 8)
        peer.expect("PUBCOMP", mid=8)
        leave(one)
        assert [kind.kind for kind in peer.expect_closed()] == ["DISCONNECT"]
        assert [(m.topic, m.payload, m.qos, m.retain) for m in seen] == [
            ("a/x", b"one", 1, False),
            ("b", b"two", 2, True),
        ]


def test_properties_pass_both_ways_in_mqtt_5() -> None:
    with FakeBroker() as broker:
        one, seen = client(5, broker.port)
        peer = broker.accept()
        peer.handshake(receive_maximum=5, server_keep_alive=9)
        peer.publish("a/x", b"!", content_type="text/plain", user_property=[("k", "v"), ("k", "w")], message_expiry=3)
        broker.wait(lambda: seen)
        assert seen[0].properties is not None
        assert seen[0].properties.json() == {  # type: ignore[no-untyped-call]
            "ContentType": "text/plain", "UserProperty": [("k", "v"), ("k", "w")], "MessageExpiryInterval": 3,
        }  # fmt: skip
        mine = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        mine.ResponseTopic, mine.CorrelationData, mine.UserProperty = "r", b"\x00c", ("p", "q")
        one.publish("out", "é", qos=1, properties=mine)
        got = peer.expect("PUBLISH", topic="out", payload="é".encode(), qos=1)
        assert got.properties == {"response_topic": "r", "correlation_data": b"\x00c", "user_property": [("p", "q")]}
        peer.ack("PUBACK", got.mid or 0)
        leave(one)


@pytest.mark.parametrize("version", VERSIONS)
def test_scripts_run_one_a_connection_and_the_last_for_all_later_ones(version: int) -> None:
    def dies_mid_packet(peer: Peer) -> None:
        peer.handshake()
        peer.send(publish("a/x", b"x" * 100, version=version)[:20])
        peer.close()

    with FakeBroker(dies_mid_packet, serve) as broker:
        one, seen = client(version, broker.port)
        one.reconnect_delay_set(1, 1)
        broker.wait(lambda: broker.count("SUBSCRIBE") == 2)
        broker.peers[1].publish("a/y", b"whole")
        broker.wait(lambda: seen)
        assert [m.payload for m in seen] == [b"whole"]
        one.publish("out", b"", qos=2)
        broker.wait(lambda: broker.count("PUBREL"))
        leave(one)


def test_a_failed_step_of_a_script_is_raised_when_the_broker_closes() -> None:
    def wants_a_ping(peer: Peer) -> None:
        peer.expect("PINGREQ")

    broker = FakeBroker(wants_a_ping)
    one, _ = client(4, broker.port)
    one.reconnect_delay_set(5, 5)  # not in the middle of a connect when it leaves
    broker.wait(lambda: broker.errors)
    leave(one)
    with pytest.raises(AssertionError, match="expected PINGREQ"):
        broker.close()


def test_a_broker_that_refuses_listens_again_on_the_same_port_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with FakeBroker(serve) as broker:
        broker.refuse()
        with pytest.raises(ConnectionRefusedError):
            client(4, broker.port)
        broker.listen()
        one, _ = client(4, broker.port)
        broker.wait(lambda: broker.count("SUBSCRIBE"))
        leave(one)
    assert threading.active_count() == before


def test_a_full_backlog_answers_no_connect() -> None:
    with FullBacklog() as hole:
        one = paho.Client(CallbackAPIVersion.VERSION2)
        one.connect_timeout = 0.3
        with pytest.raises(TimeoutError):
            one.connect("127.0.0.1", hole.port)
