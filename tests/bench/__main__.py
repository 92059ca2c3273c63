"""`python -m tests.bench [figure …] [--json] [--runs N] [--quick]`."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.report import Report, machine
from tests.bench.subject import PROFILE

FIGURES = {
    "flood": "MQTT flood ingest, 64 B, QoS 0",
    "wakeup": "one event per wake-up",
    "pipeline": "in -> handler (JSON) -> publish through mosquitto",
    "qos1": "QoS 1 ingest, acknowledged after the handler",
    "coap": "CoAP CON POST -> handler -> response",
    "inprocess": "Event + route + call + metrics in process",
    "latency": "latency through mosquitto at 1,000/s",
    "http": "HTTP GET, kept alive; the slides' own run",
    "busy": "an inline function's reply while another function burns CPU in a thread",
    "footprint": "start, memory, idle wake-ups",
    "thousand": "1,000 functions with 1,000 filters",
    "serial": "a serial line at 921,600 baud on a pty",
    "overload": "ten times too much: fair drain, the ledger, memory",
    "gpio": "edge in -> handler -> output, fast edges, memory; in a virtual machine",
    "micropython": "the core on MicroPython",
    "spool": "the spool: durable enqueue, bytes, recovery, a week offline, power cuts",
}


def main() -> int:
    """Run the figures; 0 if every bar is met, 1 if one is missed, 2 for a wrong name."""
    known = "\n".join(f"  {name:<12} {title}" for name, title in FIGURES.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=f"Figures (default: all):\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("figure", nargs="*", help="which figures")
    parser.add_argument("--json", action="store_true", help="the rows as JSON on stdout, the text on stderr")
    parser.add_argument("--runs", type=int, default=5, help="interleaved runs of each (default 5)")
    parser.add_argument("--quick", action="store_true", help="fewer events: to see that it works")
    parser.add_argument(
        "--profile", action="store_true", help="run ours under cProfile and print where its loop's time goes"
    )
    given = parser.parse_args()
    if given.profile:
        os.environ[PROFILE] = "1"
    unknown = [name for name in given.figure if name not in FIGURES]
    if unknown:
        parser.error(f"no such figure: {', '.join(unknown)} (there are: {', '.join(FIGURES)})")
    report = Report(as_json=given.json)
    about = machine()
    report.say(
        f"{about['implementation']} {about['python']}, {about['cores']} x {about['machine']}"
        f", load {os.getloadavg()[0]:.1f}"
    )
    if about["load"][0] > (os.cpu_count() or 1) / 2:
        report.say("the machine is busy: absolute figures will be too high, ratios a little noisy")
    folder = Path(tempfile.mkdtemp(prefix="nuclio-edge-bench-"))
    bench = Bench(report, folder, runs=given.runs, quick=given.quick)
    try:
        for name in given.figure or FIGURES:
            report.figure(f"{name}: {FIGURES[name]}")
            importlib.import_module(f"tests.bench.figures.{name}").run(bench)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
