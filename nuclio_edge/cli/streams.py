"""Standard output and standard error of the commands: always there, and in an encoding that can say everything."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Patient:
    """Standard error that forgives: nobody reads what cannot be written, and the exit code says it as well."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def write(self, text: str) -> int:
        """Write, if it can be."""
        try:
            self._real.write(text)
            self._real.flush()
        except OSError:
            give_up(self._real)
        return len(text)

    def flush(self) -> None:
        """Everything is written at once."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def give_up(stream: Any) -> None:
    """Have what is still to be written to this stream go nowhere: the interpreter flushes it once more at its end."""
    try:
        void = os.open(os.devnull, os.O_WRONLY)
        os.dup2(void, stream.fileno())
        os.close(void)
    except OSError:
        pass


def prepare() -> None:
    """Make of both what every command can rely on; before the first word.

    A closed one is /dev/null. Where the locale's encoding is not UTF-8, a pipe gets UTF-8 all the same (JSON is nothing
    else), and a terminal escapes for what it cannot show.
    """
    for number, name in ((0, ""), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
        if name and getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - until the process ends
    out: Any = sys.stdout
    if hasattr(out, "reconfigure") and out.encoding.lower().replace("-", "") != "utf8":
        if out.isatty():
            out.reconfigure(errors="backslashreplace")
        else:
            out.reconfigure(encoding="utf-8", errors="backslashreplace")
    elif hasattr(out, "reconfigure"):
        out.reconfigure(errors="backslashreplace")  # a lone surrogate, from an argument that is no UTF-8
    if not isinstance(sys.stderr, Patient):
        sys.stderr = Patient(sys.stderr)
