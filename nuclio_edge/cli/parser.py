"""argparse as every command uses it: examples in the help, one line for a mistake, with the word that was meant."""

from __future__ import annotations

import argparse
import sys

from nuclio_edge.cli import PROGRAM, USAGE
from nuclio_edge.cli.refusal import DEFAULT_MANIFEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

__all__ = ["DEFAULT_MANIFEST", "Parser"]


class Parser(argparse.ArgumentParser):
    """A parser of one command's arguments; `examples` stand below its help, one command line each."""

    def __init__(self, command: str, purpose: str, *examples: str) -> None:
        super().__init__(
            prog=f"{PROGRAM} {command}",
            description=purpose,
            epilog="examples:\n" + "\n".join(f"  {PROGRAM} {command} {example}".rstrip() for example in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def manifest(self) -> None:
        """Take the manifest's path, as almost every command does."""
        self.add_argument(
            "manifest", nargs="?", default=DEFAULT_MANIFEST, metavar="MANIFEST", help="default: ./edge.toml"
        )

    def json(self, what: str) -> None:
        """Take --json."""
        self.add_argument("--json", action="store_true", help=what)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]  # it is argparse's
        """Refuse a manifest that stands alone where the command takes it by --manifest."""
        options = self._option_string_actions
        before = ""
        for word in args or () if "--manifest" in options else ():
            if word == "--":
                break
            if word.endswith(".toml") and word[0] != "-" and getattr(options.get(before), "nargs", 0) == 0:
                from nuclio_edge.manifest.problems import quote

                self.error(f"{quote(word)} has no place here; write --manifest {word}")
            before = word
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line and leave with 2."""
        for word in message.partition("unrecognized arguments: ")[2].split():
            if word.startswith("-"):
                from nuclio_edge.manifest.problems import quote, suggest

                known = [option for action in self._actions for option in action.option_strings]
                name = word.partition("=")[0]
                message = f"no option is called {quote(name)}; " + (
                    suggest(name, known) or f"there are: {', '.join(o for o in known if o.startswith('--'))}"
                )
                break
        self.exit(USAGE, f"{self.prog}: {message}\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Leave, with a word on stderr."""
        if message:
            sys.stderr.write(message)
        raise SystemExit(status)
