"""A handler that holds the interpreter's lock in C: the process ends by itself, and the next one knows whose it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nuclio_edge.cli import OK, RESTART
from tests.cli import PROGRAM, Running, environment, write
from tests.terminal import Terminal, open_terminal
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

MANIFEST = """
[function.other]
handler = "other.py"
[[function.other.trigger]]
every = "100ms"
[function.frozen]
handler = "frozen.py"
timeout = "1s"
isolation = "{isolation}"
[[function.frozen.trigger]]
every = "300ms"
"""
FROZEN = "import re\ndef handler(context, event):\n    re.match(r'(a+)+$', 'a' * 40 + 'b')\n"
OTHER = "def handler(context, event):\n    context.logger.info('I work')\n"
ASYNC = FROZEN.replace("def handler", "async def handler")


def state(folder: Path) -> Path:
    return folder / "state"


@pytest.mark.parametrize(("isolation", "code"), [("thread", FROZEN), ("inline", FROZEN), ("thread", ASYNC)])
def test_a_catastrophic_regular_expression_ends_the_process_and_its_function_begins_suspended(
    tmp_path: Path, isolation: str, code: str
) -> None:
    write(tmp_path, MANIFEST.format(isolation=isolation), frozen=code, other=OTHER)
    with Running(tmp_path) as run:
        assert run.wait() == 1
    assert "Timeout (0:00:06)!" in (state(tmp_path) / "crash.txt").read_text(errors="replace")
    with Running(tmp_path) as run:
        told = run.wait_for(message="the last process was ended because a handler froze it")["with"]
        # By what it used of the processor, or, where the machine was too busy to see that, as the last to begin.
        assert told["culprit"].startswith("frozen: ")
        kept = Path(told["report"]).read_text()
        assert "frozen.py" in kept
        assert "in match" in kept
        run.ready().wait_for(3, function="other", message="I work")
        [suspended] = [record for record in run.records if "function suspended" in record["message"]]
        assert suspended["logger"] == "frozen"
        assert suspended["with"]["again_in_ms"] == 60_000
        assert run.stop() == 0
    assert not (state(tmp_path) / "crash.txt").exists()
    with Running(tmp_path) as run:  # ended as it should: nobody is suspected any more
        run.ready()
        assert "was ended" not in run.log
        run.process.kill()
        run.process.wait()


def test_at_a_terminal_a_line_says_that_the_process_was_ended_as_a_handler_froze_it(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST.format(isolation="thread"), frozen=FROZEN, other=OTHER)
    with Terminal(tmp_path) as run:
        run.read_until(b"nuclio-edge: ended, as a handler has frozen the process: its stack is in ")
        run.read_until(b"crash.txt; the next start names it\r\n")
        assert run.process.wait(30) == 1


def test_at_a_terminal_a_line_says_that_the_process_has_ended_without_a_word(tmp_path: Path) -> None:
    ends = "import os\ndef handler(context, event):\n    os._exit(3)\n"
    write(tmp_path, MANIFEST.format(isolation="thread"), frozen=ends, other=OTHER)
    with Terminal(tmp_path) as run:
        run.read_until(b"nuclio-edge: the process was killed or has crashed; the next start says what is known\r\n")
        assert run.process.wait(30) == 3


def test_of_several_busy_threads_the_one_that_uses_the_processor_is_blamed(tmp_path: Path) -> None:
    manifest = """
[function.frozen]
handler = "frozen.py"
timeout = "1s"
[[function.frozen.trigger]]
every = "100ms"
[function.sleeper]
handler = "sleeper.py"
timeout = "60s"
[[function.sleeper.trigger]]
every = "400ms"
"""
    frozen = FROZEN.replace("    re.match", "    import time; time.sleep(0.7)\n    re.match")
    write(tmp_path, manifest, frozen=frozen, sleeper="import time\ndef handler(context, event):\n    time.sleep(50)\n")
    with Running(tmp_path) as run:
        assert run.wait() == 1
    with Running(tmp_path) as run:
        told = run.wait_for(message="the last process was ended because a handler froze it")["with"]
        names = [part.split(" ")[0] for part in told["running"].split(", ")]
        assert names == ["sleeper", "frozen"]  # the one that began last is innocent
        assert told["culprit"].startswith("frozen:")


@pytest.mark.parametrize("isolation", ["thread", "inline"])
def test_a_slow_handler_that_lets_the_others_run_is_never_ended(tmp_path: Path, isolation: str) -> None:
    manifest = f"""
