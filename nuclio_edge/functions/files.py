"""Which source files a function has read, and which functions would read something else now.

A file belongs to a function when the function has imported it, in whichever process. Of one that could not start every
file in its folder does, as it was at the first attempt: what it lacks may come to lie there.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

from .imports import stamp_of
from .running import space_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .function import Function

MOST_FILES = 2000  # of one folder: who puts a function into / has no more than this looked at
_SKIPPED = ("__pycache__", "node_modules", "site-packages")


def changed(functions: Iterable[Function]) -> set[str]:
    """The names of the functions whose code is not on disk as they have it."""
    functions = list(functions)
    now: dict[str, int | None] = {}
    names = {f.name for f in functions if f.tried is not None and in_folder(f) != f.tried}
    for name, files in read_by(functions).items():
        for path, stamp in files:
            if path not in now:
                now[path] = stamp_at(path)
            if now[path] != stamp:
                names.add(name)
    return names


def read_by(functions: Iterable[Function]) -> dict[str, set[tuple[str, int]]]:
    """By name what each function has read: paths, with their stamps of then."""
    found: dict[str, set[tuple[str, int]]] = {}
    packages = {}
    for function in functions:
        files = found[function.name] = set()
        if function.spec.isolation == "process":
            for child in function.runner.children:
                files.update(child.files.items())
        elif function.package:
            packages[function.package] = files
    for name, module in list(sys.modules.items()):
        space = space_of(name)
        if space in packages and isinstance(module, ModuleType):
            stamp = getattr(module.__loader__, "stamp", None)
            if stamp is not None:
                packages[space].add((str(module.__file__), stamp))
    return found


def in_folder(function: Function) -> dict[str, int]:
    """The Python files in the folder of a function, with their stamps."""
    found: dict[str, int] = {}
    if function.spec.code is not None:
        return found
    count = 0
    for folder, folders, names in os.walk(function.spec.path):
        folders[:] = [name for name in folders if _may_hold_code(folder, name)]
        for name in names:
            path = os.path.join(folder, name)
            stamp = stamp_at(path) if name.endswith(".py") else None
            if stamp is not None:
                found[path] = stamp
        count += len(names)
        if count > MOST_FILES:
            break
    return found


def stamp_at(path: str) -> int | None:
    """The stamp of the file that is there now, None when there is none."""
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return None


def _may_hold_code(folder: str, name: str) -> bool:
    if name[0] == "." or name in _SKIPPED:
        return False
    return not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))  # a virtual environment
