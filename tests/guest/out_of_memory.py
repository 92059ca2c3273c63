"""Runs in a virtual machine with little memory: the kernel kills the processor for what a handler takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.guest.sentences import run, until

FOLDER = Path("/tmp/memory")
MANIFEST = """
[device]
state_dir = "/tmp/memory/state"
[function.other]
handler = "other.py"
[[function.other.trigger]]
every = "200ms"
[function.greedy]
handler = "greedy.py"
[[function.greedy.trigger]]
every = "500ms"
"""
OTHER = "def handler(context, event):\n    pass\n"
GREEDY = """
def handler(context, event):
    open("/tmp/memory/event", "w").write(event.id)
    held = []
    while True:
        held.append(b"x" * (1 << 20))
"""


def begin() -> subprocess.Popen[bytes]:
    """A processor, its log in a file."""
    with (FOLDER / "log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "nuclio_edge", "run", str(FOLDER / "edge.toml")], stderr=log)


def the_kernel_kills_it_and_the_next_start_says_so_and_suspends_who_was_running() -> Any:
    process = begin()
    assert process.wait(120) == -signal.SIGKILL
    process = begin()
    began = time.monotonic()
    log = FOLDER / "log"
    try:
        until(lambda: '"event":"ready"' in log.read_text(), "the second one to be ready", 60)
        text = log.read_text()
        assert "the last process was killed for want of memory" in text, text
        assert '"culprit":"greedy: nothing else was running"' in text, text
        assert f'"culprit_event":"{(FOLDER / "event").read_text()} /"' in text, text
        assert "function suspended: the last process was killed for want of memory" in text, text
        assert '"again_in_ms":60000' in text, text
    finally:
        process.terminate()
        process.wait(60)
    return {"seconds": round(time.monotonic() - began, 1)}


SENTENCES = (the_kernel_kills_it_and_the_next_start_says_so_and_suspends_who_was_running,)

if __name__ == "__main__":
    FOLDER.mkdir()
    for name, content in (("edge.toml", MANIFEST), ("other.py", OTHER), ("greedy.py", GREEDY)):
        (FOLDER / name).write_text(content)
    os.chdir(FOLDER)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    raise SystemExit(run(*SENTENCES))
