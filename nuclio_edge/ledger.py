"""What came in and what became of it, in numbers that must add up.

At a source: received = routed + unrouted + the sum of rejected. At a trigger: admitted = handled + failed +
dead_lettered + the sum of shed + pending.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class Tally:
    """Sums over sources and triggers, and the equations that did not hold."""

    __slots__ = (
        "admitted",
        "dead_lettered",
        "duplicates",
        "failed",
        "handled",
        "pending",
        "received",
        "rejected",
        "retried",
        "shed",
        "unrouted",
        "wrong",
    )

    def __init__(self) -> None:
        self.received = self.unrouted = self.admitted = self.handled = self.failed = 0
        self.dead_lettered = self.pending = self.retried = self.duplicates = 0
        self.rejected: dict[str, int] = {}
        self.shed: dict[str, int] = {}
        self.wrong: list[str] = []

    def line(self) -> str:
        """One line for a person: `received 120, handled 118, failed 1, shed 1 (drop-oldest 1)`."""
        parts = [f"received {self.received}", f"handled {self.handled}", f"failed {self.failed}"]
        parts.append(f"shed {sum(self.shed.values())}{_reasons(self.shed)}")
        for name, count in (("retried", self.retried), ("unrouted", self.unrouted), ("pending", self.pending)):
            if count:
                parts.append(f"{name} {count}")
        if self.rejected:
            parts.append(f"rejected {sum(self.rejected.values())}{_reasons(self.rejected)}")
        return ", ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """The same as a plain mapping, for JSON."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "wrong"}


def tally(sources: Iterable[Any], triggers: Iterable[Any], earlier: Iterable[Tally] = ()) -> Tally:
    """Add up sources and triggers, check each, and add what `earlier` counted of those that are gone."""
    total = Tally()
    for one in earlier:
        for name in ("received", "unrouted", "admitted", "handled", "failed", "dead_lettered", "pending", "retried"):
            setattr(total, name, getattr(total, name) + getattr(one, name))
        total.duplicates += one.duplicates
        _add(total.rejected, one.rejected)
        _add(total.shed, one.shed)
        total.wrong += one.wrong
    for source in sources:
        total.received += source.received
        total.unrouted += source.unrouted
        _add(total.rejected, source.rejected)
        accounted = source.routed + source.unrouted + sum(source.rejected.values())
        if source.received != accounted:
            total.wrong.append(f"source {source.name}: received {source.received}, accounted for {accounted}")
    for trigger in triggers:
        shed = sum(trigger.shed.values())
        alone = getattr(trigger.source, "alone", 0)  # of a durable one: events that are on disk only
        for name in ("admitted", "handled", "failed", "dead_lettered", "pending", "retried", "duplicates"):
            setattr(total, name, getattr(total, name) + getattr(trigger, name))
        total.pending += alone
        _add(total.shed, trigger.shed)
        accounted = trigger.handled + trigger.failed + trigger.dead_lettered + shed + trigger.pending + alone
        if trigger.admitted != accounted:
            total.wrong.append(f"{trigger.ledger_id}: admitted {trigger.admitted}, accounted for {accounted}")
    return total


def differences(total: Tally) -> list[str]:
    """The equations that do not hold, one sentence each."""
    return total.wrong


def _add(into: dict[str, int], counts: dict[str, int]) -> None:
    for reason, count in counts.items():
        into[reason] = into.get(reason, 0) + count


def _reasons(counts: dict[str, int]) -> str:
    return " (" + ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())) + ")" if counts else ""
