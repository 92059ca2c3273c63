"""`explain`: what became of one event, by what the recorder and the log know of it."""

from __future__ import annotations

import json
import sys

from nuclio_edge.cli import ABSENT, OK, PROGRAM, USAGE
from nuclio_edge.cli.parser import DEFAULT_MANIFEST, Parser
from nuclio_edge.cli.refusal import advise
from nuclio_edge.cli.replay import default_file, no_recording, sent_line, shown, stamp, usage, what
from nuclio_edge.cli.terminal import Painter, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from nuclio_edge.manifest.model import Manifest, TriggerSpec
    from nuclio_edge.recorder.recording import Entry, Recording

# Why an event was not handled, in words; those of triggers (`shed` of the ledger).
SHED = {
    "suspended": "the function was suspended: it could not start, kept failing, or its handlers hang (see the log)",
    "drop-oldest": "the inbox was full, and the oldest event went: inbox.when_full",
    "drop-newest": "the inbox was full, and what came was turned away: inbox.when_full",
    "thin": "the inbox was full, and every second event of the busiest address went: inbox.when_full",
    "reject": "the inbox was full, and who asked was told so: inbox.when_full",
    "closed": "the function was being removed or replaced, or the processor was stopping",
    "collapsed": "a newer one of the same sensor took its place while it waited for room",
    "rate-limit": "more came than the trigger's rate_limit lets through",
    "expired": "it had waited for longer than its sender wanted",
}


