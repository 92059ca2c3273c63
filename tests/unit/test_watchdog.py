"""The watchdog's parts: the mapping that outlives the process, the report, the verdict."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.loop import Loop
from nuclio_edge.supervision.crash import culprit
from nuclio_edge.supervision.slots import ROWS, Slots, open_slots, set_name, start_of
from nuclio_edge.supervision.watchdog import Watchdog, limit_ms

if TYPE_CHECKING:
    from collections.abc import Iterator

REPORT = "Timeout (0:00:06)!\nThread 0x1 (most recent call first):\n"


def note(*files: str) -> str:
    return "Stack (most recent call first):\n" + "".join(f'  File "{file}", line 1 in f\n' for file in files)


class Spec:
    """A function's table, as far as the watchdog reads it."""

    def __init__(self, file: str = "/f/a.py", **more: Any) -> None:
        self.file = file
        self.path = file.rpartition("/")[0]
        self.timeout_ms = 30_000
        self.isolation = "thread"
        self.disabled = False
        for key, value in more.items():
            setattr(self, key, value)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the mapping of `tmp_path` is, says the link there; in a folder of the test's instead of /dev/shm."""
    path = tmp_path / "shm" / f"nuclio-edge-{os.geteuid()}-{tmp_path.stat().st_ino:x}-5107"
    path.parent.mkdir()
    monkeypatch.setattr("nuclio_edge.supervision.slots._MEMORY", str(path.parent))
    (tmp_path / "running").symlink_to(path)
    return path


def test_the_mapping_tells_who_was_running_the_last_to_begin_first(tmp_path: Path) -> None:
    slots = Slots(str(tmp_path / "slots"))
    rows = [slots.take() for _ in range(3)]
    slots.begin("0000beef", 7)
    for at, (row, name) in enumerate(zip(rows, ("a", "grün", "x" * 200), strict=True)):
        set_name(row, name)
        start_of(row)[0] = 100 + at
    start_of(rows[0])[0] = 200
    other = Slots(str(tmp_path / "slots"))
    left = other.left()
    assert left is not None
    assert (left.boot, left.kills, left.note) == ("0000beef", 7, "")
    assert left.running == [("a", ""), ("x" * 120, ""), ("grün", "")]
    start_of(rows[1])[0] = 0
    slots.give_back(rows[2])
    left = other.left()
    assert left is not None
    assert left.running == [("a", "")]
    assert os.stat(slots.path).st_mode & 0o777 == 0o600
    slots.close()
    slots.close()


def test_there_are_rows_for_so_many_threads_and_no_more(tmp_path: Path) -> None:
    slots = Slots(str(tmp_path / "slots"))
    rows = [slots.take() for _ in range(ROWS)]
    assert None not in rows
    assert slots.take() is None
    slots.give_back(rows[5])
    assert slots.take() is not None


@pytest.mark.parametrize("trap", ["symlink", "hardlink", "fifo", "folder", "dangling"])
def test_a_trap_laid_in_the_shared_folder_is_not_touched_and_holds_nothing_up(
    tmp_path: Path, shm: Path, loop: Loop, trap: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    if trap == "symlink":
        shm.symlink_to(victim)
    elif trap == "hardlink":
        shm.hardlink_to(victim)
    elif trap == "fifo":
        os.mkfifo(shm)
    elif trap == "folder":
        shm.mkdir()
    else:
        shm.symlink_to(tmp_path / "nowhere")
    made = Watchdog(loop, str(tmp_path), lambda: 6000)
    assert made.slots.path == str(tmp_path / "running")
    made.close()
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_why_nothing_will_be_left_is_said_of_a_file_that_is_not_ours_alone_too(tmp_path: Path, shm: Path) -> None:
    (tmp_path / "running").unlink()
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "running").hardlink_to(tmp_path / "victim")
    made, trouble = open_slots(str(tmp_path))
    assert (made.path, trouble) == ("", f"{tmp_path}/running: not ours alone")
    assert (tmp_path / "victim").read_text() == "precious"
    assert os.listdir(shm.parent) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file that belongs to somebody else")
def test_a_file_of_another_user_is_left_alone(tmp_path: Path, shm: Path, loop: Loop) -> None:
    shm.write_text("theirs")
    os.chown(shm, 12345, 12345)
    made = Watchdog(loop, str(tmp_path), lambda: 6000)
    assert made.slots.path == str(tmp_path / "running")
    made.close()
    assert shm.read_text() == "theirs"


