"""What a command says of a manifest that cannot be used; where there is none, also how this command is given one."""

from __future__ import annotations

import os
import shlex

from nuclio_edge.cli import PROGRAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from nuclio_edge.errors import ManifestError
    from nuclio_edge.manifest.problems import Problem

DEFAULT_MANIFEST = "edge.toml"
# How the commands are given a manifest; the others take --manifest FILE.
_GIVEN = {"run": "MANIFEST", "check": "MANIFEST", "events": "MANIFEST", "invoke": "FUNCTION MANIFEST"}


def refusal(error: ManifestError, command: str, function: str = "") -> str:
    """What is wrong with the manifest, as a terminal shows it; `function` is the one that was to be invoked."""
    advise(error.problems, error.path, command, function)
    return str(error)


def advise(problems: Iterable[Problem], path: str, command: str, function: str = "") -> None:
    """Give the problem of a manifest that is not there the hint that is of use to this command."""
    for problem in problems:
        if problem.code == "E101" and not os.path.lexists(path):
            problem.hint = _hint(path, command, function)


def _hint(path: str, command: str, function: str) -> str | None:
    if function.endswith(".toml"):
        if path == DEFAULT_MANIFEST:
            return f"say which function: {PROGRAM} {command} FUNCTION {shlex.quote(function)}"
        return f"the function comes first: {PROGRAM} {command} {shlex.quote(path)} {shlex.quote(function)}"
    if path == DEFAULT_MANIFEST:
        return f"say which file: {PROGRAM} {command} {_GIVEN.get(command, '--manifest FILE')}; {PROGRAM} new makes one"
    from nuclio_edge.manifest.problems import suggest

    folder = os.path.dirname(path)
    try:
        beside = [os.path.join(folder, file) for file in os.listdir(folder or ".") if file.endswith(".toml")]
    except OSError:
        beside = []
    return suggest(path, beside) or (None if os.path.isabs(path) else f"looked for {os.path.abspath(path)}")
