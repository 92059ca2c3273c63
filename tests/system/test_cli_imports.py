"""Code that cannot be imported, or takes its time: at the start, at a reload, and when a stop comes meanwhile."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.cli import Running, call, write

if TYPE_CHECKING:
    from pathlib import Path

TICK = """
[function.tick]
handler = "tick.py"
isolation = "process"
[[function.tick.trigger]]
every = "20ms"
"""
SAYS = """
import os
def init_context(context):
    context.logger.info("{word} begins")
def handler(context, event):
    context.logger.info_with("{word}", "pid", os.getpid())
"""
HANGS = "print('importing')\nimport time\ntime.sleep(600)\n"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("def handler(context, event):\n    return 1 +\n", None),  # the manifest's check has it
        (
            "raise ValueError('not today')\n",
            "File \"tick.py\", line 1, in <module>\n    raise ValueError('not today')\nValueError: not today",
        ),
        ("import missing_module\n", "No module named 'missing_module'"),
        ("import os\nos._exit(3)\n", "the worker process ended with exit code 3"),
        ("import os\nos.kill(os.getpid(), 9)\n", "the worker process was killed by SIGKILL"),
        ("import sys\nsys.exit(4)\n", "calls sys.exit(4) while it is imported"),
    ],
)
def test_worker_processes_of_code_that_cannot_be_imported_do_not_take_the_place_of_those_that_work(
    tmp_path: Path, broken: str, said: str | None
) -> None:
    write(tmp_path, TICK, tick=SAYS.format(word="old"))
    with Running(tmp_path, "--watch") as run:
        pid = run.wait_for(message="old")["with"]["pid"]
        (tmp_path / "tick.py").write_text(broken + SAYS.format(word="broken"))
        if said is None:
            run.wait_for(event="reload-failed")
        else:
            assert run.wait_for(event="reloaded")["with"]["changes"] == "function tick keeps its old version"
            message = "the new version could not be loaded; the old one stays"
            assert said in run.wait_for(message=message)["with"]["error"]
        seen = len(run.records)
        run.wait_for(sum(r["message"] == "old" for r in run.records) + 5, message="old")
        assert {r["with"]["pid"] for r in run.records[seen:] if r["message"] == "old"} == {pid}
        (tmp_path / "tick.py").write_text(SAYS.format(word="new"))
        run.wait_for(message="new")
        assert run.stop() == 0
        assert run.records[-1]["with"]["failed"] == 0
        assert not any(record["message"].startswith("broken") for record in run.records)


def test_a_worker_process_imports_beside_the_old_one_and_begins_when_it_takes_over(tmp_path: Path) -> None:
    write(tmp_path, TICK, tick=SAYS.format(word="old"))
    wait = "import os, time\nprint('importing')\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"
    with Running(tmp_path, "--watch") as run:
        run.wait_for(message="old")
        (tmp_path / "tick.py").write_text(wait + SAYS.format(word="new"))
        run.wait_for(message="importing")
        run.wait_for(sum(r["message"] == "old" for r in run.records) + 5, message="old")
        assert not any(r["message"].startswith("new") for r in run.records)
        (tmp_path / "go").touch()
        run.wait_for(message="new")
        assert run.stop() == 0
        assert len([r for r in run.records if r["message"] == "new begins"]) == 1
        assert run.records[-1]["with"]["failed"] == run.records[-1]["with"]["pending"] == 0


def test_a_stop_while_a_worker_process_imports_at_a_reload_leaves_no_process(tmp_path: Path) -> None:
    write(tmp_path, TICK, tick=SAYS.format(word="old"))
    code = "import os\nopen('pid', 'w').write(str(os.getpid()))\n" + HANGS
    with Running(tmp_path, "--watch") as run:
        run.wait_for(message="old")
        (tmp_path / "tick.py").write_text(code + SAYS.format(word="new"))
        run.wait_for(message="importing")
        assert run.stop() == 0
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("isolation", ["thread", "inline", "process"])
@pytest.mark.parametrize("spins", [False, True])
def test_a_stop_during_an_import_at_the_start_ends_it_at_once(tmp_path: Path, isolation: str, spins: bool) -> None:
    code = "print('importing')\nwhile True:\n    pass\n" if spins else HANGS
    text = TICK.replace("process", isolation) + '[function.other]\nhandler = "other.py"\n'
    write(tmp_path, text, tick=code + "def handler(context, event): ...\n", other="def handler(c, e): ...\n")
    with Running(tmp_path) as run:
        run.wait_for(message="importing")
        began = time.monotonic()
        run.send(signal.SIGHUP)  # that comes meanwhile is no harm
        # A worker process imports beside the sources: the events that waited for it are undrained. So are those of a
        # function whose import outlasts the patience of the start, on a slow machine.
        assert run.stop() in ((5,) if isolation == "process" else (0, 5))
        # The patience with an import is 30 s: less than that is not waited for it.
        assert time.monotonic() - began < 25
        assert run.records[-1]["event"] == "stopped"
        assert not any("defect" in record["message"] for record in run.records)


def test_a_reload_that_is_asked_for_during_an_import_follows_it(tmp_path: Path) -> None:
    wait = "import os, time\nprint('importing')\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"
    path = write(tmp_path, TICK.replace("process", "thread"), tick=wait + SAYS.format(word="says"))
    with Running(tmp_path) as run:
        run.wait_for(message="importing")
        path.write_text(path.read_text() + '[function.late]\nhandler = "tick.py"\n')
        run.send(signal.SIGHUP)
        (tmp_path / "go").touch()
        assert run.wait_for(event="reloaded")["with"]["changes"] == "function late added"
        assert run.stop() == 0


def test_invoke_says_that_it_was_the_import_that_took_too_long(tmp_path: Path) -> None:
    write(tmp_path, TICK.replace("process", "thread"), tick=HANGS + "def handler(context, event): ...\n")
    done = call("invoke", "tick", "--timeout", "1s", cwd=tmp_path)
    assert "the import has not ended within --timeout" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("isolation", ["thread", "async"])
def test_a_long_import_at_the_start_holds_up_its_own_function_alone(tmp_path: Path, isolation: str) -> None:
    wait = "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"
    slow = wait + SAYS.format(word="tick")
    if isolation == "async":
        slow = slow.replace("def handler", "async def handler")
    other = TICK.replace("process", "thread")
    write(tmp_path, other + other.replace("tick", "other"), tick=slow, other=SAYS.format(word="other"))
    with Running(tmp_path) as run:
        run.wait_for(message="other")
        ready = run.wait_for(event="ready")
        assert ready["message"] == "ready: 2 functions (1 loading: tick), 1 source"
        assert ready["with"]["loading"] == ["tick"]
        assert not any(record["message"] == "tick begins" for record in run.records)
        (tmp_path / "go").touch()
        run.wait_for(20, message="tick")  # those that have waited, too
        assert run.stop() == 0
        tally = run.records[-1]["with"]
        assert tally["received"] == tally["handled"]


def test_a_long_import_that_fails_in_the_end_suspends_its_function(tmp_path: Path) -> None:
    wait = "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"
    write(tmp_path, TICK.replace("process", "thread"), tick=wait + "raise ValueError('late')\n" + SAYS)
    with Running(tmp_path) as run:
        run.ready()
        (tmp_path / "go").touch()
        assert "ValueError: late" in run.wait_for(message="function could not start")["with"]["error"]
        assert run.stop() == 0
        tally = run.records[-1]["with"]
        assert tally["received"] == sum(tally["shed"].values()) > 0


def test_events_of_an_inline_function_are_turned_away_until_it_is_imported(tmp_path: Path) -> None:
    wait = "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"
    write(tmp_path, TICK.replace("process", "inline"), tick=wait + SAYS.format(word="tick"))
    with Running(tmp_path) as run:
        assert run.ready().wait_for(event="ready")["message"] == "ready: 1 function (1 loading: tick), 1 source"
        (tmp_path / "go").touch()
        run.wait_for(message="tick")
        assert run.stop() == 0
        tally = run.records[-1]["with"]
        assert tally["received"] == tally["handled"] + sum(tally["shed"].values())
        assert not any(record["level"] == "error" for record in run.records)


def test_a_function_that_is_replaced_while_it_is_imported_never_begins(tmp_path: Path) -> None:
    wait = "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"
    text = TICK.replace("process", "thread").replace("20ms", "1h")
    path = write(tmp_path, text, tick=wait + SAYS.format(word="old"), other=SAYS.format(word="new"))
    with Running(tmp_path) as run:
        run.ready()
        path.write_text(text.replace("tick.py", "other.py"))
        run.send(signal.SIGHUP)
        assert run.wait_for(event="reloaded")["with"]["changes"] == "function tick replaced"
        run.wait_for(message="new begins")
        (tmp_path / "go").touch()
        path.write_text(text.replace("1h", "20ms"))
        run.send(signal.SIGHUP)
        run.wait_for(message="old")
        assert run.stop() == 0
        assert sum(record["message"] == "old begins" for record in run.records) == 1


def test_a_stop_does_not_wait_for_a_function_that_is_still_imported(tmp_path: Path) -> None:
    text = '[device]\nstop_timeout = "200ms"\n' + TICK.replace("process", "thread")
    write(tmp_path, text, tick=HANGS + SAYS)
    with Running(tmp_path) as run:
        run.ready()
        assert run.stop() == 5


def test_an_import_that_ends_while_the_processor_stops_is_in_time_for_the_events_that_wait(tmp_path: Path) -> None:
    wait = "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"
    text = '[device]\nstop_timeout = "1h"\n' + TICK.replace("process", "thread")
    write(tmp_path, text, tick=wait + SAYS.format(word="tick"))
    with Running(tmp_path) as run:
        run.ready()
        run.process.send_signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert run.wait() == 0
        tally = run.records[-1]["with"]
        assert tally["received"] == tally["handled"] > 0


@pytest.mark.parametrize("where", ["", "def init_context(context):\n    "])
def test_it_is_ready_while_a_worker_process_is_still_starting(tmp_path: Path, where: str) -> None:
    hang = "while not os.path.exists('go'): time.sleep(0.01)\n"
    code = f"import os, time\n{where}{hang}def handler(context, event):\n    context.logger.info('tick')\n"
    write(tmp_path, TICK, tick=code)
    with Running(tmp_path) as run:
        assert run.ready().wait_for(event="ready")["with"]["loading"] == ["tick"]
        (tmp_path / "go").touch()
        run.wait_for(message="tick")
        assert run.stop() == 0
