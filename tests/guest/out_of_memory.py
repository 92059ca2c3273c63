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
# Pages that were used within so many ms stay: without that a machine may read its programs again and again for minutes.
MIN_TTL = Path("/sys/kernel/mm/lru_gen/min_ttl_ms")
# The time-out is also how long who freezes the process is left alone, and for how long notes of who uses it are kept.
MANIFEST = """
[device]
state_dir = "/tmp/memory/state"
[function.other]
handler = "other.py"
timeout = "10m"
[[function.other.trigger]]
every = "200ms"
[function.greedy]
handler = "greedy.py"
timeout = "10m"
[[function.greedy.trigger]]
every = "500ms"
"""
# Begins last, and takes nothing.
OTHER = """
import os, time
def handler(context, event):
    while os.path.exists("/tmp/memory/event"):
        open("/tmp/memory/waiting", "w").close()
        time.sleep(0.1)
"""
# Takes memory when the other one waits and it has itself been seen to use the processor.
GREEDY = """
import os
def handler(context, event):
    open("/tmp/memory/event", "w").write(event.id)
    while not os.path.exists("/tmp/memory/waiting"):
        pass
    while b"greedy.py" not in open("/tmp/memory/state/crash.txt", "rb").read():
        pass
    held = []
    while True:
        held.append(b"x" * (1 << 20))
"""


def begin() -> subprocess.Popen[bytes]:
    """A processor, its log in a file."""
    with (FOLDER / "log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "nuclio_edge", "run", str(FOLDER / "edge.toml")], stderr=log)


def the_kernel_kills_it_and_the_next_start_says_so_and_suspends_who_took_the_memory() -> Any:
    process = begin()
    assert process.wait(120) == -signal.SIGKILL
    event = FOLDER / "event"
    told = event.read_text()
    event.unlink()  # nothing to wait for any more
    process = begin()
    began = time.monotonic()
    log = FOLDER / "log"
    try:
        until(lambda: '"event":"ready"' in log.read_text(), "the second one to be ready", 60)
        text = log.read_text()
        assert "the last process was killed for want of memory" in text, text
        assert '"running":"other (' in text, text  # it began last
        assert '"culprit":"greedy: its code used the processor most"' in text, text
        assert f'"culprit_event":"{told} /"' in text, text
        assert "function suspended: the last process was killed for want of memory" in text, text
        assert '"again_in_ms":60000' in text, text
    finally:
        process.terminate()
        process.wait(60)
    return {"seconds": round(time.monotonic() - began, 1)}


SENTENCES = (the_kernel_kills_it_and_the_next_start_says_so_and_suspends_who_took_the_memory,)

if __name__ == "__main__":
    FOLDER.mkdir()
    for name, content in (("edge.toml", MANIFEST), ("other.py", OTHER), ("greedy.py", GREEDY)):
        (FOLDER / name).write_text(content)
    if MIN_TTL.exists():
        MIN_TTL.with_name("enabled").write_text("y")
        MIN_TTL.write_text("1000")
    os.chdir(FOLDER)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    raise SystemExit(run(*SENTENCES))
