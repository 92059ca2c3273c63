"""Sensors against a real kernel: its I2C character device and its hwmon files, in a small virtual machine."""

from __future__ import annotations

import json

import pytest

from tests import vm

pytestmark = [pytest.mark.xdist_group("virtual machines"), pytest.mark.timeout(240)]


def test_a_reader_has_every_smbus_call_and_a_thermometer_of_hwmon_is_read_by_its_name() -> None:
    why = vm.X86.missing()
    if why is not None:
        pytest.skip(why)
    if not vm.supported():
        pytest.skip("the machine uses this computer's own /, and is x86-64")
    # Looked for here: in the guest a walk over the modules takes longer than all the rest.
    folder = vm.X86.boot / "modules" / "kernel"
    paths = [str(next(folder.rglob(f"{name}.ko*"))) for name in ("i2c-dev", "i2c-stub", "lm75")]
    with vm.Guest(
        vm.X86, vm.in_checkout(f"-m tests.guest.i2c_stub {' '.join(paths)}"), modules=["i2c-core", "regmap-i2c"]
    ) as guest:
        output = guest.run()
    line = next((line for line in output.splitlines() if '"id"' in line), None)
    assert line is not None, output[-3000:]
    assert json.loads(line[line.index("{") :]) == {
        "id": 0x60,
        "word": 0x1234,
        "block": "block of bytes",
        "byte": 0x60,
        "transfer": "ENOTSUP",
        "nobody": "ENODEV",
        "hwmon": [["lm75/temp1_input", 25500.0]],
    }
