"""GPIO in a virtual machine (tests/vm.py): edge in -> handler -> output, 5,000 edges a second, memory and wake-ups."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests import vm

if TYPE_CHECKING:
    from tests.bench.bench import Bench


def run(bench: Bench) -> None:
    """One machine, in which every figure is measured; emulated: ratios are to be compared, not microseconds."""
    report = bench.report
    why = vm.X86.missing() or (None if vm.supported() else "this computer is not x86-64")
    if why:
        report.missing("all of it", why)
        return
    command = vm.in_checkout("-m tests.guest.gpio_bench" + (" quick" if bench.quick else ""))
    with vm.Guest(vm.X86, command, modules=["gpio-sim"], cpus=2) as guest:
        found: dict[str, dict[str, Any]] = {}
        for line in guest.lines():
            if line.startswith('{"figure"'):
                figures = json.loads(line)
                found[figures.pop("figure")] = figures
        if guest.code:
            report.missing("the rest", guest.output.splitlines()[-3])
    for name, figures in found.items():
        for key, unit in (("p50", "µs"), ("p99", "µs"), ("max", "µs"), ("rss", "MiB"), ("private", "MiB")):
            if key in figures:
                report.value(f"{name}: {key}", [figures[key]], unit)
        if "wakeups" in figures:
            report.value(f"{name}: wake-ups", [figures["wakeups"]], "/s", bar=0.1)
        if "received" in figures:
            report.value(f"{name}: edges a second of the wire", [figures["rate"]], "/s")
            report.value(
                f"{name}: made one by the kernel, not numbered", [figures["edges"] - figures["received"]], "edges"
            )
            lost = figures["received"] - figures["handled"]
            report.value(f"{name}: numbered by the kernel, not handled", [lost], "edges", bar=0)
    least = found.get("echo: epoll, read, ioctl")
    for name in ("official binding", "inline", "thread"):
        if least and f"echo: {name}" in found:
            report.ratio(f"echo: {name}: p50 to the least", found[f"echo: {name}"]["p50"] / least["p50"])
    bare = found.get("idle: bare interpreter")
    for name, figures in found.items():
        if bare and name.startswith("idle: ") and "wakeups" in figures:
            report.difference(f"{name} minus bare interpreter: RSS", figures["rss"] - bare["rss"], "MiB", bar=6.0)
