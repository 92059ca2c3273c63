"""`dead-letters`: events that have failed for good, on disk: looked at, sent again, dropped.

Looking only reads, also beside a running processor. To send or drop the state directory must be free.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

from nuclio_edge.cli import FAULT, OK, PROGRAM, USAGE
from nuclio_edge.cli.parser import DEFAULT_MANIFEST, Parser
from nuclio_edge.cli.refusal import refusal
from nuclio_edge.core.port import json_dumps, utc
from nuclio_edge.errors import EdgeError, ManifestError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

    from nuclio_edge.delivery.dead_letters import DeadLetter

ACTIONS = ("list", "show", "send", "drop")
_LONGEST = 60  # characters of an error in the list


def parser() -> Parser:
    """The command's options."""
    made = Parser(
        "dead-letters",
        "list, show: events that have failed for good, also while a processor runs. send: let them be events again at\n"
        "the next start. drop: forget them.",
        "list",
        "show 4711 --body > event.json",
        "send --all --function thermostat",
        "drop 4711 4712",
    )
    made.add_argument("action", nargs="?", default="list", choices=ACTIONS, metavar="list|show|send|drop")
    made.add_argument("ids", nargs="*", type=int, metavar="ID", help="their numbers, as list shows them")
    made.add_argument("--all", action="store_true", help="send, drop: all of them")
    made.add_argument("--function", help="only those of this function")
    made.add_argument("--manifest", default=DEFAULT_MANIFEST, help="of the processor; default: ./edge.toml")
    made.add_argument("--body", action="store_true", help="show: the event's body and nothing else, as it came")
    made.json("JSON instead of text")
    return made


def main(arguments: list[str]) -> int:
    """Do what was asked for; 1 when a processor has the state directory, 2 for a number that is not there."""
    options = parser().parse_args(arguments)
    try:
        from nuclio_edge.cli.ask import ensure_own
        from nuclio_edge.manifest import load

        folder = load(options.manifest).device.state_dir
        ensure_own(options.manifest)
        if options.action in ("list", "show"):
            return _look(folder, options)
        from nuclio_edge.supervision.supervise import StateLock

        lock = StateLock(folder)
        try:
            if not lock.writable:
                raise StateError(f"the state directory {folder} cannot be written: {lock.trouble}")
            return _change(folder, options)
        finally:
            lock.release()
    except ManifestError as error:
        print(refusal(error, "dead-letters"), file=sys.stderr)
        return USAGE
    except EdgeError as error:
        print(f"{PROGRAM} dead-letters {options.action}: {error}", file=sys.stderr)
        return FAULT


@contextmanager
def _spool(folder: str) -> Iterator[Any]:
    """The spool of a state directory, on a loop that does not turn."""
    from _thread import get_ident

    from nuclio_edge.core.loop import Loop
    from nuclio_edge.spool.spool import Spool

    loop = Loop()
    loop.thread = get_ident()
    spool = Spool(loop, os.path.join(folder, "spool"))
    spool.open()
    try:
        yield spool
    finally:
        spool.close()
        loop.close()


def _chosen(spool: Any, options: argparse.Namespace) -> tuple[list[DeadLetter], list[int]]:
    """The letters that are meant, and the numbers that are those of none."""
    from nuclio_edge.delivery.dead_letters import all_of

    found = [
        letter
        for letter in all_of(spool)
        if options.function is None or letter.about.get("function") == options.function
    ]
    if not options.ids:
        return found, []
    by_id = {letter.id: letter for letter in found}
    return [by_id[one] for one in options.ids if one in by_id], [one for one in options.ids if one not in by_id]


def _look(folder: str, options: argparse.Namespace) -> int:
    if not os.path.isdir(os.path.join(folder, "spool")):
        found: list[DeadLetter] = []
        missing = list(options.ids)
    else:
        with _spool(folder) as spool:
            found, missing = _chosen(spool, options)
    if missing:
        return _missing(options, missing)
    if options.action == "show" and not options.ids:
        print(
            f"{PROGRAM} dead-letters show: which one? `{PROGRAM} dead-letters list` has their numbers", file=sys.stderr
        )
        return USAGE
    if options.body:
        for letter in found:
            sys.stdout.buffer.write(letter.event.raw_body)
    elif options.json:
        for letter in found:
            print(json_dumps(as_dict(letter, whole=options.action == "show")))
    elif options.action == "show":
        for letter in found:
            print("\n".join(_shown(letter)))
    else:
        for letter in found:
            print(_line(letter))
        if not found:
            print("there are no dead letters", file=sys.stderr)
    return OK


def _change(folder: str, options: argparse.Namespace) -> int:
    """Send or drop; when this returns 0 the disk has it."""
    from nuclio_edge.delivery.dead_letters import send_again

    if not options.ids and not options.all:
        print(f"{PROGRAM} dead-letters {options.action}: name their numbers, or --all", file=sys.stderr)
        return USAGE
    failed: list[str] = []
    with _spool(folder) as spool:
        found, missing = _chosen(spool, options)
        if missing:
            return _missing(options, missing)
        if options.action == "send":
            unreadable = [letter for letter in found if not letter.record]
            if unreadable:
                numbers = ", ".join(str(letter.id) for letter in unreadable)
                print(f"{PROGRAM} dead-letters send: {numbers}: nothing of the event is left", file=sys.stderr)
                return FAULT
        for letter in found:
            if options.action == "send":
                send_again(spool, letter, lambda error: failed.append(str(error)) if error is not None else None)
            else:
                spool.settle(letter.id)
    if failed or spool.trouble:
        print(f"{PROGRAM} dead-letters {options.action}: {failed[0] if failed else spool.trouble}", file=sys.stderr)
        return FAULT
    what = "will be handled at the next start" if options.action == "send" else "forgotten"
    print(f"{len(found)} {what}", file=sys.stderr)
    return OK


def _missing(options: argparse.Namespace, numbers: list[int]) -> int:
    print(f"{PROGRAM} dead-letters {options.action}: there is no {', '.join(map(str, numbers))}", file=sys.stderr)
    return USAGE


def as_dict(letter: DeadLetter, *, whole: bool) -> dict[str, Any]:
    """A dead letter as JSON; `whole` with its event, as Nuclio's SDK writes events."""
    from nuclio_edge.core.port import json_loads
    from nuclio_edge.delivery.stored import UnreadableError

    said: dict[str, Any] = {"id": letter.id, **letter.about}
    try:
        event = letter.event
        said["event_id"] = event.id
        said["path"] = event.path
        if whole:
            said["event"] = json_loads(event.to_json())
    except UnreadableError as error:
        said["unreadable"] = str(error)
    return said


def _line(letter: DeadLetter) -> str:
    from nuclio_edge.cli.terminal import printable

    said = as_dict(letter, whole=False)
    why = said["reason"] if said["reason"] != "failed" else said["error"].rstrip().rpartition("\n")[2]
    if len(why) > _LONGEST:
        why = why[: _LONGEST - 1] + "…"
    stamp = str(utc(said["at"]))[:19]
    return f"{letter.id:>8}  {stamp}  {said['trigger']}  {printable(str(said.get('path', '')))}  {printable(why)}"


def _shown(letter: DeadLetter) -> list[str]:
    from nuclio_edge.cli.terminal import body_text, printable

    said = as_dict(letter, whole=False)
    lines = [f"{key:<10}{printable(str(value))}" for key, value in said.items() if value not in ("", 0) or key == "id"]
    if "unreadable" not in said:
        lines.append(f"{'body':<10}{body_text(letter.event.raw_body)}")
    return lines
