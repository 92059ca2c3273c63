"""Small virtual machines with the kernel that a test needs: emulated by QEMU (TCG), so no rights are needed.

The root file system is this machine's own "/" (or another folder), read-only by virtio-9p, with the same Python,
packages and checkout; only /run and /tmp are the guest's, but for a checkout that is in one of them. What
.ci/setup/virtual-machines could not get is a reason to skip.
"""

from __future__ import annotations

import gzip
import lzma
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "vm"
PROGRAMS = CACHE / "programs" / "bin"
DONE = "guest ended with "
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
# What a guest needs to mount its root.
_BASE = ("virtio_pci", "9pnet_virtio", "9p")

_INIT = """#!/bin/busybox sh
busybox mkdir -p /proc /sys /dev /new
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
while read -r module; do busybox insmod "/modules/$module" || echo "no module $module"; done </modules/order
busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose,noatime root /new || echo "no root"
for folder in proc sys dev; do busybox mount --move /$folder /new/$folder; done
for folder in run tmp; do busybox mount -t tmpfs tmpfs /new/$folder; done
busybox mount -t configfs config /new/sys/kernel/config 2>/dev/null
if [ -n "{checkout}" ]; then
    busybox mkdir -p "/new{checkout}"
    busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose,noatime checkout "/new{checkout}"
fi
busybox ip link set lo up 2>/dev/null
busybox chroot /new {shell} -c "$(busybox cat /command)" 2>&1
echo "{done}$?"
busybox reboot -f
"""


