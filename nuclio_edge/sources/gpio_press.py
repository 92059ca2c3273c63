"""What a button does, made of its edges: clicks, several clicks, a hold.

Judged by the kernel's stamps, so that a busy loop changes nothing; timers only tell that nothing more has come. A hold
begins while the button is down and is told then; its release is no click. Clicks are told when the gap after them is
over, or at once where nobody asks for more of them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_CLICKS = {1: "click", 2: "double-click", 3: "triple-click"}
HOLD_AFTER_MS = 800
CLICK_GAP_MS = 300


class Presses:
    """One button's state. `tell(word)` is called for what it did, `later(ms, call)` makes a timer with `cancel`.

    `wanted` are the words that somebody waits for. Stamps are nanoseconds of one clock.
    """

    __slots__ = (
        "_clicks",
        "_down",
        "_gap",
        "_held",
        "_hold_after",
        "_later",
        "_most",
        "_tell",
        "_timer",
        "_up",
        "_wanted",
    )

    def __init__(
        self,
        wanted: set[str],
        hold_after_ms: int,
        click_gap_ms: int,
        tell: Callable[[str], Any],
        later: Callable[[int, Callable[[], Any]], Any],
    ) -> None:
        self._wanted = wanted
        self._most = max((count for count, word in _CLICKS.items() if word in wanted), default=1)
        self._hold_after = hold_after_ms * 1_000_000
        self._gap = click_gap_ms * 1_000_000
        self._tell = tell
        self._later = later
        self._timer: Any = None
        self._clicks = 0
        self._down: int | None = None  # the stamp of the press, None while it is up
        self._up = 0  # the stamp of the last release
        self._held = False

    def edge(self, pressed: bool, stamp: int) -> None:
        """The button went down or up."""
        if pressed == (self._down is not None):
            return  # an edge between was dropped: the state is what it was
        self.stop()
        if pressed:
            if self._clicks and stamp - self._up > self._gap:
                self._end()
            self._down = stamp
            self._held = False
            if "hold" in self._wanted:
                self._timer = self._later(self._hold_after // 1_000_000, self._hold)
            return
        down, self._down = self._down, None
        self._up = stamp
        if self._held:
            return
        if "hold" in self._wanted and down is not None and stamp - down >= self._hold_after:
            self._hold()
            return
        self._clicks += 1
        if self._clicks >= self._most:
            self._end()
        else:
            self._timer = self._later(self._gap // 1_000_000, self._end)

    def stop(self) -> None:
        """Wait for nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forget(self) -> None:
        """Begin anew, with the button up: its edges were not seen for a while."""
        self.stop()
        self._clicks = 0
        self._down = None

    def _hold(self) -> None:
        self._timer = None
        self._held = True
        self._end()
        self._tell("hold")

    def _end(self) -> None:
        """The clicks so far belong together."""
        self._timer = None
        clicks, self._clicks = self._clicks, 0
        word = _CLICKS.get(clicks)
        if word in self._wanted:
            self._tell(word)
