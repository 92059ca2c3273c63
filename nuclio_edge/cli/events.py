"""`events`: what the sources bring, before there is a function; the real processor, if one runs, misses nothing."""

from __future__ import annotations

import sys
import time

from nuclio_edge.cli import OK, PROGRAM, USAGE
from nuclio_edge.cli.beside import Beside
from nuclio_edge.cli.parser import Parser
from nuclio_edge.cli.refusal import refusal
from nuclio_edge.cli.terminal import Painter, body_text, printable
from nuclio_edge.core.inbox import Trigger

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, TextIO

    from nuclio_edge.core.event import Event
    from nuclio_edge.logs import Log
    from nuclio_edge.manifest.model import Manifest, TriggerSpec

LONGEST = 400  # characters of a body on a terminal


def parser() -> Parser:
    """The command's options."""
    made = Parser(
        "events",
        "Print every event of the manifest's sources until Ctrl-C. A broker is asked for the topics of the triggers,\n"
        "or for everything where there is no trigger yet; a processor that runs beside it misses nothing.",
        "",
        "--topic 'zigbee2mqtt/#' --topic 'tele/+/SENSOR'",
        "--count 100 --save events.jsonl",
        "| jq -r .topic",
    )
    made.manifest()
    made.add_argument("--topic", action="append", metavar="FILTER", help="instead of the triggers'; may be repeated")
    made.add_argument("--source", action="append", metavar="NAME", help="only this source; may be repeated")
    made.add_argument("--count", type=int, metavar="N", help="end after N events")
    made.add_argument("--save", metavar="FILE", help="append the events to a file too, as JSON lines")
    made.json("JSON lines on a terminal too; in a pipe they are the rule")
    return made


def main(arguments: list[str]) -> int:
    """Print events until Ctrl-C or --count."""
    options = parser().parse_args(arguments)
    from nuclio_edge.errors import ManifestError
    from nuclio_edge.logs import Console, Log
    from nuclio_edge.manifest import load
    from nuclio_edge.manifest.problems import listed, quote, suggest

    if options.count is not None and options.count < 1:
        return _usage("--count is at least 1")
    try:
        manifest = load(options.manifest)
    except ManifestError as error:
        print(refusal(error, "events"), file=sys.stderr)
        return USAGE
    for name in options.source or ():
        if name not in manifest.sources:
            hint = suggest(name, manifest.sources) or f"there are {listed(manifest.sources)}"
            return _usage(f"no source is named {quote(name)}; {hint}")
    for topic in options.topic or ():
        from nuclio_edge.sources.mqtt_params import filter_fault

        wrong = filter_fault(topic)
        if wrong:
            return _usage(wrong)
    try:
        printer = Printer(options)
    except OSError as error:
        return _usage(f"--save {options.save}: {error.strerror}")
    with printer:
        log = Log(Console("warn", text=sys.stderr.isatty()))
        return _observe(Observer(manifest, log, options, printer))


def _observe(observer: Observer) -> int:
    try:
        observer.open()
        if not observer.watched:
            return _usage("the manifest has no source that brings events by itself; name one, or a topic")
        print("events of " + ", ".join(observer.watched) + "; Ctrl-C ends", file=sys.stderr)
        observer.run()
    except KeyboardInterrupt:  # the usual end
        pass
    finally:
        observer.dismiss()
    if observer.broken is not None:
        raise observer.broken
    return OK


def _usage(message: str) -> int:
    print(f"{PROGRAM} events: {message}", file=sys.stderr)
    return USAGE


