"""What a broker announces and what it remembers: it is sent what it takes, and again what it has lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.encode import to_response
from nuclio_edge.core.event import Event
from nuclio_edge.sources import mqtt_outage, mqtt_publish
from nuclio_edge.sources.mqtt_params import OUTPUT
from tests.fake_broker import FakeBroker
from tests.mqtt_rig import Rig, checked
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_outage, "FIRST_PAUSE_MS", 10)


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    """A broker that the test plays."""
    with FakeBroker() as made:
        yield made


@pytest.fixture(params=["fast", "stock"])
def rig(request: pytest.FixtureRequest, broker: FakeBroker, tmp_path: Path) -> Iterator[Rig]:
    """A rig of either kind."""
    made = Rig(broker.url, tmp_path, fast=request.param == "fast")
    yield made
    made.close()


def opened(rig: Rig, broker: FakeBroker, **connack: Any) -> Any:
    """Open it; the broker's side."""
    rig.open()
    peer = broker.accept()
    peer.handshake(subscribes=False, **connack)
    rig.wait_open()
    return peer


@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("fast", [True, False])
def test_a_message_of_qos_2_that_a_broker_lost_with_its_session_is_sent_anew_and_one_that_it_kept_is_released(
    broker: FakeBroker, tmp_path: Path, version: int, fast: bool
) -> None:
    def again(session: bool) -> Any:
        peer = broker.accept()
        peer.handshake(session=session, subscribes=False)
        return peer

    with Rig(broker.url, tmp_path, fast=fast, version=version) as rig:
        peer = again(session=False)
        rig.source.publisher.publish("a", b"1", 2, False, None)
        mid = peer.expect("PUBLISH").mid
        peer.ack("PUBREC", mid)
        peer.expect("PUBREL", mid=mid)
        peer.close()
        peer = again(session=False)
        peer.expect("PUBLISH", payload=b"1", mid=mid, qos=2, dup=False)
        peer.ack("PUBREC", mid)
        peer.expect("PUBREL", mid=mid)
        peer.close()
        peer = again(session=True)
        peer.expect("PUBREL", mid=mid)
        assert rig.source.publisher.sent == 0
        peer.ack("PUBCOMP", mid)
        wait_until(lambda: rig.source.publisher.sent == 1)
        assert rig.source.publisher.waiting == 0


@pytest.mark.parametrize("session", [True, False])
def test_what_a_broker_has_is_released_even_when_its_time_is_over_and_what_it_lost_has_expired(
    rig: Rig, broker: FakeBroker, session: bool
) -> None:
    peer = opened(rig, broker)
    publisher = rig.source.publisher
    publisher.publish("a", b"1", 2, False, None, {"message_expiry": 10})
    mid = peer.expect("PUBLISH").mid or 0
    peer.ack("PUBREC", mid)
    peer.expect("PUBREL")
    rig.do(lambda: publisher.outbox._expires.update({mid: rig.loop.now}))
    peer.close()
    peer = broker.accept()
    peer.handshake(session=session, subscribes=False)
    if session:
        peer.expect("PUBREL", mid=mid)
    else:
        wait_until(lambda: publisher.shed == {"expired": 1})
        assert publisher.waiting == 0


def test_the_limits_that_a_broker_announces_are_kept(rig: Rig, broker: FakeBroker) -> None:
    peer = opened(rig, broker, maximum_qos=1, retain_available=0, maximum_packet_size=1000)
    publish = rig.source.publisher.publish
    publish("a", b"x" * 2000, 0, False, None)
    publish("a", b"1", 2, True, None)
    publish("b", b"2", 2, True, None)
    assert peer.expect("PUBLISH", payload=b"1", qos=1, retain=False)
    assert peer.expect("PUBLISH", payload=b"2", qos=1, retain=False)
    assert rig.source.publisher.shed == {"too-big": 1}
    assert [line for line in rig.host.log.lines if "the broker" in line] == [
        "warn: the broker takes a lower QoS than was asked for topic a asked 2 sent 1",
        "warn: the broker retains no messages: they are sent without topic a",
    ]


@pytest.mark.parametrize(("most", "sent"), [(2, [2, 2, 1]), (1, [1, 1, 1]), (0, [0, 0, 0])])
def test_what_waited_is_sent_as_the_broker_takes_it(rig: Rig, broker: FakeBroker, most: int, sent: list[int]) -> None:
    broker.refuse()
    rig.open()
    publisher = rig.source.publisher
    publisher.publish("a", b"1", 2, True, None)
    wait_until(lambda: publisher.waiting == 1 and rig.source.attempts)
    broker.listen()
    peer = broker.accept()
    peer.handshake(subscribes=False)
    mid = peer.expect("PUBLISH", qos=2, retain=True).mid
    publisher.publish("a", b"2", 2, False, None, {"user_properties": {"k": "v"}})
    publisher.publish("a", b"3", 1, True, None)
    wait_until(lambda: publisher.waiting == 3)
    peer.close()
    peer = broker.accept()
    # A broker that takes less of a message announces so, and closes the connection at a message that is more.
    peer.handshake(session=True, subscribes=False, maximum_qos=most, retain_available=0)
    found = [peer.expect("PUBLISH", retain=False) for _ in sent]
    assert [one.qos for one in found] == sent
    assert [one.payload for one in found] == [b"1", b"2", b"3"]
    assert found[1].properties == {"user_property": [("k", "v")]}
    assert not most or found[0].mid == mid
    assert rig.log.count("takes a lower QoS") == (most < 2)
    assert rig.log.count("retains no messages") == 1
    wait_until(lambda: publisher.waiting == (3 if most else 0))
    assert (publisher.sent, publisher.shed) == (0 if most else 3, {})


@pytest.mark.parametrize("qos", [0, 1])
def test_properties_count_in_what_a_broker_takes(rig: Rig, broker: FakeBroker, qos: int) -> None:
    peer = opened(rig, broker, maximum_packet_size=1000)
    publish = rig.source.publisher.publish
    publish("a", b"1", qos, False, None, {"user_properties": {"k": "v" * 1000}})
    publish("a", b"2", qos, False, "x" * 1000)
    publish("a", b"3", qos, False, None, {"user_properties": {"k": "v" * 900}})
    assert peer.expect("PUBLISH").payload == b"3"
    assert rig.source.publisher.shed == {"too-big": 2}


def test_what_no_packet_can_hold_is_counted(rig: Rig, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_publish, "_LARGEST", 1000)
    inbox = rig.subscribe("a")
    rig.open()
    peer = broker.accept()
    peer.handshake()
    rig.wait_open()
    rig.do(lambda: rig.source.send(checked(OUTPUT, {"topic": "out", "qos": 1}), to_response("x" * 1001), Event()))
    peer.publish("a", b"?", response_topic="back")
    rig.settle(inbox.taken.get(timeout=30), "x" * 1001)
    assert rig.source.publisher.shed == {"too-big": 2}
    assert rig.source.publisher.waiting == 0
