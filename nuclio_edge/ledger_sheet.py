"""The ledger at one moment: a row a source, a row a trigger, a row a kind of record of the spool, and what is wrong.

A sheet is a copy, so that it can be written out over several turns of the loop and still add up.
"""

from __future__ import annotations

from .core import port
from .ledger import (
    SourceRow,
    counted,
    missing_at_source,
    missing_at_trigger,
    row_of,
    source_sentence,
    trigger_sentence,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from .delivery.delivery import Delivery
    from .ledger import TriggerRow
    from .processor import Processor


class Sheet:
    """`sources` and `triggers` since the process began: in the order of the manifest, then what is there no more.

    `durable` has the triggers that count over restarts, `spool` the records on disk; both empty where nothing is kept.
    """

    def __init__(self, processor: Processor) -> None:
        self.at_ms = port.now_ms()
        self.begun_ms = processor.begun_ms
        # One that settles yields its name to the one that took its place.
        self.states = {source.name: source.state for source in reversed(counted(processor)[0])}
        self.sources: list[SourceRow] = []
        self.triggers: list[TriggerRow] = []
        self._copy(processor)
        self.sent = {source.name: Sent(source.publisher) for source in processor.sources.values()
                     if hasattr(source, "publisher")}  # fmt: skip
        self.differences = [source_sentence(row) for row in self.sources if missing_at_source(row)]
        self.differences += [trigger_sentence(row) for row in self.triggers if missing_at_trigger(row)]
        delivery = processor.delivery
        self.durable: list[TriggerRow] = []
        self.recovered: dict[str, int] = {}
        self.spool: Disk | None = None
        if delivery is not None:
            found = [delivery.ledger.row(key) for key in delivery.ledger.keys()]  # noqa: SIM118 - it is no mapping
            self.durable = [row for row in found if row is not None]
            self.recovered = dict(delivery.recovered)
            self.spool = Disk(delivery)
            self.differences += delivery.differences()

    def _copy(self, processor: Processor) -> None:
        sources: dict[str, SourceRow] = {}
        here, triggers_here = counted(processor)
        for source in [*here, *processor.gone.sources.values()]:
            row = sources.get(source.name)
            if row is None:
                row = sources[source.name] = SourceRow(source.name, source.kind)
            row.add(source)
        triggers: dict[str, TriggerRow] = {}
        for trigger in [*triggers_here, *processor.gone.triggers.values()]:
            found = triggers.get(trigger.ledger_id)
            if found is None:
                found = triggers[trigger.ledger_id] = row_of(trigger)
            found.add(trigger)
        self.sources = list(sources.values())
        self.triggers = list(triggers.values())

    def lines(self) -> Iterator[str]:
        """The sheet as one JSON object, a row a piece."""
        head = {"at": self.at_ms, "since": self.begun_ms, "balanced": not self.differences}
        yield port.json_dumps(head)[:-1] + ',"sources":{'
        yield from _entries((source.name, self._about_source(source)) for source in self.sources)
        yield '},"triggers":{'
        yield from _entries((row.ledger_id, {**_about(row), **self._beside(row)}) for row in self.triggers)
        yield '},"durable":{'
        yield from _entries((row.ledger_id, _about(row)) for row in self.durable)
        yield '},"spool":' + (port.json_dumps(self.spool.as_dict()) if self.spool is not None else "null")
        yield ',"differences":' + port.json_dumps(self.differences) + "}\n"

    def _beside(self, row: TriggerRow) -> dict[str, int]:
        """What is counted beside the equation."""
        recovered = self.recovered.get(row.ledger_id, 0)
        return {"retried": row.retried, "duplicates": row.duplicates, "late": row.late, "recovered": recovered}

    def _about_source(self, row: SourceRow) -> dict[str, Any]:
        said = {
            "kind": row.kind,
            "state": self.states.get(row.name, "gone"),
            "received": row.received,
            "routed": row.routed,
            "unrouted": row.unrouted,
            "rejected": row.rejected,
            "difference": missing_at_source(row),
        }
        sent = self.sent.get(row.name)
        return said if sent is None else {**said, "sent": sent.sent, "unsent": sent.shed, "waiting": sent.waiting}


class Sent:
    """What a source has sent of what functions gave it, what it gave up, by reason, and what waits in memory."""

    def __init__(self, publisher: Any) -> None:
        self.sent: int = publisher.sent
        self.shed: dict[str, int] = dict(publisher.shed)
        self.waiting: int = publisher.waiting


class Lane:
    """The records of one kind and owner: appended = settled + gap + pending."""

    def __init__(self, kind: str, lane: Any) -> None:
        self.kind = kind
        self.owner = str(lane.key)
        self.appended: int = lane.appended
        self.settled: int = lane.settled
        self.gap: int = lane.gap
        self.pending: int = lane.pending
        self.refused: int = lane.refused
        self.difference: int = lane.difference()


class Disk:
    """The spool."""

    def __init__(self, delivery: Delivery) -> None:
        from .delivery.backlog import NAMES

        spool = delivery.spool
        self.lanes = [Lane(NAMES.get(lane.kind, str(lane.kind)), lane) for lane in spool.log.lanes]
        self.trouble: str = spool.trouble
        self.written: int = spool.written
        self.commits: int = spool.commits
        self.damaged: int = spool.damaged
        self.files: int = sum(spool.log.sizes.values())
        self.limit: int = spool.log.limit
        self.refused: dict[str, int] = dict(spool.refused)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("appended", "settled", "gap", "pending", "difference")
        return {
            "usable": not self.trouble,
            "trouble": self.trouble or None,
            "size": self.files,
            "max_size": self.limit,
            "written": self.written,
            "commits": self.commits,
            "damaged": self.damaged,
            "refused": self.refused,
            "records": [
                {"kind": lane.kind, "of": lane.owner, **{name: getattr(lane, name) for name in names}}
                for lane in self.lanes
            ],
        }


def _about(row: TriggerRow) -> dict[str, Any]:
    """What became of a trigger's events."""
    return {
        "function": row.function,
        "source": row.source,
        "kind": row.kind,
        "admitted": row.admitted,
        "handled": row.handled,
        "failed": row.failed,
        "dead_lettered": row.dead_lettered,
        "shed": row.shed,
        "pending": row.pending,
        "difference": missing_at_trigger(row),
    }


def _entries(found: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    comma = ""
    for name, about in found:
        yield f"{comma}{port.json_dumps(name)}:{port.json_dumps(about)}"
        comma = ","
