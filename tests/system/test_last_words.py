"""Drain and termination callbacks: called when a version of a function has handled its last event, where it ran."""

from __future__ import annotations

import signal
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from tests.cli import Running, write
from tests.rig import MEMORY, Rig, Settled

if TYPE_CHECKING:
    from pathlib import Path

FUNCTION = """
[function.f]
handler = "f.py"
{keys}
[[function.f.trigger]]
source = "mem"
path = "/f"
"""
KINDS = ["thread", "async", "process", "inline"]
SAYS = """
import os, threading, time
def init_context(context):
    context.user_data.seen = []
    context.user_data.thread = threading.get_ident()
    context.platform.set_drain_callback(lambda: last(context, "drain"))
    context.platform.set_termination_callback(lambda: last(context, "termination"))
def last(context, kind):
    assert context.user_data.thread == threading.get_ident()
    print(kind, context.worker_id, context.user_data.seen)
    context.bindings["mem"].publish("/nowhere", kind)
def handler(context, event):
    context.user_data.seen.append(event.raw_body.decode())
"""


def rig(folder: Path, kind: str, code: str, keys: str = "", device: str = "") -> Rig:
    code = textwrap.dedent(code)
    if kind == "async":
        code = code.replace("def handler", "async def handler")
    else:
        keys += f'\nisolation = "{kind}"'
    return Rig(folder, device + MEMORY + FUNCTION.format(keys=keys), f=code)


def change(path: Path, text: str) -> None:
    """Write the file in one step: one change, one reload, however slow the machine."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


@pytest.mark.parametrize("kind", KINDS)
def test_at_a_stop_each_worker_is_drained_and_terminated_after_its_last_event(tmp_path: Path, kind: str) -> None:
    with rig(tmp_path, kind, SAYS) as it:
        settled = Settled()
        for number in range(3):
            it.deliver("/f", b"%d" % number, settled)
        it.until(lambda: settled.outcomes)
    said = it.records.text()
    assert said.count("drain 0 ['0', '1', '2']") == said.count("termination 0 ['0', '1', '2']") == 1
    assert said.index("drain 0") < said.index("termination 0")


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_every_one_of_several_workers_has_its_own(tmp_path: Path, kind: str) -> None:
    with rig(tmp_path, kind, SAYS, "workers = 3") as it:
        it.until(lambda: not it.processor.functions["f"].runner.starting())
    for number in range(3):
        assert it.records.text().count(f"termination {number} []") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_version_that_a_reload_replaces_says_its_last_words_the_new_one_does_not(tmp_path: Path, kind: str) -> None:
    text = FUNCTION.format(keys="" if kind == "async" else f'isolation = "{kind}"')
    text = text.replace('source = "mem"\npath = "/f"', 'every = "20ms"').replace("mem", "clock")
    code = SAYS.replace('    context.bindings["mem"].publish("/nowhere", kind)\n', "")
    code = code.replace(
        "context.user_data.seen.append(event.raw_body.decode())",
        "context.user_data.seen = ['WORD']; print('handled WORD')",
    )
    if kind == "async":
        code = code.replace("def handler", "async def handler")
    write(tmp_path, text, f=code.replace("WORD", "old"))
    with Running(tmp_path, "--watch") as run:
        run.wait_for(message="handled old")
        change(tmp_path / "f.py", code.replace("WORD", "new"))
        run.wait_for(message="termination 0 ['old']")
        assert not [r for r in run.records if r["message"].endswith("['new']")]
        run.wait_for(message="handled new")
        run.send(signal.SIGHUP)  # nothing has changed
        run.wait_for(2, event="reloaded")
        assert run.stop() == 0
        said = [r["message"] for r in run.records if r["message"].startswith(("drain", "termination"))]
        assert said == [f"{what} 0 ['{word}']" for word in ("old", "new") for what in ("drain", "termination")]


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_raises_is_logged_with_the_functions_frames_and_the_other_is_called(tmp_path: Path, kind: str) -> None:
    code = """
    def init_context(context):
        context.platform.set_drain_callback(lost)
        context.platform.set_termination_callback(lambda: print("terminated"))
    def lost():
        raise SystemExit("no flush")
    def handler(context, event): ...
    """
    with rig(tmp_path, kind, code) as it:
        it.ask("/f")
    said = it.records.text()
    assert "the drain callback has failed" in said and "SystemExit: no flush" in said
    assert 'File "f.py", line 6, in lost' in said and "farewell" not in said
    assert "terminated" in said


@pytest.mark.parametrize("kind", ["thread", "async", "process"])
def test_an_async_callback_is_awaited(tmp_path: Path, kind: str) -> None:
    code = """
    import asyncio
    def init_context(context):
        context.platform.set_drain_callback(last)
    async def last():
        await asyncio.sleep(0.01)
        print("awaited")
        raise ValueError("after all")
    def handler(context, event): ...
    """
    with rig(tmp_path, kind, code) as it:
        it.ask("/f")
    assert "awaited" in it.records.text()
    assert "in last" in it.records.text() and "ValueError: after all" in it.records.text()


@pytest.mark.parametrize("kind", ["thread", "async", "process"])
def test_one_that_does_not_end_is_not_waited_for_longer_than_the_stop_may_take(tmp_path: Path, kind: str) -> None:
    code = """
    import os, time
    def init_context(context):
        context.platform.set_termination_callback(last)
    def last():
        print("begun")
        while not os.path.exists(FILE):
            time.sleep(0.01)
    def handler(context, event): ...
    """
    code = code.replace("FILE", repr(str(tmp_path / "go")))
    with rig(tmp_path, kind, code, device='stop_timeout = "300ms"\n') as it:
        it.ask("/f")
        it.processor.stop()
        it.until(lambda: not it.processor.sources)
        (tmp_path / "go").touch()
    said = it.records.text()
    assert "begun" in said and "drain and termination callbacks still running" in said


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_one_that_does_not_end_at_a_reload_leaves_the_new_version_alone(tmp_path: Path, kind: str) -> None:
    code = """
