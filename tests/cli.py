"""The command line as a test calls it: a real process, its exit code, its records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.waiting import LIMIT, wait_until

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

PROGRAM = (sys.executable, "-m", "nuclio_edge")
# What would change colours, or where state is kept, does not come from whoever runs the tests.
_FORGOTTEN = ("NO_COLOR", "FORCE_COLOR", "NOTIFY_SOCKET", "WATCHDOG_USEC", "STATE_DIRECTORY", "XDG_STATE_HOME")


def environment(folder: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a call whose state is kept below `folder`."""
    kept = {key: value for key, value in os.environ.items() if key not in _FORGOTTEN}
    return {**kept, "STATE_DIRECTORY": str(folder / "state"), **(extra or {})}


def call(
    *arguments: str, cwd: Path, stdin: bytes = b"", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    done = subprocess.run(
        [*PROGRAM, *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env=environment(cwd, env),
        timeout=2 * LIMIT,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def write(folder: Path, manifest: str, **files: str) -> Path:
    """Write edge.toml and functions (`hello="…"` is hello.py); returns the manifest's path."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    path = folder / "edge.toml"
    path.write_text(manifest)
    return path


class Running:
    """A `nuclio-edge run` in the background, with its log in a file; as a context manager, ended at the end."""

    def __init__(self, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.log_file = folder / f"run-{len(list(folder.glob('run-*.log')))}.log"
        self.out_file = self.log_file.with_suffix(".out")
        with self.log_file.open("wb") as log, self.out_file.open("wb") as out:
            self.process = subprocess.Popen(
                [*PROGRAM, "run", *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env=environment(folder, env),
            )

    @property
    def log(self) -> str:
        """All that it wrote to stderr."""
        return self.log_file.read_text(errors="replace")

    @property
    def records(self) -> list[dict[str, Any]]:
        """Its whole records."""
        return [json.loads(line) for line in self.log.split("\n")[:-1] if line.startswith("{")]

    def wait_for(self, count: int = 1, **wanted: str) -> dict[str, Any]:
        """The `count`th record that has these values (event, message, function, level …), once it is there."""

        def found() -> dict[str, Any] | None:
            fits = [r for r in self.records if all(r.get(key) == value for key, value in wanted.items())]
            if len(fits) < count and self.process.poll() is not None:
                message = f"it ended with {self.process.returncode}:\n{self.log}"
                raise AssertionError(message)
            return fits[count - 1] if len(fits) >= count else None

        record = wait_until(found, lambda: f"{wanted} in:\n{self.log}")
        assert record is not None
        return record

    def ready(self) -> Running:
        """Itself, once it is ready."""
        self.wait_for(event="ready")
        return self

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self.process.wait(2 * LIMIT)

    def stop(self) -> int:
        """End it as systemd would; returns the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.wait()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
