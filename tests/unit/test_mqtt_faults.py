"""Brokers that are away, silent, broken, or want something else: the MQTT source goes on, and says why it had to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nuclio_edge.manifest.schema import Secret
from nuclio_edge.sources import mqtt_connect, mqtt_connection, mqtt_link, mqtt_outage
from tests.fake_broker import FakeBroker, FullBacklog, Peer, black_hole, serve
from tests.mqtt_packets import packet, publish
from tests.mqtt_rig import Rig
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 30


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses: what is tested is that they end."""
    monkeypatch.setattr(mqtt_outage, "FIRST_PAUSE_MS", 10)
    monkeypatch.setattr(mqtt_outage, "LONGEST_PAUSE_MS", 40)


@pytest.fixture(params=["fast", "stock"])
def fast(request: pytest.FixtureRequest) -> bool:
    """Both ways to read."""
    return bool(request.param == "fast")


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    """A broker that the test plays."""
    with FakeBroker() as made:
        yield made


def test_a_broker_that_is_absent_at_the_start_is_waited_for_and_said_once(tmp_path: Path, fast: bool) -> None:
    broker = FakeBroker(serve)
    broker.refuse()
    with Rig(broker.url, tmp_path, fast=fast) as rig:
        wait_until(lambda: rig.source.attempts > 4)
        assert rig.source.state == "connecting"
        assert rig.log.count("connection refused") == 1
        broker.listen()
        rig.wait_open()
        assert "info: connected url" in rig.log
        assert len(rig.host.log.lines) == 2
    broker.close()


def test_a_broker_that_restarts_is_found_again_and_subscribed_to_again(tmp_path: Path, fast: bool) -> None:
    with FakeBroker(serve) as broker:
        rig = Rig(broker.url, tmp_path, fast=fast)
        inbox = rig.subscribe("a")
        with rig:
            rig.wait_open()
            for round_ in range(2, 5):
                broker.refuse()
                broker.peers[-1].close()
                wait_until(lambda: rig.source.state == "connecting")
                broker.listen()
                rig.wait_open()
                assert broker.count("SUBSCRIBE") == round_  # the fake broker keeps no session
            broker.peers[-1].publish("a", b"still there")
            assert inbox.taken.get(timeout=LIMIT).body == b"still there"
            assert rig.log.count("connected again") == 3
            assert rig.log.count("reason the broker closed the connection") == 3


def test_a_black_hole_is_left_after_the_deadline(tmp_path: Path, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_connection, "ANSWER_MS", 50)
    with FakeBroker(black_hole, black_hole, serve) as broker, Rig(broker.url, tmp_path, fast=fast) as rig:
        wait_until(lambda: len(broker.peers) == 3)
        monkeypatch.setattr(mqtt_connection, "ANSWER_MS", 30_000)
        rig.wait_open()
        assert "no answer" in rig.log


def test_a_host_that_drops_every_packet_does_not_hold_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_connect, "TIMEOUT_S", 0.2)
    with FullBacklog() as nowhere, Rig(nowhere.url, tmp_path) as rig:
        turns = rig.do(lambda: rig.loop.wakeups)
        wait_until(lambda: rig.source.attempts > 1)
        assert rig.do(lambda: rig.loop.wakeups) > turns
        assert "no answer within" in rig.log


def test_closing_while_a_connection_is_being_made_leaves_nothing(tmp_path: Path) -> None:
    with FullBacklog() as nowhere, Rig(nowhere.url, tmp_path) as rig:
        wait_until(lambda: rig.source.connection._connector is not None)
    assert rig.source.state == "closed"


def test_a_broker_that_does_not_answer_pings_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_link, "PONG_MS", 50)

    def silent(peer: Peer) -> None:
        peer.answers_pings = False
        peer.handshake(subscribes=False, server_keep_alive=1)
        peer.expect("PINGREQ")
        peer.expect_closed()

    with FakeBroker(silent, serve) as broker, Rig(broker.url, tmp_path) as rig:
        wait_until(lambda: len(broker.peers) == 2)
        rig.wait_open()
        assert "no answer to a ping" in rig.log


