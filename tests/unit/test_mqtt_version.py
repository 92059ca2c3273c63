"""Which version of MQTT a broker is spoken to in: 5, or what it shows that it must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nuclio_edge.sources import mqtt_outage
from tests.fake_broker import FakeBroker, Peer, serve
from tests.mqtt_rig import Rig
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_outage, "FIRST_PAUSE_MS", 10)
    monkeypatch.setattr(mqtt_outage, "LONGEST_PAUSE_MS", 40)


@pytest.fixture(params=["fast", "stock"])
def fast(request: pytest.FixtureRequest) -> bool:
    """Both ways to read."""
    return bool(request.param == "fast")


@pytest.mark.parametrize("code", [0x84, 1])
def test_a_broker_that_refuses_version_5_gets_3_1_1_at_once_and_from_then_on(
    tmp_path: Path, fast: bool, code: int
) -> None:
    def older(peer: Peer) -> None:
        connect = peer.expect("CONNECT")
        if connect.version == 5:
            peer.send(b"\x20\x02\x00\x01" if code == 1 else b"\x20\x03\x00\x84\x00")
            peer.expect_closed()
        else:
            peer.connack(connect)
            peer.serve()

    with FakeBroker(older) as broker:
        rig = Rig(broker.url, tmp_path, fast=fast)
        rig.subscribe("a", 1)
        with rig:
            rig.wait_open()
            assert [one.version for one in broker.received if one.kind == "CONNECT"] == [5, 4]
            broker.peers[-1].close()
            wait_until(lambda: broker.count("SUBSCRIBE") == 2)
            assert [one.version for one in broker.received if one.kind == "CONNECT"] == [5, 4, 4]
            assert rig.log.count("does not speak MQTT 5") == 1


def test_a_shared_subscription_that_3_1_1_mixes_with_another_filter_is_named(tmp_path: Path, fast: bool) -> None:
    def older(peer: Peer) -> None:
        connect = peer.expect("CONNECT")
        peer.connack(connect, code=0x84 if connect.version == 5 else 0)
        peer.serve()

    with FakeBroker(older) as broker:
        rig = Rig(broker.url, tmp_path, fast=fast)
        for topic in ("$share/g/t/x", "t/#", "$share/g/u"):
            rig.subscribe(topic, 1)
        with rig:
            rig.wait_open()
            (line,) = [line for line in rig.host.log.lines if "shared subscription" in line]
            assert line.endswith("topic $share/g/t/x")


def test_a_peer_that_hangs_up_on_version_5_gets_3_1_1(tmp_path: Path, fast: bool) -> None:
    def older(peer: Peer) -> None:
        connect = peer.expect("CONNECT")
        if connect.version == 4:
            peer.connack(connect)
            peer.serve()

    with FakeBroker(older) as broker, Rig(broker.url, tmp_path, fast=fast) as rig:
        rig.wait_open()
        assert "going on with 3.1.1" in rig.log


def test_a_peer_that_hangs_up_on_both_versions_is_asked_for_version_5_again(tmp_path: Path, fast: bool) -> None:
    def hang_up(peer: Peer) -> None:
        peer.expect("CONNECT")

    with FakeBroker(hang_up, hang_up, hang_up, serve) as broker, Rig(broker.url, tmp_path, fast=fast) as rig:
        rig.wait_open()
        assert [one.version for one in broker.received if one.kind == "CONNECT"] == [5, 5, 4, 5]


def test_a_broker_behind_a_port_that_hung_up_while_it_was_away_is_asked_for_version_5_again(
    tmp_path: Path, fast: bool
) -> None:
    """A container's port accepts and closes while the broker in it starts; 3.1.1 is what it then speaks first."""

    def hang_up(peer: Peer) -> None:
        peer.expect("CONNECT")

    def once(peer: Peer) -> None:
        peer.handshake(subscribes=False)

    with FakeBroker(hang_up, hang_up, once, serve) as broker, Rig(broker.url, tmp_path, fast=fast) as rig:
        wait_until(lambda: len(broker.peers) == 4)
        rig.wait_open()
        assert [one.version for one in broker.received if one.kind == "CONNECT"] == [5, 5, 4, 5]


def test_a_peer_that_always_hangs_up_on_version_5_costs_one_attempt_a_reconnect_and_is_told_once(
    tmp_path: Path, fast: bool
) -> None:
    def older(peer: Peer) -> None:
        found = peer.read()
        if found is not None and found.version == 4:  # None: the test ends while the next attempt begins
            peer.connack()
            peer.close()

    with FakeBroker(older) as broker, Rig(broker.url, tmp_path, fast=fast) as rig:
        wait_until(lambda: len([one for one in broker.received if one.kind == "CONNECT"]) >= 7)
        found = [one.version for one in broker.received if one.kind == "CONNECT"]
        assert found[:7] == [5, 5, 4, 5, 4, 5, 4]
        assert rig.log.count("going on with 3.1.1") == 1


def test_a_connection_that_was_never_answered_leaves_no_version_behind(tmp_path: Path, fast: bool) -> None:
    """One that spoke version 5 once is not asked for 3.1.1 because it hangs up while it restarts."""

    def hang_up(peer: Peer) -> None:
        peer.expect("CONNECT")

    def once(peer: Peer) -> None:
        peer.handshake(subscribes=False)

    with FakeBroker(once, hang_up, hang_up, hang_up, serve) as broker, Rig(broker.url, tmp_path, fast=fast) as rig:
        wait_until(lambda: len(broker.peers) == 5)
        rig.wait_open()
        assert {one.version for one in broker.received if one.kind == "CONNECT"} == {5}


def test_a_broker_that_takes_no_notice_of_version_5_and_answers_in_3_1_1_is_spoken_to_in_3_1_1(tmp_path: Path) -> None:
    def older(peer: Peer) -> None:
        peer.expect("CONNECT")
        peer.send(b"\x20\x02\x00\x00")
        peer.serve()

    with FakeBroker(older) as broker, Rig(broker.url, tmp_path) as rig:
        rig.wait_open()
        assert [one.version for one in broker.received if one.kind == "CONNECT"] == [5, 4]
