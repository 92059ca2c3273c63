"""`invoke`: one event through a function by the real path (trigger, inbox, worker, settle), with no source opened.

What its outputs and bindings would send is shown; with --send it is sent, by clients that are guests at their brokers.
"""

from __future__ import annotations

import os
import sys

from nuclio_edge.cli import PROGRAM, USAGE
from nuclio_edge.cli.once import Call, Once, text_of
from nuclio_edge.cli.parser import Parser
from nuclio_edge.cli.terminal import Painter, body_text, printable
from nuclio_edge.core.response import JSON

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.model import FunctionSpec, Manifest, TriggerSpec

LEVELS = ("none", "debug", "info", "warn", "error")


def parser() -> Parser:
    """The command's options: those of `nuctl invoke`, and ours."""
    made = Parser(
        "invoke",
        "Run one event through a function of the manifest and print its answer, its logs, and what its outputs and\n"
        "bindings would send. No source is opened. Ends with 3 when the answer's status is 400 or more.",
        "thermostat -b '{\"temperature\": 19.5}'",
        "thermostat edge.toml --topic tele/office/SENSOR -b @reading.json",
        "thermostat -b - < reading.json",
        "thermostat -b 19.5 --send        # what it publishes really goes to the broker",
    )
    add = made.add_argument
    add("function", metavar="FUNCTION", help="its name in the manifest")
    made.manifest()
    add("-b", "--body", default="", metavar="TEXT", help="the event's body; - reads standard input, @FILE a file")
    add("-c", "--content-type", metavar="TYPE", help="default: the trigger's, else none, and fields are sniffed")
    add("-p", "--path", metavar="PATH", help="the event's path; default: one that fits the trigger")
    add("-m", "--method", metavar="METHOD", help="the event's method")
    add("-d", "--headers", default="", metavar="N=V,…", help="headers (MQTT: user properties): name=value[,name=value]")
    add("-l", "--log-level", default="info", choices=LEVELS, help="of the function's logs, on stderr; default: info")
    add("-t", "--timeout", default="1m", metavar="TIME", help='how long to wait for the answer; default: "1m"')
    add("--raise-on-status", action="store_true", help="nuctl's; here a status of 400 and above always ends with 3")
    add("--topic", metavar="TOPIC", help="the topic of an MQTT message; chooses the trigger that it matches")
    add(
        "--trigger",
        metavar="NAME",
        help="the trigger that brings the event: name, source or number; default: the first",
    )
    add("--send", action="store_true", help="send what outputs and bindings send, instead of showing it")
    made.json("one JSON object: function, trigger, status, headers, content_type, body, sent, elapsed_ms")
    return made


def main(arguments: list[str]) -> int:
    """Run the event and print what came of it; 3 when it was answered with 400 or more."""
    options = parser().parse_args(arguments)
    from nuclio_edge.errors import ManifestError
    from nuclio_edge.manifest import load

    try:
        manifest = load(options.manifest)
        spec = _function(manifest, options.function)
        call = _call(options, spec)
    except ManifestError as error:
        print(error, file=sys.stderr)
        return USAGE
    except UsageError as error:
        print(f"{PROGRAM} invoke: {error}", file=sys.stderr)
        return USAGE
    from nuclio_edge.logs import Console, Log

    log = Log() if options.log_level == "none" else Log(Console(options.log_level))
    processor = Once(manifest, log, call)
    try:
        code = processor.answer()
    finally:
        processor.dismiss()
    if call.response is not None:
        (_print_json if options.json else _print)(call, sys.stdout)
        sys.stdout.flush()
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        os._exit(code)  # the handler does not end, or left threads that do not
    return code


class UsageError(ValueError):
    """What is wrong with the command line."""


def _call(options: argparse.Namespace, spec: FunctionSpec) -> Call:
    from nuclio_edge.manifest.units import duration_ms

    limit = duration_ms(options.timeout)
    if not limit:
        raise UsageError(f'--timeout {options.timeout}: write e.g. "30s"')
    return Call(
        spec,
        _trigger(spec, options),
        body=_body(options.body),
        headers=_headers(options.headers),
        content_type=options.content_type,
        method=options.method,
        address=options.topic or options.path,
        level="error" if options.log_level == "none" else options.log_level,
        limit_ms=limit,
        send=options.send,
    )


def _function(manifest: Manifest, name: str) -> FunctionSpec:
    from nuclio_edge.manifest.problems import listed, quote, suggest

    if name in manifest.functions:
        return manifest.functions[name]
    hint = suggest(name, manifest.functions) or (
        f"there are: {listed(manifest.functions)}" if manifest.functions else "there is none"
    )
    raise UsageError(f"{manifest.path} has no function named {quote(name)}; {hint}")