def test_pings_go_on_while_reading_is_paused(
    tmp_path: Path, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_link, "PONG_MS", 50)
    rig = Rig(broker.url, tmp_path)
    inbox = rig.subscribe("a", room=1)
    with rig:
        peer = broker.accept()
        peer.handshake(server_keep_alive=1)
        rig.wait_open()
        peer.publish("a", b"1")
        peer.publish("a", b"2")
        for _ in range(3):
            peer.expect("PINGREQ")  # never answered in a way that is read
        inbox.room = 10
        rig.do(inbox._room)
        assert [inbox.taken.get(timeout=LIMIT).body for _ in range(2)] == [b"1", b"2"]
        assert rig.source.state == "open"


def test_a_connection_that_ends_while_reading_is_paused_costs_no_processor_time(
    tmp_path: Path, broker: FakeBroker
) -> None:
    rig = Rig(broker.url, tmp_path)
    inbox = rig.subscribe("a", room=1)
    with rig:
        peer = broker.accept()
        peer.handshake()
        rig.wait_open()
        peer.publish("a", b"1")
        peer.publish("a", b"2")
        wait_until(lambda: rig.source.connection._link.paused)
        peer.reset()
        wait_until(lambda: rig.source.connection._link._deaf)
        before = rig.do(lambda: rig.loop.wakeups)
        assert rig.do(lambda: rig.loop.wakeups) - before < 10
        inbox.room = 10
        rig.do(inbox._room)
        assert [inbox.taken.get(timeout=LIMIT).body for _ in range(2)] == [b"1", b"2"]
        broker.accept().handshake()
        rig.wait_open()


