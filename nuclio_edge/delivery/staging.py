"""What has come in and is neither concluded nor on disk: it waits a moment, as most of it never needs the disk.

A handler that is done within the wait leaves nothing behind: not one byte is written for a stream of quick events. What
is still here after `wait` to twice `wait` milliseconds is stored, and acknowledged when that is durable.
"""

from __future__ import annotations

from errno import EFBIG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.loop import Loop, Timer

# How long a nearly full window is watched before its events are stored: workers that are merely not scheduled yet get
# their turn, and a connection that is shared with a slow function stalls no longer than this and a sync.
PRESS_MS = 25
# Once they were of no use for that, the next windows are not watched for as long, so as not to stall the others again.
HASTY_MS = 1
HASTY_FOR_MS = 10_000
CALM = 16  # such looks in a row that found nothing to be stored: whoever was slow is not any more
AGAIN_MS = 1000  # between two looks at a disk that cannot be used


class Stage:
    """The waiting room of one source. Loop thread only.

    `fresh` and `aging` have what waits, in order of arrival, with who stores it by `store(item)`; the owners add to
    `fresh` and take out of both. `large` has what no record can hold: it is here until it is concluded, and waits for
    nothing. `limit`: so many waiting events, and the source's window is nearly used up, which is `pressed` then.
    """

    __slots__ = (
        "_calm", "_hasty_until", "aging", "fresh", "large", "limit", "loop", "pressed", "refused", "spool", "timer",
        "wait",
    )  # fmt: skip

    def __init__(self, loop: Loop, spool: Any, wait: int, limit: int) -> None:
        self.loop = loop
        self.spool = spool
        self.wait = wait
        self.limit = limit
        self.fresh: dict[Any, Any] = {}
        self.aging: dict[Any, Any] = {}
        self.refused: dict[Any, Any] = {}  # the disk could not be used for them; they are the oldest
        self.large: dict[Any, Any] = {}
        self.timer: Timer | None = None
        self.pressed = False
        self._hasty_until = 0
        self._calm = 0

    def __len__(self) -> int:
        return len(self.fresh) + len(self.aging) + len(self.refused)

    def __contains__(self, item: Any) -> bool:
        return item in self.fresh or item in self.aging or item in self.refused or item in self.large

    def add(self, item: Any, owner: Any) -> None:
        """Another one waits."""
        self.fresh[item] = owner
        self.arm()
        if len(self.fresh) + len(self.aging) >= self.limit:
            self.press()

    def arm(self) -> None:
        """Something waits: look after it."""
        if self.timer is None:
            self.timer = self.loop.call_later(AGAIN_MS if self.spool.trouble else self.wait, self._tick)

    def press(self) -> None:
        """The window is nearly used up: store early what does not end by itself in a moment."""
        if not self.pressed and not self.spool.trouble:
            self.pressed = True
            self.aging.update(self.fresh)  # what is here now is looked at then, what comes meanwhile is not
            self.fresh = {}
            self.loop.call_later(HASTY_MS if self.loop.now < self._hasty_until else PRESS_MS, self._relieve)

    def remove(self, item: Any) -> bool:
        """It is concluded, or goes another way; whether it waited here."""
        for waiting in (self.fresh, self.aging, self.refused, self.large):
            if item in waiting:
                del waiting[item]
                return True
        return False

    def take(self, owner: Any) -> list[Any]:
        """All that waits of one owner, oldest first; it waits here no more."""
        found: list[Any] = []
        for name in ("refused", "aging", "fresh"):
            waiting = getattr(self, name)
            found += [item for item, whose in waiting.items() if whose is owner]
            setattr(self, name, {item: whose for item, whose in waiting.items() if whose is not owner})
        return found

    def refuse(self, item: Any, owner: Any, error: OSError) -> None:
        """It could not be stored: tried again when the disk is, unless it is too large for any record."""
        if error.errno == EFBIG:
            self.large[item] = owner
        else:
            self.refused[item] = owner
            self.arm()

    def flush(self) -> None:
        """Store all that waits, as soon as the disk can take it."""
        self.aging.update(self.fresh)
        self.fresh = {}
        self._store()

    def close(self) -> None:
        """Look after nothing any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _tick(self) -> None:
        self.timer = None
        if self.aging or self.refused:
            self._store()
        self.aging, self.fresh = self.fresh, {}
        if self.aging:
            self.arm()

    def _relieve(self) -> None:
        self.pressed = False
        if len(self.aging) >= self.limit // 2 and not self.spool.trouble:
            self._calm = 0
            if self.loop.now >= self._hasty_until:
                self._hasty_until = self.loop.now + HASTY_FOR_MS
            self._store()
        else:
            self._calm += 1
            if self._calm >= CALM:
                self._hasty_until = 0

    def _store(self) -> None:
        """Without the disk this is the attempt that finds out whether it is back: all of it is refused at once."""
        items = {**self.refused, **self.aging}
        self.refused = {}
        self.aging = {}
        for item, owner in items.items():
            owner.store(item)
        if items:
            self.spool.commit_soon()
