"""What is owed to the broker: settled at once or later, in the order of arrival, by connection."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from nuclio_edge.sources.mqtt_session import Session


class Written:
    """A session and what it has written."""

    def __init__(self) -> None:
        self.data = b""
        self.ends: list[Any] = []
        self.session = Session(self._write, self.ends.append)
        self.session.connected(session_present=True)

    def _write(self, data: bytes) -> None:
        self.data += data

    def end_turn(self) -> bytes:
        """End the turn; what was written in it."""
        ends, self.ends[:] = list(self.ends), []
        for call in ends:
            call()
        data, self.data = self.data, b""
        return data

    def come(self, packet_id: int) -> Any:
        """A delivery of QoS 1 that is being submitted."""
        event: Any = SimpleNamespace(_topic=b"a", raw_body=b"x", _first=0x32, _token=None)
        event._token = self.session.token(0x32, packet_id)
        self.session.arriving = event
        return event


@pytest.fixture
def written() -> Written:
    return Written()


def test_a_delivery_that_settles_while_it_is_submitted_is_acknowledged_and_its_id_free(written: Written) -> None:
    session = written.session
    session.settle(written.come(7))
    assert session.arriving is None
    assert not session.unsettled
    assert written.end_turn() == b"\x40\x02\x00\x07"


def test_acknowledgements_of_a_turn_go_out_once_in_the_order_of_arrival(written: Written) -> None:
    session = written.session
    first = written.come(1)
    session.keep(first, 1)
    session.settle(written.come(2))
    third = written.come(3)
    session.keep(third, 3)
    session.settle(written.come(0xFFFF))
    session.acknowledge(session.token(0x34, 5))
    session.settle(third)
    session.settle(first)
    assert written.end_turn() == bytes.fromhex("40020001 40020002 40020003 4002ffff 50020005")
    assert written.end_turn() == b""
    assert session.received == {5}


def test_what_settles_while_it_is_submitted_and_its_connection_is_lost_is_told_when_it_comes_again(
    written: Written,
) -> None:
    session = written.session
    event = written.come(9)
    session.disconnected()
    session.settle(event)
    assert session.arriving is None
    assert session.stale == 1
    session.connected(session_present=True)
    assert written.end_turn() == b""
    assert session.again(0x3A, 9, b"a", b"x") is True
    assert written.end_turn() == b"\x40\x02\x00\x09"
    assert not session.unsettled


def test_what_settled_while_the_broker_was_away_is_known_again_by_the_dup_flag_alone(written: Written) -> None:
    session = written.session
    session.settle(written.come(9))
    session.keep(written.come(8), 8)
    session.disconnected()
    kept = session.unsettled[8]
    session.settle(kept)
    session.connected(session_present=True)
    assert session.again(0x32, 8, b"a", b"x") is None  # dropped there; an equal message has its number
    assert session.again(0x3A, 8, b"a", b"x") is True
    assert written.end_turn() == b"\x40\x02\x00\x08"


def test_after_as_many_deliveries_as_32_bits_can_count_acknowledgements_are_still_right(written: Written) -> None:
    session = written.session
    session.arrivals = session._first_token = (1 << 64) - (1 << 32)
    for packet_id in (1, 2, 3):
        session.settle(written.come(packet_id))
    assert written.end_turn() == bytes.fromhex("40020001 40020002 40020003")


def test_settled_together_each_delivery_comes_to_what_it_comes_to_by_itself() -> None:
    dice = random.Random(5)
    for _ in range(300):
        alone, together = Written(), Written()
        moves = [dice.choice("ppppqrls") for _ in range(dice.randrange(1, 12))]
        packets: list[list[Any]] = []
        for written in (alone, together):
            session = written.session
            made = []
            for packet_id, move in enumerate(moves, 1):
                event = written.come(packet_id)
                session.keep(event, packet_id)
                event._props = b"\x08\x00" if move == "r" else b""
                if move == "q":
                    event._token = session.token(0x34, packet_id)
                if move == "s":
                    session.settle(event)
                if move == "l":
                    session.disconnected()
                made.append(event)
            packets.append(made)
        for event in packets[0]:
            alone.session.settle(event)
        others = together.session.settle_many(packets[1])
        if "l" not in moves:
            assert [moves[packets[1].index(event)] for event in others] == [move for move in moves if move in "qrs"]
        for event in others:
            together.session.settle(event)
        assert together.end_turn() == alone.end_turn()
        assert together.session.stale == alone.session.stale
        assert together.session.received == alone.session.received
        assert list(together.session.unsettled) == list(alone.session.unsettled)
        assert [event._token for event in packets[1]] == [event._token for event in packets[0]]
