"""The I2C and SPI buses of readers, against a driver that reads the structures as the kernel does."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.sources import sensor_bus
from nuclio_edge.sources.sensor_bus import I2cBus, SpiBus
from tests.rig import Rig

if TYPE_CHECKING:
    from pathlib import Path


class SmbusData(ctypes.Structure):
    """struct i2c_smbus_ioctl_data, as a C compiler lays it out."""

    _fields_ = (
        ("read_write", ctypes.c_uint8),
        ("command", ctypes.c_uint8),
        ("size", ctypes.c_uint32),
        ("data", ctypes.POINTER(ctypes.c_uint8)),
    )


class I2cMessage(ctypes.Structure):
    """struct i2c_msg."""

    _fields_ = (
        ("addr", ctypes.c_uint16),
        ("flags", ctypes.c_uint16),
        ("len", ctypes.c_uint16),
        ("buf", ctypes.POINTER(ctypes.c_uint8)),
    )


class Messages(ctypes.Structure):
    """struct i2c_rdwr_ioctl_data."""

    _fields_ = (("msgs", ctypes.POINTER(I2cMessage)), ("nmsgs", ctypes.c_uint32))


class SpiTransfer(ctypes.Structure):
    """struct spi_ioc_transfer."""

    _fields_ = (
        ("tx_buf", ctypes.c_uint64),
        ("rx_buf", ctypes.c_uint64),
        ("len", ctypes.c_uint32),
        ("speed_hz", ctypes.c_uint32),
        ("delay_usecs", ctypes.c_uint16),
        ("bits_per_word", ctypes.c_uint8),
        ("cs_change", ctypes.c_uint8),
        ("rest", ctypes.c_uint32),
    )


class Driver:
    """An I2C device with 256 registers, and an SPI device that answers with each byte's complement."""

    def __init__(self) -> None:
        self.registers = bytearray(range(256))
        self.pointer = 0
        self.there = True
        self.asked: list[tuple[int, Any]] = []

    def __call__(self, fd: int, request: int, argument: Any = 0) -> Any:
        self.asked.append((request, argument))
        if not self.there:
            raise OSError(errno.EREMOTEIO, "Remote I/O error")
        if request == 0x0720:
            self.smbus(SmbusData.from_buffer_copy(argument))
        elif request == 0x0707:
            told = Messages.from_buffer_copy(argument)
            for at in range(told.nmsgs):
                self.message(told.msgs[at])
        elif request == 0x40206B00:
            one = SpiTransfer.from_buffer_copy(argument)
            back = bytes(byte ^ 0xFF for byte in ctypes.string_at(one.tx_buf, one.len))
            ctypes.memmove(one.rx_buf, back, one.len)
        return 0

    def smbus(self, told: SmbusData) -> None:
        data, at = told.data, told.command
        if told.size == 1:
            if told.read_write:
                data[0] = self.registers[self.pointer]
            else:
                self.pointer = at
            return
        count = {2: 1, 3: 2}.get(told.size, data[0])
        first = 0 if told.size != 8 else 1
        for i in range(count):
            if told.read_write:
                data[first + i] = self.registers[at + i]
            else:
                self.registers[at + i] = data[first + i]

    def message(self, message: I2cMessage) -> None:
        assert message.addr == 0x76
        if message.flags & 1:
            for i in range(message.len):
                message.buf[i] = self.registers[self.pointer + i]
        else:
            self.pointer = message.buf[0]
            for i in range(1, message.len):
                self.registers[self.pointer + i - 1] = message.buf[i]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr(sensor_bus, "ioctl", made)
    return made


@pytest.fixture
def device(tmp_path: Path) -> str:
    (tmp_path / "i2c-1").write_bytes(b"")
    return str(tmp_path / "i2c-1")


