"""The will's message that we publish ourselves when we leave: who has it, what is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.manifest.schema import values
from tests.fake_broker import FakeBroker
from tests.mqtt_rig import Rig
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FIELDS = ("topic", "payload", "qos", "retain")


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    """A broker that the test plays."""
    with FakeBroker() as made:
        yield made


@pytest.fixture(params=["fast", "stock"])
def leaving(request: pytest.FixtureRequest, broker: FakeBroker, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes and opens a rig whose will has a QoS; returns it and the broker's side."""
    rigs = []

    def opened(qos: int, **connack: Any) -> Any:
        will = values(FIELDS, dict(zip(FIELDS, ("w/state", "off", qos, True), strict=True)))
        rig = Rig(broker.url, tmp_path, fast=request.param == "fast", will=will)
        rigs.append(rig)
        rig.open()
        peer = broker.accept()
        peer.handshake(subscribes=False, **connack)
        return rig.wait_open(), peer

    yield opened
    for rig in rigs:
        rig.close()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_the_wills_message_goes_before_the_goodbye_and_is_not_told_as_lost(leaving: Any, qos: int) -> None:
    rig, peer = leaving(qos)
    rig.close()
    # Not with QoS 2: a broker passes that on at the PUBREL, for which nobody stays.
    peer.expect("PUBLISH", topic="w/state", payload=b"off", qos=min(qos, 1), retain=True)
    peer.expect("DISCONNECT")
    assert "not sent" not in rig.log
    assert rig.source.publisher.sent == 1
    assert rig.source.publisher.waiting == 0


def test_a_wills_message_for_which_the_broker_had_no_room_is_told(leaving: Any) -> None:
    rig, peer = leaving(1, receive_maximum=1)
    rig.source.publisher.publish("a", b"unanswered", 1, False, None)
    peer.expect("PUBLISH", topic="a")
    rig.close()
    assert peer.expect_closed()[-1].kind == "DISCONNECT"
    assert "warn: messages were not sent unacknowledged 2" in rig.log


def test_who_takes_the_sources_place_does_not_publish_the_wills_message_again(leaving: Any, broker: FakeBroker) -> None:
    before, peer = leaving(1)
    after, _ = leaving(1)
    before.source.publisher.publish("a", b"unanswered", 1, False, None)
    peer.expect("PUBLISH", topic="a")
    before.do(lambda: before.source.hand_over(after.source))
    before.close()
    peer.expect("PUBLISH", topic="w/state")
    wait_until(lambda: after.source.publisher.waiting == 1, "what waited to be with the successor")
    assert [message.topic for message in after.source.connection._client._out_messages.values()] == ["a"]
