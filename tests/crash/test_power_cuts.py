"""Every disk that a power cut may leave of a spool, at every operation: it starts, and keeps what it promised.

CRASH_SEEDS=100 tries so many courses of events instead of a few.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.crash.model import Cut, ModelDisk
from tests.crash.spool_trial import Promise, Trial, use, use_in_large_groups, use_when_full, use_with_stragglers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.crash.model import Image

SEEDS = range(int(os.environ.get("CRASH_SEEDS", "4")))


class Count:
    """What was tried, and what was wrong."""

    def __init__(self) -> None:
        self.images = self.operations = self.bad = self.copied = 0
        self.words: list[str] = []

    def add(self, word: str) -> None:
        """One image was tried."""
        self.images += 1
        if word:
            self.bad += 1
            self.words.append(word)

    def say(self, what: str) -> None:
        """For whoever runs pytest with -s."""
        sys.stdout.write(f"\n{what}: {self.operations} operations, {self.images} disk images, {self.bad} bad\n")


def cuts(trial: Trial, count: Count, before: Promise | None = None) -> Iterator[tuple[Promise, Image]]:
    """Every image after every operation, with what was promised then."""
    cut, promise = Cut(trial.disk), Promise(trial, before)
    for operation in trial.disk.operations:
        if operation[0] == "note":
            promise.feed(operation)
            continue
        count.operations += 1
        cut.feed(operation)
        for image in cut.images():
            yield promise, image


def try_all(how: Callable[[Trial, int, int], None], seed: int, steps: int, *, honest: bool = True) -> Count:
    trial = Trial(ModelDisk(honest=honest))
    count = Count()
    try:
        how(trial, seed, steps)
        assert trial.spool.differences() == []
        count.copied = trial.spool.room.copied
        for promise, image in cuts(trial, count):
            count.add(promise.broken_by(image))
            if count.bad > 20:
                break
    finally:
        trial.close()
    return count


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_power_cut_makes_a_spool_break_its_promise(seed: int) -> None:
    count = try_all(use, seed, 160)
    count.say(f"course {seed}")
    assert not count.bad, count.words[:3]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_no_power_cut_loses_anything_of_groups_that_are_larger_than_a_segment(seed: int) -> None:
    count = try_all(use_in_large_groups, seed, 100)
    count.say(f"large groups {seed}")
    assert not count.bad, count.words[:3]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_no_power_cut_loses_what_is_settled_while_it_is_about_to_be_given_up(seed: int) -> None:
    count = try_all(use_when_full, seed, 100)
    count.say(f"full {seed}")
    assert not count.bad, count.words[:3]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_no_power_cut_loses_a_record_that_is_being_copied_forward(seed: int) -> None:
    count = try_all(use_with_stragglers, seed, 70)
    count.say(f"stragglers {seed}")
    assert not count.bad, count.words[:3]
    assert count.copied


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_no_second_cut_while_it_goes_on_after_the_first_makes_a_difference(seed: int) -> None:
    first = Trial(ModelDisk())
    count = Count()
    try:
        use(first, seed, 80)
        for number, (before, image) in enumerate(cuts(first, Count())):
            if number % 193:  # of every so many, all of the second
                continue
            second = Trial(ModelDisk(image))
            try:
                use(second, seed + number, 25)
                for promise, again in cuts(second, count, before):
                    count.add(promise.broken_by(again))
            finally:
                second.close()
    finally:
        first.close()
    count.say(f"second cuts {seed}")
    assert not count.bad, count.words[:3]


def test_without_fsync_the_promise_is_broken() -> None:
    count = try_all(use, 1, 160, honest=False)
    count.say("without fsync")
    assert count.bad
