"""On a Raspberry Pi: what our files say of it, and what its kernel does; as one line of JSON."""

from __future__ import annotations

import fcntl
import json
import os
import struct

from nuclio_edge import board
from nuclio_edge.board_detect import GENERIC, detect, device_tree

CHIP_INFO = struct.Struct("=32s32sI")  # struct gpiochip_info: name, label, lines
LINE_INFO = struct.Struct("=32s32sIIQ160x16x")  # struct gpio_v2_line_info: name, consumer, offset, num_attrs, flags …


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode()


def chips() -> dict[str, list[str]]:
    """Every chip of the kernel by its label, with the names of its lines."""
    found = {}
    for name in sorted(os.listdir("/dev")):
        if name.startswith("gpiochip"):
            fd = os.open(f"/dev/{name}", os.O_RDWR)
            _, label, lines = CHIP_INFO.unpack(fcntl.ioctl(fd, 0x8044B401, bytes(CHIP_INFO.size)))
            names = []
            for offset in range(lines):
                asked = LINE_INFO.pack(b"", b"", offset, 0, 0)
                names.append(_text(LINE_INFO.unpack(fcntl.ioctl(fd, 0xC100B405, asked))[0]))
            found[_text(label)] = names
            os.close(fd)
    return found


def main() -> None:
    """Print it."""
    compatible, model = device_tree()
    found = detect()
    ours = board.load(found or GENERIC)
    print(json.dumps({
        "compatible": compatible,
        "model": model,
        "board": found,
        "machine": os.uname().machine,
        "expected": {name: {"labels": chip.labels, "lines": chip.lines} for name, chip in ours.chips.items()},
        "chips": chips(),
    }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
