"""What the broker is asked for, and the subscriptions that it does not grant: each costs itself and no other one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.sources import mqtt_outage
from nuclio_edge.sources.mqtt_grants import LOSSES, PROOFS
from tests.fake_broker import FakeBroker, Peer
from tests.mqtt_rig import Rig
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
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


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    """A broker that the test plays."""
    with FakeBroker() as made:
        yield made


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


def test_a_subscription_that_is_refused_is_named_and_the_others_go_on(
    tmp_path: Path, broker: FakeBroker, fast: bool
) -> None:
    rig = Rig(broker.url, tmp_path, fast=fast)
    secret, inbox = rig.subscribe("secret/#", 1), rig.subscribe("a", 1)
    with rig:
        peer = broker.accept()
        peer.handshake(subscribes=False)
        peer.suback(peer.expect("SUBSCRIBE"), [0x87, 1])
        rig.wait_open()
        assert "the broker refused a subscription topic secret/# reason not authorized (0x87)" in rig.log
        peer.publish("a", b"x")
        assert inbox.taken.get(timeout=LIMIT).body == b"x"
        assert secret.events == []
        kept = json.loads((tmp_path / "mqtt-broker.json").read_text())
        assert list(kept["filters"]) == ["a"]


def test_filters_that_were_removed_are_unsubscribed_from_a_kept_session(
    tmp_path: Path, broker: FakeBroker, fast: bool
) -> None:
    for names in (["a", "b", "c"], ["a", "d"]):
        rig = Rig(broker.url, tmp_path, fast=fast)
        for name in names:
            rig.subscribe(name, 1)
        with rig:
            peer = broker.accept()
            if "b" in names:
                peer.handshake()
            else:
                peer.handshake(session=True, subscribes=False)
                subscribe = peer.expect("SUBSCRIBE")
                assert [name for name, _ in subscribe.filters] == ["d"]
                unsubscribe = peer.expect("UNSUBSCRIBE")
                assert unsubscribe.filters == ["b", "c"]
                peer.suback(subscribe)
                peer.unsuback(unsubscribe)
            rig.wait_open()
    kept = json.loads((tmp_path / "mqtt-broker.json").read_text())
    assert sorted(kept["filters"]) == ["a", "d"]


def test_a_kept_session_that_is_as_it_should_be_is_left_alone(tmp_path: Path, broker: FakeBroker, fast: bool) -> None:
    for session in (False, True):
        rig = Rig(broker.url, tmp_path, fast=fast)
        rig.subscribe("a", 1)
        with rig:
            broker.accept().handshake(session=session, subscribes=not session)
            rig.wait_open()
    assert broker.count("SUBSCRIBE") == 1
    connects = [one for one in broker.received if one.kind == "CONNECT"]
    assert not any(one.clean_start for one in connects)
    assert connects[0].properties["session_expiry"] == 7 * 86_400


@pytest.mark.parametrize("spoilt", ["gone", "garbage", "unsettled"])
def test_a_kept_session_that_we_cannot_be_sure_of_is_subscribed_again(
    tmp_path: Path, broker: FakeBroker, fast: bool, spoilt: str
) -> None:
    path = tmp_path / "mqtt-broker.json"
    for session in (False, True):
        rig = Rig(broker.url, tmp_path, fast=fast)
        rig.subscribe("a", 1)
        with rig:
            peer = broker.accept()
            peer.handshake(session=session, subscribes=False)
            subscribe = peer.expect("SUBSCRIBE")
            assert subscribe.filters == [("a", 1 | 1 << 4)]  # retain handling 1: no retained message twice
            peer.suback(subscribe)
            rig.wait_open()
        if spoilt == "gone":
            path.unlink()
        elif spoilt == "garbage":
            path.write_text("[{")
        else:
            kept = json.loads(path.read_text())
            path.write_text(json.dumps({**kept, "trusted": False}))


def test_routes_that_change_while_it_is_open_only_ask_for_the_difference(
    tmp_path: Path, broker: FakeBroker, fast: bool
) -> None:
    rig = Rig(broker.url, tmp_path, fast=fast)
    first = rig.subscribe("a", 1)
    with rig:
        peer = broker.accept()
        peer.handshake()
        rig.wait_open()
        second = rig.subscribe("b", 1)
        rig.do(lambda: rig.source.routes([second]))
        assert [name for name, _ in peer.expect("SUBSCRIBE").filters] == ["b"]
        rig.do(lambda: rig.source.routes([first, second]))  # while the first question is not answered
        subscribe, unsubscribe = peer.received[-1], peer.expect("UNSUBSCRIBE")
        peer.suback(subscribe)
        peer.unsuback(unsubscribe)
        subscribe = peer.expect("SUBSCRIBE")
        assert [name for name, _ in subscribe.filters] == ["a"]
        peer.suback(subscribe)
        peer.publish("b", b"x")
        assert second.taken.get(timeout=LIMIT).body == b"x"