import os, time
def init_context(context):
    context.platform.set_drain_callback(last)
def last():
    print("begun")
    while WORD == "old":
        time.sleep(0.01)
def handler(context, event):
    print(WORD)
"""
    text = FUNCTION.format(keys=f'isolation = "{kind}"\ntimeout = "3s"')
    text = text.replace('source = "mem"\npath = "/f"', 'every = "20ms"')
    write(tmp_path, text, f="WORD = 'old'\n" + code)
    with Running(tmp_path, "--watch") as run:
        run.wait_for(message="old")
        change(tmp_path / "f.py", "WORD = 'new'\n" + code)
        run.wait_for(message="begun")
        run.wait_for(5, message="new")
        run.wait_for(message="drain and termination callbacks still running")
        run.wait_for(sum(r["message"] == "new" for r in run.records) + 5, message="new")
        assert run.stop() == 0
        assert run.records[-1]["with"]["failed"] == 0


def test_when_one_function_hangs_at_a_stop_the_others_still_say_theirs(tmp_path: Path) -> None:
    hangs = '\n[function.hangs]\nhandler = "hangs.py"\n[[function.hangs.trigger]]\nsource = "mem"\npath = "/hangs"\n'
    (tmp_path / "hangs.py").write_text(
        "import os, time\ndef handler(context, event):\n    print('hangs')\n"
        f"    while not os.path.exists({str(tmp_path / 'go')!r}):\n        time.sleep(0.01)\n"
    )
    with Rig(tmp_path, 'stop_timeout = "800ms"\n' + MEMORY + FUNCTION.format(keys="") + hangs, f=SAYS) as it:
        it.ask("/f")
        it.deliver("/hangs")
        it.until(lambda: "hangs" in it.records.text())
        it.processor.stop()
        it.until(lambda: not it.processor.sources)
        (tmp_path / "go").touch()
    assert "termination 0 ['']" in it.records.text()
    assert it.processor.exit_code in (5, 75)


def test_a_worker_process_that_dies_in_its_callback_is_not_waited_for(tmp_path: Path) -> None:
    code = """
    import os
    def init_context(context):
        context.platform.set_drain_callback(lambda: os._exit(1))
    def handler(context, event): ...
    """
    with rig(tmp_path, "process", code, device='stop_timeout = "60s"\n') as it:
        it.ask("/f")
    assert "still running" not in it.records.text()


def test_a_callback_can_use_what_is_bound_to_the_thread_of_its_handler(tmp_path: Path) -> None:
    code = """
    import sqlite3
    def init_context(context):
        context.user_data.db = sqlite3.connect(":memory:")
        context.user_data.db.execute("create table t (x)")
        context.platform.set_drain_callback(lambda: print("rows", *context.user_data.db.execute("select * from t")))
        context.platform.set_termination_callback(lambda: context.user_data.db.close())
    def handler(context, event):
        context.user_data.db.execute("insert into t values (7)")
    """
    with rig(tmp_path, "thread", code) as it:
        it.ask("/f")
    assert "rows (7,)" in it.records.text()


@pytest.mark.parametrize("keeps", [True, False])
def test_it_is_called_on_its_own_thread_while_that_one_turns_the_loop(tmp_path: Path, keeps: bool) -> None:
    code = """
import threading
def init_context(context):
    context.platform.set_drain_callback(lambda: print("drained", HERE))
def handler(context, event):
    KEEPS
"""
    here = "context.user_data.thread == threading.get_ident()" if keeps else "True"
    kept = "context.user_data.thread = threading.get_ident()" if keeps else "pass"
    text = '[function.f]\nhandler = "f.py"\n[[function.f.trigger]]\nevery = "2ms"\n'
    write(tmp_path, text, f=code.replace("HERE", here).replace("KEEPS", kept))
    with Running(tmp_path) as run:
        run.ready()
        time.sleep(1)  # the subject: a stream of events, in which the loop's seat goes to the worker's thread
        assert run.stop() == 0
        assert [r["message"] for r in run.records if "drained" in r["message"]] == ["drained True"]
