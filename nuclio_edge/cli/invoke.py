"""`invoke`: one event through a function by the real path (trigger, inbox, worker, settle).

Where a processor of the manifest runs, it goes through that one; else through one of its own, with no source opened.
What outputs and bindings would send is shown; with --send it is sent: by the processor that runs, else by clients that
are guests at their brokers.
"""

from __future__ import annotations

import os
import sys

from nuclio_edge.cli import ABSENT, ANSWERED, FAULT, OK, PROGRAM, USAGE
from nuclio_edge.cli.parser import Parser
from nuclio_edge.cli.refusal import refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from nuclio_edge.invocation import Wanted
    from nuclio_edge.manifest.model import FunctionSpec, Manifest

LEVELS = ("none", "debug", "info", "warn", "error")


def parser() -> Parser:
    """The command's options: those of `nuctl invoke`, and ours."""
    made = Parser(
        "invoke",
        "Run one event through a function of the manifest and print its answer, its logs, and what its outputs and\n"
        "bindings would send. Where a processor runs it goes through that one, by a worker of its own unless --send;\n"
        "else no source is opened. Ends with 3 when the answer's status is 400 or more.",
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
    add("-p", "--path", metavar="PATH", help="the event's path, of MQTT its topic; default: one that fits")
    add("-m", "--method", metavar="METHOD", help="the event's method")
    add("-d", "--headers", default="", metavar="N=V,…", help="headers (MQTT: user properties): name=value[,name=value]")
    add("-l", "--log-level", default="info", choices=LEVELS, help="of the function's logs, on stderr; default: info")
    add(
        "-t",
        "--timeout",
        default="1m",
        metavar="TIME",
        help='how long to wait for the answer, once the code is loaded; default: "1m"',
    )
    add("--raise-on-status", action="store_true", help="nuctl's; here a status of 400 and above always ends with 3")
    add("--topic", metavar="TOPIC", help="the topic of an MQTT message; chooses the trigger that it matches")
    add(
        "--trigger",
        metavar="NAME",
        help="the trigger that brings the event: name, source or number; default: the first",
    )
    add("--send", action="store_true", help="send what outputs and bindings send, instead of showing it")
    where = made.add_mutually_exclusive_group()
    where.add_argument(
        "--socket",
        metavar="PATH",
        help="of the processor that runs and has to do it; default: that of the manifest, if any",
    )
    where.add_argument("--beside", action="store_true", help="in a process of its own, also where a processor runs")
    made.json(
        "one JSON object: function, trigger (null: it has none), status, content_type, headers, body, body_encoding "
        "(text or base64), really_sent, sent (each: to, call, arguments, output), elapsed_ms, pid (of the processor "
        "that did it, else null)"
    )
    return made


def main(arguments: list[str]) -> int:
    """Run the event and print what came of it; 3 when it was answered with 400 or more."""
    options = parser().parse_args(arguments)
    from nuclio_edge.cli.ask import AbsentError, OtherError, processor_of
    from nuclio_edge.errors import ManifestError

    try:
        wanted, limit_ms = _wanted(options), _limit(options)
        if not options.beside:
            try:
                socket = options.socket or processor_of(options.manifest, _patience_s(limit_ms))
                return _through(options, wanted, limit_ms, socket)
            except OtherError as error:
                _say(f"{error}; it is left alone, and the event is run beside it")
            except AbsentError as error:
                if options.socket:
                    return _say(str(error), ABSENT)
        return _alone(options, wanted, limit_ms)
    except ManifestError as error:
        print(refusal(error, "invoke", options.function), file=sys.stderr)
        return USAGE
    except UsageError as error:
        return _say(str(error), USAGE)
    except BrokenPipeError:  # of our own output: what a processor breaks off is no longer one
        raise
    except ConnectionError as error:
        return _say(str(error), FAULT)


def _through(options: argparse.Namespace, wanted: Wanted, limit_ms: int, socket: str) -> int:
    """Have the processor that runs do it; AbsentError when none does."""
    from urllib.parse import quote, urlencode

    from nuclio_edge.cli.ask import ask
    from nuclio_edge.cli.outcome import of_processor
    from nuclio_edge.core.port import json_dumps, json_loads

    asked = {"whole": "yes", "send": "yes" if options.send else "no", "timeout": f"{limit_ms}ms"}
    asked["logs"] = "error" if options.log_level == "none" else options.log_level
    asked.update({key: getattr(wanted, key) for key in ("trigger", "topic", "path", "method") if getattr(wanted, key)})
    # In the query, not as fields of the request: those of MQTT and CoAP may be what HTTP's cannot.
    fields = {**wanted.headers, **({"Content-Type": wanted.content_type} if wanted.content_type else {})}
    if fields:
        asked["headers"] = json_dumps(fields)
    target = f"/invoke/{quote(options.function, safe='')}?{urlencode(asked)}"
    answer = ask(socket, "POST", target, wanted.body, patience_s=_patience_s(limit_ms))
    if answer.status != 200:
        said = answer.error()
        if answer.status == 408:
            return _say(said, ANSWERED)
        if answer.status in (400, 404):
            raise UsageError(said)
        raise ConnectionError(said)
    for path in json_loads(answer.body)["changed"]:
        _say(f"{os.path.relpath(path)} has changed since it was loaded; --beside runs the file as it is now")
    outcome = of_processor(answer.body)
    if options.log_level != "none":
        outcome.print_logs(sys.stderr)
    outcome.show(sys.stdout, as_json=options.json)
    return ANSWERED if outcome.status >= 400 else OK


def _alone(options: argparse.Namespace, wanted: Wanted, limit_ms: int) -> int:
    """Do it in a process of its own."""
    from nuclio_edge.cli.once import Call, Once
    from nuclio_edge.cli.outcome import of_call
    from nuclio_edge.invocation import choose
    from nuclio_edge.logs import Console, Log
    from nuclio_edge.manifest import load

    manifest = load(options.manifest)
    spec = _function(manifest, options.function)
    try:
        trigger = choose(spec, wanted)
    except ValueError as error:
        raise UsageError(str(error)) from None
    level = "error" if options.log_level == "none" else options.log_level
    call = Call(spec, trigger, wanted, level=level, limit_ms=limit_ms, send=options.send)
    log = Log() if options.log_level == "none" else Log(Console(options.log_level))
    processor = Once(manifest, log, call)
    try:
        code = processor.answer()
    finally:
        processor.dismiss()
    if call.response is not None:
        of_call(call).show(sys.stdout, as_json=options.json)
        sys.stdout.flush()
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        os._exit(code)  # the handler does not end, or left threads that do not
    return code


class UsageError(ValueError):
    """What is wrong with the command line."""


def _say(message: str, code: int = OK) -> int:
    print(f"{PROGRAM} invoke: {message}", file=sys.stderr)
    return code


def _patience_s(limit_ms: int) -> float:
    """How long a processor may take for what it ends after `limit_ms` by itself."""
    return limit_ms / 1000 + 10


def _wanted(options: argparse.Namespace) -> Wanted:
    from nuclio_edge.invocation import Wanted

    return Wanted(
        _body(options.body),
        headers=_headers(options.headers),
        content_type=options.content_type,
        method=options.method,
        path=options.path,
        topic=options.topic,
        trigger=options.trigger,
    )


def _limit(options: argparse.Namespace) -> int:
    from nuclio_edge.manifest.units import duration_ms

    limit = duration_ms(options.timeout)
    if not limit:
        raise UsageError(f'--timeout {options.timeout}: write e.g. "30s"')
    return limit


def _function(manifest: Manifest, name: str) -> FunctionSpec:
    from nuclio_edge.manifest.problems import listed, quote, suggest

    if name in manifest.functions:
        return manifest.functions[name]
    hint = suggest(name, manifest.functions) or (
        f"there are: {listed(manifest.functions)}" if manifest.functions else "there is none"
    )
    raise UsageError(f"{manifest.path} has no function named {quote(name)}; {hint}")


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