_COMMAND = """
export HOME=/tmp TMPDIR=/tmp PYTHONDONTWRITEBYTECODE=1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""


class Machine:
    """How one kind of machine is emulated."""

    def __init__(self, name: str, emulator: str, options: Sequence[str], console: str) -> None:
        self.name = name
        self.boot = CACHE / name / "boot"
        self.emulator = PROGRAMS / emulator
        self.options = list(options)
        self.console = console

    def missing(self) -> str | None:
        """Why it cannot be had here, or None."""
        for path in (self.emulator, self.boot / "vmlinuz", self.boot / "modules"):
            if not path.exists():
                return (
                    f"there is no {path.relative_to(ROOT)}: .ci/setup/virtual-machines fetches it (see .cache/vm/log)"
                )
        return None


X86 = Machine(
    "amd64", "qemu-system-x86_64", ["-machine", "pc", "-cpu", "max", "-accel", "tcg,thread=multi"],
    "ttyS0",
)  # fmt: skip
# Its time is what it has executed, 2 ns an instruction, while it has something to do (QEMU, devel/tcg-icount.rst): a
# computer that is busy otherwise makes it late, never slow, so that what it does at a rate is the same everywhere.
X86_COUNTED = Machine(
    "amd64", "qemu-system-x86_64",
    ["-machine", "pc", "-cpu", "max", "-accel", "tcg,thread=single", "-icount", "shift=1"], "ttyS0",
)  # fmt: skip
ARM = Machine(
    "arm64", "qemu-system-aarch64", ["-machine", "virt", "-cpu", "cortex-a53", "-accel", "tcg,thread=multi"], "ttyAMA0"
)


class Guest:
    """One run of one command in a machine; `lines()` are what it prints, `code` its exit code afterwards."""

    def __init__(
        self,
        machine: Machine,
        command: str,
        *,
        modules: Sequence[str] = (),
        root: str = "/",
        more: Sequence[str] = (),
        memory: int = 512,
        cpus: int = 1,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="nuclio-edge-vm-"))
        self._output: list[str] = []
        self.code: int | None = None
        self.began = time.monotonic()
        busybox = Path(root) / "bin/busybox" if root != "/" else CACHE / "programs/unpacked/bin/busybox"
        ours = root == "/"
        covered = ROOT.parts[1] in ("run", "tmp")  # by the guest's own
        checkout = "/run/checkout" if not ours else str(ROOT) if covered else ""
        text = _INIT.format(done=DONE, checkout=checkout, shell="/bin/sh" if ours else "/bin/busybox sh")
        image = self._folder / "initrd"
        image.write_bytes(_initrd(machine, busybox, text, _COMMAND + command, [*_BASE, *modules]))
        share = "local,security_model=none,readonly=on,multidevs=remap"
        shares = ["-virtfs", f"{share},path={root},mount_tag=root"]
        if checkout:
            shares += ["-virtfs", f"{share},path={ROOT},mount_tag=checkout"]
        shared = CACHE / "programs/unpacked/usr/share"
        data = [word for name in ("seabios", "qemu") for word in ("-L", str(shared / name))]
        line = f"console={machine.console} quiet loglevel=3 tsc=reliable mitigations=off panic=-1 random.trust_cpu=on"
        self.process = subprocess.Popen(
            [
                str(machine.emulator), *machine.options, "-m", str(memory), "-smp", str(cpus),
                "-nodefaults", "-no-reboot",
                "-display", "none",
                *data, *shares, "-kernel", str(machine.boot / "vmlinuz"), "-initrd", str(image), "-append", line,
                "-serial", "stdio", *more,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self._folder,
        )  # fmt: skip

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def output(self) -> str:
        """All that was printed up to now."""
        return "\n".join(self._output)

    def lines(self) -> Iterator[str]:
        """What it prints, as it comes, without the line that tells its end."""
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            self._output.append(line)
            if line.startswith(DONE):
                self.code = int(line[len(DONE) :])
            else:
                yield line

    def run(self) -> str:
        """Let it end by itself; what it printed."""
        for _ in self.lines():
            pass
        return self.output


def in_checkout(command: str) -> str:
    """A shell line that runs Python, with the packages of this environment, in the checkout."""
    return f"cd {ROOT} && {sys.executable} {command}"


def supported() -> bool:
    """Whether this machine is one whose "/" the x86-64 guest can use."""
    return platform.machine() == "x86_64"


def _initrd(machine: Machine, busybox: Path, init: str, command: str, modules: Sequence[str]) -> bytes:
    """An initial RAM disk with busybox, /init and the modules in an order in which they can be loaded."""
    folder = machine.boot / "modules"
    files: dict[str, tuple[int, bytes]] = {
        "bin": (0o040755, b""), "modules": (0o040755, b""),
        "bin/busybox": (0o100755, busybox.read_bytes()), "init": (0o100755, init.encode()),
        "command": (0o100644, command.encode()),
    }  # fmt: skip
    order = []
    for name, content in _modules(folder, modules).items():
        files[f"modules/{name}"] = (0o100644, content)
        order.append(name)
    files["modules/order"] = (0o100644, "".join(f"{name}\n" for name in order).encode())
    return cpio((name, *entry) for name, entry in files.items())


def cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """An archive of (name, mode, content), folders before what is in them, gzipped: an initial RAM disk.

    The format is "newc" (linux Documentation/driver-api/early-userspace/buffer-format.rst).
    """
    archive = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")]):
        encoded = name.encode()
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded) + 1, 0]
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded + b"\0"
        archive += bytes(-len(archive) % 4) + content
        archive += bytes(-len(archive) % 4)
    return gzip.compress(archive, 1)


def _modules(folder: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """The modules and all that they depend on, each after those; what is built in is left out."""
    there: dict[str, Path] = {}
    for top, _, names in os.walk(folder / "kernel"):
        for name in names:
            there[name.partition(".")[0].replace("-", "_")] = Path(top) / name
    loaded: dict[str, bytes] = {}

    def load(name: str) -> None:
        path = there.get(name.replace("-", "_"))
        if path is None or f"{name}.ko" in loaded:
            return
        content = path.read_bytes()
        if path.suffix == ".xz":
            content = lzma.decompress(content)
        depends = _DEPENDS.search(content)
        for other in depends[1].decode().split(",") if depends else ():
            if other:
                load(other)
        loaded[f"{name}.ko"] = content

    for name in wanted:
        load(name)
    return loaded
