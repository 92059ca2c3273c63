"""Core keeps to what both interpreters have: by reading its source, and by compiling it for MicroPython."""

from __future__ import annotations

import ast
import os
from typing import TYPE_CHECKING

import pytest

from tests.interpreters import CORE, CPYTHON_ONLY, compile_to, mpy_cross

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = [path for path in sorted(CORE.rglob("*.py")) if path.name not in CPYTHON_ONLY]
ALLOWED = set("binascii collections errno gc hashlib heapq io json os random select socket struct sys time".split())
PORT = "port"  # the modules named port* may ask which interpreter this is
# What CPython has and MicroPython's stock firmware has not, or has with another meaning.
MISSING_NAMES = {
    "BrokenPipeError": "catch OSError and look at errno",
    "BlockingIOError": "catch OSError and look at errno",
    "ConnectionError": "catch OSError and look at errno",
    "ConnectionRefusedError": "catch OSError and look at errno",
    "ConnectionResetError": "catch OSError and look at errno",
    "FileExistsError": "catch OSError and look at errno",
    "FileNotFoundError": "catch OSError and look at errno",
    "InterruptedError": "catch OSError and look at errno",
    "PermissionError": "catch OSError and look at errno",
    "TimeoutError": "catch OSError and look at errno",
    "breakpoint": "left over",
    "locals": "not on MicroPython",
    "print": "core is silent: it logs",
}
MISSING_ATTRIBUTES = {
    "__annotations__": "not kept on MicroPython",
    "__cause__": "exceptions have none on MicroPython",
    "__code__": "functions have none on MicroPython",
    "__context__": "exceptions have none on MicroPython",
    "__defaults__": "functions have none on MicroPython",
    "__doc__": "not kept on MicroPython",
    "__module__": "functions have none on MicroPython",
    "__self__": "bound methods have none on MicroPython",
    "__traceback__": "exceptions have none on MicroPython; port.error_text",
    "Struct": "struct has only pack and unpack on MicroPython",
    "casefold": "not on MicroPython",
    "connect_ex": "not on MicroPython",
    "copy2": "not on MicroPython",
    "environ": "not on MicroPython",
    "exc_info": "not on MicroPython; port.current_error",
    "getsockopt": "not on MicroPython",
    "heapreplace": "not on MicroPython",
    "hexdigest": "not on MicroPython; binascii.hexlify(digest())",
    "isidentifier": "not on MicroPython",
    "ljust": "not on MicroPython",
    "maketrans": "not on MicroPython",
    "monotonic": "not on MicroPython; port.ticks_ms",
    "monotonic_ns": "not on MicroPython; port.ticks_ms",
    "nsmallest": "not on MicroPython",
    "perf_counter": "not on MicroPython; port.clock",
    "perf_counter_ns": "not on MicroPython; port.clock",
    "recv_into": "not on MicroPython; readinto",
    "recvfrom_into": "not on MicroPython",
    "removeprefix": "not on MicroPython",
    "removesuffix": "not on MicroPython",
    "rjust": "not on MicroPython",
    "sendmsg": "not on MicroPython",
    "strftime": "not on MicroPython",
    "title": "not on MicroPython",
    "translate": "not on MicroPython",
    "zfill": "not on MicroPython",
}
CHECKS = {"implementation", "platform", "version", "version_info", "maxsize"}  # of sys


def here(node: ast.AST) -> str:
    return f"line {getattr(node, 'lineno', '?')}"


def reachable(path: Path) -> Iterator[ast.AST]:
    """Every node that MicroPython can come to: not what is under TYPE_CHECKING, nor, in port, CPython's half."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        yield node
        for field, value in ast.iter_fields(node):
            skipped = isinstance(node, ast.If) and (
                (field == "body" and names(node.test) == {"TYPE_CHECKING"})
                or (field == "orelse" and names(node.test) == {"MICROPYTHON"})
            )
            annotation = field in ("annotation", "returns")
            if not skipped and not annotation:
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        yield from walk(child)

    return walk(ast.parse(path.read_text(), str(path)))


def names(node: ast.AST) -> set[str]:
    return {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}


def by_name(path: Path) -> str:
    return str(path.relative_to(CORE))


every_file = pytest.mark.parametrize("path", FILES, ids=by_name)


@every_file
def test_core_imports_only_what_both_interpreters_have(path: Path) -> None:
    wrong = []
    for node in reachable(path):
        if isinstance(node, ast.Import):
            wrong += [(here(node), found.name) for found in node.names if found.name not in ALLOWED]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == 0 and module not in ALLOWED and not f"{module}.".startswith("nuclio_edge.core."):
                wrong.append((here(node), module))
            if node.level > len(path.relative_to(CORE).parts):
                wrong.append((here(node), f"{'.' * node.level}{module} is outside core"))
    assert not wrong


@every_file
def test_only_port_asks_which_interpreter_this_is(path: Path) -> None:
    if path.stem.startswith(PORT):
        return
    wrong = []
    for node in reachable(path):
        if isinstance(node, ast.Attribute) and names(node.value) == {"sys"} and node.attr in CHECKS:
            wrong.append((here(node), f"sys.{node.attr}"))
        if isinstance(node, ast.Try):
            tried = [found for found in ast.walk(ast.Module(node.body, [])) if isinstance(found, ast.Import)]
            wrong += [(here(found), "an import that is tried") for found in tried]
            caught = [found.type for found in node.handlers if found.type is not None]
            wrong += [(here(found), "except ImportError") for found in caught if "ImportError" in names(found)]
    assert not wrong


@every_file
def test_core_uses_no_name_that_micropython_lacks(path: Path) -> None:
    wrong = []
    for node in reachable(path):
        if isinstance(node, ast.Name) and node.id in MISSING_NAMES:
            wrong.append((here(node), node.id, MISSING_NAMES[node.id]))
        if isinstance(node, ast.Attribute) and node.attr in MISSING_ATTRIBUTES:
            wrong.append((here(node), node.attr, MISSING_ATTRIBUTES[node.attr]))
        if isinstance(node, ast.AsyncFunctionDef) and any(isinstance(found, ast.Yield) for found in ast.walk(node)):
            wrong.append((here(node), node.name, "an async generator fails at run time on MicroPython"))
        if isinstance(node, ast.ClassDef) and node.keywords:
            wrong.append((here(node), node.name, "class keywords do not exist on MicroPython"))
        if isinstance(node, ast.Raise) and node.cause is not None:
            wrong.append((here(node), "raise ... from", "only warns on MicroPython"))
    assert not wrong


@every_file
def test_core_makes_no_float_of_a_time(path: Path) -> None:
    # Single precision on boards: 2^24 seconds are half a year.
    wrong = [
        (here(node), "time.time()")
        for node in reachable(path)
        if isinstance(node, ast.Attribute) and node.attr == "time" and names(node.value) == {"time"}
    ]
    assert not wrong


@every_file
def test_core_compiles_for_micropython(path: Path, tmp_path: Path) -> None:
    if not mpy_cross():
        (pytest.fail if os.environ.get("REQUIRE_MICROPYTHON") == "1" else pytest.skip)("no mpy-cross for this machine")
    assert compile_to(tmp_path / "out.mpy", path) > 0
