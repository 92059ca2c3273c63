"""A message of QoS 1 or 2 at which the broker closes every connection is found and given up; no other one is."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge.sources import mqtt_outage
from nuclio_edge.sources.mqtt_client import StockClient
from nuclio_edge.sources.mqtt_culprit import LOSSES, PROOFS, Culprit
from tests.fake_broker import FakeBroker, Peer, serve
from tests.mqtt_rig import Rig
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_outage, "FIRST_PAUSE_MS", 10)
    monkeypatch.setattr(mqtt_outage, "LONGEST_PAUSE_MS", 20)


@pytest.fixture(params=["fast", "stock"])
def fast(request: pytest.FixtureRequest) -> bool:
    """Both ways to read and write."""
    return bool(request.param == "fast")


class Choosy:
    """A broker that closes the connection, or says why (5), when a message comes that it does not like."""

    def __init__(self, code: int = 0, bad: bytes = b"bad", acks: bool = True) -> None:
        self.code = code
        self.bad = bad
        self.acks = acks  # those before the bad one
        self.taken: list[bytes] = []

    def __call__(self, peer: Peer) -> None:
        while (found := peer.read(limit=3600)) is not None:
            if found.kind == "PUBLISH" and found.payload.startswith(self.bad):
                if self.code and peer.version == 5:
                    peer.disconnect(self.code)
                return
            if found.kind == "PUBLISH":
                if not self.acks:
                    continue
                self.taken.append(found.payload)
            peer.answer(found)


@pytest.fixture
def rig(tmp_path: Path, fast: bool) -> Iterator[Any]:
    """Make a rig at a broker."""
    made: list[Rig] = []

    def make(broker: FakeBroker, **params: Any) -> Rig:
        made.append(Rig(broker.url, tmp_path, fast=fast, **params))
        return made[-1].open().wait_open()

    yield make
    for one in made:
        one.close()


def send(rig: Rig, *payloads: bytes, qos: int = 1, topic: str = "out/a") -> None:
    """Publish from the loop, in one go."""
    for payload in payloads:
        rig.do(functools.partial(rig.source.publisher.send, topic, payload, qos, False))


@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_message_that_closes_every_connection_is_given_up_said_once_and_the_others_arrive(
    rig: Any, version: int, qos: int
) -> None:
    choosy = Choosy()
    with FakeBroker(choosy) as broker:
        one = rig(broker, version=version)
        good = [b"%d" % number for number in range(40)]
        send(one, *good[:20], b"bad", *good[20:], qos=qos)
        publisher = one.source.publisher
        wait_until(lambda: publisher.sent == 40, lambda: one.log)
        assert publisher.shed == {"closes-connection": 1}
        assert publisher.waiting == 0
        assert set(choosy.taken) == set(good)
        assert one.log.count("a message was given up: the broker closes every connection at it topic out/a") == 1
        assert "another client" not in one.log
        assert not publisher.outbox.suspects
        before = len(broker.peers)
        send(one, *good, qos=qos)  # the window is open again
        wait_until(lambda: publisher.sent == 80)
        assert len(broker.peers) == before
        # A close that swallows answers on their way leaves another message first: the count begins anew then.
        assert before <= 2 * (2 + LOSSES + PROOFS)


def test_another_one_on_the_same_topic_costs_fewer_connections_and_is_not_said_again(rig: Any) -> None:
    with FakeBroker(Choosy()) as broker:
        one = rig(broker)
        send(one, b"bad")
        wait_until(lambda: one.source.publisher.shed == {"closes-connection": 1})
        one.wait_open()
        before = len(broker.peers)
        send(one, b"bad too", b"good")
        wait_until(lambda: one.source.publisher.sent == 1)
        assert one.source.publisher.shed == {"closes-connection": 2}
        assert len(broker.peers) <= before + 2
        assert one.log.count("was given up") == 1


@pytest.mark.parametrize(("code", "given_up"), [(0x95, True), (0x87, True), (0x8B, False), (0x98, False)])
def test_a_reason_that_is_about_no_message_blames_none(rig: Any, code: int, given_up: bool) -> None:
    choosy = Choosy(code)
    with FakeBroker(choosy) as broker:
        one = rig(broker)
        send(one, b"bad")
        if given_up:
            wait_until(lambda: one.source.publisher.shed == {"closes-connection": 1})
        else:
            wait_until(lambda: len(broker.peers) > LOSSES + PROOFS + 3)
            choosy.bad = b"worse"
            wait_until(lambda: one.source.publisher.sent == 1)
            assert one.source.publisher.shed == {}


def test_a_broker_that_closes_before_it_answers_the_ping_blames_no_message(rig: Any, fast: bool) -> None:
    if not fast:
        pytest.skip("stock paho has no ping to go ahead")
    closing = [True]

    def restless(peer: Peer) -> None:
        while (found := peer.read(limit=3600)) is not None:
            if closing and found.kind in ("PINGREQ", "PUBLISH"):
                return
            peer.answer(found)

    with FakeBroker(restless) as broker:
        one = rig(broker)
        send(one, b"good")
        wait_until(lambda: len(broker.peers) > LOSSES + PROOFS + 3)
        closing.clear()
        wait_until(lambda: one.source.publisher.sent == 1)
        assert one.source.publisher.shed == {}


def test_a_connection_that_ends_while_paho_sends_again_what_waited_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock paho goes through its messages then, and cannot stand that one is taken from it meanwhile."""
    whole = StockClient._packet_write
    failing = [True]

    def write(self: Any) -> Any:
        if failing and self.accepted:
            return paho.MQTT_ERR_CONN_LOST
        return whole(self)

    monkeypatch.setattr(StockClient, "_packet_write", write)
    with FakeBroker(serve) as broker, Rig(broker.url, tmp_path, fast=False) as one:
        publisher = one.source.publisher
        send(one, *(b"%d" % number for number in range(30)))
        wait_until(lambda: len(broker.peers) > LOSSES + PROOFS + 6)
        failing.clear()
        wait_until(lambda: publisher.sent + sum(publisher.shed.values()) == 30, lambda: one.log)
        assert publisher.waiting == 0
        assert one.errors == []


