"""A pseudo-terminal for what behaves differently on one; a bare chroot has none to give."""

from __future__ import annotations

import fcntl
import os
import subprocess
import termios
from typing import TYPE_CHECKING

import pytest

from tests.cli import PROGRAM, environment

if TYPE_CHECKING:
    from pathlib import Path


def open_terminal() -> tuple[int, int]:
    """Both ends of a new pseudo-terminal, ours first; the test is skipped where the system has none."""
    try:
        return os.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminal here ({error}): mount -t devpts devpts /dev/pts")


class Terminal:
    """A `run` on a pseudo-terminal, and what it has shown there."""

    def __init__(self, folder: Path) -> None:
        self.ours, theirs = open_terminal()
        self.process = subprocess.Popen(
            [*PROGRAM, "run"],
            cwd=folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(folder),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no test here has threads
        )
        os.close(theirs)
        self.seen = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)

    def read_until(self, text: bytes) -> None:
        """Read until this was shown; OSError when it never will."""
        while text not in self.seen:
            self.seen += os.read(self.ours, 4096)

    def ctrl_c(self) -> None:
        """What the key does."""
        os.write(self.ours, b"\x03")
