"""`version`: answered without argparse, as scripts ask often."""

from __future__ import annotations

import sys

from nuclio_edge import __version__
from nuclio_edge.cli import OK, PROGRAM, USAGE

HELP = f"""usage: {PROGRAM} version [--json]

Print the version of nuclio-edge and of the Python that runs it.

examples:
  {PROGRAM} version
  {PROGRAM} --version"""


def main(arguments: list[str]) -> int:
    """Print the version; with --json, as an object."""
    if arguments in (["-h"], ["--help"]):
        print(HELP)
    elif arguments == ["--json"]:
        from nuclio_edge.core.port import json_dumps

        print(json_dumps({"version": __version__, "python": _python(), "implementation": sys.implementation.name}))
    elif arguments:
        print(f"{PROGRAM} version: only --json can follow", file=sys.stderr)
        return USAGE
    else:
        print(f"{PROGRAM} {__version__} (Python {_python()})")
    return OK


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))
