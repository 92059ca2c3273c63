"""The GPIO source in an arm64 guest on a real driver (PL061); the host holds its wires. An echo: out is what in is."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from typing import Any

from nuclio_edge.sources.gpio import GpioSource
from nuclio_edge.sources.gpio_kernel import KernelChips
from nuclio_edge.sources.gpio_params import LINE
from nuclio_edge.testing import SourceRig
from nuclio_edge.testing.rig import Bench, filled

IN, OUT = 1, 5


class Rig(SourceRig):
    """Two lines of the board's only chip."""

    source = GpioSource
    trigger = {"line": "in"}  # noqa: RUF012 - as SourceRig has it

    def begin(self) -> None:
        lines: dict[str, dict[str, Any]] = {"in": {"pin": str(IN)}, "out": {"pin": str(OUT), "direction": "out"}}
        self.params = {"chip": "9030000.pl061", "lines": {name: filled(LINE, line) for name, line in lines.items()}}

    def make(self, name: str, params: Any, host: Any) -> GpioSource:
        made = GpioSource(name, params, host)
        made.chips = KernelChips()
        return made


def main() -> None:
    """Echo so many edges, then print the books."""
    edges = int(sys.argv[1])
    with Bench(Rig()) as bench:
        source = bench.source
        function = bench.function()
        trigger = function.triggers[0]
        take = trigger.submit

        def echo(event: Any) -> bool:
            source.set("out", event.value)
            return bool(take(event))

        trigger.submit = echo
        bench.open()
        print("guest is ready", flush=True)
        while source.received < edges:
            bench.turn()
        last = function.arrived[-1]
        print(json.dumps({
            "received": source.received, "routed": source.routed, "rejected": source.rejected, "seqno": last.seqno,
            "line_seqno": last.line_seqno, "values": [event.value for event in function.arrived[:4]],
            "stamps": all(a.timestamp_ns < b.timestamp_ns for a, b in pairwise(function.arrived)),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
