"""A Raspberry Pi 3 as QEMU emulates it: Debian's arm64 kernel with the board's own device tree, and a Python to ask it.

All that it needs is in its initial RAM disk: that machine has no device by which QEMU offers a file system. It does not
switch itself off: it is ended when it has said what was asked.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import tomli

from tests.vm import CACHE, PROGRAMS, ROOT, cpio

if TYPE_CHECKING:
    from collections.abc import Iterator

EMULATOR = PROGRAMS / "qemu-system-aarch64"
KERNEL = CACHE / "arm64/boot/vmlinuz"
TREE = CACHE / "arm64/boot/broadcom/bcm2837-rpi-3-b.dtb"
GUEST = CACHE / "arm64/root"
PYTHON = "usr/bin/python3.11"
DONE = "guest is done"
# Of Python's library what is not needed, and is large.
_LEFT_OUT = ("test", "ensurepip", "lib2to3", "idlelib", "tkinter", "unittest", "asyncio", "pydoc_data", "__pycache__")

_INIT = f"""#!/bin/busybox sh
busybox mkdir -p /proc /sys /dev /tmp
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
cd /checkout && /{PYTHON} -B -m tests.guest.raspberry_pi 2>&1
echo "{DONE}"
busybox sleep 1000
"""


def missing() -> str | None:
    """Why it cannot be had here, or None."""
    for path in (EMULATOR, KERNEL, TREE, GUEST / PYTHON):
        if not path.exists():
            return f"there is no {path.relative_to(ROOT)}: .ci/setup/virtual-machines fetches it (see .cache/vm/log)"
    return None


def run() -> str:
    """Boot it, and return what it printed up to its last word."""
    with tempfile.TemporaryDirectory(prefix="nuclio-edge-pi-") as folder:
        image = Path(folder) / "initrd"
        image.write_bytes(cpio(_entries()))
        shared = CACHE / "programs/unpacked/usr/share"
        with subprocess.Popen(
            [
                str(EMULATOR), "-M", "raspi3b", "-accel", "tcg,thread=multi", "-m", "1024", "-nodefaults", "-no-reboot",
                "-display", "none", "-L", str(shared / "qemu"), "-kernel", str(KERNEL), "-dtb", str(TREE),
                "-initrd", str(image), "-append", "console=ttyS1,115200 quiet loglevel=3 mitigations=off panic=-1",
                "-serial", "null", "-serial", "stdio",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            lines = []
            try:
                for raw in process.stdout:
                    line = raw.decode("utf-8", "replace").rstrip("\r\n")
                    if line.endswith(DONE):
                        break
                    lines.append(line)
            finally:
                process.kill()
            return "\n".join(lines)


def _entries() -> Iterator[tuple[str, int, bytes]]:
    """Name, mode and content: busybox, Python with its libraries, our package, its boards and the guest's program."""
    files: dict[str, Path] = {"bin/busybox": GUEST / "bin/busybox", PYTHON: GUEST / PYTHON}
    for folder in ("lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu"):
        for path in (GUEST / folder).glob("*.so*"):
            files[f"{folder}/{path.name}"] = path
    for path in (GUEST / "lib").glob("ld-linux-*"):
        files[f"lib/{path.name}"] = path
    library = GUEST / "usr/lib/python3.11"
    for path in library.rglob("*"):
        parts = path.relative_to(library).parts
        if path.is_file() and not parts[0].startswith("config-") and not set(parts) & set(_LEFT_OUT):
            files[f"usr/lib/python3.11/{'/'.join(parts)}"] = path
    for package in ("nuclio_edge", "boards", "tests/guest"):
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".toml"):
                files[f"checkout/{path.relative_to(ROOT)}"] = path
    for path in Path(tomli.__file__).parent.glob("*.py"):  # without what was compiled for this machine
        files[f"checkout/tomli/{path.name}"] = path
    yield "init", 0o100755, _INIT.encode()
    for folder in sorted({str(parent) for name in files for parent in Path(name).parents} - {"."}):
        yield folder, 0o040755, b""
    for name, path in files.items():
        yield name, 0o100755 if os.access(path, os.X_OK) else 0o100644, path.read_bytes()