def test_without_shared_memory_the_state_directory_holds_the_mapping_and_no_file_of_anybody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nuclio_edge.delivery.delivery import MARKER  # delivery's, in the same folder; it replaces it

    monkeypatch.setattr("nuclio_edge.supervision.slots._MEMORY", str(tmp_path / "nothing"))
    made, trouble = open_slots(str(tmp_path))
    assert (made.path, trouble) == (str(tmp_path / "running"), None)
    assert not (tmp_path / "running").is_symlink()
    assert made.path != str(tmp_path / MARKER)
    made.close()
    assert not (tmp_path / "running").exists()


def test_a_mapping_that_had_to_lie_in_the_directory_is_read_even_if_there_is_memory_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr("nuclio_edge.supervision.slots._MEMORY", str(tmp_path / "nothing"))
        open_slots(str(tmp_path))[0].begin("0000beef", 7)
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr("nuclio_edge.supervision.slots._MEMORY", str(tmp_path / "shm"))
    made, trouble = open_slots(str(tmp_path))
    assert (made.path, trouble) == (str(tmp_path / "running"), None)
    assert made.left() is not None
    assert os.listdir(tmp_path / "shm") == []
    made.close()
    made, _ = open_slots(str(tmp_path))
    assert made.path.startswith(str(tmp_path / "shm"))


def killed_in(state: Path) -> str:
    """Leave in a state directory what a process leaves that is killed while `door` runs; returns the mapping's path."""
    state.mkdir()
    made, _ = open_slots(str(state))
    made.begin("0000beef", 0)
    row = made.take()
    set_name(row, "door")
    start_of(row)[0] = 5
    return made.path


def test_what_a_process_left_is_that_of_its_state_directory_not_of_the_directorys_path(
    tmp_path: Path, shm: Path
) -> None:
    state = tmp_path / "state"
    mapping = killed_in(state)
    state.rename(tmp_path / "moved")
    state.mkdir()
    made, _ = open_slots(str(state))  # removed and begun anew, or another container's
    assert made.left() is None
    assert made.path != mapping
    made.close()
    moved, _ = open_slots(str(tmp_path / "moved"))
    left = moved.left()
    assert left is not None
    assert left.running == [("door", "")]
    assert moved.path == mapping
    moved.close()
    assert os.listdir(state) == os.listdir(tmp_path / "moved") == os.listdir(shm.parent) == []


def test_a_copy_of_the_state_directory_of_a_processor_that_runs_has_a_mapping_of_its_own(
    tmp_path: Path, shm: Path
) -> None:
    mapping = killed_in(tmp_path / "state")  # as far as the directory tells, it may still run
    shutil.copytree(tmp_path / "state", tmp_path / "copy", symlinks=True)
    made, _ = open_slots(str(tmp_path / "copy"))
    assert made.left() is None
    assert made.path != mapping
    made.close()
    first, _ = open_slots(str(tmp_path / "state"))
    assert first.left() is not None
    assert first.path == mapping
    first.close()
    assert os.listdir(shm.parent) == []