def test_registers_are_read_and_written_in_every_size(driver: Driver, device: str) -> None:
    bus = I2cBus(device, 0x76)
    try:
        assert driver.asked[0] == (0x0703, 0x76)
        assert bus.read_byte_data(0xD0) == 0xD0
        assert bus.read_word_data(0x10) == 0x1110
        assert bus.read_block_data(0x88, 4) == b"\x88\x89\x8a\x8b"
        bus.write_byte_data(1, 0xAA)
        bus.write_word_data(2, 0xBBCC)
        bus.write_block_data(4, b"xyz")
        assert driver.registers[1:7] == b"\xaa\xcc\xbbxyz"
        bus.write_byte(5)
        assert bus.read_byte() == ord("y")
        assert bus.read_block_data(0, 32) == bytes(driver.registers[:32])
    finally:
        bus.close()
        bus.close()


def test_messages_go_out_with_nothing_between_them(driver: Driver, device: str) -> None:
    bus = I2cBus(device, 0x76)
    assert bus.transfer(b"\xd0", 3, b"\x10", 2) == [b"\xd0\xd1\xd2", b"\x10\x11"]
    bus.transfer(b"\x20\x01\x02")
    assert driver.registers[0x20:0x22] == b"\1\2"
    bus.close()


@pytest.mark.parametrize("count", [0, 33])
def test_a_block_has_1_to_32_bytes(driver: Driver, device: str, count: int) -> None:
    bus = I2cBus(device, 0x76)
    with pytest.raises(ValueError, match="1 to 32 bytes"):
        bus.read_block_data(0, count)
    with pytest.raises(ValueError, match="1 to 32 bytes"):
        bus.write_block_data(0, bytes(count))
    bus.close()


def test_spi_sends_and_receives_at_once(driver: Driver, device: str) -> None:
    bus = SpiBus(device, 3, 500_000)
    assert driver.asked == [(0x40016B01, b"\3"), (0x40046B04, struct.pack("I", 500_000))]
    assert bus.transfer(b"\x00\x0f\xff") == b"\xff\xf0\x00"
    assert SpiTransfer.from_buffer_copy(driver.asked[-1][1]).bits_per_word == 8
    bus.close()


def test_a_descriptor_is_given_back_when_the_device_refuses(driver: Driver, device: str) -> None:
    driver.there = False
    with pytest.raises(OSError, match="Remote I/O error"):
        I2cBus(device, 0x76)
    with pytest.raises(OSError, match="Remote I/O error"):
        SpiBus(device, 0, 1000)


def test_a_reader_gets_the_bus_opened_and_opened_anew_after_a_failure(
    tmp_path: Path, driver: Driver, device: str
) -> None:
    (tmp_path / "bme280.py").write_text(
        "buses = []\n"
        "def read(bus):\n"
        "    buses.append(bus) if bus not in buses else None\n"
        "    return {'id': bus.read_byte_data(0xD0), 'buses': len(buses)}\n"
    )
    keep = "seen = []\ndef handler(context, event):\n    seen.append(event.body)\n"
    manifest = (
        f'[source.climate]\nkind = "sensor"\nreader = "bme280.py"\ni2c = "{device}"\naddress = 0x76\nevery = "10ms"\n'
        '[function.keep]\nhandler = "keep.py"\nisolation = "inline"\n'
        '[[function.keep.trigger]]\nsource = "climate"\n'
    )
    with Rig(tmp_path, manifest, keep=keep) as rig:
        source = rig.processor.sources["climate"]
        handler: Any = rig.processor.functions["keep"].handler
        seen = handler.__globals__["seen"]
        rig.until(lambda: len(seen) >= 2, "two readings")
        assert seen[:2] == [{"id": 0xD0, "buses": 1}] * 2
        driver.there = False
        rig.until(lambda: source.state == "connecting", "the device to be missed")
        assert "Remote I/O error" in rig.records.text()
        driver.there = True
        count = len(seen)
        rig.until(lambda: len(seen) > count, "it to come back")
        assert seen[-1] == {"id": 0xD0, "buses": 2}
