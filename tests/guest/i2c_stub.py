"""The I2C bus of readers against a real kernel: i2c-stub stands for one chip, and lm75 drives a second one."""

from __future__ import annotations

import ctypes
import errno
import json
import lzma
import os
import sys

from nuclio_edge.sources.sensor_bus import I2cBus
from nuclio_edge.sources.sensor_file import find, read_number, sensor_name

BME280, LM75 = 0x76, 0x48


def load(path: str, parameters: str = "") -> None:
    """init_module(2): insmod of busybox knows no parameters of a compressed module."""
    with open(path, "rb") as file:
        content = file.read()
    if path.endswith(".xz"):
        content = lzma.decompress(content)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(175, content, len(content), parameters.encode()) and ctypes.get_errno() != errno.EEXIST:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)


def main() -> None:
    """Print what was read as one line of JSON; the arguments are the modules i2c-dev, i2c-stub and lm75."""
    for path, parameters in zip(sys.argv[1:], ("", f"chip_addr={BME280:#x},{LM75:#x}", ""), strict=True):
        load(path, parameters)
    device = next(f"/dev/{name}" for name in os.listdir("/dev") if name.startswith("i2c-"))
    told: dict[str, object] = {}
    bus = I2cBus(device, BME280)
    bus.write_byte_data(0xD0, 0x60)
    told["id"] = bus.read_byte_data(0xD0)
    bus.write_word_data(0x88, 0x1234)
    told["word"] = bus.read_word_data(0x88)
    bus.write_block_data(0x90, b"block of bytes")
    told["block"] = bus.read_block_data(0x90, 14).decode()
    bus.write_byte(0xD0)
    told["byte"] = bus.read_byte()
    try:
        bus.transfer(b"\xd0", 1)
    except OSError as error:
        told["transfer"] = errno.errorcode[error.errno or 0]  # the stub has SMBus only
    bus.close()
    nobody = I2cBus(device, 0x10)
    try:
        nobody.read_byte_data(0)
    except OSError as error:
        told["nobody"] = errno.errorcode[error.errno or 0]
    nobody.close()
    thermometer = I2cBus(device, LM75)
    thermometer.write_word_data(0, int.from_bytes((0x1980).to_bytes(2, "big"), "little"))  # 25.5 °C, high byte first
    thermometer.close()
    with open(f"/sys/bus/i2c/devices/{os.path.basename(device)}/new_device", "w", encoding="ascii") as new:
        new.write(f"lm75 {LM75:#x}")
    pattern = "/sys/class/hwmon/hwmon*/temp*_input"
    told["hwmon"] = [[sensor_name(pattern, path), read_number(path, None)] for path in find(pattern)]
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
