"""A process under test, ours or a peer's: started, watched and ended from outside."""

from __future__ import annotations

import os
import pstats
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.measure import cpu_ns, private_kib, rss_kib, wakeups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PROFILE = "NUCLIO_EDGE_BENCH_PROFILE"  # set by --profile
FUNCTIONS = ROOT / "tests/functions/bench"


class Subject:
    """One process; as a context manager it is ended at the end. What it writes is kept in a file, for when it fails."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f"{name}.log"
        variables = {
            **os.environ,
            "XDG_STATE_HOME": str(folder / "state"),
            "PYTHONDONTWRITEBYTECODE": "",
            **(env or {}),
        }
        with self._log.open("wb") as sink:
            self.started = time.perf_counter()
            self._process = subprocess.Popen(
                command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
            )
        self.pid = self._process.pid

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.stop()
        if kind is not None and os.environ.get("BENCH_VERBOSE"):
            print(f"--- {self.name} wrote:\n{self.output[-3000:]}\n---", file=sys.stderr)

    @property
    def output(self) -> str:
        """All it has written so far."""
        return self._log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    def cpu_ns(self) -> int:
        """CPU time so far."""
        return cpu_ns(self.pid)

    def rss_kib(self) -> int:
        """Resident memory."""
        return rss_kib(self.pid)

    def private_kib(self) -> int:
        """Memory of its own."""
        return private_kib(self.pid)

    def wakeups(self) -> int:
        """How often it has slept."""
        return wakeups(self.pid)

    def stop(self) -> None:
        """SIGTERM, then after a while SIGKILL."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def python(name: str, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Subject:
    """A Python script of peers/, with the interpreter that runs us."""
    return Subject(name, [sys.executable, str(HERE / "peers" / f"{name}.py"), *arguments], folder, env)


def processor(folder: Path, manifest: str, env: Mapping[str, str] | None = None) -> Subject:
    """Ours: `nuclio-edge run`, on a manifest. `{functions}` in it is the folder of the handlers."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "edge.toml"
    path.write_text(manifest.replace("{functions}", str(FUNCTIONS)))
    variables = {"PYTHONPATH": str(ROOT), **(env or {})}
    if PROFILE in os.environ:
        return _Profiled(path, folder, variables)
    return Subject("nuclio-edge", [sys.executable, "-m", "nuclio_edge", "run", str(path)], folder, variables)


class _Profiled(Subject):
    """A processor whose main thread, the loop's, runs under cProfile; the result is printed when it has ended."""

    def __init__(self, path: Path, folder: Path, env: Mapping[str, str]) -> None:
        self._profile = folder / "profile"
        command = [sys.executable, "-m", "cProfile", "-o", str(self._profile), "-m", "nuclio_edge", "run", str(path)]
        super().__init__("nuclio-edge", command, folder, env)

    def stop(self) -> None:
        """Stop, and print."""
        super().stop()
        if self._profile.exists():
            pstats.Stats(str(self._profile), stream=sys.stderr).sort_stats("tottime").print_stats(25)


def manifest(url: str, functions: str, *, version: int = 4, more: str = "") -> str:
    """A manifest with one MQTT source at `url`, named broker, and these function tables."""
    return f"""
[device]
name = "bench"
state_dir = "state"

[source.broker]
kind = "mqtt"
url = "{url}"
version = {5 if version == 5 else 3}
{more}

{functions}
"""


def function(
    handler: str,
    topic: str,
    *,
    name: str = "f",
    isolation: str = "inline",
    qos: int = 0,
    out: str = "",
    durable: bool = False,
) -> str:
    """The tables of one function with one trigger that pushes back when full, and an output if `out` names one."""
    text = f"""
[function.{name}]
handler = "{{functions}}/{handler}"
isolation = "{isolation}"

[[function.{name}.trigger]]
topic = "{topic}"
qos = {qos}
durable = {str(durable).lower()}
inbox = {{ when_full = "block" }}
"""
    if out:
        text += f"""
[[function.{name}.output]]
to = "broker"
topic = "{out}"
qos = 0
"""
    return text
