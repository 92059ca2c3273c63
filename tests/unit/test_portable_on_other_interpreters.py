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


@pytest.mark.parametrize("interpreter", [*MICROPYTHONS, *find_cpythons()], ids=lambda found: found.name)
def test_a_failing_portable_test_is_told_with_its_line(interpreter: Interpreter, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text((PORTABLE / "run.py").read_text())
    (tmp_path / "test_sum.py").write_text(
        "def test_right():\n    assert 1\n\n\ndef test_wrong():\n    assert 1 + 1 == 3\n"
    )
    done = interpreter.run(tmp_path, ["import run", "run.run(['test_sum'])"])
    assert "pass test_sum::test_right" in done.stdout
    assert "FAIL test_sum::test_wrong" in done.stdout
    assert "line 6" in done.stdout
    assert "1 passed, 1 failed" in done.stdout
