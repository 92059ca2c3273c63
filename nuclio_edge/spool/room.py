"""What keeps a spool within its limits: records that are copied forward, and those that are given up; a gap says so.

Laws:
- The last file is never begun without giving up, in the same breath, what makes the next one.
- A few live records do not pin a segment: they are copied to the end of the log.
- The oldest go first, whole segments at a time.
"""

from __future__ import annotations

from nuclio_edge.core import port

from .reading import Look, places
from .writer import Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .plan import Plan
    from .reading import Place
    from .segment import Segment
    from .spool import Spool
    from .writer import Hand

_BATCH = 64 << 10  # bytes that are copied with one group
_MANY = 4  # segments from which on it is worth while to copy
_FEW = 256  # live records that are weighed one by one


class Room:
    """`drops` and `copies` go into the next group; the loop's thread alone."""

    def __init__(self, spool: Spool, max_age_ms: int) -> None:
        self._spool = spool
        self._log = spool.log
        self._max_age_ms = max_age_ms
        self._fetching = False
        self._weighed: tuple[Segment | None, int, int] = (None, 0, 0)
        self.drops: list[tuple[int, list[tuple[int, int, int, int]]]] = []  # until the log says so
        self.copies: list[Place] = []
        self.copied = 0

    def has_work(self) -> bool:
        """Whether the log has to be told of something."""
        return bool(self.drops or self.copies)

    def prepare(self) -> None:
        """Decide what goes, before a group is placed."""
        log = self._log
        if self.drops or len(log.segments) < 2:
            return
        first = log.segments[0]
        pressed = not log.has_file()
        if self._is_old():
            self._give_up(1)
        elif first.live and self._is_sparse(first, pressed):
            if not self.copies and not self._fetching:
                self._copy(first)
        elif pressed and not (first.live and log.is_short()):  # a full disk is no reason to give up what is on it
            self._give_up(log.in_the_way())

    def _is_old(self) -> bool:
        if not self._max_age_ms:
            return False
        return port.ticks_ms() - self._log.segments[1].begun > self._max_age_ms

    def _is_sparse(self, first: Segment, pressed: bool) -> bool:
        """Whether it is better to copy what is live in the first segment than to give it up, or to keep the segment."""
        log = self._log
        active = log.active()
        if active is None or active.room - active.end < log.segment_size // 2:
            return False
        share = 8 if log.may_grow(2) else 4
        return self._weight(first) * share <= first.size and (pressed or len(log.segments) >= _MANY)

    def _weight(self, first: Segment) -> int:
        """About how many bytes are live in the first segment."""
        if first.live > _FEW:
            return first.size * first.live // len(first.ids)
        if self._weighed[:2] != (first, first.live):
            weight = sum(first.length(position) for position, lane in enumerate(first.lanes) if lane)
            self._weighed = (first, first.live, weight)
        return self._weighed[2]

    def _copy(self, first: Segment) -> None:
        """Have the live records of the first segment read, to be written again with the next group."""
        found = list(places(self._log, 0, lambda _lane: True, _BATCH))
        found = [place for place in found if place.segment is first]
        self._fetching = True
        disk = self._spool.disk

        def work(_hand: Hand, _job: Job) -> None:
            look = Look(disk)
            try:
                look.fetch(found)
            finally:
                look.close()

        def then(job: Job) -> None:
            self._fetching = False
            for place in found:
                if place.damaged and place.is_live():
                    self.lose(place)
            if job.error is None:
                self.copies = [place for place in found if place.payload is not None and place.is_live()]
            else:  # it cannot be read now: give it up when its file is needed
                self._spool.on_notice(f"spool: {first.path} cannot be read: {job.error.strerror}")
            self._spool.later()

        self._spool.submit(Job(work, then))

    def _give_up(self, count: int) -> None:
        """Drop the first segments; what is live in them makes gaps."""
        gaps = self._log.give_up(count)
        self.drops.append((self._log.segments[count].sequence, gaps))
        self._say(gaps)

    def lose(self, place: Place) -> None:
        """A record that is damaged: a gap of one."""
        place.segment.void(place.position)
        self._spool.damaged += 1
        gap = (place.lane, 1, place.number, place.number)
        self.drops.append((self._log.segments[0].sequence, [gap]))
        self._say([gap])

    def _say(self, gaps: list[tuple[int, int, int, int]]) -> None:
        spool = self._spool
        for number, count, first, last in gaps:
            lane = self._log.lanes.by_number[number]
            lane.gap += count
            lane.pending -= count
            lane.gap_first, lane.gap_last = first, last
            spool.readers.missed(lane.kind, last, count)
            try:
                spool.on_gap(lane.kind, lane.key, count, first, last)
            except Exception as error:  # noqa: BLE001 - one bad call stays one bad call
                spool.loop.on_error(error, spool.on_gap)

    def landed(self, plan: Plan) -> None:
        """The group is durable: copies stand for the originals, and what was given up is said."""
        del self.drops[: plan.drops]
        for place in plan.copies:
            if place.is_live():
                place.segment.void(place.position)
            else:  # settled, or given up, while it was copied
                self._log.forget_stray(place.number)
        self.copied += len(plan.copies)
        del self.copies[: plan.seen]