class Printer:
    """Writes events: JSON lines in a pipe and into the file, a line for people on a terminal."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.left: int | None = options.count
        self._paint = Painter(sys.stdout)
        self._json = options.json or not sys.stdout.isatty()
        self._file: TextIO | None = open(options.save, "a", encoding="utf-8") if options.save else None  # noqa: SIM115

    def __enter__(self) -> Printer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def show(self, event: Event) -> bool:
        """Write one event; whether it was the last one wanted."""
        line = as_json(event)
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()
        # In one piece: Ctrl-C between a line and its end would leave half of it where stdout is not buffered.
        print((line if self._json else self._line(event)) + "\n", end="", flush=True)
        if self.left is not None:
            self.left -= 1
        return self.left == 0

    def _line(self, event: Event) -> str:
        paint = self._paint
        stamp = time.strftime("%H:%M:%S", time.localtime(event.timestamp_ms // 1000))
        flags = ""
        if getattr(event, "qos", 0):
            flags += f" qos {event.qos}"
        if getattr(event, "retain", False):
            flags += " retained"
        where = printable(event.path or "")
        head = f"{paint('dim', f'{stamp}.{event.timestamp_ms % 1000:03d}')}  {paint('cyan', event.source.name)}  "
        kind = f" {event.content_type}" if event.content_type else ""
        return f"{head}{paint('bold', where)}{paint('dim', flags + kind)}  {body_text(event.raw_body, LONGEST)}"


class Observer(Beside):
    """A processor without functions, whose triggers show their events and settle them."""

    def __init__(self, manifest: Manifest, log: Log, options: argparse.Namespace, printer: Printer) -> None:
        super().__init__(manifest, log, "events", {})
        self.watched: list[str] = []
        self.broken: OSError | None = None
        self.name = "events"  # of the one "function" that gets every event once
        self.outputs: list[Any] = []
        self._printer = printer
        self._specs = _wanted(manifest, options)

    def wanted_sources(self, manifest: Manifest) -> list[str]:
        """Those whose triggers are looked through."""
        return list(dict.fromkeys(spec.source for spec in self._specs))

    def route(self) -> None:
        """Give the sources triggers that show what they get."""
        routes: dict[str, list[Trigger]] = {name: [] for name in self.sources}
        for spec in self._specs:
            trigger = Trigger(self, self.sources[spec.source], self.loop, spec.ledger_id, spec.name, spec=spec)
            trigger.submit = lambda event, trigger=trigger: self._show(trigger, event)  # type: ignore[misc]
            routes[spec.source].append(trigger)
        for name, triggers in routes.items():
            self.sources[name].routes(triggers)
        topics: dict[str, list[str]] = {}
        for spec in self._specs:
            topics.setdefault(spec.source, []).append(_address(spec))
        self.watched = [f"{name} ({', '.join(dict.fromkeys(found))})" for name, found in topics.items()]

    def _show(self, trigger: Trigger, event: Event) -> bool:
        trigger.admitted += 1
        trigger.handled += 1
        if event._token is not None:
            trigger.source.settle(event, None, None)
        if self.broken is None and self._printer.left != 0:
            try:
                last = self._printer.show(event)
            except OSError as error:  # the reader is gone, or the disk is full
                self.broken = error
                last = True
            if last:
                self.loop.call_soon(self.stop)  # not now: the source is in the middle of its turn
        return True


def _wanted(manifest: Manifest, options: argparse.Namespace) -> list[TriggerSpec]:
    """The triggers to look through: those of the manifest, or one for each --topic, or # of a broker without any."""
    from nuclio_edge.cli.addresses import mqtt_trigger, without_share

    found = []
    for name, source in manifest.sources.items():
        if options.source and name not in options.source:
            continue
        own = [t for f in manifest.functions.values() for t in f.triggers if t.source == name]
        if source.kind == "mqtt":
            like = {without_share(t.address.topic): t for t in reversed(own)}  # of several with one filter the first
            filters = map(without_share, options.topic or [t.address.topic for t in own] or ["#"])
            found += [mqtt_trigger(name, topic, at, like.get(topic)) for at, topic in enumerate(dict.fromkeys(filters))]
        elif not options.topic:
            found += own
    return found


def _address(spec: TriggerSpec) -> str:
    keys = ("topic", "path", "cron", "pin", "line")
    return next((str(value) for key in keys if (value := getattr(spec.address, key, None)) is not None), spec.name)


def as_json(event: Event) -> str:
    """The event as one line: the SDK's form, and beside it what MQTT adds."""
    from nuclio_edge.core.port import json_dumps, json_loads

    said = json_loads(event.to_json())
    for key in ("qos", "retain"):
        if hasattr(event, key):
            said[key] = getattr(event, key)
    said["source"] = event.source.name
    return json_dumps(said)
