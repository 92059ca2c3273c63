"""The command line: one module a command, imported only when it is called.

`run FILE`, the one that stays in memory, loads neither argparse nor anything of the other commands.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "nuclio-edge"

# Exit codes; DESIGN.md fixes them and docs/cli.md tells them.
OK, FAULT, USAGE, ANSWERED, ABSENT, UNDRAINED, RESTART = 0, 1, 2, 3, 4, 5, 75
INTERRUPTED = 130  # what a shell expects of a program that ended by Ctrl-C

# name -> what it is for, in the order in which help shows them
COMMANDS = {
    "run": "run a processor until it is told to stop",
    "check": "read a manifest and say everything that is wrong with it",
    "invoke": "run one event through a function, and show what it would send",
    "ledger": "show what came in and what became of it, and whether that adds up",
    "replay": "run recorded events through the functions again, and print what changed",
    "explain": "tell what became of an event: which trigger took it, how long it waited, what came of it",
    "dead-letters": "list, show, send again or drop the events that have failed for good",
    "events": "print the events of every source, before there is a function",
    "new": "make a folder with a manifest and a function that runs",
    "boards": "show the boards that are known, with their pins, and which one this is",
    "sim": "set, get and watch the pins, sensors and serial ports of a simulated board",
    "version": "print the version",
}

_EXAMPLES = """examples:
  nuclio-edge new door && nuclio-edge run door/edge.toml
  nuclio-edge check edge.toml
  nuclio-edge events --topic 'zigbee2mqtt/#'
  nuclio-edge invoke thermostat -b '{"temperature": 19.5}'

`nuclio-edge COMMAND --help` tells a command's options. A manifest is ./edge.toml unless another one is named.
exit codes: 0 ok, 1 fault, 2 usage or manifest, 3 the function answered 400 or more,
            4 no processor runs, 5 events undrained, 75 restart"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` without the program's name, default: the process's."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0] if given else "help"
    if name != "run":  # which has its own way with descriptors
        from nuclio_edge.cli.streams import prepare

        prepare()
    try:
        try:
            code = _call(name, given)
        except SystemExit as end:  # argparse's way out of --help and of a wrong option
            code = end.code if isinstance(end.code, int) else OK
        if sys.stdout is not None and not sys.stdout.closed:  # a daemon has none, and a handler may have closed it
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = _unread(OK)
    except OSError as error:
        if name == "run":  # there it is a defect, and the trace is what is wanted
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"{PROGRAM} {name}: {where}{error.strerror or error}", file=sys.stderr)
        code = _unread(FAULT)
    return code


def _call(name: str, given: Sequence[str]) -> int:
    rest = list(given[1:])
    if name in ("-h", "--help", "help"):
        if rest and rest[0] in COMMANDS:
            name, rest = rest[0], ["--help"]
        else:
            return _help(sys.stdout if given else sys.stderr)
    if name in ("-V", "--version"):
        name = "version"
    if name not in COMMANDS:
        return _unknown(name)
    # Not importlib.import_module: importlib is not loaded on the way of `run`.
    module = f"{__name__}.{name.replace('-', '_')}"
    __import__(module)
    code: int = sys.modules[module].main(rest)
    return code


def _help(stream: object) -> int:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"usage: {PROGRAM} COMMAND [ARGUMENTS]", "", "commands:"]
    lines += [f"  {name:<{width}}{purpose}" for name, purpose in COMMANDS.items()]
    print("\n".join([*lines, "", _EXAMPLES]), file=stream)  # type: ignore[call-overload]  # a text stream
    return OK if stream is sys.stdout else USAGE


def _unknown(name: str) -> int:
    from nuclio_edge.manifest.problems import quote, suggest

    hint = suggest(name, COMMANDS) or f"there are: {', '.join(COMMANDS)}"
    what = "no option is called" if name.startswith("-") else "no command is called"
    print(f"{PROGRAM}: {what} {quote(name)}; {hint}", file=sys.stderr)
    return USAGE


def _unread(code: int) -> int:
    """Whoever read our output has enough (`| head`), or the disk is full: the flush at exit must not fail as well."""
    from nuclio_edge.cli.streams import give_up

    if sys.stdout is not None:
        give_up(sys.stdout)
    return code
