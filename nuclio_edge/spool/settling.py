"""What is settled in a spool, and what of that the log does not say yet."""

from __future__ import annotations

from nuclio_edge.core.record import HEAD

from .group import length
from .lanes import Settlement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .group import Group
    from .log import Log
    from .tallies import Tally

_RANGES = 4096  # of a settlement; more begin another


class Settling:
    """Settlements that wait for the next group, and those that fly with the one on its way.

    `skipped` counts the records that were never written, by lane number, as long as the log does not say so.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self.waiting: list[Settlement] = []
        self.flown: list[Settlement] = []
        self.skipped: dict[int, int] = {}
        self.never_written = 0

    def has_work(self) -> bool:
        """Whether the log has to be told of any."""
        return any(one.ranges for one in self.waiting)

    def skip(self, group: Group, position: int, by: Settlement | None = None) -> Settlement | None:
        """Settle what has not been handed to the writer: it is never written; a record says so (`by`), or the group.

        None when it was not pending, else what was to be settled together with it, which may be nothing.
        """
        payloads = group.payloads
        if position >= len(payloads) or payloads[position] is None:
            return None
        payload, payloads[position] = payloads[position], None
        group.size = max(0, group.size - HEAD - length(payload))
        group.live -= 1
        self.never_written += 1
        lane = group.lanes[position]
        lane.settled += 1
        lane.pending -= 1
        skipped = self.skipped if by is None else by.skipped
        skipped[lane.number] = skipped.get(lane.number, 0) + 1
        return group.settles.pop(position, None) or Settlement()

    def settle_unwritten(self, group: Group, position: int) -> bool:
        """Settle a record of the present group; false when it is not pending."""
        settlement = self.skip(group, position)
        if settlement is None:
            return False
        self._log.lanes.tallies.free(settlement.tallies)
        settlement.tallies = []
        if settlement.ranges or settlement.skipped:
            self.waiting.append(settlement)
        return True

    def settle(self, number: int, flying: Group | None) -> bool:
        """Settle a record on disk, or on its way there."""
        waiting = self.waiting
        if not waiting or len(waiting[-1].ranges) >= _RANGES:
            waiting.append(Settlement())
        return self._into(waiting[-1], number, flying)

    def settle_by(
        self, group: Group, position: int, numbers: Iterable[int], tallies: Iterable[Tally], flying: Group | None
    ) -> None:
        """Settle others, and count, together with the record at a position of the present group."""
        settlement = Settlement(self._log.lanes.tallies.bind(tallies))
        for number in numbers:
            if number >= group.first:
                self._instead(group, number - group.first, position, settlement, flying)
            else:
                self._into(settlement, number, flying)
        if settlement.ranges or settlement.skipped or settlement.tallies:
            group.settles[position] = settlement

    def _instead(self, group: Group, old: int, new: int, settlement: Settlement, flying: Group | None) -> None:
        """A record that was not written yet, and all that it was to settle, is settled by another one of its group."""
        its = self.skip(group, old, settlement) if old != new else None
        if its is None:
            return
        settlement.take(its)
        if flying is not None:
            for position, one in flying.late.items():
                if one is its:
                    flying.late[position] = settlement
        companions = group.companions.setdefault(new, [])
        companions += group.companions.pop(old, [])
        done = group.dones[old]
        if done is not None:
            companions.append(done)
            group.dones[old] = None

    def _into(self, settlement: Settlement, number: int, flying: Group | None) -> bool:
        if flying is not None and flying.has(number):
            position = number - flying.first
            if flying.payloads[position] is None or position in flying.late:
                return False
            lane = flying.lanes[position]
            flying.late[position] = settlement
        else:
            place = self._log.find(number)
            if place is None:
                return False
            lane = self._log.lanes.by_number[place[0].lanes[place[1]]]
            settlement.owe(*place)
        settlement.add(number, lane.number)
        lane.settled += 1
        lane.pending -= 1
        return True

    def fly(self) -> None:
        """The next group takes along what waits, in one record: the tallies that go with it are in that, too."""
        for one in self.waiting:
            if self.flown and len(self.flown[-1].ranges) + len(one.ranges) <= _RANGES:
                self.flown[-1].take(one)
            else:
                self.flown.append(one)
        self.waiting = []

    def keep(self, taken: int) -> None:
        """There was room for so many only."""
        self.waiting[:0] = self.flown[taken:]
        del self.flown[taken:]

    def landed(self, group: Group, skipped: dict[int, int], tallied: dict[int, int]) -> None:
        """The group is durable, and with it all that flew with it."""
        bound = [one for settlement in group.settles.values() for one in settlement.tallies]
        self._log.lanes.tallies.landed(tallied, bound)
        for settlement in (*self.flown, *group.settles.values()):
            settlement.is_logged()
        self.flown = []
        for number, count in skipped.items():
            left = self.skipped[number] - count
            if left:
                self.skipped[number] = left
            else:
                del self.skipped[number]
        for position, settlement in group.late.items():
            place = self._log.find(group.first + position)
            if place is not None:
                settlement.owe(*place)

    def failed(self) -> None:
        """The group could not be stored: the log has to be told with the next."""
        self.waiting[:0] = self.flown
        self.flown = []

    def undo(self, settlement: Settlement) -> None:
        """The record that settled these could not be stored: they are pending again."""
        self._log.lanes.tallies.undo(settlement.tallies)
        for number, count in settlement.skipped.items():
            self.skipped[number] = self.skipped.get(number, 0) + count
        for number in settlement.undo():
            lane = self._log.lanes.by_number[number]
            lane.settled -= 1
            lane.pending += 1