[function.quick]
handler = "quick.py"
timeout = "1s"
[[function.quick.trigger]]
every = "1h"
[function.slow]
handler = "slow.py"
isolation = "{isolation}"
[[function.slow.trigger]]
every = "100ms"
"""
    slow = "import time\ndef handler(context, event):\n    time.sleep(8)\n    context.logger.info('done')\n"
    write(tmp_path, manifest, quick="def handler(context, event):\n    pass\n", slow=slow)
    with Running(tmp_path) as run:
        run.wait_for(message="done")  # inline: the loop stood still for longer than the other function's timeout


def test_an_idle_process_survives_being_stopped_and_continued(tmp_path: Path) -> None:
    manifest = (
        '[function.f]\nhandler = "f.py"\nisolation = "inline"\ntimeout = "1s"\n[[function.f.trigger]]\nevery = "1h"\n'
    )
    write(tmp_path, manifest, f="def init_context(context):\n    pass\ndef handler(context, event):\n    pass\n")
    with Running(tmp_path) as run:
        run.ready()
        tasks = Path(f"/proc/{run.process.pid}/task")
        wait_until(lambda: len(list(tasks.iterdir())) == 1, "the watch over init_context to end")
        run.send(signal.SIGSTOP)
        time.sleep(8)  # the subject: a stop for longer than the limit of 6 s
        run.send(signal.SIGCONT)
        time.sleep(0.5)
        assert run.stop() == 0


def test_ctrl_z_while_a_handler_runs_is_no_freeze(tmp_path: Path) -> None:
    slow = """
import os, time
def handler(context, event):
    print("begun")
    while not os.path.exists("go"):
        time.sleep(0.05)
    print("done")
"""
    write(tmp_path, MANIFEST.format(isolation="thread").replace('timeout = "1s"', ""), frozen=slow, other=slow)
    text = (tmp_path / "edge.toml").read_text().replace('"other.py"', '"other.py"\ntimeout = "1s"\ndisabled = true', 1)
    (tmp_path / "edge.toml").write_text(text.replace('"frozen.py"', '"frozen.py"\ntimeout = "3s"'))
    ours, theirs = open_terminal()
    process = subprocess.Popen(
        [*PROGRAM, "run"], cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(tmp_path)
    )
    os.close(theirs)
    seen = b""
    try:
        while b"begun" not in seen:
            seen += os.read(ours, 4096)
        process.send_signal(signal.SIGTSTP)
        stat = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it goes on")
        time.sleep(9)  # the subject: a stop for longer than the limit of 3 s and 5 s
        (tmp_path / "go").touch()
        process.send_signal(signal.SIGCONT)
        while b"done" not in seen:
            seen += os.read(ours, 4096)
        process.send_signal(signal.SIGTERM)
        while b"received " not in seen:
            seen += os.read(ours, 4096)
        # In good order; the call that the stop took over its time-out may be in its last 50 ms, its thread not ended.
        assert process.wait(30) in (OK, RESTART)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_an_import_that_freezes_the_process_ends_it_and_the_next_start_goes_without_it(tmp_path: Path) -> None:
    # The 30 s that a good import may hold the lock for are too long for a test.
    program = "import sys, nuclio_edge.processor as p; p.IMPORT_PATIENCE_MS = 500; from nuclio_edge.cli import main; "
    code = "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')\ndef handler(context, event):\n    pass\n"
    write(tmp_path, MANIFEST.format(isolation="thread"), frozen=code, other=OTHER)
    ended = subprocess.run(
        [sys.executable, "-c", program + "sys.exit(main(['run']))"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    with Running(tmp_path) as run:
        told = run.wait_for(message="the last process was ended because a handler froze it")["with"]
        assert told["culprit"] == "frozen: its code was using the processor"
        run.ready().wait_for(3, function="other", message="I work")
        assert run.stop() == 0


def test_a_process_that_was_killed_suspends_nobody(tmp_path: Path) -> None:
    write(
        tmp_path,
        '[function.f]\nhandler = "f.py"\n[[function.f.trigger]]\nevery = "100ms"\n',
        f="import time\ndef handler(context, event):\n    context.logger.info('runs')\n    time.sleep(20)\n",
    )
    with Running(tmp_path) as run:
        run.wait_for(message="runs")
        run.process.kill()
        run.process.wait()
    with Running(tmp_path) as run:
        run.wait_for(message="runs")
        assert "was ended" not in run.log
        run.process.kill()
        run.process.wait()