MALFORMED = {
    "a length of five bytes": b"\x30\xff\xff\xff\xff\x01",
    "QoS 3": b"\x36\x06\x00\x01a\x00\x01\x00",
    "identifier 0": publish("a", b"x", 1, 0, version=5),
    "no topic and no alias": publish("", b"x", version=5),
    "a topic longer than its packet": b"\x30\x04\x00\x09a\x00",
    "properties longer than their packet": b"\x30\x05\x00\x01a\x7fx",
    "a topic alias that was not announced": publish("a", b"x", version=5, topic_alias=60_000),
    "a SUBACK of one byte": packet(0x90, b"\x00"),
    "a second CONNACK": packet(0x20, b"\x00\x00\x00"),
    "a packet that only clients send": packet(0x82, b"\x00\x01\x00"),
    "a PINGREQ": packet(0xC0),
    "type 0": packet(0x00, b"\x00"),
    "a PUBREL of one byte": packet(0x62, b"\x00"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_packet_ends_the_connection_with_a_reason_and_another_one_begins(
    tmp_path: Path, broker: FakeBroker, name: str
) -> None:
    rig = Rig(broker.url, tmp_path)
    inbox = rig.subscribe("#", 1)
    with rig:
        peer = broker.accept()
        peer.handshake()
        rig.wait_open()
        peer.publish("good", b"before")
        peer.send(MALFORMED[name])
        said = peer.expect("DISCONNECT")
        assert said.code >= 0x80
        peer.expect_closed()
        peer = broker.accept()
        assert "broke the protocol" in rig.log
        peer.handshake(session=True, subscribes=False)
        rig.wait_open()
        peer.publish("good", b"after")
        assert [inbox.taken.get(timeout=LIMIT).body for _ in range(2)] == [b"before", b"after"]
        rig.counts()


@pytest.mark.parametrize("topic", [b"a\x00b", b"\xff\xfe", b"a/+", b"#"], ids=["NUL", "not utf-8", "plus", "hash"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_broken_topic_ends_the_connection_once_and_is_not_sent_again(
    tmp_path: Path, broker: FakeBroker, topic: bytes, qos: int
) -> None:
    rig = Rig(broker.url, tmp_path)
    rig.subscribe("a/b", 1)
    with rig:
        peer = broker.accept()
        peer.handshake()
        rig.wait_open()
        peer.publish(topic, b"x", qos=qos, mid=5 if qos else 0)
        if qos:
            peer.expect("PUBACK" if qos == 1 else "PUBREC", mid=5)
        assert peer.expect("DISCONNECT").code in (0x81, 0x90)
        peer.expect_closed()
        broker.accept().handshake(session=True, subscribes=False)
        rig.wait_open()
        assert rig.source.rejected == {"bad-topic": 1}
        assert rig.counts() == (1, 0, 0, 1)


def text(value: bytes) -> bytes:
    """A string of a property, whatever is in it."""
    return len(value).to_bytes(2, "big") + value


PROPERTIES = {
    "a content type twice": b"\x03" + text(b"a/b") + b"\x03" + text(b"a/b"),
    "a content type that is not UTF-8": b"\x03" + text(b"\xff\xfe"),
    "a user property that is not UTF-8": b"\x26" + text(b"k") + text(b"\xff"),
    "a property that there is not": b"\x55\x00",
    "a property of a CONNECT": b"\x11\x00\x00\x00\x01",
    "a user property cut off": b"\x26" + text(b"key") + b"\x00\x09v",
    "a # in a broken one, as of an alias": b"\x03" + text(b"#\xff"),
}


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize("qos", [0, 1])
def test_malformed_properties_end_the_connection_once_and_are_not_sent_again(
    tmp_path: Path, broker: FakeBroker, fast: bool, name: str, qos: int
) -> None:
    rig = Rig(broker.url, tmp_path, fast=fast)
    inbox = rig.subscribe("a", 2)
    props = PROPERTIES[name]
    number = b"\x00\x05" if qos else b""
    bad = packet(0x30 | qos << 1, text(b"a"), number, bytes((len(props),)), props, b"x")
    with rig:
        peer = broker.accept()
        peer.handshake()
        rig.wait_open()
        peer.publish("a", b"before")
        peer.send(bad)
        if qos:
            peer.expect("PUBACK", mid=5)
        assert peer.expect("DISCONNECT").code in (0x81, 0x82)
        peer.expect_closed()
        peer = broker.accept()
        peer.handshake(session=True, subscribes=False)
        rig.wait_open()
        peer.publish("a", b"after", content_type="text/plain")
        assert [inbox.taken.get(timeout=LIMIT).body for _ in range(2)] == [b"before", b"after"]
        assert rig.log.count("the broker broke the protocol: ") == 1
        assert rig.source.rejected == {"malformed": 1}
        assert rig.counts() == (3, 2, 0, 1)


def test_malformed_properties_that_come_again_do_not_keep_the_others_away(
    tmp_path: Path, broker: FakeBroker, fast: bool
) -> None:
    rig = Rig(broker.url, tmp_path, fast=fast)
    inbox = rig.subscribe("a", 1)
    bad = packet(0x32, text(b"a"), b"\x00\x05", b"\x02", b"\x55\x00", b"x")
    with rig:
        peer = broker.accept()
        peer.handshake()
        rig.wait_open()
        peer.send(bad)
        peer.expect("PUBACK", mid=5)
        peer.expect("DISCONNECT")
        peer.expect_closed()
        peer = broker.accept()
        peer.handshake(session=True, subscribes=False)
        for _ in range(3):
            peer.send(bad)
            peer.expect("PUBACK", mid=5)
        peer.publish("a", b"after")
        assert inbox.taken.get(timeout=LIMIT).body == b"after"
        line = "a message with malformed properties was discarded topic a reason an unknown property 85"
        assert rig.log.count(line) == 1
        assert rig.counts() == (5, 1, 0, 4)


def test_a_message_that_stock_paho_alone_cannot_read_is_taken(tmp_path: Path, broker: FakeBroker) -> None:
    """It is stricter about text than others are."""
    rig = Rig(broker.url, tmp_path, fast=False)
    inbox = rig.subscribe("a", 1)
    props = b"\x03" + text("\ufeffx".encode())
    with rig:
        peer = broker.accept()
        peer.handshake()
        rig.wait_open()
        peer.send(packet(0x32, text(b"a"), b"\x00\x05", bytes((len(props),)), props, b"x"))
        event = inbox.taken.get(timeout=LIMIT)
        assert (event.content_type, event.body) == ("\ufeffx", b"x")
        rig.settle(event)
        peer.expect("PUBACK", mid=5)
        assert rig.counts() == (1, 1, 0, 0)


def test_a_connection_closed_inside_a_packet_loses_that_packet_only(
    tmp_path: Path, broker: FakeBroker, fast: bool
) -> None:
    rig = Rig(broker.url, tmp_path, fast=fast)
    inbox = rig.subscribe("a", 1)
    with rig:
        peer = broker.accept()
        peer.handshake()
        rig.wait_open()
        whole = publish("a", b"x" * 100, 1, 2, version=5)
        peer.send(publish("a", b"1", 1, 1, version=5) + whole[:40])
        rig.settle(inbox.taken.get(timeout=LIMIT))
        peer.expect("PUBACK", mid=1)
        peer.close()
        peer = broker.accept()
        peer.handshake(session=True, subscribes=False)
        peer.publish("a", b"x" * 100, qos=1, mid=2, dup=True)
        assert inbox.taken.get(timeout=LIMIT).body == b"x" * 100


def test_a_length_of_256_megabytes_takes_no_memory(tmp_path: Path, broker: FakeBroker) -> None:
    rig = Rig(broker.url, tmp_path, max_packet=(1 << 28) + 4)
    rig.subscribe("a")
    with rig:
        peer = broker.accept()
        peer.handshake()
        rig.wait_open()
        peer.send(b"\x30\xff\xff\xff\x7f\x00\x01a" + b"x" * 1000)
        wait_until(lambda: rig.source.connection._link.reader._part)
        assert len(rig.source.connection._link.reader._part) < 2000


@pytest.mark.parametrize(("code", "words"), [(0x86, "bad user name or password"), (0x87, "not authorized")])
def test_refused_credentials_are_said_clearly_and_tried_again(
    tmp_path: Path, fast: bool, code: int, words: str
) -> None:
    def refuse(peer: Peer) -> None:
        peer.connack(peer.expect("CONNECT"), code=code)
        peer.expect_closed()

    with FakeBroker(refuse, refuse, serve) as broker, Rig(broker.url, tmp_path, fast=fast) as rig:
        rig.wait_open()
        assert rig.log.count(words) == 1
        assert len(broker.peers) == 3


def test_a_refusal_of_3_1_1_is_said_in_the_same_words(tmp_path: Path, fast: bool) -> None:
    def refuse(peer: Peer) -> None:
        peer.connack(peer.expect("CONNECT"), code=5)
        peer.expect_closed()

    with FakeBroker(refuse, serve) as broker, Rig(broker.url, tmp_path, fast=fast, version=3) as rig:
        rig.wait_open()
        assert "not authorized" in rig.log


def test_another_client_with_our_client_id_is_named(tmp_path: Path, fast: bool) -> None:
    def take_over(peer: Peer) -> None:
        peer.handshake(subscribes=False)
        peer.disconnect(0x8E)
        peer.expect_closed()

    with FakeBroker(take_over, serve) as broker, Rig(broker.url, tmp_path, fast=fast) as rig:
        wait_until(lambda: len(broker.peers) == 2)
        rig.wait_open()
        assert "another client uses the client id rig" in rig.log


def test_a_broker_that_never_answers_a_subscribe_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_connection, "ANSWER_MS", 100)

    def deaf(peer: Peer) -> None:
        peer.handshake(subscribes=False)
        peer.expect("SUBSCRIBE")
        monkeypatch.setattr(mqtt_connection, "ANSWER_MS", 30_000)
        peer.expect_closed()

    with FakeBroker(deaf, serve) as broker:
        rig = Rig(broker.url, tmp_path)
        rig.subscribe("a")
        with rig:
            wait_until(lambda: len(broker.peers) == 2)
            rig.wait_open()
            assert "no answer to a SUBSCRIBE" in rig.log


def test_what_is_told_after_the_end_is_not_heard(tmp_path: Path, broker: FakeBroker) -> None:
    rig = Rig(broker.url, tmp_path)
    inbox = rig.subscribe("a")
    with rig:
        peer = broker.accept()
        peer.handshake()
        rig.wait_open()
        peer.send(packet(0xE0, b"\x8b") + publish("a", b"x", version=5) * 10)
        broker.accept().handshake()
        rig.wait_open()
        assert inbox.events == []
        assert "shutting down" in rig.log
        rig.counts()


def test_a_source_that_receives_no_more_does_not_throw_its_successor_out(tmp_path: Path, fast: bool) -> None:
    with FakeBroker(serve) as broker, Rig(broker.url, tmp_path, fast=fast) as rig:
        rig.wait_open()
        rig.do(rig.source.stop_receiving)
        broker.peers[-1].close()
        wait_until(lambda: rig.source.state == "closed")
        assert rig.do(rig.source.sent)
        assert len(broker.peers) == 1


def test_a_name_that_is_no_text_is_said_and_costs_no_descriptor(tmp_path: Path) -> None:
    name = Secret("name", b"\xff")
    with FakeBroker(serve) as broker, Rig(broker.url, tmp_path, username=name) as rig:
        wait_until(lambda: rig.source.attempts > 2)
        assert rig.log.count("cannot connect: 'utf-8' codec can't decode") == 1


def test_a_paho_without_the_private_names_is_read_by_its_own_means(
    tmp_path: Path, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nuclio_edge.sources import mqtt_client

    monkeypatch.setattr(mqtt_client, "PRIVATE", (*mqtt_client.PRIVATE, "_no_such_name"))
    rig = Rig(broker.url, tmp_path)
    inbox = rig.subscribe("a", 1)
    with rig:
        peer = broker.accept()
        peer.handshake()
        rig.wait_open()
        peer.publish("a", b"x", qos=1, mid=1)
        rig.settle(inbox.taken.get(timeout=LIMIT))
        peer.expect("PUBACK", mid=1)
        assert rig.log.count("slower reading is used") == 1
        assert "_no_such_name" in rig.log


@pytest.mark.parametrize("qos", [0, 1])
def test_stock_paho_goes_on_after_a_broken_topic_too(tmp_path: Path, broker: FakeBroker, qos: int) -> None:
    """It holds a lock while it tells of a message: who ends the connection then waits for ever."""
    rig = Rig(broker.url, tmp_path, fast=False)
    rig.subscribe("a/b", 1)
    with rig:
        peer = broker.accept()
        peer.handshake()
        rig.wait_open()
        peer.publish(b"a/+", b"x", qos=qos, mid=5 if qos else 0)
        peer.publish(b"a/b", b"never heard")
        peer.expect_closed()
        broker.accept().handshake(session=True, subscribes=False)
        rig.wait_open()
        assert rig.source.rejected == {"bad-topic": 1}
        rig.counts()


def test_pings_go_on_where_the_broker_asks_for_no_keepalive(tmp_path: Path) -> None:
    with FakeBroker() as broker, Rig(broker.url, tmp_path, keepalive=1000) as rig:
        peer = broker.accept()
        peer.handshake(subscribes=False, server_keep_alive=0)
        rig.wait_open()
        peer.expect("PINGREQ")
