"""The processor in numbers, as Prometheus reads them: text exposition format 0.0.4, a family a piece and no state.

Counters begin with the process; those of a function that was replaced go on. What is counted is what the ledger has
(ledger.py), so a scrape adds up: the numbers are copied at one moment and written out afterwards.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import os
import sys

from .core import port
from .ledger import missing_at_source, missing_at_trigger
from .ledger_sheet import Sheet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from .ledger import SourceRow, TriggerRow
    from .ledger_sheet import Disk
    from .processor import Processor

    Sample = tuple[str, float]  # "name{labels}", value

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Upper bounds of the histogram, in powers of two of nanoseconds: 4 us, then four times as much each, up to 69 s.
# Triggers count calls by the number of bits of their ticks, so these are exact, and none has to be counted again.
BOUNDS = tuple(range(12, 37, 2))
_PIECE = 200  # rows a piece: some 2 ms on a Raspberry Pi, then others have their turn

_COUNTERS = (
    ("admitted", "Events taken into the inbox of a trigger, or turned away there."),
    ("handled", "Events whose handler ended well."),
    ("failed", "Events that failed for good."),
    ("dead_lettered", "Events kept as dead letters after their last attempt."),
    ("retried", "Further attempts of events that had failed."),
    ("duplicates", "Events that had been delivered, or begun, before."),
    ("late", "Calls of inline handlers that took longer than the timeout."),
)


def exposition(processor: Processor) -> Iterator[str]:
    """All metrics of a processor at this moment, in pieces of whole lines."""
    sheet = Sheet(processor)
    about = _about(processor)
    device = processor.manifest.device
    yield from _family(
        "nuclio_edge_info", "gauge", "The device and what runs on it.",
        [(_labels("nuclio_edge_info", name=device.name, id=device.id, namespace=device.namespace, board=device.board,
                  version=version(), python=sys.version.partition(" ")[0]), 1)],
    )  # fmt: skip
    yield from about
    yield from _of_sources(sheet.sources, sheet.states)
    yield from _of_triggers(sheet.triggers)
    yield from _durations(sheet.triggers)
    yield from _of_functions(processor)
    yield from _of_senders(sheet)
    yield from _lifetime(sheet.durable)
    if sheet.spool is not None:
        yield from _of_spool(sheet.spool)
    name = "nuclio_edge_ledger_difference"
    wrong = [
        *((_labels(name, equation="source", of=row.name), missing_at_source(row)) for row in sheet.sources),
        *((_labels(name, equation="trigger", of=row.ledger_id), missing_at_trigger(row)) for row in sheet.triggers),
    ]
    if sheet.spool is not None:
        wrong += [(_labels(name, equation="spool", of=lane.owner, kind=lane.kind), lane.difference)
                  for lane in sheet.spool.lanes]  # fmt: skip
    help_text = "Events of which is not known what became of them; anything but 0 is a defect of nuclio-edge."
    yield from _family(name, "gauge", help_text, wrong)


def version() -> str:
    """The version of nuclio-edge."""
    from nuclio_edge import __version__

    return __version__


def _about(processor: Processor) -> list[str]:
    """What is known of the process itself, under the names that every Prometheus client has for it."""
    found: list[str] = []

    def say(name: str, kind: str, text: str, value: float) -> None:
        found.extend(_family(name, kind, text, [(name, value)]))

    with open("/proc/self/stat", "rb") as file:
        stat = file.read().rpartition(b") ")[2].split()
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    say("process_cpu_seconds_total", "counter", "CPU time, user and system.", (int(stat[11]) + int(stat[12])) / ticks)
    say("process_resident_memory_bytes", "gauge", "Resident memory.", int(stat[21]) * page)
    say("process_virtual_memory_bytes", "gauge", "Virtual memory.", int(stat[20]))
    say("process_threads", "gauge", "Threads.", int(stat[17]))
    say("process_start_time_seconds", "gauge", "When it began, as Unix time.", processor.begun_ms / 1000)
    say("process_open_fds", "gauge", "Open descriptors.", len(os.listdir("/proc/self/fd")) - 1)
    say("nuclio_edge_loop_wakeups_total", "counter", "Turns of the loop.", processor.loop.wakeups)
    say("nuclio_edge_ready", "gauge", "Whether functions are loaded, and sources open or trying.", int(processor.ready))
    budget = processor.budget
    say("nuclio_edge_inbox_bytes", "gauge", "What all inboxes hold.", budget.used)
    say("nuclio_edge_inbox_limit_bytes", "gauge", "What they may hold: device.memory_budget.", budget.limit)
    return found


def _of_sources(rows: list[SourceRow], states: dict[str, str]) -> Iterator[str]:
    base = "nuclio_edge_source_"

    def each(name: str, value: Callable[[SourceRow], float]) -> Iterator[Sample]:
        for row in rows:
            yield _labels(name, source=row.name, kind=row.kind), value(row)

    for what, text in (
        ("received", "Events that came in."),
        ("routed", "Events that became one of a function."),
        ("unrouted", "Events for which no trigger asks."),
    ):
        name = f"{base}{what}_total"
        yield from _family(name, "counter", text, each(name, lambda row, what=what: getattr(row, what)))  # type: ignore[misc]  # bound at once
    name = base + "rejected_total"
    yield from _family(
        name, "counter", "Events, or what was to be one, that were refused.",
        ((_labels(name, source=row.name, kind=row.kind, reason=reason), count)
         for row in rows for reason, count in row.rejected.items()),
    )  # fmt: skip
    name = base + "up"
    yield from _family(
        name, "gauge", "Whether the source is open.", each(name, lambda row: int(states.get(row.name) == "open"))
    )


def _of_triggers(rows: list[TriggerRow]) -> Iterator[str]:
    base = "nuclio_edge_trigger_"
    for what, text in _COUNTERS:
        name = f"{base}{what}_total"
        yield from _family(name, "counter", text, ((_of(name, row), getattr(row, what)) for row in rows))
    name = base + "shed_total"
    yield from _family(
        name, "counter", "Events that were not run, by the reason.",
        ((_of(name, row, reason=reason), count) for row in rows for reason, count in row.shed.items()),
    )  # fmt: skip
    name = base + "pending"
    yield from _family(name, "gauge", "Events that wait or are run.", ((_of(name, row), row.pending) for row in rows))


def _durations(rows: list[TriggerRow]) -> Iterator[str]:
    """How long calls took; of a batch, each event's share."""
    name = "nuclio_edge_call_duration_seconds"
    per_second = port.TICKS_PER_MS * 1000

    def samples() -> Iterator[Sample]:
        for row in rows:
            if not row.buckets:
                continue
            total = 0
            at = 0
            for bound in BOUNDS:
                total += sum(row.buckets[at : bound + 1])
                at = bound + 1
                yield _of(name + "_bucket", row, le=_number((1 << bound) / per_second)), total
            total += sum(row.buckets[at:])
            yield _of(name + "_bucket", row, le="+Inf"), total
            yield _of(name + "_sum", row), row.busy / per_second
            yield _of(name + "_count", row), total

    yield from _family(name, "histogram", "How long calls of handlers took.", samples())


