"""The records of one trigger or outbox on disk, oldest first, and which of them are in memory at the same time."""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Kinds of records; numbers on disk, none is ever used again. The key of the first, third and fourth is the trigger's
# ledger id, that of the second the source's name.
EVENT, OUTBOX, DEAD, MARK = 1, 2, 3, 4
NAMES = {EVENT: "events", OUTBOX: "messages to be sent", DEAD: "dead letters", MARK: "marks of attempts"}


class Backlog:
    """Loop thread only. `alone` counts the records that are on disk and nowhere else, `held` has the ids of the others.

    `flying` has the events of those records of both that are not durable yet, and may never be; `strand` has those
    that were to be on disk alone and could not be stored, oldest first, with the ids that their records had.
    Law: what the spool counts as pending for this kind and key is `alone` and `held` together.
    """

    __slots__ = ("_after", "alone", "flying", "held", "key", "kind", "spool", "strand")

    def __init__(self, spool: Any, kind: int, key: str) -> None:
        self.spool = spool
        self.kind = kind
        self.key = key
        self.alone = pending(spool, kind, key)
        self.held: set[int] = set()
        self.flying: dict[int, Any] = {}
        self.strand: deque[tuple[int, Any]] = deque()
        self._after = 0  # every record up to here is held

    @property
    def size(self) -> int:
        """How many wait for room in memory, wherever they are."""
        return self.alone + len(self.strand)

    def next(self, limit: int) -> list[Any]:
        """Some of the oldest records that are on disk alone, about `limit` bytes; none when the disk cannot be read."""
        found: list[Any] = []
        after = self._after
        while self.alone and not found:
            try:
                records = self.spool.records(after, limit, self.kind, self.key)
            except OSError:
                break  # the disk cannot be read now
            if not records:
                break
            after = records[-1].id
            found = [record for record in records if record.id not in self.held]
        return found

    def take(self, number: int) -> None:
        """One of `next` is in memory now; in their order."""
        self.alone -= 1
        self.held.add(number)
        self._after = number

    def put_back(self, number: int) -> None:
        """One that was held is on disk alone from now on."""
        self.held.discard(number)
        self.alone += 1
        self._after = min(self._after, number - 1)

    def landed(self, number: int) -> str:
        """A record is durable, or never will be: whether it is "held", "alone" or "over" at this moment."""
        if self.flying.pop(number, None) is None:
            return "over"
        return "held" if number in self.held else "alone"

    def settle(self, number: int) -> None:
        """One that was held is needed no more."""
        self.let_go(number)
        self.spool.settle(number)

    def let_go(self, number: int) -> None:
        """One that was held is settled together with something else."""
        self.held.discard(number)
        self.flying.pop(number, None)

    def dropped(self, count: int, first: int, last: int) -> int:
        """The spool gave records up to stay within its limits; how many of them were nowhere else."""
        kept = [n for n in self.held if first <= n <= last and self.spool.read(n) is None]
        self.held.difference_update(kept)
        lost = count - len(kept)
        self.alone -= lost
        return lost


def pending(spool: Any, kind: int, key: str) -> int:
    """How many records of a kind and key the spool has."""
    lane = spool.log.lanes.by_key.get((kind, key))
    return lane.pending if lane is not None else 0
