"""The files of tests/portable pass on every MicroPython and every other CPython that this machine has."""

from __future__ import annotations

import ast
import os
from typing import TYPE_CHECKING

import pytest

from tests.interpreters import HOW_TO, PORTABLE, Interpreter, find_cpythons, find_micropythons, lay_out

if TYPE_CHECKING:
    from pathlib import Path

MICROPYTHONS = find_micropythons()
FILES = sorted(path.stem for path in PORTABLE.glob("test_*.py"))


def needs(file: str) -> tuple[str, ...]:
    """What the file's constant NEEDS asks of an interpreter, as in NEEDS = ("socket",); read, not imported."""
    for node in ast.parse((PORTABLE / f"{file}.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "NEEDS":
            return tuple(ast.literal_eval(node.value))
    return ()


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Core and tests, laid out as .mpy for MicroPython (True) and as text (False)."""
    return {made: lay_out(tmp_path_factory.mktemp("stage"), compiled=made) for made in (True, False)}


def test_there_is_a_micropython() -> None:
    if not MICROPYTHONS:
        (pytest.fail if os.environ.get("REQUIRE_MICROPYTHON") == "1" else pytest.skip)(HOW_TO)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("interpreter", [*MICROPYTHONS, *find_cpythons()], ids=lambda found: found.name)
def test_portable(interpreter: Interpreter, file: str, stages: dict[bool, Path]) -> None:
    lacking = [need for need in needs(file) if need in interpreter.lacks]
    if lacking:
        pytest.skip(f"{interpreter.name} has no {lacking[0]}")
    done = interpreter.run(stages[interpreter.micropython], ["import run", f"run.run([{file!r}])"])
    assert done.returncode == 0, f"{file} on {interpreter.name}:\n{done.stdout}"
    assert " passed, 0 failed" in done.stdout, done.stdout
    assert not done.stdout.startswith("0 passed"), f"{file} has no tests"
