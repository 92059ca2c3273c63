"""What stands in for a spool of which there is no file yet: it holds nothing, and becomes one with its first record.

A gateway whose handlers are quick, at a broker that answers, stores nothing. What it takes to do so is loaded when
something is to be stored: 0.6 MiB, and 15 ms once.
"""

from __future__ import annotations

from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .spool import Spool


class Unwritten:
    """As much of a Spool's contract as holds without a record; loop thread only.

    `begin()` returns the spool and puts it into the place of this; `size` is its limit in bytes.
    """

    trouble = ""
    in_hand = None
    written = commits = damaged = 0

    def __init__(self, size: int, begin: Callable[[], Spool]) -> None:
        self.on_write: Callable[[], Any] = lambda: None  # there is nothing to be written with
        self.refused: dict[str, int] = {}
        self.recovery = SimpleNamespace(next=1)
        self.log = SimpleNamespace(lanes=_NoLanes(), sizes={}, limit=size)
        self.tallies = _NoTallies()
        self._begin = begin

    def append(self, *record: Any, **more: Any) -> int:
        """The first record."""
        return self._begin().append(*record, **more)

    def settle(self, _number: int) -> bool:
        """Nothing is pending."""
        return False

    def commit_soon(self) -> None:
        """There is nothing to be written."""

    def numbers(self, _after: int, _upto: int, _kind: int) -> list[int]:
        """The ids of what is pending: none."""
        return []

    def totals(self) -> dict[str, int]:
        """The counters of all lanes together."""
        return dict.fromkeys(("appended", "settled", "gap", "pending"), 0)

    def differences(self) -> list[str]:
        """Nothing is counted, so nothing is wrong."""
        return []

    def close(self) -> None:
        """Nothing is held."""


class _NoLanes(tuple[()]):
    """No counters: nothing was appended."""

    __slots__ = ()
    by_key: dict[Any, Any] = {}  # noqa: RUF012 - nobody adds to it


class _NoTallies:
    """No numbers of earlier processes."""

    def of(self, _kind: int, _key: int | str) -> dict[int, int]:
        """The numbers of a lane."""
        return {}
