"""When a connection is made again: pauses, and what looks like another client with our client id and what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nuclio_edge.sources import mqtt_outage
from nuclio_edge.sources.mqtt_outage import CLOSED, FAILED, KICKS, RESET, SILENT, TAKEN, Outages
from tests.fake_broker import FakeBroker, Peer, serve
from tests.mqtt_rig import Rig, Says
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECOND = 1000
RIVAL = "perhaps another client uses the client id gw"


class Story:
    """The outages of one source, told one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, chance: float = 1.0) -> None:
        monkeypatch.setattr(mqtt_outage, "up_to", lambda limit: int(chance * limit))
        self.log = Says()
        self.outages = Outages(self.log, "mqtt://x", "gw")
        self.now = 0
        self.pauses: list[int] = []

    def connection(self, how: str, *, lasts: int = SECOND) -> int:
        """One that opens and ends so; the pause after it."""
        self.outages.attempts += 1
        self.outages.connected(self.now)
        self.outages.over(self.now, "5")
        self.now += lasts
        return self._end(how, True)

    def refused(self) -> int:
        """An attempt that comes to nothing."""
        self.outages.attempts += 1
        return self._end(FAILED, False)

    def _end(self, how: str, opened: bool) -> int:
        pause = self.outages.pause(self.now, f"it {how}", how, connected=opened, was_open=opened)
        self.now += pause
        self.pauses.append(pause)
        return pause

    @property
    def suspicious(self) -> bool:
        """Whether another client has been named."""
        return any(RIVAL in line for line in self.log.lines)


def test_the_pause_doubles_up_to_a_minute_and_any_part_of_it_is_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(monkeypatch)
    assert [story.refused() for _ in range(9)] == [s * SECOND for s in (1, 2, 4, 8, 16, 32, 60, 60, 60)]
    assert Story(monkeypatch, 0.0).refused() == 0


def test_a_connection_that_lasted_begins_the_series_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(monkeypatch)
    for _ in range(6):
        story.refused()
    assert story.connection(RESET, lasts=9 * SECOND) > 30 * SECOND
    assert story.connection(RESET, lasts=10 * SECOND) == SECOND


def test_orderly_closes_in_a_row_look_like_another_client_and_at_least_half_of_the_pause_is_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    story = Story(monkeypatch, 0.0)
    for _ in range(KICKS - 1):
        assert story.connection(CLOSED) == 0
        assert not story.suspicious
    assert story.connection(CLOSED) == 2 * SECOND
    assert story.suspicious
    assert [story.connection(CLOSED) for _ in range(5)] == [s * SECOND for s in (4, 8, 16, 30, 30)]


def test_two_connections_that_were_lost_soon_are_no_other_client(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(monkeypatch)
    for _ in range(2):
        assert story.connection(CLOSED, lasts=SECOND // 10) <= 2 * SECOND
    assert story.connection(RESET, lasts=60 * SECOND) <= SECOND
    assert not story.suspicious


@pytest.mark.parametrize("other", [RESET, SILENT, FAILED])
def test_a_network_that_resets_or_falls_silent_in_between_is_no_other_client(
    monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    story = Story(monkeypatch)
    for how in (CLOSED, CLOSED, other) * 5:
        story.connection(how)
    assert not story.suspicious


def test_a_broker_that_restarts_again_and_again_is_no_other_client(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(monkeypatch)
    for _ in range(10):
        story.connection(CLOSED)
        story.refused()
    assert not story.suspicious


def test_a_broker_that_restarts_once_an_hour_is_no_other_client(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(monkeypatch)
    for _ in range(10):
        assert story.connection(CLOSED, lasts=3600 * SECOND) == SECOND
    assert not story.suspicious


def test_another_client_that_the_broker_names_is_given_way_to_longer_each_time_until_it_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    story = Story(monkeypatch, 0.0)
    # However long the other one takes to come back: that is how long each of these connections lasts.
    assert [story.connection(TAKEN, lasts=20 * SECOND) for _ in range(6)] == [s * SECOND for s in (2, 4, 8, 16, 30, 30)]
    assert story.connection(TAKEN, lasts=mqtt_outage.RIVAL_GONE_MS) == 2 * SECOND


@pytest.mark.parametrize("fast", [True, False])
def test_a_broker_that_closes_in_good_order_three_times_is_suspected_through_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr(mqtt_outage, "FIRST_PAUSE_MS", 10)

    def throws_out(peer: Peer) -> None:
        peer.handshake(subscribes=False)

    def resets(peer: Peer) -> None:
        peer.handshake(subscribes=False)
        peer.reset()

    def said(script: Callable[[Peer], None]) -> bool:
        with FakeBroker(*[script] * 3, serve) as broker, Rig(broker.url, tmp_path, fast=fast) as rig:
            wait_until(lambda: len(broker.peers) == 4)
            rig.wait_open()
            return "perhaps another client" in rig.log

    assert said(throws_out)
    assert not (fast and said(resets))  # stock paho does not tell a reset from an end
