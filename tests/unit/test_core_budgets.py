"""The event core fits a microcontroller: its flash, its heap, the garbage of an event; in a real MicroPython."""

from __future__ import annotations

import ast
import os
from typing import TYPE_CHECKING

import pytest

from tests.interpreters import (
    CORE,
    CPYTHON_ONLY,
    HOW_TO,
    Interpreter,
    WasmMicroPython,
    compile_to,
    find_micropythons,
    lay_out,
    mpy_cross,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVENT_CORE = "port loop event context log response router inbox worker".split()
CODECS = ["decode", "mqtt_codec", "mqtt_compose", "coap_codec", "coap_compose", "record"]  # loaded when needed
FLASH = 18 * 1024
HEAP_64, HEAP_32 = 32 * 1024, 21 * 1024
GARBAGE_64, GARBAGE_32 = 384, 192
CODEC_HEAP = 8 * 1024

pytestmark = pytest.mark.skipif(
    not mpy_cross() and os.environ.get("REQUIRE_MICROPYTHON") != "1", reason="no mpy-cross for this machine"
)
on_micropython = pytest.mark.parametrize("interpreter", find_micropythons(), ids=lambda found: found.name)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Core as it goes to a board: .mpy files; the measuring compiled, too, so that its source is not in the heap."""
    made = lay_out(tmp_path_factory.mktemp("stage"), compiled=True)
    compile_to(made / "heap.mpy", made / "heap.py")
    (made / "heap.py").unlink()
    return made


def at_the_top(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run at import, those under an `if` too; not the imports in functions, which wait."""
    for statement in statements:
        yield statement
        if isinstance(statement, ast.If) and getattr(statement.test, "id", "") != "TYPE_CHECKING":
            yield from at_the_top(statement.body + statement.orelse)


def loaded() -> list[str]:
    """The event core and what of core it imports at its top: all that a board loads for it."""
    names = list(EVENT_CORE)
    for name in names:  # which grows on the way
        for node in at_the_top(ast.parse((CORE / f"{name}.py").read_text()).body):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                found = [node.module] if node.module else [alias.name for alias in node.names]
                names += [other for other in found if other not in names and f"{other}.py" not in CPYTHON_ONLY]
    return names


def figures(done: str) -> dict[str, int]:
    """Read the "name number" lines."""
    return {name: int(number) for name, number in (line.split() for line in done.splitlines())}


def measured(interpreter: Interpreter, stage: Path, lines: list[str]) -> dict[str, int]:
    # A heap of 1 MB: what is measured is what is used, and the collector must not run unasked.
    done = interpreter.run(stage, ["import gc, heap", "gc.collect()", "heap.begin()", *lines], heap="1024k")
    assert done.returncode == 0, f"{HOW_TO}\n{done.stdout}"
    return figures(done.stdout)


def loading(modules: list[str]) -> list[str]:
    return [line for name in modules for line in (f"heap.load({name!r})", "gc.collect()", f"heap.tell({name!r})")]


# Strict: whoever brings core under its bars takes the marks off.


def test_the_event_core_is_small_in_flash(tmp_path: Path) -> None:
    sizes = {name: compile_to(tmp_path / f"{name}.mpy", CORE / f"{name}.py") for name in loaded()}
    assert sum(sizes.values()) <= FLASH, f"{sum(sizes.values())} bytes: {sizes}"


@on_micropython
def test_the_event_core_is_small_in_the_heap(interpreter: Interpreter, stage: Path) -> None:
    heap = measured(interpreter, stage, loading(EVENT_CORE))
    assert sum(heap.values()) <= (HEAP_32 if isinstance(interpreter, WasmMicroPython) else HEAP_64), (
        f"{sum(heap.values())} bytes: {heap}"
    )


@on_micropython
@pytest.mark.parametrize("codec", [name for name in CODECS if (CORE / f"{name}.py").exists()])
def test_a_codec_is_small_in_the_heap(interpreter: Interpreter, stage: Path, codec: str) -> None:
    heap = measured(interpreter, stage, loading([*EVENT_CORE, codec]))
    assert heap[codec] <= CODEC_HEAP, heap


@on_micropython
def test_an_event_leaves_little_garbage_and_ten_thousand_leave_nothing(interpreter: Interpreter, stage: Path) -> None:
    lines = ["heap.prepare()", "heap.run(1)", "gc.collect()", "heap.sample()", "gc.collect()", "heap.tell('before')"]
    # In portions, as the WebAssembly build cannot collect while it runs one.
    lines += [line for _ in range(10) for line in ("heap.run(1000)", "gc.collect()")]
    found = measured(interpreter, stage, [*lines, "heap.tell('growth')", "heap.ledger()"])
    assert found["garbage"] <= (GARBAGE_32 if isinstance(interpreter, WasmMicroPython) else GARBAGE_64), found
    assert found["growth"] == 0
    assert found["settled"] == found["handled"] == 10_051
