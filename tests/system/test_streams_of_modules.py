"""What a function's module puts in the place of sys.stdout is there for its handler, in every isolation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli import call, write

if TYPE_CHECKING:
    from pathlib import Path

TEE = """
import sys
class Tee:
    def __init__(self, real):
        self.real = real
    def write(self, text):
        return self.real.write(text.upper())
    def flush(self):
        self.real.flush()
sys.stdout = Tee(sys.stdout)
def handler(context, event):
    print("hello")
    return type(sys.stdout).__name__
"""


@pytest.mark.parametrize("load", ["start", "first-event"])
@pytest.mark.parametrize("isolation", ["thread", "inline", "process"])
def test_a_stream_of_the_module_is_the_handlers(tmp_path: Path, isolation: str, load: str) -> None:
    write(tmp_path, f'[function.f]\nhandler = "f.py"\nisolation = "{isolation}"\nload = "{load}"\n', f=TEE)
    done = call("invoke", "f", cwd=tmp_path)
    assert done.returncode == 0
    assert "Tee" in done.stdout
    assert "HELLO" in done.stderr
