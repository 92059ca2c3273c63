"""The MQTT source and a real mosquitto: transports, sessions, overlapping and shared subscriptions, windows."""

from __future__ import annotations

import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from nuclio_edge.manifest.schema import Secret, values
from nuclio_edge.sources import mqtt_outage
from tests.mqtt_rig import Rig
from tests.stock_paho import leave
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.certificates import Certificates
    from tests.conftest import StartBroker
    from tests.mosquitto import Mosquitto

LIMIT = 30
BOTH = pytest.mark.parametrize("version", [3, 5])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses."""
    monkeypatch.setattr(mqtt_outage, "FIRST_PAUSE_MS", 20)
    monkeypatch.setattr(mqtt_outage, "LONGEST_PAUSE_MS", 100)


@pytest.fixture(params=["fast", "stock"])
def fast(request: pytest.FixtureRequest) -> bool:
    """Both ways to read."""
    return bool(request.param == "fast")


@pytest.fixture
def rig(tmp_path: Path, fast: bool) -> Iterator[Callable[..., Rig]]:
    """Make rigs with a state folder of their own each, unless named."""
    made: list[Rig] = []

    def make(url: str, state: str = "", **params: Any) -> Rig:
        folder = tmp_path / (state or f"state-{len(made)}")
        made.append(Rig(url, folder, fast=fast, **params))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Other:
    """Another client of the broker: a stock paho in a thread."""

    def __init__(self, broker: Mosquitto, *topics: str) -> None:
        self.messages: list[Any] = []
        self._there = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = lambda _c, _d, message: self.messages.append(message)
        wanted = [(topic, 2) for topic in topics]
        self._client.on_connect = lambda client, *_: client.subscribe(wanted) if wanted else self._there.set()
        self._client.on_subscribe = lambda *_: self._there.set()
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert self._there.wait(LIMIT)

    def publish(self, topic: str, payload: bytes | str = b"x", qos: int = 1, **more: Any) -> None:
        """Publish, and wait for the broker to have it."""
        self._client.publish(topic, payload, qos, **more).wait_for_publish(LIMIT)

    def wait_for(self, size: int) -> None:
        """Wait for a message of so many bytes to be the last."""
        wait_until(lambda: self.messages and len(self.messages[-1].payload) == size)

    def close(self) -> None:
        """Leave."""
        leave(self._client)

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pub(broker: Mosquitto, topic: str, payload: str = "x", qos: int = 1, *more: str) -> None:
    """Publish one message by mosquitto_pub."""
    command = ["mosquitto_pub", "-p", str(broker.port), "-t", topic, "-m", payload, "-q", str(qos), *more]
    subprocess.run(command, check=True, timeout=LIMIT)


def bodies(inbox: Any, count: int) -> list[bytes]:
    """The bodies of the next events, settled."""
    found = []
    for _ in range(count):
        event = inbox.taken.get(timeout=LIMIT)
        found.append(event.body)
        if event._token is not None:
            inbox.loop.post(lambda event=event: inbox.source.settle(event, None, None))
    return found


@BOTH
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_of_every_qos_arrive_once(rig: Any, mosquitto: Mosquitto, version: int, qos: int) -> None:
    one = rig(mosquitto.url, version=version)
    inbox = one.subscribe("a/#", qos)
    one.open().wait_open()
    with Other(mosquitto) as other:
        for number in range(50):
            other.publish(f"a/{number % 7}", str(number), 2)
    assert bodies(inbox, 50) == [b"%d" % number for number in range(50)]
    assert one.counts() == (50, 50, 0, 0)


@pytest.mark.parametrize("scheme", ["tls_url", "ws_url", "wss_url"])
def test_every_transport_carries_messages_both_ways(
    rig: Any, start_mosquitto: StartBroker, certificates: Certificates, scheme: str
) -> None:
    broker = start_mosquitto(tls=certificates, websockets=True)
    one = rig(getattr(broker, scheme), ca=str(certificates.ca) if "ss" in scheme or "tls" in scheme else None)
    inbox = one.subscribe("a/#", 1)
    with Other(broker, "out/#") as other:
        one.open().wait_open()
        for size in (0, 1, 125, 126, 20_000, 65_536, 1_000_000):
            if size < 50_000 or scheme == "tls_url":  # mosquitto 2.0 writes 4 KB in 100 ms to a websocket
                other.publish("a/b", b"x" * size)
                assert [len(body) for body in bodies(inbox, 1)] == [size]
            one.source.publisher.publish("out/a", b"y" * size, size % 2, False, None)
            other.wait_for(size)
        for number in range(300):
            other.publish("a/n", str(number), 0)
        assert bodies(inbox, 300) == [b"%d" % number for number in range(300)]


def test_a_client_certificate_with_the_key_from_a_secret_is_accepted(
    rig: Any, start_mosquitto: StartBroker, certificates: Certificates
) -> None:
    broker = start_mosquitto(tls=certificates, client_certificates=True)
    key = Secret("gw.key", certificates.client_key.read_bytes())
    rig(broker.tls_url, ca=str(certificates.ca), cert=str(certificates.client), key=key).open().wait_open()


def test_a_server_that_cannot_prove_who_it_is_gets_no_connect_unless_insecure_is_said(
    rig: Any, start_mosquitto: StartBroker, certificates: Certificates
) -> None:
    broker = start_mosquitto(tls=certificates)
    one = rig(broker.tls_url).open()
    wait_until(lambda: "certificate is not accepted" in one.log)
    by_address = rig(f"mqtts://127.0.0.2:{broker.tls_port}", ca=str(certificates.ca))
    assert by_address.source.state == "closed"
    rig(broker.tls_url, insecure=True).open().wait_open()


def test_user_and_password_are_sent(rig: Any, start_mosquitto: StartBroker) -> None:
    broker = start_mosquitto(users={"gw": "right"})
    wrong = rig(broker.url, username="gw", password=Secret("p", b"wrong")).open()
    wait_until(lambda: "not authorized" in wrong.log or "bad user name" in wrong.log)
    rig(broker.url, username="gw", password=Secret("p", b"right"), client_id="other").open().wait_open()


@BOTH
def test_overlapping_filters_give_each_function_one_event_a_message(
    rig: Any, start_mosquitto: StartBroker, version: int
) -> None:
    mosquitto = start_mosquitto(max_inflight=0)
    one = rig(mosquitto.url, version=version, receive_maximum=1000)
    filters = [("a/+/c", 1), ("a/b/+", 1), ("a/#", 0), ("+/b/c", 2), ("a/b/c", 1), ("#", 0)]
    boxes = [one.subscribe(topic, qos) for topic, qos in filters]
    one.open().wait_open()
    with Other(mosquitto) as other:
        for number in range(20):
            other.publish("a/b/c", "same", 2)  # identical messages are messages all the same
            other.publish("a/x/c", str(number), 2)
    for box, (topic, _) in zip(boxes, filters, strict=True):
        both = topic in ("a/+/c", "a/#", "#")
        found = bodies(box, 40 if both else 20)
        assert found.count(b"same") == 20, topic
        assert len(set(found)) == (21 if both else 1), topic
    pub(mosquitto, "a/x/c", "end")
    assert bodies(boxes[0], 1) == [b"end"]  # nothing is left over before it
    one.counts()


def test_a_shared_subscription_and_a_plain_one_on_one_topic_do_not_mix(rig: Any, mosquitto: Mosquitto) -> None:
    first, second = rig(mosquitto.url, client_id="one"), rig(mosquitto.url, client_id="two")
    shares = [one.subscribe("$share/g/jobs/+", 1) for one in (first, second)]
    plain = first.subscribe("jobs/#", 1)
    for one in (first, second):
        one.open().wait_open()
    with Other(mosquitto) as other:
        for number in range(40):
            other.publish("jobs/a", str(number))
    bodies(plain, 40)
    wait_until(lambda: sum(len(box.events) for box in shares) == 40)
    assert {event.body for box in shares for event in box.events} == {b"%d" % number for number in range(40)}
    assert all(box.events for box in shares)


@BOTH
def test_retained_messages_come_with_a_new_subscription_and_not_with_every_reconnect(
    rig: Any, start_mosquitto: StartBroker, version: int
) -> None:
    broker = start_mosquitto(persistence=True)
    pub(broker, "state/a", "kept", 1, "-r")
    one = rig(broker.url, "same", version=version)
    inbox = one.subscribe("state/#", 1)
    one.open().wait_open()
    event = inbox.taken.get(timeout=LIMIT)
    assert (event.body, event.retain) == (b"kept", True)
    one.settle(event)
    broker.wait_for_log("Received PUBACK from rig")
    broker.restart()
    wait_until(lambda: one.log.count("connected again") == 1)
    pub(broker, "state/b", "new")
    event = inbox.taken.get(timeout=LIMIT)
    assert (event.body, event.retain) == (b"new", False)


@BOTH
def test_the_session_keeps_messages_while_the_source_is_closed(rig: Any, mosquitto: Mosquitto, version: int) -> None:
    one = rig(mosquitto.url, "same", version=version)
    one.subscribe("a", 1)
    one.open().wait_open()
    one.close()
    pub(mosquitto, "a", "meanwhile")
    two = rig(mosquitto.url, "same", version=version)
    inbox = two.subscribe("a", 1)
    two.open().wait_open()
    assert bodies(inbox, 1) == [b"meanwhile"]


def test_two_processors_with_one_client_id_are_told_so(rig: Any, mosquitto: Mosquitto) -> None:
    first = rig(mosquitto.url, client_id="same").open().wait_open()
    second = rig(mosquitto.url, client_id="same").open()
    wait_until(
        lambda: "another client uses the client id same" in first.log + second.log, lambda: first.log + second.log
    )


@BOTH
def test_the_receive_maximum_is_the_window_of_a_slow_function(
    rig: Any, start_mosquitto: StartBroker, version: int
) -> None:
    broker = start_mosquitto(max_inflight=0)
    one = rig(broker.url, version=version, receive_maximum=10)
    slow, quick = one.subscribe("slow", 1), one.subscribe("quick", 0)
    one.open().wait_open()
    with Other(broker) as other:
        for number in range(100):
            other.publish("slow", str(number))
        other.publish("quick", "through")
        assert bodies(quick, 1) == [b"through"]
        if version == 5:
            assert len(slow.events) == 10
        assert bodies(slow, 100) == [b"%d" % number for number in range(100)]


@pytest.mark.parametrize("qos", [1, 2])
def test_the_will_is_published_for_a_connection_that_breaks_and_by_ourselves_when_we_leave(
    rig: Any, mosquitto: Mosquitto, qos: int
) -> None:
    fields = ("topic", "payload", "qos", "retain")
    will = values(fields, dict(zip(fields, ("gw/state", "offline", qos, True), strict=True)))
    birth = values(fields, dict(zip(fields, ("gw/state", "online", qos, True), strict=True)))
    with Other(mosquitto, "gw/state") as other:
        one = rig(mosquitto.url, will=will, birth=birth).open().wait_open()
        wait_until(lambda: [message.payload for message in other.messages] == [b"online"])

        def said() -> list[bytes]:
            return [message.payload for message in other.messages]

        def acknowledged() -> bool:
            return not one.source.publisher.waiting  # until then a birth is repeated

        wait_until(acknowledged)
        one.do(lambda: one.source.connection._link.sock.shutdown(socket.SHUT_RDWR))
        wait_until(lambda: said() == [b"online", b"offline", b"online"], lambda: str(said()))
        wait_until(acknowledged)
        one.close()
        wait_until(lambda: said()[3:] == [b"offline"], lambda: str(said()))
        assert "not sent" not in one.log


def test_published_messages_arrive_with_qos_retain_and_properties(rig: Any, mosquitto: Mosquitto) -> None:
    one = rig(mosquitto.url)
    one.subscribe("in")
    with Other(mosquitto, "out/#") as other:
        one.open().wait_open()
        publish = one.source.publisher.publish
        publish("out/0", {"t": 1}, 0, False, None, {"user_properties": {"k": "v"}, "message_expiry": 60})
        publish("out/1", "text", 1, False, "text/plain", {"response_topic": "r", "correlation_data": b"\x01"})
        publish("out/2", b"\xff", 2, True, None)
        wait_until(lambda: len(other.messages) == 3)
        zero, first, second = sorted(other.messages, key=lambda message: message.topic)
        assert (zero.payload, zero.qos, zero.properties.ContentType) == (b'{"t":1}', 0, "application/json")
        assert zero.properties.UserProperty == [("k", "v")]
        assert (first.payload, first.qos, first.properties.ContentType) == (b"text", 1, "text/plain")
        assert (first.properties.ResponseTopic, first.properties.CorrelationData) == ("r", b"\x01")
        assert (second.payload, second.qos) == (b"\xff", 2)
        wait_until(lambda: one.source.publisher.sent == 3)
        assert one.do(one.source.sent)


def test_messages_of_qos_1_published_while_the_broker_is_away_arrive_later_and_qos_0_is_counted(
    rig: Any, start_mosquitto: StartBroker
) -> None:
    broker = start_mosquitto(persistence=True)
    one = rig(broker.url).open().wait_open()
    broker.stop()
    wait_until(lambda: one.source.state == "connecting")
    for number in range(5):
        one.source.publisher.publish(f"out/{number}", b"x", 1, True, None)
        one.source.publisher.publish(f"out/{number}", b"x", 0, False, None)
    wait_until(lambda: one.source.publisher.shed == {"offline": 5})
    broker.start()
    with Other(broker, "out/#") as other:
        wait_until(lambda: {message.topic for message in other.messages} == {f"out/{number}" for number in range(5)})
    wait_until(lambda: one.source.publisher.sent == 5)


@BOTH
def test_a_message_above_the_brokers_own_limit_is_given_up_and_the_others_go_on(
    rig: Any, start_mosquitto: StartBroker, version: int
) -> None:
    """3.1.1 has no words for it: the broker closes each connection on which such a message comes."""
    broker = start_mosquitto(lines=["max_packet_size 20000"])
    one = rig(broker.url, version=version)
    inbox = one.subscribe("in", 1)
    one.open().wait_open()
    publisher = one.source.publisher
    publisher.publish("out/big", b"x" * 3_000_000, 1, False, None)
    for number in range(20):
        publisher.publish("out/small", str(number), 1, False, None)
    wait_until(lambda: publisher.sent == 20, lambda: one.log)
    assert publisher.shed == {"closes-connection" if version == 3 else "too-big": 1}
    assert one.log.count("was given up") == (1 if version == 3 else 0)
    one.wait_open()
    pub(broker, "in", "still there")
    assert bodies(inbox, 1) == [b"still there"]
