"""A pseudo-terminal for what behaves differently on one; a bare chroot has none to give."""

from __future__ import annotations

import os

import pytest


def open_terminal() -> tuple[int, int]:
    """Both ends of a new pseudo-terminal, ours first; the test is skipped where the system has none."""
    try:
        return os.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminal here ({error}): mount -t devpts devpts /dev/pts")
