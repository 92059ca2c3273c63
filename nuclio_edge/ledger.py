"""What came in and what became of it, in numbers that must add up.

At a source: received = routed + unrouted + the sum of rejected. At a trigger: admitted = handled + failed +
dead_lettered + the sum of shed + pending. The third equation, the spool's, is in ledger_sheet.py, as is how they are
shown. A difference is a defect of nuclio-edge. Everything here belongs to the loop's thread.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .processor import Processor

# The counters of a trigger that are sums, by their names there; `shed` is one by reason.
COUNTERS = ("admitted", "handled", "failed", "dead_lettered", "pending", "retried", "duplicates", "late")
# Rows kept of what is there no more: a manifest that is read again and again, with other names each time, must not fill
# the memory. What does not fit is counted in a row without a name.
MOST_ROWS = 1000


class SourceRow:
    """The counters of a source, or the sum of those that had its name."""

    __slots__ = ("kind", "name", "received", "rejected", "routed", "unrouted")

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind
        self.received = self.routed = self.unrouted = 0
        self.rejected: dict[str, int] = {}

    def add(self, source: Any) -> SourceRow:
        """Add a source's counters, or another row's; returns itself."""
        self.received += source.received
        self.routed += source.routed
        self.unrouted += source.unrouted
        _add(self.rejected, source.rejected)
        return self


class TriggerRow:
    """The counters of a trigger, or the sum of those that had its ledger id; `busy` and `buckets` as there."""

    __slots__ = (
        "admitted",
        "buckets",
        "busy",
        "dead_lettered",
        "duplicates",
        "failed",
        "function",
        "handled",
        "kind",
        "late",
        "ledger_id",
        "pending",
        "retried",
        "shed",
        "source",
    )

    def __init__(self, ledger_id: str, function: str, source: str, kind: str) -> None:
        self.ledger_id = ledger_id
        self.function = function
        self.source = source
        self.kind = kind
        self.admitted = self.handled = self.failed = self.dead_lettered = self.pending = 0
        self.retried = self.duplicates = self.late = 0
        self.shed: dict[str, int] = {}
        self.busy = 0
        self.buckets: list[int] = []

    def add(self, trigger: Any) -> TriggerRow:
        """Add a trigger's counters, or another row's; returns itself."""
        for name in COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(trigger, name))
        self.pending += _elsewhere(trigger)
        _add(self.shed, trigger.shed)
        self.busy += trigger.busy
        if trigger.buckets:
            old = self.buckets or [0] * len(trigger.buckets)
            self.buckets = [one + other for one, other in zip(old, trigger.buckets, strict=True)]
        return self


class Gone:
    """What was counted by sources and triggers that are there no more, in rows by name and ledger id."""

    __slots__ = ("sources", "triggers")

    def __init__(self) -> None:
        self.sources: dict[str, SourceRow] = {}
        self.triggers: dict[str, TriggerRow] = {}

    def take(self, sources: Iterable[Any] = (), triggers: Iterable[Any] = ()) -> None:
        """Keep the counters of those that go now."""
        for source in sources:
            row = self.sources.get(source.name)
            if row is None:
                name, kind = (source.name, source.kind) if len(self.sources) < MOST_ROWS else ("", "")
                row = self.sources.setdefault(name, SourceRow(name, kind))
            row.add(source)
        for trigger in triggers:
            found = self.triggers.get(trigger.ledger_id)
            if found is None:
                fits = len(self.triggers) < MOST_ROWS
                made = row_of(trigger) if fits else TriggerRow("", "", "", "")
                found = self.triggers.setdefault(made.ledger_id, made)
            found.add(trigger)


class Tally:
    """Sums over sources and triggers, and the equations that did not hold.

    `recovered` counts the admitted events that an earlier process had received and left on disk.
    """

    __slots__ = (
        "admitted",
        "dead_lettered",
        "duplicates",
        "failed",
        "handled",
        "pending",
        "received",
        "recovered",
        "rejected",
        "retried",
        "shed",
        "unrouted",
        "wrong",
    )

    def __init__(self) -> None:
        self.received = self.recovered = self.unrouted = self.admitted = self.handled = self.failed = 0
        self.dead_lettered = self.pending = self.retried = self.duplicates = 0
        self.rejected: dict[str, int] = {}
        self.shed: dict[str, int] = {}
        self.wrong: list[str] = []

    def line(self) -> str:
        """One line for a person: `received 120, handled 118, failed 1, shed 1 (drop-oldest 1)`."""
        parts = [f"received {self.received}"] + ([f"recovered {self.recovered}"] if self.recovered else [])
        parts += [f"handled {self.handled}", f"failed {self.failed}"]
        parts.append(f"shed {sum(self.shed.values())}{reasons(self.shed)}")
        for name in ("dead_lettered", "retried", "unrouted", "pending"):
            count = getattr(self, name)
            if count:
                parts.append(f"{name.replace('_', '-')} {count}")
        if self.rejected:
            parts.append(f"rejected {sum(self.rejected.values())}{reasons(self.rejected)}")
        return ", ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """The same as a plain mapping, for JSON."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "wrong"}


