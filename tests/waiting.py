"""Waiting for a condition: the only way in which a test lets time pass."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

LIMIT = 30.0  # seconds; generous, because the tests run side by side on small and noisy machines


def wait_until(condition: Callable[[], T], what: str | Callable[[], str] = "", limit: float = LIMIT) -> T:
    """Return the first true value of `condition`, or fail after `limit` seconds.

    `what` says what was waited for: text, or a call that describes what is there instead.
    """
    deadline = time.monotonic() + limit
    pause = 0.001
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            described = what() if callable(what) else what
            message = f"waited {limit:g} s in vain: {described or condition}"
            raise AssertionError(message)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