def _trigger(spec: FunctionSpec, options: argparse.Namespace) -> TriggerSpec:
    from nuclio_edge.cli.addresses import clock_trigger, matches
    from nuclio_edge.manifest.problems import listed, quote
    from nuclio_edge.sources.mqtt_params import topic_fault

    triggers = list(spec.triggers)
    if options.trigger is not None:
        wanted = options.trigger
        for key in ("name", "source", "index"):
            found = [trigger for trigger in triggers if str(getattr(trigger, key)) == wanted]
            if found:
                triggers = found
                break
        else:
            there = listed([f"{t.index} ({t.name})" for t in triggers]) or "none"
            raise UsageError(f"{spec.name} has no trigger {quote(wanted)}; there are: {there}")
    if options.topic is not None:
        wrong = topic_fault(options.topic)
        if wrong:
            raise UsageError(wrong)
        triggers = [t for t in triggers if t.kind == "mqtt"]
        found = [t for t in triggers if matches(t.address.topic, options.topic)]
        if not found:
            filters = listed([quote(t.address.topic) for t in triggers])
            there = f"; its filters: {filters}" if filters else ""
            raise UsageError(f"no trigger of {spec.name} takes {quote(options.topic)}{there}")
        triggers = found
    trigger = triggers[0] if triggers else clock_trigger()
    if options.path is not None and trigger.kind == "mqtt" and (wrong := topic_fault(options.path)):
        raise UsageError(wrong)
    return trigger


def _body(given: str) -> bytes:
    if given == "-":
        if sys.stdin is None:
            raise UsageError("--body -: standard input is closed")
        return sys.stdin.buffer.read()
    if given.startswith("@"):
        try:
            with open(given[1:], "rb") as file:
                return file.read()
        except OSError as error:
            raise UsageError(f"--body {given}: {error.strerror}") from None
    return given.encode("utf-8", "surrogateescape")


def _headers(given: str) -> dict[str, str]:
    headers = {}
    for pair in filter(None, given.split(",")):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--headers {pair!r}: write name=value[,name=value]")
        headers[name.strip()] = value
    return headers


def _print(call: Call, out: Any) -> None:
    paint = Painter(out)
    response, event = call.response, call.event
    assert response is not None and event is not None  # noqa: S101, PT018 - it was answered
    title: Callable[[str], str] = lambda text: paint("bold", f"> {text}")  # noqa: E731 - a word for a call
    status = response.status_code
    print(title("Event:"), f"{event.trigger.kind} {event.trigger.name}, {printable(event.path or '')}", file=out)
    took = f"{call.elapsed_ns / 1e6:.1f} ms"
    print(title("Response status:"), paint("red" if status >= 400 else "green", str(status)), f"({took})", file=out)
    print(title("Response headers:"), file=out)
    for name, value in {"Content-Type": response.content_type, **response.headers}.items():
        print(f"{name} = {printable(str(value))}", file=out)
    print(title("Response body:"), file=out)
    print(_pretty(response), file=out)
    if call.sent:
        print(title("Sent:" if call.send else "Would send:"), file=out)
        for sent in call.sent:
            print(sent.line() + (paint("dim", "  # output") if sent.output else ""), file=out)


def _print_json(call: Call, out: Any) -> None:
    from nuclio_edge.core.port import json_dumps

    response = call.response
    assert response is not None  # noqa: S101 - it was answered
    said = {
        "function": call.spec.name,
        "trigger": call.trigger.ledger_id,
        "status": response.status_code,
        "content_type": response.content_type,
        "headers": response.headers,
        "body": text_of(_bytes(response)),
        "really_sent": call.send,
        "sent": [sent.as_dict() for sent in call.sent],
        "elapsed_ms": round(call.elapsed_ns / 1e6, 3),
    }
    print(json_dumps(said), file=out)


def _bytes(response: Response) -> bytes:
    body = response.body
    if isinstance(body, (bytes, str)):
        return body if isinstance(body, bytes) else body.encode()
    return b"".join(part if isinstance(part, bytes) else str(part).encode() for part in body or ())


def _pretty(response: Response) -> str:
    body = _bytes(response)
    if response.content_type == JSON:
        import json

        try:
            return json.dumps(json.loads(body), indent=4, ensure_ascii=False)
        except ValueError:
            pass
    return body_text(body, keep="\n\t")
