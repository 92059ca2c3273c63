"""GPIO against real kernels, in virtual machines: gpio-sim on x86-64, an arm64 chip whose wires the test holds."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests import qtest, vm
from tests.guest.pl061 import IN, OUT

if TYPE_CHECKING:
    from pathlib import Path

# One after the other, in one worker: each machine keeps both cores of a small computer busy.
pytestmark = [pytest.mark.xdist_group("virtual machines"), pytest.mark.timeout(240)]


def told(output: str) -> list[dict[str, Any]]:
    """The sentences that a guest printed."""
    return [json.loads(line) for line in output.splitlines() if line.startswith('{"sentence"')]


def require(machine: vm.Machine) -> None:
    why = machine.missing()
    if why is not None:
        pytest.skip(why)


def test_the_source_holds_what_it_promises_on_the_kernels_own_simulator() -> None:
    require(vm.X86_COUNTED)
    if not vm.supported():
        pytest.skip("the machine uses this computer's own /, and is x86-64")
    # One processor: there the kernel's interrupt thread always runs before the world goes on. On two, one of which the
    # computer stops for a while, the kernel itself makes one event of two edges. Counted: where the computer takes the
    # processor away for a third of a second, 5,000 edges a second are more than the kernel keeps.
    with vm.Guest(vm.X86_COUNTED, vm.in_checkout("-m tests.guest.gpio_sim"), modules=["gpio-sim"]) as guest:
        output = guest.run()
        sentences = told(output)
        wrong = [f"{one['sentence']}: {one['why']}\n{one['trace']}" for one in sentences if not one["holds"]]
        assert not wrong, "\n".join(wrong)
        assert guest.code == 0, output[-3000:]
    assert len(sentences) == 13, output[-3000:]


def test_an_arm64_machine_echoes_every_edge_of_the_wire_that_the_test_holds(
    tmp_path: Path, record_property: Any
) -> None:
    require(vm.ARM)
    root = vm.CACHE / "arm64/root"
    if not (root / "usr/bin/python3.11").exists():
        pytest.skip("there is no Python for arm64: .ci/setup/virtual-machines fetches it (see .cache/vm/log)")
    edges = 200
    command = f"cd /run/checkout && /usr/bin/python3.11 -B -m tests.guest.pl061 {edges}"
    with vm.Guest(vm.ARM, command, root=str(root), more=qtest.options(tmp_path)) as guest:
        lines = guest.lines()
        assert any(line == "guest is ready" for line in lines), guest.output[-3000:]
        took = []
        with qtest.Wires(tmp_path, "pl061") as wires:
            for number in range(edges):
                level = 1 - number % 2
                begun = time.perf_counter()
                wires.drive(IN, level)
                assert wires.change() == (OUT, level), guest.output[-3000:]
                took.append(time.perf_counter() - begun)
            books = next(json.loads(line) for line in lines if line.startswith("{"))
    assert books == {
        "received": edges, "routed": edges, "rejected": {}, "seqno": edges, "line_seqno": edges,
        "values": [1, 0, 1, 0], "stamps": True,
    }  # fmt: skip
    took.sort()
    record_property("edge in, edge out: p50 and p99, ms", (took[edges // 2] * 1e3, took[edges * 99 // 100] * 1e3))
