"""The MQTT source against a broker that does what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fake_broker import FakeBroker
from tests.mqtt_rig import Rig
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def test_it_connects_subscribes_and_delivers(tmp_path: Path) -> None:
    with FakeBroker() as broker:
        rig = Rig(broker.url, tmp_path)
        inbox = rig.subscribe("a/+", 1)
        with rig:
            peer = broker.accept()
            peer.handshake()
            rig.wait_open()
            peer.publish("a/b", b"hello")
            event = inbox.taken.get(timeout=30)
            assert (event.topic, event.body, event.path, event.qos, event.retain) == ("a/b", b"hello", "a/b", 0, False)
            peer.publish("a/c", b"{}", qos=1, mid=7)
            event = inbox.taken.get(timeout=30)
            rig.settle(event)
            peer.expect("PUBACK", mid=7)
            peer.publish("a/d", b"x", qos=2, mid=8)
            event = inbox.taken.get(timeout=30)
            rig.settle(event)
            peer.expect("PUBREC", mid=8)
            peer.ack("PUBREL", 8)
            peer.expect("PUBCOMP", mid=8)
            assert rig.counts() == (3, 3, 0, 0)