def parser() -> Parser:
    """The command's options."""
    made = Parser(
        "explain",
        "Tell which trigger took an event and why, how long it waited, who handled it and what came of it: by the\n"
        "recorder's file, and by log records where there are any. Without an id: the recorded events, a line each.",
        "",
        "5d2c10af-17",
        "5d2c10af-17 /media/usb/recorder.bin --log journal.jsonl",
    )
    add = made.add_argument
    add("event", nargs="?", metavar="EVENT_ID", help="as the log has it (event_id); default: list what is recorded")
    add("file", nargs="?", metavar="FILE", help="a recording; default: recorder.bin in the manifest's state_dir")
    add("--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="of the processor; default: ./edge.toml")
    add("--log", metavar="FILE", help="a log in JSON lines, - reads standard input: what it says of the event")
    made.json("one JSON object, or without an id JSON lines")
    return made


def main(arguments: list[str]) -> int:
    """Explain; 4 when nothing is known of the event."""
    options = parser().parse_args(arguments)
    from nuclio_edge.manifest import check
    from nuclio_edge.manifest.problems import render
    from nuclio_edge.recorder.recording import Recording, RecordingError, read

    manifest, problems = check(options.manifest)
    if manifest is None and options.file is None:
        advise(problems, options.manifest, "explain")
        print(render(problems, options.manifest), file=sys.stderr)
        return USAGE
    if options.file is None:
        from nuclio_edge.cli.ask import OtherError, ensure_own

        try:
            ensure_own(options.manifest)
        except OtherError as error:
            print(f"{PROGRAM} explain: {error}; what it records is explained where its file is named", file=sys.stderr)
            return ABSENT
    recording = Recording()
    path = options.file or default_file(manifest)  # type: ignore[arg-type]  # without one a file is named
    trouble = ""
    try:
        recording = read(path)
    except OSError as error:
        trouble = f"{path}: {error.strerror}" + (no_recording(options.file, manifest) if manifest else "")
    except RecordingError as error:
        trouble = f"{path}: {error}"
    if trouble and (options.event is None or options.log is None):
        return usage("explain", trouble)
    if options.event is None:
        return _list(recording, json_lines=options.json)
    try:
        lines = _from_log(options.log, options.event)
    except OSError as error:
        return usage("explain", f"--log {options.log}: {error.strerror}")
    entries = recording.find(options.event)
    (_print_json if options.json else _print)(manifest, entries, lines)
    if entries or lines:
        return OK
    print(f"{PROGRAM} explain: {_unknown(options, recording)}", file=sys.stderr)
    return ABSENT


def _list(recording: Recording, *, json_lines: bool) -> int:
    for entry in recording.entries:
        if json_lines:
            from nuclio_edge.core.port import json_dumps

            print(json_dumps(_as_dict(entry)))
        else:
            print(f"{entry.event.id}  {stamp(entry.event.timestamp_ms)}  {_ending(entry):<12}  {what(entry)}")
    if recording.lost or recording.unreadable:
        print(
            f"{recording.lost} damaged records, {recording.unreadable} unreadable {recording.why}".rstrip(),
            file=sys.stderr,
        )
    return OK


def _print(manifest: Manifest | None, entries: list[Entry], lines: list[dict[str, Any]]) -> None:
    paint = Painter(sys.stdout)
    for entry in entries:
        event = entry.event
        clock = f" (its clock was {event.clock_quality})" if event.clock_quality == "unset" else ""
        print(f"{paint('bold', str(event.id))}  {stamp(event.timestamp_ms)}{clock}  {what(entry)}")
        for text in [*_taken(manifest, entry), *_came_of(entry, _spec(manifest, entry)), *_others(manifest, entry)]:
            print(f"    {text}")
    if lines:
        print(paint("bold", "in the log"))
    for said in lines:
        more = said.get("with") or {}
        pairs = ", ".join(f"{key} {value}" for key, value in more.items() if key != "event_id")
        print(
            printable(
                f"    {said.get('datetime')} {said.get('level')} {said.get('logger')}: {said.get('message')} {pairs}",
                "\n",
            )
        )


def _print_json(manifest: Manifest | None, entries: list[Entry], lines: list[dict[str, Any]]) -> None:
    from nuclio_edge.core.port import json_dumps

    recorded = [{**_as_dict(entry), "others": _others(manifest, entry)} for entry in entries]
    print(json_dumps({"recorded": recorded, "log": lines}))


def _as_dict(entry: Entry) -> dict[str, Any]:
    from nuclio_edge.cli.replay import _plain

    event = entry.event
    return {
        "event_id": event.id,
        "timestamp_ms": event.timestamp_ms,
        "clock_quality": event.clock_quality,
        "came_ms": entry.came_ms,
        "kind": event.kind,
        "function": entry.function,
        "trigger": entry.trigger,
        "trigger_name": entry.trigger_name,
        "repeated": event.repeated,
        "size": event.size,
        "outcome": _plain(entry.outcome),
    }


def _ending(entry: Entry) -> str:
    outcome = entry.outcome
    if outcome is None:
        return "unknown"
    return f"shed {outcome['shed']}" if "shed" in outcome else str(outcome.get("status"))


def _spec(manifest: Manifest | None, entry: Entry) -> TriggerSpec | None:
    triggers = [] if manifest is None else [t for f in manifest.functions.values() for t in f.triggers]
    return next((t for t in triggers if t.ledger_id == entry.trigger and t.kind == entry.event.kind), None)


def _taken(manifest: Manifest | None, entry: Entry) -> list[str]:
    """Which trigger took the event, and by which of its keys."""
    spec = _spec(manifest, entry)
    address = (
        f": {_address(spec)}"
        if spec is not None
        else ""
        if manifest is None
        else ", which the manifest has not any more"
    )
    lines = [f'taken by {entry.trigger} "{entry.trigger_name}"{address}']
    if entry.event.repeated:
        lines.append("it may have been handled before: the process ended, or its sender sent it again")
    if entry.trimmed:
        lines.append("its body was too large to be recorded")
    return lines


def _came_of(entry: Entry, spec: TriggerSpec | None) -> list[str]:
    outcome = entry.outcome
    if outcome is None:
        return [
            "no outcome was recorded: it was queued or running when the file was written, or when the process ended"
        ]
    if "shed" in outcome:
        reason = str(outcome["shed"])
        return [f"not handled, shed ({reason}): {SHED.get(reason, 'see the log')}"]
    lines = []
    parts = []
    if "waited_us" in outcome:
        parts.append(f"waited {outcome['waited_us'] / 1000:.1f} ms in the inbox")
    if "ran_us" in outcome:
        parts.append(f"ran {outcome['ran_us'] / 1000:.1f} ms on worker {outcome.get('worker')}")
    attempts = outcome.get("attempts", 1)
    parts.append(f"version {outcome.get('version')}, " + ("one attempt" if attempts == 1 else f"{attempts} attempts"))
    lines.append(", ".join(parts))
    status = outcome.get("status")
    if "error" in outcome:
        lines.append(f"failed with {status}:")
        lines += [f"    {printable(line)}" for line in str(outcome["error"]).splitlines()]
        if spec is not None and spec.dead_letter:
            lines.append("kept as a dead letter, unless it has been dropped: nuclio-edge dead-letters")
    elif "stream" in outcome:
        lines.append(f"answered {status}, in parts")
    elif "body" in outcome:
        lines.append(f"answered {status}, {outcome.get('content_type')}: {shown(outcome['body'])}")
    else:
        lines.append(f"handled ({status}), nothing returned")
    lines += [f"sent {sent_line(note)}" for note in outcome.get("sent", ())]
    if outcome.get("sent_left_out"):
        lines.append(f"and {outcome['sent_left_out']} things more were sent")
    return lines


def _others(manifest: Manifest | None, entry: Entry) -> list[str]:
    """Of the other triggers on the same source, why they took the event or did not."""
    mine = _spec(manifest, entry)
    if manifest is None or mine is None:
        return []
    try:
        event = entry.event.event(None)
        topic, path, method = event.topic or "", event.path or "", event.method or ""
    except Exception:  # noqa: BLE001 - an event of a file that somebody may have made up
        return []
    said = []
    for function in manifest.functions.values():
        for spec in function.triggers:
            if spec.source != mine.source or spec.ledger_id == mine.ledger_id:
                continue
            if function.disabled:
                why = "its function is disabled"
            elif function.name == mine.function and spec.kind not in ("http", "coap", "timer"):
                why = "a function gets an event once, by the first trigger that matches"
            elif spec.kind == "mqtt":
                from nuclio_edge.cli.addresses import matches

                took = matches(spec.address.topic, topic)
                why = (
                    f"takes it too: {_address(spec)}" if took else f"{_address(spec)} does not match {printable(topic)}"
                )
            elif spec.kind in ("http", "coap"):
                why = f"{_address(spec)} is not as close to {method} {printable(path)}"
            else:
                continue
            said.append(f"{spec.ledger_id}: {why}")
    return said


def _address(spec: TriggerSpec) -> str:
    """A trigger's keys as the manifest spells them."""
    from nuclio_edge.registry import tables

    fields = tables(spec.kind).TRIGGER
    keys = [(key, getattr(spec.address, key)) for key in spec.address.__slots__]
    keys = [(key, f"{value}ms" if fields[key].type == "duration" and value else value) for key, value in keys]
    return ", ".join(
        f"{key} = {json.dumps(value, default=str)}" for key, value in keys if value not in (None, (), {}, "", False)
    )


def _from_log(path: str | None, event_id: str) -> list[dict[str, Any]]:
    """The records of a log, JSON lines, that are about the event; others, and what is none, are passed over."""
    if path is None:
        return []
    found = []
    with open(0 if path == "-" else path, encoding="utf-8", errors="replace", closefd=path != "-") as file:
        for line in file:
            if event_id not in line:
                continue
            try:
                said = json.loads(line[line.index("{") :])  # after what journalctl puts before it
            except ValueError:
                continue
            if not isinstance(said, dict):
                continue
            more = said.get("with")
            ids = (said.get("event_id"), more.get("event_id") if isinstance(more, dict) else None)
            if event_id in ids:
                found.append(said)
    return found


def _unknown(options: argparse.Namespace, recording: Recording) -> str:
    """What can be said of an event that is nowhere."""
    wanted = options.event
    boot, _, number = wanted.rpartition("-")
    same = [entry for entry in recording.entries if (entry.event.id or "").rpartition("-")[0] == boot and boot]
    if same and number.isdigit():
        numbers = [int((entry.event.id or "").rpartition("-")[2]) for entry in same]
        if int(number) < min(numbers):
            return (
                f"event {wanted} came before the oldest one that is still recorded of that process ({same[0].event.id})"
            )
        if int(number) > max(numbers):
            return f"event {wanted} came after the last one that is recorded of that process ({same[-1].event.id})"
        return f"event {wanted} came while that process recorded, by a trigger that [record] does not name"
    known = "there is no event of that process in the recording" if recording.entries else "nothing is recorded"
    return (
        f"nothing is known of event {wanted}: {known}. Only events of triggers that [record] names are kept; what a"
        " source rejects never becomes an event, and is counted by reason (`rejected` in the last line of run)"
    )
