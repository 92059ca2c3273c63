"""Appends that a spool cannot store: they never were, and whoever made them is told why."""

from __future__ import annotations

from errno import EFBIG, errorcode

from nuclio_edge.core.record import HEAD

from .group import length

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .group import Group
    from .settling import Settling
    from .spool import Spool


class Refusal:
    """`counts` has the refused appends by reason, an errno's name."""

    def __init__(self, spool: Spool, settling: Settling) -> None:
        self._spool = spool
        self._settling = settling
        self.counts: dict[str, int] = {}

    def of_all(self, group: Group, error: OSError) -> None:
        """A whole group could not be stored; tells everybody."""
        for position in range(len(group.lanes)):
            if group.payloads[position] is not None:
                self.of(group, position, error)
        group.tell(self._spool.loop.on_error)

    def of_oversize(self, group: Group) -> None:
        """Records that are too large for any segment; the others of the group go on."""
        most = self._spool.log.largest()
        for position, size in group.oversize:
            text = f"{size} bytes, and a record of this spool has {most} at most"
            if "EFBIG" not in self.counts:
                self._spool.on_notice(f"spool: what is too large to be stored is in memory only: {text}; said once")
            self.of(group, position, OSError(EFBIG, text))
        group.oversize = []

    def of(self, group: Group, position: int, error: OSError) -> None:
        """Undo one append; its `done` is called in its turn."""
        reason = errorcode.get(error.errno or 0, "error")
        self.counts[reason] = self.counts.get(reason, 0) + 1
        lane = group.lanes[position]
        lane.appended -= 1
        lane.refused += 1
        if position in group.late:
            lane.settled -= 1
            group.late.pop(position).counts[lane.number] -= 1
        else:
            lane.pending -= 1
        if position in group.settles:
            self._settling.undo(group.settles.pop(position))
        group.size -= HEAD + length(group.payloads[position])
        group.payloads[position] = None
        done = group.dones[position]
        if done is not None:
            group.dones[position] = lambda _: done(error)
        if position in group.companions:
            told = group.companions.pop(position)
            group.companions[position] = [lambda _, one=one: one(error) for one in told]  # type: ignore[misc]