def _of_senders(sheet: Sheet) -> Iterator[str]:
    name = "nuclio_edge_source_sent_total"
    samples: list[Sample] = [(_labels(name, source=key), sent.sent) for key, sent in sheet.sent.items()]
    yield from _family(name, "counter", "Messages of functions that were sent.", samples)
    name = "nuclio_edge_source_unsent_total"
    samples = [(_labels(name, source=key, reason=reason), count)
               for key, sent in sheet.sent.items() for reason, count in sent.shed.items()]  # fmt: skip
    yield from _family(name, "counter", "Messages of functions that were given up, by the reason.", samples)


def _lifetime(rows: list[TriggerRow]) -> Iterator[str]:
    """What durable triggers have counted in all their life: these do not begin with the process."""
    name = "nuclio_edge_durable_events_total"

    def samples() -> Iterator[Sample]:
        for row in rows:
            for outcome in ("handled", "failed", "dead_lettered"):
                yield _of(name, row, outcome=outcome, reason=""), getattr(row, outcome)
            for reason, count in row.shed.items():
                yield _of(name, row, outcome="shed", reason=reason), count

    yield from _family(name, "counter", "What became of events of durable triggers, over restarts.", samples())


def _of_spool(spool: Disk) -> Iterator[str]:
    base = "nuclio_edge_spool_"
    for what, kind, text in (
        ("appended", "counter", "Records that were appended, over restarts; most of them are never written."),
        ("settled", "counter", "Records that are needed no more."),
        ("gap", "counter", "Records that were given up to stay within the limits."),
        ("refused", "counter", "Records that could not be stored."),
        ("pending", "gauge", "Records that are needed."),
    ):
        name = f"{base}{what}" + ("_total" if kind == "counter" else "")
        lanes = ((_labels(name, kind=lane.kind, of=lane.owner), getattr(lane, what)) for lane in spool.lanes)
        yield from _family(name, kind, text, lanes)
    for what, kind, text, value in (
        ("written_bytes_total", "counter", "Bytes written.", spool.written),
        ("commits_total", "counter", "Groups of records that were made durable together.", spool.commits),
        ("damaged_total", "counter", "Records that could not be read.", spool.damaged),
        ("size_bytes", "gauge", "What its files take.", spool.files),
        ("limit_bytes", "gauge", "What they may take.", spool.limit),
        ("up", "gauge", "Whether the disk can be used.", int(not spool.trouble)),
    ):
        yield from _family(base + what, kind, text, [(base + what, value)])


def _of_functions(processor: Processor) -> Iterator[str]:
    functions = list(processor.functions.values())
    name = "nuclio_edge_function_suspended"
    yield from _family(
        name, "gauge", "Functions whose events are turned away at present, by the reason.",
        [(_labels(name, function=one.name, reason=one.suspended), 1) for one in functions if one.suspended is not None],
    )  # fmt: skip
    name = "nuclio_edge_function_info"
    yield from _family(
        name, "gauge", "Functions, with the number of times that they were replaced.",
        [(_labels(name, function=one.name, version=one.version, isolation=one.spec.isolation), 1) for one in functions],
    )  # fmt: skip
    recorder = processor.assembly.recorder
    if recorder is not None:
        name = "nuclio_edge_recorder_dropped_total"
        text = "Events that [record] wants and that are not recorded."
        yield from _family(name, "counter", text, [(name, recorder.dropped)])


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    """One family; nothing where it has no sample."""
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    empty = True
    for series, value in samples:
        empty = False
        lines.append(f"{series} {_number(value)}")
        if len(lines) >= _PIECE:
            yield "\n".join(lines) + "\n"
            lines = []
    if lines and not empty:
        yield "\n".join(lines) + "\n"


def _of(name: str, row: TriggerRow, /, **more: Any) -> str:
    """A series of a trigger."""
    return _labels(name, function=row.function, trigger=row.ledger_id, source=row.source, kind=row.kind, **more)


def _labels(name: str, /, **labels: Any) -> str:
    shown = ",".join(f'{key}="{_escaped(str(value))}"' for key, value in labels.items())
    return f"{name}{{{shown}}}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(value)
