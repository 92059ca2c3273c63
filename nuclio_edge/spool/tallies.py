"""Numbers that ride along with what a spool writes: of each lane, by slot; they only grow.

A tally is written with the settlements of a group, in one record, so that what is counted and what is settled become
durable together; nothing is ever written for its sake. What belongs to one record alone (`append(..., tallies=…)`)
stands in that record, as what it adds. Everything else has the number itself, and up to which record that holds. So
nothing is counted twice, however often a group had to be written, and nothing that a power cut took out of its middle.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .lanes import Lane, Lanes

    Tally = tuple[int, int | str, int, int]  # kind and key of the lane, slot, how many more

MOST_SLOTS = 64
ROW = 44  # bytes of one in a checkpoint, at most
_LANE = 0xFFFF


class Tallies:
    """`now` has the truth of this moment, by slot and lane in one number; `dirty` what the log does not have yet."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self.now: dict[int, int] = {}
        self.logged: dict[int, int] = {}
        self.dirty: set[int] = set()
        self._bound: dict[int, int] = {}  # of `now`, what belongs to records that are not written yet

    def add(self, kind: int, key: int | str, slot: int, count: int) -> bool:
        """Count what becomes durable with whatever is settled meanwhile, never by itself.

        False when there is no room for another number, and nothing is counted.
        """
        number = self._number(kind, key, slot)
        if number:
            self.now[number] += count
            self.dirty.add(number)
        return bool(number)

    def bind(self, tallies: Iterable[Tally]) -> list[tuple[int, int]]:
        """Count what belongs to one record; the numbers, for its settlement."""
        found = []
        for kind, key, slot, count in tallies:
            number = self._number(kind, key, slot)
            if number:
                self.now[number] += count
                self._bound[number] = self._bound.get(number, 0) + count
                found.append((number, count))
        return found

    def free(self, bound: Iterable[tuple[int, int]]) -> None:
        """The record is not written after all, but what it counted holds."""
        for number, count in bound:
            self._unbind(number, count)
            self.dirty.add(number)

    def undo(self, bound: Iterable[tuple[int, int]]) -> None:
        """The record could not be stored: what it counted did not happen."""
        for number, count in bound:
            self._unbind(number, count)
            self.now[number] -= count

    def of(self, kind: int, key: int | str) -> dict[int, int]:
        """The numbers of a lane by slot."""
        lane = self._lanes.by_key.get((kind, key))
        if lane is None:
            return {}
        found = ((slot, self.now.get(_join(slot, lane.number), 0)) for slot in range(MOST_SLOTS))
        return {slot: count for slot, count in found if count}

    # -- for the group that is written --------------------------------------------------------------------------------

    def due(self) -> dict[int, int]:
        """What the next settlement says: what has changed, without what records of their own will say."""
        return {number: self.now[number] - self._bound.get(number, 0) for number in self.dirty}

    def base(self, number: int) -> int:
        """What it is without what records of their own will say."""
        return self.now[number] - self._bound.get(number, 0)

    def unnamed(self) -> list[Lane]:
        """The lanes of what is to be said whose names the log does not have."""
        lanes = {number & _LANE for number in (*self.dirty, *self._bound)}
        found = (self._lanes.by_number.get(number) for number in lanes)
        return [lane for lane in found if lane is not None and not lane.named]

    def landed(self, written: dict[int, int], bound: Iterable[tuple[int, int]]) -> None:
        """So much is in the log now, and so are records with counts of their own."""
        for number, count in written.items():
            self.logged[number] = count
            if count == self.base(number):
                self.dirty.discard(number)
        for number, count in bound:
            self._unbind(number, count)
            self.logged[number] = self.logged.get(number, 0) + count

    # -- in a checkpoint ----------------------------------------------------------------------------------------------

    def rows(self, written: dict[int, int], placed: dict[int, int], upto: int) -> list[int]:
        """All that the log has when this is in it: number, the id after the last record that is in it, count, in turn.

        `written`: what a settlement before it says, `placed`: what records before it add.
        """
        whole = {**self.logged, **written}
        for number, count in placed.items():
            whole[number] = whole.get(number, 0) + count
        return [part for number, count in whole.items() if number & _LANE in self._lanes.by_number
                for part in (number, upto, count)]  # fmt: skip

    def restore(self, found: dict[int, int]) -> None:
        """What the log has said."""
        for number, count in found.items():
            lane = self._lanes.by_number.get(number & _LANE)
            if lane is not None and number >> 16 <= MOST_SLOTS and self._lanes.grow(ROW):
                self.now[number] = self.logged[number] = count

    def forget(self, lane: int) -> None:
        """A lane is there no more: its number will mean another one."""
        for number in [number for number in self.now if number & _LANE == lane]:
            del self.now[number]
            self.logged.pop(number, None)
            self._bound.pop(number, None)
            self.dirty.discard(number)
            self._lanes.grow(-ROW)

    def _number(self, kind: int, key: int | str, slot: int) -> int:
        lane = self._lanes.by_key.get((kind, key))
        if lane is None:
            lane = self._lanes.open(kind, key)
        number = _join(slot, lane.number)
        if number not in self.now:
            if not 0 <= slot < MOST_SLOTS or not self._lanes.grow(ROW):
                return 0
            self.now[number] = 0
        return number

    def _unbind(self, number: int, count: int) -> None:
        left = self._bound.get(number, 0) - count
        if left > 0:
            self._bound[number] = left
        else:
            self._bound.pop(number, None)


def _join(slot: int, lane: int) -> int:
    """Slot and lane as one number, which no lane has."""
    return (slot + 1) << 16 | lane


def is_tally(number: int) -> bool:
    """Whether what stands in the place of a lane's number is that of a tally."""
    return number > _LANE


__all__ = ["MOST_SLOTS", "ROW", "Tallies", "is_tally"]
