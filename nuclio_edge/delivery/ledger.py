"""The counters of durable triggers over restarts: they ride in what the spool writes anyhow.

Law: whatever the moment of a power cut, an event that was on disk is afterwards pending or counted, never both, never
neither: what is counted becomes durable in the record that settles the event. What came and went between two commits
left no trace on disk; its counts are written with the next commit, at the latest by a stop. Where nothing was ever on
disk no file is made for them: a gateway whose handlers are quick counts from its start.

What is written are tallies of the spool, by the trigger's ledger id and a slot. `admitted` is none of them: it is what
the outcomes and the pending events come to.
"""

from __future__ import annotations

from nuclio_edge.ledger import TriggerRow, row_of

from .backlog import EVENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.inbox import Trigger

# Slots; numbers on disk, none is ever used again. From REASONS on, a slot is a reason for which events were shed.
COUNTS = ("handled", "failed", "dead_lettered", "retried", "duplicates", "late")
HANDLED, FAILED, DEAD_LETTERED = range(3)
REASONS = 8
_REASONS = ("other", "drop-oldest", "drop-newest", "thin", "reject", "rate-limit", "closed", "suspended", "spool-full",
            "collapsed", "offline", "expired")  # fmt: skip


def slot_of(reason: str) -> int:
    """The slot of a reason; what has none of its own is counted as `other`."""
    return REASONS + (_REASONS.index(reason) if reason in _REASONS else 0)


class DurableLedger:
    """Loop thread only. `spool` has to call `write` before it closes a group."""

    def __init__(self, spool: Any) -> None:
        self._spool = spool
        self._before: dict[str, TriggerRow] = {}  # by ledger id: of earlier processes, and of triggers that are gone
        self._triggers: dict[str, list[Trigger]] = {}  # that run or drain
        self._held: dict[str, dict[int, int]] = {}  # concluded, and settled by a record that is yet to come
        self._written: dict[str, int] = {}  # sum of what was last written of each
        spool.on_write = self.write

    def follow(self, spool: Any) -> None:
        """Another one is in the spool's place, in which is nothing of ours yet."""
        self._spool = spool
        spool.on_write = self.write

    def take(self, trigger: Trigger) -> None:
        """Count for a durable trigger from now on."""
        key = trigger.ledger_id
        if key not in self._before:
            self._before[key] = self._load(row_of(trigger))
        self._triggers.setdefault(key, []).append(trigger)

    def leave(self, trigger: Trigger) -> None:
        """A trigger is gone; what it counted stays. No error when it never counted here."""
        mine = self._triggers.get(trigger.ledger_id, [])
        if trigger in mine:
            mine.remove(trigger)
            self._before[trigger.ledger_id].add(trigger)

    def hold(self, key: str, slot: int) -> None:
        """An event is concluded that a later record settles: its count belongs there."""
        held = self._held.setdefault(key, {})
        held[slot] = held.get(slot, 0) + 1

    def release(self, key: str, slot: int) -> tuple[tuple[int, str, int, int], ...]:
        """That record is there; its tallies."""
        self._held[key][slot] -= 1
        return self.own(key, slot)

    def own(self, key: str, slot: int) -> tuple[tuple[int, str, int, int], ...]:
        """The tallies of a record that settles one event: to be appended with it."""
        return ((EVENT, key, slot, 1),) if key in self._before else ()

    def write(self) -> None:
        """Hand what has changed to the spool, which is about to write."""
        for key, triggers in self._triggers.items():
            sum_now = sum(map(_fingerprint, triggers)) - sum(self._held.get(key, {}).values())
            if sum_now != self._written.get(key):
                self._written[key] = sum_now
                self._tell(key)

    def row(self, key: str) -> TriggerRow | None:
        """What a durable trigger has counted in all its life; None when it is none."""
        before = self._before.get(key)
        if before is None:
            return None
        whole = row_of(before).add(before)
        for trigger in self._triggers.get(key, ()):
            whole.add(trigger)
        whole.admitted = whole.handled + whole.failed + whole.dead_lettered + sum(whole.shed.values()) + whole.pending
        return whole

    def keys(self) -> list[str]:
        """The ledger ids of all durable triggers."""
        return list(self._before)

    def _load(self, row: TriggerRow) -> TriggerRow:
        for slot, count in self._spool.tallies.of(EVENT, row.ledger_id).items():
            if slot < len(COUNTS):
                setattr(row, COUNTS[slot], count)
            elif REASONS <= slot < REASONS + len(_REASONS):
                row.shed[_REASONS[slot - REASONS]] = count
        return row

    def _tell(self, key: str) -> None:
        whole = row_of(self._before[key]).add(self._before[key])
        for trigger in self._triggers[key]:
            whole.add(trigger)
        counts = {slot: getattr(whole, name) for slot, name in enumerate(COUNTS)}
        for reason, count in whole.shed.items():
            slot = slot_of(reason)
            counts[slot] = counts.get(slot, 0) + count
        held = self._held.get(key, {})
        have = self._spool.tallies.of(EVENT, key)
        for slot, count in counts.items():
            more = count - held.get(slot, 0) - have.get(slot, 0)
            if more > 0:
                self._spool.tallies.add(EVENT, key, slot, more)


def _fingerprint(trigger: Trigger) -> int:
    """A number that changes with every count."""
    known = trigger.handled + trigger.failed + trigger.dead_lettered + trigger.retried + trigger.duplicates
    return known + trigger.late + (sum(trigger.shed.values()) if trigger.shed else 0)
