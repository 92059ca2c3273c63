"""Whatever another thread does to end the loop's wait, it ends, once, and costs no system call to be noticed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from nuclio_edge.core.port_cpython import Poller

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def poller() -> Iterator[Poller]:
    """A poller of nothing."""
    made = Poller()
    yield made
    made.close()


def woken(poller: Poller, timeout_ms: int = 0) -> bool:
    """Whether the wait ends because of a wake."""
    return bool(poller.wait(timeout_ms))


def test_a_wake_before_the_wait_ends_it_and_only_this_one(poller: Poller) -> None:
    poller.wake()
    assert woken(poller, 60_000)
    assert not woken(poller)


def test_many_wakes_are_one_and_the_next_one_is_not_lost(poller: Poller) -> None:
    for _ in range(1000):
        for _ in range(3):
            poller.wake()
        assert woken(poller)
        assert not woken(poller)


def test_a_wake_from_another_thread_ends_a_wait_that_goes_on(poller: Poller) -> None:
    thread = threading.Timer(0.05, poller.wake)
    thread.start()
    assert woken(poller, 60_000)
    thread.join()
    assert not woken(poller)