def test_a_broker_that_falls_silent_blames_no_message(rig: Any, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fast:
        pytest.skip("paho counts its own time")
    monkeypatch.setattr("nuclio_edge.sources.mqtt_link.PONG_MS", 20)

    def silent(peer: Peer) -> None:
        peer.handshake(subscribes=False, server_keep_alive=1)
        peer.hold()

    with FakeBroker(silent, silent, silent, serve) as broker:
        one = rig(broker)
        send(one, b"good")
        wait_until(lambda: one.source.publisher.sent == 1)
        assert one.source.publisher.shed == {}
        assert not one.source.publisher.outbox.suspects


def test_what_waits_is_sent_within_the_brokers_receive_maximum(tmp_path: Path, fast: bool) -> None:
    broker = FakeBroker()
    with broker, Rig(broker.url, tmp_path, fast=fast) as one:
        peer = broker.accept()
        peer.handshake(subscribes=False)
        one.wait_open()
        send(one, *(b"%d" % number for number in range(30)))
        peer.close()
        peer = broker.accept()
        peer.handshake(session=True, subscribes=False, receive_maximum=5)
        mids = [peer.expect("PUBLISH").mid for _ in range(5)]
        one.wait_open()
        box = one.subscribe("in")
        one.do(lambda: one.source.routes([box]))
        peer.suback(peer.expect("SUBSCRIBE"))  # the next packet: no more was sent
        for number in range(5, 30):  # one more for each that is acknowledged
            peer.ack("PUBACK", mids[number - 5] or 0)
            mids.append(peer.expect("PUBLISH", payload=b"%d" % number).mid)


def test_a_message_that_waits_and_is_above_the_limit_of_the_next_broker_is_not_sent(tmp_path: Path, fast: bool) -> None:
    """Nothing is sent before the broker has said what it takes."""
    with FakeBroker() as broker, Rig(broker.url, tmp_path, fast=fast) as one:
        send(one, b"x" * 2000, b"good")
        broker.accept().handshake(subscribes=False, maximum_packet_size=1000)
        peer = broker.peers[0]
        peer.ack("PUBACK", peer.expect("PUBLISH", payload=b"good").mid or 0)
        wait_until(lambda: one.source.publisher.sent == 1)
        assert one.source.publisher.shed == {"too-big": 1}


def test_the_release_of_a_message_of_qos_2_goes_out_before_what_waits(tmp_path: Path, fast: bool) -> None:
    with FakeBroker() as broker, Rig(broker.url, tmp_path, fast=fast) as one:
        peer = broker.accept()
        peer.handshake(subscribes=False)
        one.wait_open()
        send(one, b"1", b"2", b"3", qos=2)
        mids = [peer.expect("PUBLISH").mid or 0 for _ in range(3)]
        peer.ack("PUBREC", mids[2])
        peer.expect("PUBREL", mid=mids[2])
        peer.close()
        peer = broker.accept()
        peer.handshake(session=True, subscribes=False, receive_maximum=1)
        assert peer.expect("PUBREL").mid == mids[2]
        assert peer.expect("PUBLISH").mid == mids[0]


@given(st.lists(st.tuples(st.lists(st.integers(1, 5), max_size=5, unique=True), st.booleans(), st.booleans())))
def test_no_message_is_given_up_without_proofs_in_a_row(ends: list[tuple[list[int], bool, bool]]) -> None:
    """Whatever happens: at the moment of giving up, the last connections ended with that message alone, proven."""
    culprit = Culprit()
    history: list[int] = []
    for flying, closed, proven in ends:
        found = culprit.lost(flying, ["t"] * len(flying), closed=closed, proven=proven)
        certain = closed and proven and len(flying) == 1
        if certain:
            history.append(flying[0])
        elif not flying or (history and flying[0] != history[-1]):
            history.clear()
        if found:
            assert certain
            assert history[-PROOFS:] == [found] * PROOFS
            culprit.settled()


def test_a_message_that_waited_longer_than_it_may_is_not_sent_and_another_one_lives_for_the_rest_of_its_time(
    tmp_path: Path, fast: bool
) -> None:
    broker = FakeBroker()
    broker.refuse()
    with broker, Rig(broker.url, tmp_path, fast=fast) as one:
        publish = one.source.publisher.publish

        def wait(ms: int) -> None:
            """As if so much time had passed."""
            outbox = one.source.publisher.outbox
            one.do(lambda: outbox._expires.update({mid: when - ms for mid, when in outbox._expires.items()}))

        publish("door", b"open", 1, False, None, {"message_expiry": 10})
        publish("door", b"log", 1, False, None, {"message_expiry": 100, "user_properties": {"k": "v"}})
        wait(20_000)  # before there was any connection
        broker.listen()
        peer = broker.accept()
        peer.handshake(subscribes=False)
        found = peer.expect("PUBLISH", payload=b"log")
        assert 78 <= found.properties["message_expiry"] <= 80
        assert found.properties["user_property"] == [("k", "v")]
        wait(30_000)  # and between two connections
        peer.close()
        peer = broker.accept()
        peer.handshake(session=True, subscribes=False)
        assert 48 <= peer.expect("PUBLISH", payload=b"log").properties["message_expiry"] <= 50
        wait(60_000)
        peer.close()
        peer = broker.accept()
        peer.handshake(session=True, subscribes=False)
        publish("door", b"last", 1, False, None)
        peer.expect("PUBLISH", payload=b"last")
        assert one.source.publisher.shed == {"expired": 2}