@pytest.mark.parametrize("target", ["{shm}/../precious", "{shm}/nuclio-edge-12345-5107", "nowhere"])
def test_a_link_that_leads_elsewhere_is_replaced_and_what_it_leads_to_is_not_touched(
    tmp_path: Path, shm: Path, target: str
) -> None:
    link = tmp_path / "running"
    link.unlink()
    link.symlink_to(target.format(shm=shm.parent))
    victim = tmp_path / link.readlink()
    victim.write_text("precious")
    made, _ = open_slots(str(tmp_path))
    assert made.path == os.readlink(link)
    assert Path(made.path).parent == shm.parent
    made.close()
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("full", ["memory", "disk", "both"])
def test_a_full_disk_or_memory_does_not_hold_up_the_start(
    tmp_path: Path, shm: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    def allocate(descriptor: int, *_: int) -> None:
        shared = str(shm.parent) in os.readlink(f"/proc/self/fd/{descriptor}")
        if full == "both" or shared == (full == "memory"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    made = Watchdog(loop, str(tmp_path), lambda: 6000)
    where = {"memory": str(tmp_path / "running"), "disk": str(shm), "both": ""}
    assert made.slots.path == where[full]
    assert made.slots.take() is not None
    assert made.last() == (False, "", None)
    made.guard("0000beef", 0)
    assert (made.trouble is None) == (full == "memory")
    assert full == "memory" or "No space left" in str(made.trouble)
    made.close()
    assert set(os.listdir(tmp_path)) == {"shm"}  # no half of a mapping, which the next start would take for one
    assert os.listdir(shm.parent) == []


def test_what_a_process_left_is_told_once(tmp_path: Path, shm: Path, loop: Loop) -> None:
    slots = Slots(str(shm))
    slots.begin("0000beef", 0)
    row = slots.take()
    set_name(row, "door")
    start_of(row)[0] = 5
    (tmp_path / "crash.txt").write_bytes((note("/f/a.py") + REPORT).encode() + bytes(1000))
    made = Watchdog(loop, str(tmp_path), lambda: 6000)
    badly, text, left = made.last()
    assert (badly, text) == (True, note("/f/a.py") + REPORT)
    assert left is not None
    assert left.running == [("door", "")]
    made.guard("0000beef", 0)
    assert made.last()[1] == ""
    made.close()
    assert not (tmp_path / "crash.txt").exists()
    assert not shm.exists()


@pytest.mark.parametrize("left", [b"", bytes(16_384), note("/f/a.py").encode()])
def test_a_process_that_was_killed_leaves_no_report_but_is_known_to_have_ended_badly(
    tmp_path: Path, shm: Path, loop: Loop, left: bytes
) -> None:
    (tmp_path / "crash.txt").write_bytes(left)
    made = Watchdog(loop, str(tmp_path), lambda: 6000)
    badly, text, left_rows = made.last()
    assert (badly, left_rows) == (True, None)
    assert "Timeout" not in text
    assert not (tmp_path / "crash.txt").read_bytes().strip(b"\0")
    made.close()


def test_the_last_one_to_use_the_processor_is_the_culprit() -> None:
    functions: Any = {"a": Spec("/f/a.py"), "b": Spec("/g/ü.py"), "c": Spec("/h/c.py")}
    report = (
        note("/lib/re.py", "/f/a.py") + note("/lib/re.py", "/g/\\xfc.py") + REPORT + '  File "/h/c.py", line 1 in f\n'
    )
    assert culprit(report, ["c", "a", "b"], functions) == ("b", "its code was using the processor")
    assert culprit(note("/g/sub/x.py") + REPORT, ["c", "b"], functions)[0] == "b"
    assert culprit(note("/elsewhere.py") + REPORT, ["c", "b"], functions) == ("c", "it began last")
    assert culprit(REPORT, ["c", "b"], functions) == ("c", "no thread used the processor; it began last")
    assert culprit(REPORT, [], functions)[0] is None


def test_the_limit_is_the_shortest_timeout_but_an_inline_function_has_its_own() -> None:
    def limit(*specs: Spec) -> int:
        return limit_ms(specs)  # type: ignore[arg-type]

    assert limit() == 35_000
    assert limit(Spec(timeout_ms=1000), Spec()) == 6_000
    assert limit(Spec(timeout_ms=1000), Spec(isolation="inline")) == 35_000
    assert limit(Spec(timeout_ms=1000, isolation="process"), Spec()) == 35_000
    assert limit(Spec(timeout_ms=1000, disabled=True), Spec()) == 35_000


def test_it_watches_while_something_runs_and_costs_nothing_afterwards(tmp_path: Path) -> None:
    program = """
import _signal, os, sys, time
from nuclio_edge.core.loop import Loop
from nuclio_edge.supervision.watchdog import Watchdog
def armed():
    return len(os.listdir("/proc/self/task")) > 1, _signal.getitimer(_signal.ITIMER_PROF)[0] > 0
loop = Loop()
dog = Watchdog(loop, sys.argv[1], lambda: 400)
busy = [True]
dog.watch(lambda: busy[0])
print(armed())
dog.touch()
print(armed())
end = time.monotonic() + 2            # much longer than the limit: the loop puts it off
while time.monotonic() < end: loop.turn(50)
print(armed())
busy[0] = False
deadline = time.monotonic() + 20
while armed()[0] and time.monotonic() < deadline: loop.turn(50)
print(armed(), loop._timers)
dog.touch()
dog.close()
dog.close()
print(armed(), os.listdir(sys.argv[1]))
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    off, on = "(False, False)", "(True, True)"
    assert done.stdout.splitlines() == [off, on, on, f"{off} []", f"{off} []"], done.stderr
