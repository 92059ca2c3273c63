"""The moment that an event waits before it is stored: long enough for workers, short enough for who shares a window."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.loop import Loop
from nuclio_edge.delivery.staging import CALM, HASTY_FOR_MS, HASTY_MS, PRESS_MS, Stage
from nuclio_edge.testing.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 15


class Spool:
    """As much of one as a stage asks for."""

    trouble = ""

    def commit_soon(self) -> None:
        """Nothing is written here."""


class Owner:
    """Who stores: notes what, and when."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.stored: list[tuple[int, str]] = []

    def store(self, item: str) -> None:
        self.stored.append((self._clock.ticks, item))


class World:
    """A stage, and a source whose window it fills again and again."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.loop = Loop()
        self.owner = Owner(clock)
        self.stage = Stage(self.loop, Spool(), 100, LIMIT)

    def fill(self) -> list[str]:
        """A window's worth of events comes in."""
        self.loop.turn(0)
        items = [f"{self.clock.ticks}-{number}" for number in range(LIMIT)]
        for item in items:
            self.stage.fresh[item] = self.owner
        self.stage.press()
        return items

    def stored_after(self) -> int:
        """Milliseconds until what has just come in is stored."""
        begin, before = self.clock.ticks, len(self.owner.stored)
        while len(self.owner.stored) == before:
            self.clock.advance(1, self.loop)
            assert self.clock.ticks < begin + 10_000
        return self.owner.stored[-1][0] - begin


@pytest.fixture
def world() -> Iterator[World]:
    with Clock() as clock:
        made = World(clock)
        yield made
        made.stage.close()
        made.loop.close()


def test_a_window_of_events_that_end_by_themselves_is_not_stored(world: World) -> None:
    for _ in range(20):
        items = world.fill()
        world.clock.advance(PRESS_MS - 5, world.loop)
        for item in items:
            assert world.stage.remove(item)
        world.clock.advance(10, world.loop)
    assert world.owner.stored == []


def test_a_window_that_stays_full_stalls_who_shares_it_once_and_not_for_each_window(world: World) -> None:
    world.fill()
    assert world.stored_after() == PRESS_MS
    for _ in range(20):
        world.fill()
        assert world.stored_after() <= HASTY_MS + 1


def test_after_a_while_workers_are_given_the_longer_moment_again(world: World) -> None:
    world.fill()
    world.stored_after()
    world.clock.advance(HASTY_FOR_MS, world.loop)
    items = world.fill()
    world.clock.advance(PRESS_MS - 5, world.loop)
    stored = len(world.owner.stored)
    for item in items:
        assert world.stage.remove(item)
    world.clock.advance(10, world.loop)
    assert len(world.owner.stored) == stored


def test_once_nobody_is_slow_any_more_workers_are_given_the_longer_moment_before_that_while_is_over(
    world: World,
) -> None:
    world.fill()
    world.stored_after()
    for _ in range(CALM):
        items = world.fill()
        for item in items:
            assert world.stage.remove(item)
        world.clock.advance(HASTY_MS + 1, world.loop)
    world.fill()
    assert world.stored_after() == PRESS_MS


def test_a_slow_window_among_quick_ones_keeps_the_shorter_moment(world: World) -> None:
    world.fill()
    world.stored_after()
    for _ in range(5):
        for _ in range(CALM - 1):
            items = world.fill()
            for item in items:
                assert world.stage.remove(item)
            world.clock.advance(HASTY_MS + 1, world.loop)
        world.fill()
        assert world.stored_after() <= HASTY_MS + 1


def test_events_are_stored_in_the_order_in_which_they_came(world: World) -> None:
    first, second = world.fill(), [f"later-{number}" for number in range(3)]
    for item in second:
        world.stage.fresh[item] = world.owner
    world.stage.flush()
    assert [item for _, item in world.owner.stored] == first + second


def test_what_could_not_be_stored_comes_first_the_next_time(world: World) -> None:
    refused: Any = "refused"
    world.stage.refuse(refused, world.owner, OSError(errno.ENOSPC, "full"))
    world.stage.fresh["new"] = world.owner
    world.stage.flush()
    assert [item for _, item in world.owner.stored] == ["refused", "new"]


def test_what_is_too_large_for_the_disk_is_not_tried_again_and_is_here_until_it_is_concluded(world: World) -> None:
    world.stage.refuse("large", world.owner, OSError(errno.EFBIG, "too large"))
    world.stage.flush()
    assert world.owner.stored == []
    assert len(world.stage) == 0, "it waits for nothing"
    assert "large" in world.stage
    assert world.stage.remove("large")
    assert "large" not in world.stage
