"""`replay`: recorded events through the functions once more, and what comes of them that did not come of them then."""

from __future__ import annotations

import os
import sys
import time

from nuclio_edge.cli import FAULT, OK, PROGRAM, USAGE
from nuclio_edge.cli.parser import DEFAULT_MANIFEST, Parser
from nuclio_edge.cli.refusal import refusal
from nuclio_edge.cli.terminal import Painter, body_text, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from nuclio_edge.cli.replay_run import Replay
    from nuclio_edge.manifest.model import FunctionSpec, Manifest
    from nuclio_edge.recorder.recording import Entry, Recording

LEVELS = ("none", "debug", "info", "warn", "error")
LONGEST = 100  # characters of a value on a terminal


def parser() -> Parser:
    """The command's options."""
    made = Parser(
        "replay",
        "Run recorded events through the functions again, each at the time at which it came, and print what changed\n"
        "between the old outcome and the new one. Nothing is opened, nothing sent. Ends with 1 when something changed.",
        "",
        "--function thermostat --path thermostat_new.py",
        "/media/usb/recorder.bin --manifest gateway-7/edge.toml --json",
    )
    add = made.add_argument
    add("file", nargs="?", metavar="FILE", help="a recording; default: recorder.bin in the manifest's state_dir")
    add("--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="the functions' manifest; default: ./edge.toml")
    add("--function", metavar="NAME", help="only the events of this function")
    add("--path", metavar="CODE", help="run this file, or the files of this folder, in the place of the function's own")
    add("--speed", type=float, default=0.0, metavar="N", help="1: as they came, 2: twice as fast; default 0: at once")
    add("-l", "--log-level", default="none", choices=LEVELS, help="of the functions' logs, on stderr; default: none")
    made.json("JSON lines: one for each event that changed, the last one sums up")
    return made


def main(arguments: list[str]) -> int:
    """Replay; 0 when nothing changed, 1 when something did, 2 when nothing could be run."""
    options = parser().parse_args(arguments)
    from nuclio_edge.cli.ask import OtherError, ensure_own
    from nuclio_edge.errors import ManifestError
    from nuclio_edge.manifest import load
    from nuclio_edge.recorder.recording import RecordingError, read

    path = options.file or options.manifest
    try:
        manifest = load(options.manifest)
        if options.file is None:
            ensure_own(options.manifest)
        path = options.file or default_file(manifest)
        recording = read(path)
        functions = _functions(manifest, recording, options)
    except ManifestError as error:
        print(refusal(error, "replay"), file=sys.stderr)
        return USAGE
    except OtherError as error:
        return usage("replay", f"{error}; what it records is replayed where its file is named")
    except OSError as error:
        return usage("replay", f"{path}: {error.strerror}{no_recording(options.file, manifest)}")
    except RecordingError as error:
        return usage("replay", f"{path}: {error}")
    except ValueError as error:
        return usage("replay", str(error))
    return _replay(manifest, recording, functions, options, path)


def default_file(manifest: Manifest) -> str:
    """Where the manifest's processor records."""
    from nuclio_edge.recorder.recording import NAME

    return os.path.join(manifest.device.state_dir, NAME)


def no_recording(file: str | None, manifest: Manifest) -> str:
    """What to do where the manifest's own recording is not there."""
    if file is not None:
        return ""
    if manifest.record.triggers:
        return "; nothing has been recorded yet"
    return '; nothing is recorded without [record], e.g. triggers = ["*/*"]'


def usage(command: str, message: str) -> int:
    """Say what is wrong with the call."""
    print(f"{PROGRAM} {command}: {message}", file=sys.stderr)
    return USAGE


def _functions(manifest: Manifest, recording: Recording, options: argparse.Namespace) -> dict[str, FunctionSpec]:
    """The functions that are to run, with their new code; ValueError says what is wrong with the command line."""
    from nuclio_edge.manifest.model import changed
    from nuclio_edge.manifest.problems import listed, quote, suggest

    recorded = dict.fromkeys(entry.function for entry in recording.entries)
    wanted = options.function
    if wanted is not None and wanted not in manifest.functions:
        hint = suggest(wanted, manifest.functions) or f"there are: {listed(manifest.functions) or 'none'}"
        raise ValueError(f"{manifest.path} has no function named {quote(wanted)}; {hint}")
    if wanted is not None and wanted not in recorded:
        raise ValueError(
            f"no event of {quote(wanted)} is recorded; there are events of: {listed(list(recorded)) or 'none'}"
        )
    names = [name for name in recorded if name in manifest.functions and wanted in (None, name)]
    found = {name: manifest.functions[name] for name in names}
    if options.path is not None:
        if len(names) != 1:
            raise ValueError(f"--path is for one function: add --function, one of {listed(names) or 'none'}")
        found[names[0]] = changed(found[names[0]], **_code(found[names[0]], options.path))
    return found


def _code(spec: FunctionSpec, path: str) -> dict[str, Any]:
    """What of a function's table another file or folder of code changes."""
    path = os.path.abspath(path)
    if os.path.isdir(path):
        if spec.file is None:
            return {"path": path}  # a module of that folder
        inside = os.path.relpath(spec.file, spec.path)
        file = os.path.join(path, os.path.basename(spec.file) if inside.startswith("..") else inside)
        if not os.path.isfile(file):
            raise ValueError(f"--path {path}: there is no {os.path.basename(file)} in it")
        return {"file": file, "path": path, "code": None}
    if not os.path.isfile(path):
        raise ValueError(f"--path {path}: there is no such file or folder")
    return {"file": path, "path": os.path.dirname(path), "code": None}


def _replay(
    manifest: Manifest, recording: Recording, functions: dict[str, FunctionSpec], options: argparse.Namespace, path: str
) -> int:
    from nuclio_edge.cli.replay_run import Replay
    from nuclio_edge.logs import Console, Log

    report = Report(recording, options)
    entries = [entry for entry in recording.entries if report.takes(entry, functions)]
    if not entries:
        report.sum_up(None)
        return usage("replay", f"{path}: nothing in it can be run again")
    print(_headline(entries, functions), file=sys.stderr)
    reasons = Reasons()
    log = Log(reasons) if options.log_level == "none" else Log(Console(options.log_level))
    processor = Replay(manifest, log, functions, entries, report.told, options.speed)
    report.replay = processor
    try:
        processor.run_all()
    finally:
        processor.dismiss()
    if processor.failed:
        print("\n".join(reasons.lines), file=sys.stderr)
        return usage("replay", f"{processor.failed} could not start, nothing of it was run")
    report.sum_up(processor)
    code = FAULT if report.changed else OK
    if not report.ran:
        code = usage("replay", f"{path}: nothing in it could be run again")
    sys.stdout.flush()
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        os._exit(code)  # a handler does not end, or left threads that do not
    return code


class Reasons:
    """A sink that keeps the first errors: why a function could not start."""

    level = 40
    written = dropped = 0

    def __init__(self) -> None:
        self.lines: list[str] = []

    def put(self, record: Any, mask: Any) -> None:
        """Keep it if it is one of the first."""
        if len(self.lines) < 5:
            from nuclio_edge.logs import as_text

            self.lines.append(as_text(record, mask))

    def write(self, loop: Any) -> None:
        """Nothing is written."""

    def finish(self, loop: Any, limit_ms: int) -> None:
        """As above."""


class Report:
    """Tells what changed, event by event, and sums up."""

    def __init__(self, recording: Recording, options: argparse.Namespace) -> None:
        self.replay: Replay | None = None
        self.ran = 0
        self.changed = 0
        self._recording = recording
        self._wanted: str | None = options.function
        self._json: bool = options.json
        self._paint = Painter(sys.stdout)
        self._left: dict[str, int] = {}

    def takes(self, entry: Entry, functions: dict[str, FunctionSpec]) -> bool:
        """Whether an entry is to be run; counts why not."""
        if self._wanted not in (None, entry.function):
            return False
        why = ""
        if entry.function not in functions:
            why = f"no function {entry.function} in the manifest"
        elif entry.trimmed:
            why = "its body was too large to be recorded"
        elif entry.outcome is None:
            why = "no outcome recorded"
        elif "shed" in entry.outcome:
            why = f"shed: {entry.outcome['shed']}"
        if why:
            self._left[why] = self._left.get(why, 0) + 1
        return not why

    def told(self, entry: Entry, outcome: dict[str, Any] | None, why: str) -> None:
        """An entry was run, or could not be."""
        if outcome is None:
            self._left[why] = self._left.get(why, 0) + 1
            return
        self.ran += 1
        assert self.replay is not None  # noqa: S101 - it is the one that tells
        found = changes(entry.outcome or {}, outcome, self.replay.signatures)
        if found:
            self.changed += 1
            (self._as_json if self._json else self._as_text)(entry, found)

    def sum_up(self, _replay: Replay | None) -> None:
        """The last word."""
        left = dict(self._left)
        recording = self._recording
        if recording.lost:
            left["damaged"] = recording.lost
        if recording.unreadable:
            left[f"unreadable: {recording.why}"] = recording.unreadable
        if self._json:
            from nuclio_edge.core.port import json_dumps

            summary = {"replayed": self.ran, "changed": self.changed, "same": self.ran - self.changed}
            print(json_dumps({"summary": {**summary, "not_replayed": left}}))
            return
        line = f"{self.ran} replayed: {self.changed} changed, {self.ran - self.changed} the same"
        if left:
            line += "; not replayed: " + ", ".join(f"{count} ({why})" for why, count in left.items())
        print(line)

    def _as_json(self, entry: Entry, found: dict[str, tuple[Any, Any]]) -> None:
        from nuclio_edge.core.port import json_dumps

        said = {
            "event_id": entry.event.id,
            "function": entry.function,
            "trigger": entry.trigger,
            "timestamp_ms": entry.event.timestamp_ms,
            "changes": {key: {"old": _plain(old), "new": _plain(new)} for key, (old, new) in found.items()},
        }
        print(json_dumps(said))

    def _as_text(self, entry: Entry, found: dict[str, tuple[Any, Any]]) -> None:
        paint = self._paint
        print(f"{paint('bold', str(entry.event.id))}  {stamp(entry.event.timestamp_ms)}  {what(entry)}")
        for key, (old, new) in found.items():
            if key == "sent":
                for note in old:
                    if note not in new:
                        print(f"    sent    {paint('red', '- ' + sent_line(note))}")
                for note in new:
                    if note not in old:
                        print(f"    sent    {paint('green', '+ ' + sent_line(note))}")
                if sorted(map(repr, old)) == sorted(map(repr, new)):
                    print("    sent    in another order")
            else:
                print(f"    {key:<7} {paint('red', shown(old))} -> {paint('green', shown(new))}")


def changes(
    old: dict[str, Any], new: dict[str, Any], signatures: dict[tuple[str, str], Any]
) -> dict[str, tuple[Any, Any]]:
    """What differs between two outcomes: status, error, body, content_type, headers, sent; each as (old, new)."""
    from nuclio_edge.cli.replay_run import canonical

    found: dict[str, tuple[Any, Any]] = {}
    in_parts = "stream" in old or "stream" in new
    for key in ("status", "error", "body", "content_type", "headers"):
        if in_parts and key not in ("status", "error"):
            continue
        before, after = old.get(key), new.get(key)
        if key == "error":
            before, after = _last_line(before), _last_line(after)
        if before != after:
            found[key] = before, after
    sent = [[canonical(note, signatures) for note in outcome.get("sent", ())] for outcome in (old, new)]
    if sent[0] != sent[1]:
        found["sent"] = sent[0], sent[1]
    if "error" in found:  # an error's answer only tells it once more
        found.pop("content_type", None)
        answers = [None if "error" in outcome else outcome.get("body") for outcome in (old, new)]
        found["body"] = answers[0], answers[1]
    if found.get("body") == (None, None):
        del found["body"]
    return found


def what(entry: Entry) -> str:
    """An entry's event in a few words."""
    try:
        event = entry.event.event(None)
        where = event.topic or event.path or ""
    except Exception:  # noqa: BLE001 - an event of a file that somebody may have made up
        where = ""
    return f"{entry.function}/{entry.trigger_name}  {printable(where)}  {body_text(entry.event.body, LONGEST)}".rstrip()


def stamp(ms: int) -> str:
    """A wall time for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms // 1000)) + f".{ms % 1000:03d}"


def shown(value: Any) -> str:
    """A value of an outcome for people."""
    if value is None:
        return "nothing"
    if isinstance(value, bytes):
        return body_text(value, LONGEST)
    if isinstance(value, dict) and "~digest" in value:
        return f"{value['size']} bytes, {value['~digest']}"
    text = printable(str(value))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def sent_line(note: list[Any]) -> str:
    """What was sent as it would stand in a handler."""
    to, call, arguments, named = note[:4]
    given = [shown_argument(one) for one in arguments] + [f"{key}={shown_argument(one)}" for key, one in named.items()]
    return printable(f"{to}.{call or 'output'}({', '.join(given)})")


def shown_argument(value: Any) -> str:
    """An argument as Python spells it."""
    if isinstance(value, dict) and "~digest" in value:
        return f"<{shown(value)}>"
    if isinstance(value, dict) and "~repr" in value:
        return str(value["~repr"])
    return repr(value.decode()) if isinstance(value, bytes) and value.isascii() else repr(value)


def _plain(value: Any) -> Any:
    """A value of an outcome for JSON."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return repr(value)
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return value


def _last_line(error: Any) -> Any:
    """What an error says, without where: lines of code move."""
    return str(error).strip().rpartition("\n")[2] if error is not None else None


def _headline(entries: list[Entry], functions: dict[str, FunctionSpec]) -> str:
    first, last = entries[0], entries[-1]
    device = (last.start or {}).get("device")
    ran = [spec.file or name for name, spec in functions.items()]
    span = f"{stamp(first.event.timestamp_ms)} to {stamp(last.event.timestamp_ms)}"
    return f"{len(entries)} events, recorded {span}{f' on {device}' if device else ''}, through {', '.join(ran)}"
