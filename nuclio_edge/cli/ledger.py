"""`ledger`: what came in and what became of it, as the running processor counts it, and whether that adds up."""

from __future__ import annotations

import sys

from nuclio_edge.cli import ABSENT, FAULT, OK, PROGRAM, USAGE
from nuclio_edge.cli.parser import DEFAULT_MANIFEST, Parser
from nuclio_edge.cli.refusal import refusal
from nuclio_edge.cli.terminal import Painter, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Part = tuple[str, int, dict[str, int]]  # what it is called, how many, of which reasons


def parser() -> Parser:
    """The command's options."""
    made = Parser(
        "ledger",
        "Ask a running processor for its ledger: of each source, each trigger and the spool what came in and what\n"
        "became of it. Ends with 1 when something does not add up, which is a defect of nuclio-edge, and with 4 when\n"
        "no processor runs.",
        "",
        "--manifest /etc/nuclio-edge/edge.toml",
        "--socket /run/nuclio-edge/admin.sock --json | jq .triggers",
    )
    made.add_argument("--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="default: ./edge.toml")
    made.add_argument("--socket", metavar="PATH", help="the admin socket; default: that of the manifest")
    made.json("the answer of the processor: since, balanced, sources, triggers, spool, differences")
    return made


def main(arguments: list[str]) -> int:
    """Print the ledger; 1 when it does not balance, 4 when nobody can be asked."""
    options = parser().parse_args(arguments)
    from nuclio_edge.cli.ask import AbsentError, OtherError, ask, processor_of
    from nuclio_edge.errors import ManifestError

    try:
        answer = ask(options.socket or processor_of(options.manifest), "GET", "/ledger")
    except ManifestError as error:
        print(refusal(error, "ledger"), file=sys.stderr)
        return USAGE
    except OtherError as error:
        return _say(f"{error}; --socket shows its numbers", ABSENT)
    except AbsentError as error:
        return _say(str(error), ABSENT)
    except ConnectionError as error:
        return _say(str(error), FAULT)
    if answer.status != 200:
        return _say(answer.error(), FAULT)
    from nuclio_edge.core.port import json_loads

    found = json_loads(answer.body)
    if options.json:
        print(answer.body.decode().rstrip())
    else:
        Pages(sys.stdout).show(found)
    for text in found["differences"]:
        _say(f"does not add up: {text}", FAULT)
    return FAULT if found["differences"] else OK


class Pages:
    """The ledger for a person: an equation a line, in the words of the documentation."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self._paint = Painter(out)

    def show(self, found: dict[str, Any]) -> None:
        """Print it."""
        since = _when(found["since"])
        self._line("bold", f"since {since}")
        for name, source in found["sources"].items():
            self._entry(f"source {name}", "received", source["received"], source["difference"], [
                ("routed", source["routed"], {}),
                ("unrouted", source["unrouted"], {}),
                ("rejected", sum(source["rejected"].values()), source["rejected"]),
            ], source["state"] if source["state"] != "open" else "")  # fmt: skip
            self._messages(source)
        for name, trigger in found["triggers"].items():
            beside = ", ".join(
                f"{key} {trigger[key]}" for key in ("recovered", "retried", "duplicates", "late") if trigger[key]
            )  # fmt: skip
            self._entry(name, "admitted", trigger["admitted"], trigger["difference"], [
                ("handled", trigger["handled"], {}),
                ("failed", trigger["failed"], {}),
                ("dead-lettered", trigger["dead_lettered"], {}),
                ("shed", sum(trigger["shed"].values()), trigger["shed"]),
                ("pending", trigger["pending"], {}),
            ], beside)  # fmt: skip
        for name, trigger in found["durable"].items():
            counts: list[Part] = [
                (key.replace("_", "-"), trigger[key], {}) for key in ("handled", "failed", "dead_lettered")
            ]
            counts += [("shed", sum(trigger["shed"].values()), trigger["shed"]), ("pending", trigger["pending"], {})]
            print(printable(f"{name}, over restarts"), file=self._out)
            print(printable(f"  {_shown(counts, ', ')}"), file=self._out)
        self._disk(found["spool"])
        if not found["differences"]:
            self._line("green", "everything adds up")

    def _messages(self, source: dict[str, Any]) -> None:
        """What became of what functions sent by a source, if they did."""
        unsent = source.get("unsent", {})
        counts = {"sent": source.get("sent", 0), "given up": sum(unsent.values()), "waiting": source.get("waiting", 0)}
        if any(counts.values()):
            shown = [f"{key} {count}{_reasons(unsent) if key == 'given up' else ''}" for key, count in counts.items()]
            print(printable(f"  messages: {', '.join(shown)}"), file=self._out)

    def _disk(self, spool: dict[str, Any] | None) -> None:
        """The records on disk, of those that there were ever any."""
        if spool is None:
            return
        if spool["trouble"]:
            self._line("yellow", printable(f"the spool cannot be used: {spool['trouble']}"))
        if spool["refused"]:
            refused = f"{sum(spool['refused'].values())}{_reasons(spool['refused'])}"
            self._line("yellow", printable(f"the spool could not store {refused}"))
        for row in spool["records"]:
            if row["appended"] or row["difference"]:
                self._entry(f"spool, {row['kind']} of {row['of']}", "appended", row["appended"], row["difference"], [
                    ("settled", row["settled"], {}), ("gap", row["gap"], {}), ("pending", row["pending"], {}),
                ], "")  # fmt: skip

    def _entry(self, name: str, what: str, total: int, difference: int, parts: list[Part], more: str) -> None:
        """One equation; of its parts the first is shown, and those that are not 0."""
        text = f"  {what} {total} = {_shown(parts, ' + ')}" + (f"   ({more})" if more else "")
        print(printable(name), file=self._out)
        if difference:
            missing = f"{difference} missing" if difference > 0 else f"{-difference} too many"
            self._line("red", f"{printable(text)}   DIFFERENCE: {missing}")
        else:
            print(printable(text), file=self._out)

    def _line(self, style: str, text: str) -> None:
        print(self._paint(style, text), file=self._out)


def _shown(parts: list[Part], between: str) -> str:
    """Counts with their reasons: the first one, and those that are not 0."""
    return between.join(
        f"{key} {count}{_reasons(reasons)}" for at, (key, count, reasons) in enumerate(parts) if count or not at
    )


def _reasons(counts: dict[str, int]) -> str:
    return " (" + ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())) + ")" if counts else ""


def _when(ms: int) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(ms / 1000).astimezone().isoformat(" ", "seconds")


def _say(message: str, code: int) -> int:
    print(f"{PROGRAM} ledger: {message}", file=sys.stderr)
    return code
