"""The bounds of what waits to be sent: a large message counts, and small ones pass beside it."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge.sources import mqtt_room
from nuclio_edge.sources.mqtt_room import LIMIT_BYTES, RESERVED, SMALL, Room, fits
from tests.fake_broker import FakeBroker
from tests.mqtt_rig import Rig
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

MB = 1_000_000


def fill(room: Room, size: int, first: int = 0) -> int:
    """Add messages of one size until there is no room; how many there was room for."""
    count = 0
    while room.takes(size):
        room.add(first + count, size)
        count += 1
    return count


def test_a_message_above_the_whole_bound_goes_and_small_ones_pass_beside_it() -> None:
    room = Room()
    assert room.takes(100 * MB)
    room.add(0, 100 * MB)
    assert not room.takes(100 * MB)
    assert fill(room, 1000, 1) == LIMIT_BYTES // 1000


def test_large_messages_leave_the_reserve_to_small_ones() -> None:
    room = Room()
    large = fill(room, MB)
    assert large == (LIMIT_BYTES - RESERVED) // MB + 1
    assert fill(room, SMALL, large) >= RESERVED // SMALL
    assert not room.takes(MB)


def test_small_messages_are_bounded_by_their_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_room, "LIMIT_COUNT", 10)
    assert fill(Room(), 1) == 10


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12 * MB)), max_size=60))
def test_memory_is_bounded_by_the_limit_and_one_message_whatever_comes_and_goes(
    steps: list[tuple[bool, int]],
) -> None:
    room = Room()
    for number, (comes, size) in enumerate(steps):
        if comes and room.takes(size):
            room.add(number, size)
        elif not comes and room.sizes:
            assert room.remove(list(room.sizes)[size % len(room.sizes)])
        sizes = sorted(room.sizes.values())
        assert room.bytes == sum(sizes)
        assert room.largest == (sizes[-1] if sizes and sizes[-1] > SMALL else 0)
        assert sum(sizes[:-1]) <= LIMIT_BYTES
        assert fits(room.bytes, room.largest, 12 * MB) <= room.takes(1)  # what takes a large one takes a small one


@pytest.mark.parametrize("fast", [True, False])
def test_one_message_of_10_mb_that_is_not_acknowledged_holds_up_no_other(tmp_path: Path, fast: bool) -> None:
    with FakeBroker() as broker, Rig(broker.url, tmp_path, fast=fast) as rig:
        peer = broker.accept()
        peer.handshake(subscribes=False)
        rig.wait_open()
        publish = rig.source.publisher.publish
        publish("big", b"x" * 10 * MB, 1, False, None)
        big = peer.expect("PUBLISH", topic="big")
        for number in range(50):
            publish("small", b"%d" % number, 1, False, None)
            publish("small", b"%d" % number, 0, False, None)
        for number in range(50):
            peer.ack("PUBACK", peer.expect("PUBLISH", qos=1, payload=b"%d" % number).mid or 0)
            peer.expect("PUBLISH", qos=0, payload=b"%d" % number)
        peer.ack("PUBACK", big.mid or 0)
        wait_until(lambda: rig.source.publisher.sent == 101)
        assert rig.source.publisher.shed == {}


def test_one_message_of_10_mb_that_the_socket_does_not_take_holds_up_no_other(tmp_path: Path) -> None:
    with FakeBroker() as broker, Rig(broker.url, tmp_path) as rig:
        peer = broker.accept()
        peer.handshake(subscribes=False)
        rig.wait_open()
        publish = rig.source.publisher.publish

        def all_at_once() -> None:  # the broker reads none of it yet
            publish("big", b"x" * 10 * MB, 0, False, None)
            publish("big", b"x" * 10 * MB, 0, False, None)
            for number in range(50):
                publish("small", b"%d" % number, 0, False, None)

        rig.do(all_at_once)
        peer.expect("PUBLISH", topic="big")
        for number in range(50):
            peer.expect("PUBLISH", payload=b"%d" % number)
        assert rig.source.publisher.shed == {"outbox-full": 1}  # the second large one


def test_one_message_of_10_mb_from_a_thread_holds_up_no_other(tmp_path: Path) -> None:
    with FakeBroker() as broker, Rig(broker.url, tmp_path) as rig:
        peer = broker.accept()
        peer.handshake(subscribes=False)
        rig.wait_open()
        publish = rig.source.publisher.publish
        # The loop is held up meanwhile: what is published waits in the first of the three places.
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            go.wait(30)

        rig.loop.post(hold)
        held.wait(30)
        publish("big", b"x" * 10 * MB, 0, False, None)
        for number in range(50):
            publish("small", b"%d" % number, 0, False, None)
        go.set()
        peer.expect("PUBLISH", topic="big")
        for number in range(50):
            peer.expect("PUBLISH", payload=b"%d" % number)
        assert rig.do(functools.partial(dict, rig.source.publisher.shed)) == {}
