"""A processor whose state directory cannot be written: it starts, says so, and harms nothing that is there."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.cli import Running, call, write
from tests.mosquitto import Mosquitto
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST = """
[source.broker]
kind = "mqtt"
url = "{url}"
[admin]
socket = "admin.sock"
[function.f]
handler = "f.py"
[[function.f.trigger]]
every = "50ms"
[[function.f.output]]
topic = "out"
qos = 1
"""
COUNT = """
numbers = iter(range({first}, {last}))
def handler(context, event):
    number = next(numbers, None)
    if number is None:
        return None
    return str(number)
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def state(tmp_path: Path) -> Iterator[ReadOnly]:
    made = ReadOnly(tmp_path / "state")
    yield made
    made.undo()


class ReadOnly:
    """The state directory of a test, which can become read-only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mounted = False
        folder.mkdir()

    def begin(self) -> None:
        done = subprocess.run(["mount", "--bind", self.folder, self.folder], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"no right to mount: {done.stderr.decode().strip()}")
        self._mounted = True
        subprocess.run(["mount", "-o", "remount,bind,ro", self.folder], check=True)

    def undo(self) -> None:
        if self._mounted:
            subprocess.run(["umount", "-l", self.folder], check=True)


def test_a_processor_starts_in_an_empty_read_only_state_directory_and_tells_what_it_loses(
    tmp_path: Path, broker: Mosquitto, state: ReadOnly
) -> None:
    broker.stop()
    write(tmp_path, MANIFEST.format(url=broker.url), f=COUNT.format(first=0, last=3))
    state.begin()
    with Running(tmp_path) as run:
        run.ready()
        said = run.wait_for(
            level="error",
            message="the state directory cannot be written, nor locked against another processor: "
            "nothing is kept until the next start",
        )
        assert said["with"] == {"folder": str(state.folder), "error": "Read-only file system"}
        wait_until(lambda: "messages: sent 0, given up 0, waiting 3" in call("ledger", cwd=tmp_path).stdout)
        assert run.stop() == 0
        assert run.wait_for(message="messages were not sent")["with"] == {"unacknowledged": 3}
    assert list(state.folder.iterdir()) == []


def test_what_is_in_a_read_only_state_directory_is_used_by_one_processor_and_not_changed(
    tmp_path: Path, broker: Mosquitto, state: ReadOnly
) -> None:
    broker.stop()
    write(tmp_path, MANIFEST.format(url=broker.url), f=COUNT.format(first=0, last=3))
    with Running(tmp_path) as run:
        run.ready()
        stored = "messages to be sent of broker\n  appended 3 ="
        wait_until(lambda: stored in call("ledger", cwd=tmp_path).stdout)
        assert run.stop() == 0
    assert "messages were not sent" not in run.log
    before = {path: path.read_bytes() for path in state.folder.rglob("*") if path.is_file()}
    state.begin()
    write(tmp_path, MANIFEST.format(url=broker.url), f=COUNT.format(first=3, last=6))
    with Running(tmp_path) as run:
        run.ready()
        said = run.wait_for(level="error", message="the state directory cannot be written")
        assert said["with"]["error"] == "Read-only file system"
        other = call("run", cwd=tmp_path)
        assert other.returncode == 1
        assert f"the state directory {state.folder} is held by the processor with pid (unknown)" in other.stderr
        run.wait_for(message="the spool cannot be used; events are acknowledged after their handler")
        assert re.search(r"the spool could not store (\d+) \(EROFS \1\)", call("ledger", cwd=tmp_path).stdout)
        broker.start()
        wait_until(lambda: "messages: sent 6, given up 0, waiting 0" in call("ledger", cwd=tmp_path).stdout)
        assert run.stop() == 0
    assert "messages were not sent" not in run.log
    assert "Traceback" not in run.log
    done = call("dead-letters", "drop", "--all", cwd=tmp_path)
    assert done.returncode == 1
    assert f"the state directory {state.folder} cannot be written: Read-only file system" in done.stderr
    assert call("dead-letters", "list", cwd=tmp_path).returncode == 0
    assert {path: path.read_bytes() for path in state.folder.rglob("*") if path.is_file()} == before
