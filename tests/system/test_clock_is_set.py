"""A device whose clock is set by hours while it works: a real kernel's, in a small virtual machine."""

from __future__ import annotations

import json

import pytest

from tests import vm

pytestmark = [pytest.mark.xdist_group("virtual machines"), pytest.mark.timeout(240)]


def test_jumps_of_hours_in_both_directions_break_neither_stamps_nor_timers_nor_retries_nor_the_ledger() -> None:
    why = vm.X86.missing()
    if why is not None:
        pytest.skip(why)
    if not vm.supported():
        pytest.skip("the machine uses this computer's own /, and is x86-64")
    with vm.Guest(vm.X86, vm.in_checkout("-m tests.guest.clock_steps")) as guest:
        output = guest.run()
    said = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [one for one in said if not one["holds"]] == [], output[-3000:]
    assert len(said) == 5, output[-3000:]
