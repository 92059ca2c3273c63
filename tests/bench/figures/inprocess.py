"""Event + route + call + metrics in one process, no socket, beside a bare Python call of the same process."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from tests.bench.bench import middle
from tests.bench.subject import ROOT, python

if TYPE_CHECKING:
    from tests.bench.bench import Bench


def run(bench: Bench) -> None:
    """A process a run; the calls alternate within it."""
    count = bench.many(1_000_000)
    found = bench.interleave({"in process": lambda: measure(bench, count)})
    for measures in found.values():
        for name, values in measures.items():
            bench.report.value(name, values, "ns")
        for name in measures:
            if name != "bare call":
                ratio = middle(found, "in process", name) / middle(found, "in process", "bare call")
                bench.report.ratio(f"{name}: to a bare call", ratio, bar=20.0 if name == "runtime" else None)


def measure(bench: Bench, count: int) -> dict[str, float]:
    """What the process printed."""
    with python("in_process", bench.folder(), str(count), env={"PYTHONPATH": str(ROOT)}) as subject:
        while subject.running:
            time.sleep(0.05)
        text = subject.output.strip().splitlines()
    try:
        return dict(json.loads(text[-1]))
    except (ValueError, IndexError):
        raise LookupError(text[-1] if text else "it printed nothing") from None
