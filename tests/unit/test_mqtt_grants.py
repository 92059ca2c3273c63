"""Subscriptions that a broker does not grant, in every way of saying so: each costs itself and no other one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.sources import mqtt_outage
from nuclio_edge.sources.mqtt_grants import LOSSES, PROOFS
from tests.fake_broker import FakeBroker, Peer
from tests.mqtt_rig import Rig
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 30


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_outage, "FIRST_PAUSE_MS", 10)
    monkeypatch.setattr(mqtt_outage, "LONGEST_PAUSE_MS", 20)


@pytest.fixture(params=["fast", "stock"])
def fast(request: pytest.FixtureRequest) -> bool:
    """Both ways to read and write."""
    return bool(request.param == "fast")


class Picky:
    """A broker that closes the connection at a SUBSCRIBE to some filters, or says why (5)."""

    def __init__(self, *bad: str, code: int = 0, **connack: Any) -> None:
        self.bad = set(bad)
        self.code = code
        self.connack = connack
        self.granted: list[str] = []

    def __call__(self, peer: Peer) -> None:
        while (found := peer.read(limit=3600)) is not None:
            if found.kind == "CONNECT":
                peer.connack(**self.connack)
                continue
            if found.kind == "SUBSCRIBE":
                names = [name for name, _ in found.filters]
                if self.bad.intersection(names):
                    if self.code:
                        peer.disconnect(self.code)
                    return
                self.granted += names
            peer.answer(found)


@pytest.mark.parametrize("version", [3, 5])
def test_a_filter_at_which_the_broker_closes_the_connection_is_done_without_and_99_others_are_had(
    tmp_path: Path, fast: bool, version: int
) -> None:
    picky = Picky("bad")
    with FakeBroker(picky) as broker:
        rig = Rig(broker.url, tmp_path, fast=fast, version=version)
        boxes = [rig.subscribe(f"f{number}", 1) for number in range(99)]
        rig.subscribe("bad", 1)
        with rig:
            rig.wait_open()
            words = "the broker refused a subscription topic bad reason it closes the connection instead of an answer"
            assert rig.log.count(words) == 1
            assert len(broker.peers) == LOSSES + PROOFS + 1
            assert {f"f{number}" for number in range(99)} <= set(picky.granted)
            broker.peers[-1].publish("f98", b"x")
            assert boxes[98].taken.get(timeout=LIMIT).body == b"x"


def test_it_is_asked_for_again_at_the_next_reconnect_and_had_when_the_broker_is_mended(
    tmp_path: Path, fast: bool
) -> None:
    picky = Picky("bad")
    with FakeBroker(picky) as broker:
        rig = Rig(broker.url, tmp_path, fast=fast)
        rig.subscribe("good", 1)
        rig.subscribe("bad", 1)
        with rig:
            rig.wait_open()
            before = len(broker.peers)
            broker.peers[-1].close()
            wait_until(lambda: len(broker.peers) == before + 2)  # one proof is enough now
            rig.wait_open()
            assert "bad" not in picky.granted
            picky.bad.clear()
            broker.peers[-1].close()
            wait_until(lambda: "bad" in picky.granted)
            rig.wait_open()
            assert len(broker.peers) == before + 3


def test_a_broker_that_restarts_while_it_is_asked_costs_no_filter(tmp_path: Path, fast: bool) -> None:
    def restarts(peer: Peer) -> None:
        peer.handshake(subscribes=False)
        peer.expect("SUBSCRIBE")

    picky = Picky()
    with FakeBroker(*[restarts] * (LOSSES + PROOFS - 1), picky) as broker:
        rig = Rig(broker.url, tmp_path, fast=fast)
        for name in "abc":
            rig.subscribe(name, 1)
        with rig:
            rig.wait_open()
            assert set(picky.granted) == set("abc")
            assert "refused" not in rig.log


@pytest.mark.parametrize(
    ("said", "topic", "code", "words"),
    [
        ({"shared_subscriptions_available": 0}, "$share/g/a", 0x9E, "it has no shared subscriptions"),
        ({"wildcard_available": 0}, "a/+", 0xA2, "it has no wildcard subscriptions"),
    ],
)
def test_what_the_broker_says_it_does_not_have_is_not_asked_for(
    tmp_path: Path, fast: bool, said: dict[str, Any], topic: str, code: int, words: str
) -> None:
    picky = Picky(topic, code=code, **said)
    with FakeBroker(picky) as broker:
        rig = Rig(broker.url, tmp_path, fast=fast)
        rig.subscribe("plain", 1)
        rig.subscribe(topic, 1)
        with rig:
            rig.wait_open()
            assert picky.granted == ["plain"]
            assert len(broker.peers) == 1
            assert f"the broker refused a subscription topic {topic} reason {words}" in rig.log


def test_an_answer_that_is_too_short_grants_what_it_speaks_of(tmp_path: Path, fast: bool) -> None:
    with FakeBroker() as broker:
        rig = Rig(broker.url, tmp_path, fast=fast)
        for name in "ab":
            rig.subscribe(name, 1)
        with rig:
            peer = broker.accept()
            peer.handshake(subscribes=False)
            peer.suback(peer.expect("SUBSCRIBE"), [1])
            rig.wait_open()
            assert "the broker refused a subscription topic b reason no answer" in rig.log
            assert "topic a" not in rig.log


def test_a_lower_qos_than_was_asked_for_is_said(tmp_path: Path, fast: bool) -> None:
    with FakeBroker() as broker:
        rig = Rig(broker.url, tmp_path, fast=fast)
        rig.subscribe("a", 1)
        with rig:
            peer = broker.accept()
            peer.handshake(subscribes=False)
            peer.suback(peer.expect("SUBSCRIBE"), [0])
            rig.wait_open()
            assert "the broker grants a lower QoS than was asked for topic a asked 1 granted 0" in rig.log


def test_a_broker_that_takes_no_notice_of_version_5_and_answers_in_3_1_1_is_spoken_to_in_3_1_1(tmp_path: Path) -> None:
    def older(peer: Peer) -> None:
        peer.expect("CONNECT")
        peer.send(b"\x20\x02\x00\x00")
        peer.serve()

    with FakeBroker(older) as broker, Rig(broker.url, tmp_path) as rig:
        rig.wait_open()
        assert [one.version for one in broker.received if one.kind == "CONNECT"] == [5, 4]


def test_pings_go_on_where_the_broker_asks_for_no_keepalive(tmp_path: Path) -> None:
    with FakeBroker() as broker, Rig(broker.url, tmp_path, keepalive=1000) as rig:
        peer = broker.accept()
        peer.handshake(subscribes=False, server_keep_alive=0)
        rig.wait_open()
        peer.expect("PINGREQ")
