"""Chips of the kernel: the GPIO character device, uAPI v2, by ioctl and struct (include/uapi/linux/gpio.h, from 5.10).

The official binding (gpiod) needs 50 us for an event and has no wheels for armv6 and armv7; a read and
`struct.iter_unpack` need 7 (both under emulation). A request's descriptor is polled for reading and brings records of
48 bytes, EVENT below; its ioctls may be called from any thread.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from fcntl import F_GETFL, F_SETFL, fcntl, ioctl

from nuclio_edge.sources.gpio_line import ATTR_DEBOUNCE, AwayError, BusyError, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nuclio_edge.sources.gpio_line import LineConfig
    from nuclio_edge.sources.gpio_place import Place
    from nuclio_edge.sources.gpio_pwm import Pwm

EVENT = struct.Struct(
    "=QIIII24x"
)  # gpio_v2_line_event: timestamp_ns, id (1 rising, 2 falling), offset, seqno, line_seqno
CHIP_INFO = struct.Struct("=32s32sI")  # gpiochip_info: name, label, lines
LINE_INFO = struct.Struct("=32s32sIIQ160x16x")  # gpio_v2_line_info: name, consumer, offset, num_attrs, flags
ATTRIBUTE = struct.Struct("=IIQQ")  # gpio_v2_line_config_attribute: id, padding, value, mask
CONFIG_HEAD = struct.Struct("=QI20x")  # gpio_v2_line_config: flags, num_attrs; then 10 attributes
REQUEST_TAIL = struct.Struct("=II20xi")  # of gpio_v2_line_request: num_lines, event_buffer_size, fd
VALUES = struct.Struct("=QQ")  # gpio_v2_line_values: bits, mask
ATTRIBUTES = 10  # GPIO_V2_LINE_NUM_ATTRS_MAX
LINES = 64  # GPIO_V2_LINES_MAX
BUFFER = 16 * LINES  # the most events that the kernel keeps for a reader
USED = 1

# An ioctl's number says direction and size. The direction's bits are the architecture's (asm/ioctl.h): most have
# read 2, write 1 above 14 bits of size; mips, powerpc and sparc have read 2, write 4 above 13.
_READ, _WRITE, _SHIFT = (2, 4, 29) if os.uname().machine.startswith(("mips", "ppc", "sparc")) else (2, 1, 30)


def _number(number: int, size: int, direction: int = _READ | _WRITE) -> int:
    return direction << _SHIFT | size << 16 | 0xB4 << 8 | number


GET_CHIPINFO = _number(0x01, CHIP_INFO.size, _READ)
GET_LINEINFO = _number(0x05, LINE_INFO.size)
GET_LINE = _number(0x07, 592)
GET_VALUES = _number(0x0E, VALUES.size)
SET_VALUES = _number(0x0F, VALUES.size)


class KernelChips:
    """The chips of this machine; `dev` and `sysfs` stand for those folders in tests."""

    def __init__(self, dev: str = "/dev", sysfs: str = "/sys/bus/gpio/devices") -> None:
        self._dev = dev
        self._sysfs = sysfs

    def open_chip(self, wanted: object, line: str | None = None) -> KernelChip:
        """The one chip with one of the labels or compatibles of `wanted` that has a line of that name, if one is given.

        AwayError when there is none (yet), or several, which must not be guessed.
        """
        labels = getattr(wanted, "labels", ())
        compatibles = getattr(wanted, "of_compatible", ())
        found: list[KernelChip] = []
        denied = ""
        for path in self._paths():
            try:
                chip = KernelChip(path)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EPERM):
                    denied = path
                continue
            fits = not (labels or compatibles) or chip.label in labels
            if not fits and compatibles:
                fits = any(one in compatibles for one in self._compatible(chip.name))
            if fits and (line is None or chip.find(line) is not None):
                found.append(chip)
            else:
                chip.close()
        if len(found) == 1:
            return found[0]
        for chip in found:
            chip.close()
        what = f"line {line!r}" if line is not None else str(wanted)
        if denied and not found:
            raise AwayError(f"may not open {denied}: is this user in the group gpio?")
        if found:
            named = ", ".join(f"{chip.name} [{chip.label}]" for chip in found)
            raise AwayError(f"{len(found)} chips have {what}: {named}")
        raise AwayError(f"there is no {what}" + ("" if line is None or not labels else f" in {wanted}"))

    def open_pwm(self, place: Place, facts: object) -> Pwm:
        """The channel of a pin; AwayError, or BusyError."""
        from nuclio_edge.sources.gpio_pwm import open_pwm

        if facts is None:
            raise AwayError(f"nothing is known of a PWM at {place.pin}: the board's file would tell it")
        return open_pwm(facts)

    def _paths(self) -> Iterator[str]:
        """Every chip once: some systems keep links under the names of earlier kernels."""
        try:
            names = sorted(os.listdir(self._dev))
        except OSError:
            return
        for name in names:
            path = f"{self._dev}/{name}"
            if name.startswith("gpiochip") and not os.path.islink(path):
                yield path

    def _compatible(self, name: str) -> list[str]:
        try:
            with open(f"{self._sysfs}/{name}/of_node/compatible", "rb") as file:
                return [one.decode("ascii", "replace") for one in file.read().split(b"\0") if one]
        except OSError:
            return []


class KernelChip:
    """An open /dev/gpiochipN."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            info = bytearray(CHIP_INFO.size)
            ioctl(self._fd, GET_CHIPINFO, info)
        except OSError:
            os.close(self._fd)
            raise
        name, label, self.lines = CHIP_INFO.unpack(info)
        self.name = _text(name)
        self.label = _text(label)

    def close(self) -> None:
        """Give the descriptor back; requests live on."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def info(self, offset: int) -> tuple[str, str, int]:
        """A line's (name, consumer, flags)."""
        info = bytearray(LINE_INFO.size)
        struct.pack_into("=I", info, 64, offset)
        ioctl(self._fd, GET_LINEINFO, info)
        name, consumer, _, _, flags = LINE_INFO.unpack(info)
        return _text(name), _text(consumer), flags

    def find(self, line: str) -> int | None:
        """The offset of the line that the kernel calls so; "P9_22" is also "P9_22 [spi0_sclk]"."""
        for offset in range(self.lines):
            name = self.info(offset)[0]
            if name and (name == line or name.partition(" [")[0] == line):
                return offset
        return None

    def request(self, lines: Sequence[LineConfig], consumer: str) -> KernelLines:
        """Take up to 64 lines; BusyError names who holds one of them, AwayError says what else the kernel refused."""
        flags, attrs = attributes(lines, ATTRIBUTES)
        request = bytearray(592)
        for at, line in enumerate(lines):
            struct.pack_into("=I", request, 4 * at, line.offset)
        encoded = consumer.encode()[:31]
        request[256 : 256 + len(encoded)] = encoded
        CONFIG_HEAD.pack_into(request, 288, flags, len(attrs))
        for at, (kind, value, mask) in enumerate(attrs):
            # A debounce is 32 bits of the union's 64, at its beginning.
            held = value << 32 if kind == ATTR_DEBOUNCE and sys.byteorder == "big" else value
            ATTRIBUTE.pack_into(request, 320 + 24 * at, kind, 0, held, mask)
        REQUEST_TAIL.pack_into(request, 560, len(lines), BUFFER, 0)
        try:
            ioctl(self._fd, GET_LINE, request)
        except OSError as error:
            raise self._refused(error, lines) from None
        fd = REQUEST_TAIL.unpack_from(request, 560)[2]
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | os.O_NONBLOCK)
        return KernelLines(fd)

    def _refused(self, error: OSError, lines: Sequence[LineConfig]) -> OSError:
        if error.errno == errno.EBUSY:
            for line in lines:
                try:
                    _, consumer, flags = self.info(line.offset)
                except OSError:
                    continue
                if flags & USED:
                    return BusyError(
                        f"{line.pin} (line {line.offset} of {self.label}) is used by {consumer or 'the kernel'}"
                    )
        for line in lines:
            if line.offset >= self.lines:
                return AwayError(f"{line.pin}: {self.label} has {self.lines} lines, none has the offset {line.offset}")
        names = ", ".join(line.pin for line in lines)
        return AwayError(f"{self.label} refuses {names}: {error.strerror}")


class KernelLines:
    """Lines that were granted, by their position in the request. `fd` is polled for edges and read by the source."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def get(self, mask: int) -> int:
        """The values of the lines in `mask`."""
        values = bytearray(VALUES.pack(0, mask))
        ioctl(self.fd, GET_VALUES, values)
        bits: int = VALUES.unpack(values)[0]
        return bits & mask

    def set(self, mask: int, bits: int) -> None:
        """Drive the lines in `mask`, all at once where the hardware can."""
        ioctl(self.fd, SET_VALUES, VALUES.pack(bits, mask))

    def close(self) -> None:
        """Give the lines back: what an output drives from then on is the driver's business."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode("utf-8", "replace")
