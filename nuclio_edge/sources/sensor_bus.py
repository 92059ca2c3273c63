"""I2C and SPI for reader functions, with nothing but the kernel's ioctls (i2c-dev.h, spidev.h).

A bus is opened for one device. Calls block; OSError is what the kernel says: ENXIO or EREMOTEIO when nobody answers.
"""

from __future__ import annotations

import fcntl
import os
import struct
from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ioctl = fcntl.ioctl  # named, so that a test can stand in for a driver

_I2C_SLAVE, _I2C_RDWR, _I2C_SMBUS = 0x0703, 0x0707, 0x0720
_READ, _WRITE = 1, 0  # of i2c_smbus_ioctl_data; I2C_M_RD is 1 as well
_BYTE, _BYTE_DATA, _WORD_DATA, _I2C_BLOCK_DATA = 1, 2, 3, 8
_BLOCK_MOST = 32
_SMBUS = struct.Struct("@BBIP")  # read_write, command, size, data
_MESSAGE = struct.Struct("@HHHP")  # addr, flags, len, buf
_MESSAGES = struct.Struct("@PI0P")  # msgs, nmsgs, padding
_SPI_WR_MODE, _SPI_WR_SPEED, _SPI_TRANSFER = 0x40016B01, 0x40046B04, 0x40206B00
_TRANSFER = struct.Struct("=QQIIHBBBBBx")  # tx, rx, len, speed, delay, bits, cs_change, tx_nbits, rx_nbits, word_delay


class I2cBus:
    """One device on an I2C bus. The calls with a register are SMBus's: every adapter has them."""

    def __init__(self, path: str, address: int) -> None:
        self.path = path
        self.address = address
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            ioctl(self._fd, _I2C_SLAVE, address)
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Give the descriptor back; twice is no error."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read_byte(self) -> int:
        """The next byte."""
        return self._smbus(_READ, 0, _BYTE)[0]

    def write_byte(self, value: int) -> None:
        """One byte, a command for example."""
        self._smbus(_WRITE, value, _BYTE)

    def read_byte_data(self, register: int) -> int:
        """The byte of a register."""
        return self._smbus(_READ, register, _BYTE_DATA)[0]

    def write_byte_data(self, register: int, value: int) -> None:
        """A byte into a register."""
        self._smbus(_WRITE, register, _BYTE_DATA, bytes([value]))

    def read_word_data(self, register: int) -> int:
        """The two bytes of a register, low one first, as SMBus has it."""
        return int.from_bytes(self._smbus(_READ, register, _WORD_DATA)[:2], "little")

    def write_word_data(self, register: int, value: int) -> None:
        """Two bytes into a register, low one first."""
        self._smbus(_WRITE, register, _WORD_DATA, value.to_bytes(2, "little"))

    def read_block_data(self, register: int, count: int) -> bytes:
        """1 to 32 bytes from a register on."""
        if not 1 <= count <= _BLOCK_MOST:
            raise ValueError(f"1 to {_BLOCK_MOST} bytes can be read at once, not {count}")
        data = self._smbus(_READ, register, _I2C_BLOCK_DATA, bytes([count]))
        return bytes(data[1 : 1 + data[0]])

    def write_block_data(self, register: int, data: bytes) -> None:
        """1 to 32 bytes from a register on."""
        if not 1 <= len(data) <= _BLOCK_MOST:
            raise ValueError(f"1 to {_BLOCK_MOST} bytes can be written at once, not {len(data)}")
        self._smbus(_WRITE, register, _I2C_BLOCK_DATA, bytes([len(data)]) + data)

    def read(self, count: int) -> bytes:
        """So many bytes."""
        return os.read(self._fd, count)

    def write(self, data: bytes) -> None:
        """Bytes in one message."""
        os.write(self._fd, data)

    def transfer(self, *messages: bytes | int) -> list[bytes]:
        """Messages with nothing between them: bytes are written, a number reads so many. Returns what was read."""
        buffers = [array("B", bytes(one) if isinstance(one, int) else one) for one in messages]
        packed = array("B")
        for one, buffer in zip(messages, buffers, strict=True):
            flags = _READ if isinstance(one, int) else 0
            packed.frombytes(_MESSAGE.pack(self.address, flags, len(buffer), buffer.buffer_info()[0]))
        ioctl(self._fd, _I2C_RDWR, _MESSAGES.pack(packed.buffer_info()[0], len(buffers)))
        return [bytes(buffer) for one, buffer in zip(messages, buffers, strict=True) if isinstance(one, int)]

    def _smbus(self, direction: int, command: int, size: int, data: bytes = b"") -> Sequence[int]:
        """One SMBus transfer; the buffer, which the kernel has filled when it read."""
        buffer = array("B", data.ljust(_BLOCK_MOST + 2, b"\0"))
        ioctl(self._fd, _I2C_SMBUS, _SMBUS.pack(direction, command, size, buffer.buffer_info()[0]))
        return buffer


class SpiBus:
    """One device on an SPI bus: chip select, mode and speed are its own."""

    def __init__(self, path: str, mode: int, speed: int) -> None:
        self.path = path
        self.speed = speed
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            ioctl(self._fd, _SPI_WR_MODE, struct.pack("B", mode))
            ioctl(self._fd, _SPI_WR_SPEED, struct.pack("I", speed))
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Give the descriptor back; twice is no error."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def transfer(self, data: bytes) -> bytes:
        """Send and receive at the same time, chip select held; as many bytes come as went."""
        out = array("B", data)
        back = array("B", bytes(len(data)))
        told = _TRANSFER.pack(out.buffer_info()[0], back.buffer_info()[0], len(data), self.speed, 0, 8, 0, 0, 0, 0)
        ioctl(self._fd, _SPI_TRANSFER, told)
        return back.tobytes()
