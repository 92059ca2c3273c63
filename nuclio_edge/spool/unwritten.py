"""What stands in for a spool of which there is no file yet: it holds nothing, and becomes one with its first record.

A gateway whose handlers are quick, at a broker that answers, stores nothing. What it takes to do so is loaded when
something is to be stored: 0.6 MiB, and 15 ms once.
"""

from __future__ import annotations

from errno import EAGAIN, errorcode
from types import SimpleNamespace

from nuclio_edge.core import port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.loop import Loop

    from .spool import Spool


AGAIN_MS = 1000  # between two attempts to become a spool


class Unwritten:
    """As much of a Spool's contract as holds without a record; loop thread only.

    `begin()` returns the spool and puts it into the place of this; `size` is its limit in bytes. Where it cannot be had
    (no descriptor left to load it with), appends fail by `done(error)` as with a disk that cannot be used, and
    `on_trouble(text)` is called, with "" when it works.
    """

    in_hand = None
    written = commits = damaged = 0

    def __init__(
        self, loop: Loop, size: int, begin: Callable[[], Spool], on_trouble: Callable[[str], Any] = lambda _: None
    ) -> None:
        self.trouble = ""
        self.on_write: Callable[[], Any] = lambda: None  # there is nothing to be written with
        self.refused: dict[str, int] = {}
        self.recovery = SimpleNamespace(next=1)
        self.log = SimpleNamespace(lanes=_NoLanes(), sizes={}, limit=size)
        self.tallies = _NoTallies()
        self._loop = loop
        self._begin = begin
        self._on_trouble = on_trouble
        self._error = OSError()
        self._retry_at = 0
        self._timer: Any = None
        self._number = 0  # of what was refused; a spool's own numbers are above 0
        self._untold: list[Callable[[], Any]] = []  # who is to be told of it

    def append(self, kind: int, key: int | str, payload: Any, done: Any = None, **more: Any) -> int:
        """The first record."""
        if not self.trouble or port.ticks_ms() >= self._retry_at:
            spool = self._become()
            if spool is not None:
                return spool.append(kind, key, payload, done, **more)
        error = self._error
        reason = errorcode.get(error.errno or 0, "other")
        self.refused[reason] = self.refused.get(reason, 0) + 1
        if done is not None:
            self._untold.append(lambda: done(error))
            self._loop.call_soon(self.finish)
        self._number -= 1
        return self._number

    def _become(self) -> Spool | None:
        """The spool that takes the place of this, or None."""
        try:
            spool = self._begin()
        except Exception as fault:  # noqa: BLE001 - descriptors, memory, files that an upgrade has replaced
            self._fail(fault if isinstance(fault, OSError) else OSError(EAGAIN, f"{type(fault).__name__}: {fault}"))
            return None
        said, self.trouble = self.trouble, ""
        if said and not spool.trouble:
            self._on_trouble("")
        return spool

    def _again(self) -> None:
        self._timer = None
        if self.trouble:
            self._become()

    def _fail(self, error: OSError) -> None:
        self._error = error
        self._retry_at = port.ticks_ms() + AGAIN_MS
        said, self.trouble = self.trouble, f"the spool cannot be loaded: {error}"
        if not said:
            self._on_trouble(self.trouble)
        if self._timer is None:
            self._timer = self._loop.call_later(AGAIN_MS, self._again)

    def settle(self, _number: int) -> bool:
        """Nothing is pending."""
        return False

    def commit_soon(self) -> None:
        """There is nothing to be written."""

    def finish(self) -> None:
        """Tell who has not been told yet."""
        untold, self._untold = self._untold, []
        for tell in untold:
            tell()

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
        """It becomes nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _NoLanes(tuple[()]):
    """No counters: nothing was appended."""

    __slots__ = ()
    by_key: dict[Any, Any] = {}  # noqa: RUF012 - nobody adds to it


class _NoTallies:
    """No numbers of earlier processes."""

    def of(self, _kind: int, _key: int | str) -> dict[int, int]:
        """The numbers of a lane."""
        return {}