def tally(sources: list[Any], triggers: list[Any], gone: Gone) -> Tally:
    """Add up sources and triggers, also those that are gone, and check each."""
    total = Tally()
    for source in [*sources, *gone.sources.values()]:
        total.received += source.received
        total.unrouted += source.unrouted
        _add(total.rejected, source.rejected)
        if missing_at_source(source):
            total.wrong.append(source_sentence(source))
    for trigger in [*triggers, *gone.triggers.values()]:
        for name in ("admitted", "handled", "failed", "dead_lettered", "pending", "retried", "duplicates"):
            setattr(total, name, getattr(total, name) + getattr(trigger, name))
        total.pending += _elsewhere(trigger)
        _add(total.shed, trigger.shed)
        if missing_at_trigger(trigger):
            total.wrong.append(trigger_sentence(trigger))
    return total


def counted(processor: Processor) -> tuple[list[Any], list[Any]]:
    """The sources that count at present, those of the manifest, those that settle, and our own; and the triggers."""
    calls = processor.assembly.made_calls
    sources = [*processor.sources.values(), *processor.leaving, *([calls] if calls else []), *processor.own_sources]
    return sources, [trigger for function in processor.all_functions() for trigger in function.triggers]


def row_of(trigger: Any) -> TriggerRow:
    """An empty row for a trigger, or for a row."""
    function, source = trigger.function, trigger.source
    return TriggerRow(
        trigger.ledger_id, getattr(function, "name", function), getattr(source, "name", source), trigger.kind
    )


def missing_at_source(source: Any) -> int:
    """How many events were received of which is not known what became of them; negative: too many are known of."""
    count: int = source.received - source.routed - source.unrouted - sum(source.rejected.values())
    return count


def missing_at_trigger(trigger: Any) -> int:
    """How many events were admitted of which is not known what became of them; negative: too many are known of."""
    known = trigger.handled + trigger.failed + trigger.dead_lettered + sum(trigger.shed.values()) + trigger.pending
    count: int = trigger.admitted - known - _elsewhere(trigger)
    return count


def source_sentence(source: Any) -> str:
    """What does not add up at a source."""
    known = f"routed {source.routed}, unrouted {source.unrouted}, rejected {sum(source.rejected.values())}"
    return f"source {source.name}: received {source.received}, {known}: {_missing(missing_at_source(source))}"


def trigger_sentence(trigger: Any) -> str:
    """What does not add up at a trigger."""
    known = ", ".join(
        f"{name.replace('_', '-')} {getattr(trigger, name)}"
        for name in ("admitted", "handled", "failed", "dead_lettered", "pending")
    )
    known += f", shed {sum(trigger.shed.values())}"
    return f"{trigger.ledger_id}: {known}: {_missing(missing_at_trigger(trigger))}"


def reasons(counts: dict[str, int]) -> str:
    """Counts by reason behind their sum: ` (drop-oldest 3, suspended 1)`; empty when there are none."""
    return " (" + ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())) + ")" if counts else ""


def _elsewhere(trigger: Any) -> int:
    """Events of a durable trigger that are pending and not in its inbox: on disk."""
    count: int = getattr(trigger.source, "alone", 0)
    return count


def _missing(count: int) -> str:
    return f"{count} missing" if count > 0 else f"{-count} too many"


def _add(into: dict[str, int], counts: dict[str, int]) -> None:
    for reason, count in counts.items():
        into[reason] = into.get(reason, 0) + count
