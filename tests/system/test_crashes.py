"""A process that a handler brings down: the next one knows whose it was and with which event, and begins without it."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests import vm
from tests.cli import Running, write
from tests.leaks import remove_mappings
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

MANIFEST = """
[function.other]
handler = "other.py"
[[function.other.trigger]]
every = "100ms"
[function.bad]
handler = "bad.py"
isolation = "{isolation}"
[[function.bad.trigger]]
name = "ticks"
every = "300ms"
"""
OTHER = "def handler(context, event):\n    context.logger.info('I work')\n"
BAD = """
import os
{define}handler(context, event):
    open("event", "w").write(event.id)
    {deed}
"""
SEGFAULT = "import ctypes; ctypes.string_at(0)"
EXIT = "os._exit(3)"
ABORT = "os.abort()"
KILL = "os.kill(os.getpid(), 9)"


def begin(folder: Path, deed: str, isolation: str = "thread", define: str = "def ") -> None:
    write(folder, MANIFEST.format(isolation=isolation), other=OTHER, bad=BAD.format(deed=deed, define=define))


@pytest.mark.parametrize(
    ("isolation", "define", "deed", "code", "said"),
    [
        ("thread", "def ", SEGFAULT, -signal.SIGSEGV, "crashed: Segmentation fault"),
        ("inline", "def ", SEGFAULT, -signal.SIGSEGV, "crashed: Segmentation fault"),
        ("thread", "async def ", SEGFAULT, -signal.SIGSEGV, "crashed: Segmentation fault"),
        ("thread", "def ", ABORT, -signal.SIGABRT, "crashed: Aborted"),
        ("thread", "def ", EXIT, 3, "was ended by os._exit(3)"),
        ("inline", "def ", EXIT, 3, "was ended by os._exit(3)"),
        ("thread", "async def ", EXIT, 3, "was ended by os._exit(3)"),
    ],
)
def test_who_ended_the_process_is_named_with_its_event_and_begins_suspended(
    tmp_path: Path, isolation: str, define: str, deed: str, code: int, said: str
) -> None:
    begin(tmp_path, deed, isolation, define)
    with Running(tmp_path) as run:
        assert run.wait() == code
    with Running(tmp_path) as run:
        told = run.wait_for(message=f"the last process {said}", level="error")["with"]
        assert re.match("bad: its code (was running in the thread that crashed|called it)$", told["culprit"])
        event = (tmp_path / "event").read_text()
        # The first event of an inline function is noted from its second turn on: it is imported by it.
        assert told["culprit_event"] == f"{event} /" or isolation == "inline"
        assert "bad" in told["running"]
        kept = Path(told["report"]).read_text()
        assert f"the process {said}" in kept
        assert "bad.py" in kept
        assert len(kept) < 65_536
        run.ready().wait_for(3, function="other", message="I work")
        [suspended] = [record for record in run.records if "function suspended" in record["message"]]
        assert (suspended["logger"], suspended["with"]["again_in_ms"]) == ("bad", 60_000)
        assert run.stop() == 0
    (tmp_path / "event").unlink()
    with Running(tmp_path) as run:  # it was stopped in good order: another chance, and the second crash is dearer
        assert run.wait() == code
        assert "function suspended" not in run.log
    with Running(tmp_path) as run:
        again = run.wait_for(logger="bad", level="error")["with"]["again_in_ms"]
        assert again == 120_000
        assert run.wait_for(message=f"the last process {said}")["with"]["culprit_event"] == (
            f"{(tmp_path / 'event').read_text()} /"  # a suspect's events are noted one by one
        )


def test_of_a_process_that_is_killed_again_and_again_the_one_that_ran_each_time_is_suspended(tmp_path: Path) -> None:
    begin(tmp_path, KILL)
    for _ in range(3):
        with Running(tmp_path) as run:
            assert run.wait() == -signal.SIGKILL
            assert "function suspended" not in run.log
    with Running(tmp_path) as run:
        told = run.wait_for(message="the last process was killed", level="warning")["with"]
        assert told["culprit"].startswith("bad: ")
        assert told["culprit_event"] == f"{(tmp_path / 'event').read_text()} /"
        suspended = run.wait_for(logger="bad", level="error")
        assert suspended["message"].startswith("function suspended: the last process was killed")
        assert suspended["with"]["again_in_ms"] == 1_000
        assert run.wait() == -signal.SIGKILL  # it came back after that second


def test_who_removes_the_state_directory_begins_anew(tmp_path: Path) -> None:
    """And so does a container that has its own at the same path, and /dev/shm in common with others (--ipc=host)."""
    begin(tmp_path, KILL)
    with Running(tmp_path) as run:
        assert run.wait() == -signal.SIGKILL
    (tmp_path / "state").rename(tmp_path / "away")
    with Running(tmp_path) as run:
        assert run.wait() == -signal.SIGKILL
        assert "the last process" not in run.log
    remove_mappings(tmp_path / "state")
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "away").rename(tmp_path / "state")
    with Running(tmp_path) as run:
        run.wait_for(message="the last process was killed")


def ended_by_another_signal(run: Running) -> bool:
    """Whether it still runs; it gets another signal, which is the second one as soon as the first was heard."""
    run.send(signal.SIGTERM)
    return run.process.poll() is None


def test_a_second_signal_ends_the_process_and_nobody_is_suspected(tmp_path: Path) -> None:
    begin(tmp_path, "context.logger.info('runs'); import time; time.sleep(60)")
    with Running(tmp_path) as run:
        run.wait_for(message="runs")
        run.send(signal.SIGTERM)
        wait_until(lambda: not ended_by_another_signal(run), "the second signal to end it")
        assert run.wait() == 5
    with Running(tmp_path) as run:
        run.wait_for(message="runs")
        assert "the last process" not in run.log


def test_what_a_handler_forks_may_end_as_it_likes(tmp_path: Path) -> None:
    lines = ("pid = os.fork()", "if pid == 0: os.abort()", "os.waitpid(pid, 0)", "context.logger.info('forked')")
    begin(tmp_path, "\n    ".join(lines))
    with Running(tmp_path) as run:
        run.wait_for(2, message="forked")
        assert (tmp_path / "state" / "crash.txt").read_bytes().strip(b"\0") == b""
        run.process.kill()
        run.process.wait()
    with Running(tmp_path) as run:
        run.wait_for(message="the last process was killed")


@pytest.mark.xdist_group("virtual machines")
def test_memory_that_ran_out_is_told_from_a_kill_by_a_real_kernel() -> None:
    why = vm.X86.missing()
    if why is not None:
        pytest.skip(why)
    if not vm.supported():
        pytest.skip("the machine uses this computer's own /, and is x86-64")
    with vm.Guest(vm.X86, vm.in_checkout("-m tests.guest.out_of_memory"), memory=256) as guest:
        output = guest.run()
    said = [json.loads(line) for line in output.splitlines() if line.startswith('{"sentence"')]
    assert [one["holds"] for one in said] == [True], output[-3000:]
