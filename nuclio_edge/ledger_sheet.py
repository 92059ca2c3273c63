"""The ledger at one moment: a row a source, a row a trigger, the spool, and what does not add up.

A sheet is a copy, so that it can be written out over several turns of the loop and still add up.
"""

from __future__ import annotations

from .core import port
from .ledger import (
    SourceRow,
    missing_at_source,
    missing_at_trigger,
    row_of,
    source_sentence,
    trigger_sentence,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .ledger import TriggerRow
    from .processor import Processor


class Sheet:
    """`sources` and `triggers` in the order of the manifest, then those that are there no more."""

    def __init__(self, processor: Processor) -> None:
        self.at_ms = port.now_ms()
        self.boot_ms = processor.begun_ms
        self.sources: list[SourceRow] = []
        self.triggers: list[TriggerRow] = []
        # One that settles yields its name to the one that took its place.
        self.states = {source.name: source.state for source in reversed(processor.counted_sources())}
        self._copy(processor)
        self.differences = [source_sentence(row) for row in self.sources if missing_at_source(row)]
        self.differences += [trigger_sentence(row) for row in self.triggers if missing_at_trigger(row)]

    def _copy(self, processor: Processor) -> None:
        sources: dict[str, SourceRow] = {}
        for source in [*processor.counted_sources(), *processor.gone.sources.values()]:
            row = sources.get(source.name)
            if row is None:
                row = sources[source.name] = SourceRow(source.name, source.kind)
            row.add(source)
        triggers: dict[str, TriggerRow] = {}
        counted: list[Any] = [*processor.counted_triggers(), *processor.gone.triggers.values()]
        for trigger in counted:
            found = triggers.get(trigger.ledger_id)
            if found is None:
                found = triggers[trigger.ledger_id] = row_of(trigger)
            found.add(trigger)
        self.sources = list(sources.values())
        self.triggers = list(triggers.values())

    def lines(self) -> Iterator[str]:
        """The sheet as one JSON object, a row a piece."""
        head = {"at": self.at_ms, "since": self.boot_ms, "balanced": not self.differences}
        yield port.json_dumps(head)[:-1] + ',"sources":{'
        for at, source in enumerate(self.sources):
            yield ("," if at else "") + _entry(source.name, self.about_source(source))
        yield '},"triggers":{'
        for at, trigger in enumerate(self.triggers):
            yield ("," if at else "") + _entry(trigger.ledger_id, about_trigger(trigger))
        yield '},"differences":' + port.json_dumps(self.differences) + "}\n"

    def about_source(self, row: SourceRow) -> dict[str, Any]:
        """A source's row."""
        return {
            "kind": row.kind,
            "state": self.states.get(row.name, "gone"),
            "received": row.received,
            "routed": row.routed,
            "unrouted": row.unrouted,
            "rejected": row.rejected,
            "difference": missing_at_source(row),
        }


def about_trigger(row: TriggerRow) -> dict[str, Any]:
    """A trigger's row."""
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
        "retried": row.retried,
        "duplicates": row.duplicates,
        "late": row.late,
        "difference": missing_at_trigger(row),
    }


def _entry(name: str, about: dict[str, Any]) -> str:
    return f"{port.json_dumps(name)}:{port.json_dumps(about)}"
