"""A new version of a function takes the events when it has started, its init_context included; not before."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.manifest import load
from tests.rig import MEMORY, Rig, Settled

if TYPE_CHECKING:
    from pathlib import Path

WAYS = ["thread", "async", "inline", "process"]
STAYS = ["function f keeps its old version"]


def manifest(way: str, more: str = "") -> str:
    isolation = "thread" if way == "async" else way
    return f"""{MEMORY}
[function.f]
handler = "f.py"
isolation = "{isolation}"
{more}
[[function.f.trigger]]
source = "mem"
path = "/f"
"""


def code(way: str, word: str, init: str = "") -> str:
    setup = f"def init_context(context):\n    {init}\n" if init else ""
    define = "async def" if way == "async" else "def"
    return f"import os, time\n{setup}{define} handler(context, event):\n    return '{word}'\n"


def reload(rig: Rig) -> list[str]:
    """Reload with changed code while events come; what was done. None of the events may be lost."""
    done: list[list[str]] = []
    settled = Settled()
    delivered = 0

    def became() -> bool:
        nonlocal delivered
        if delivered - len(settled.outcomes) < 10:
            rig.deliver("/f", b"", settled)
            delivered += 1
        return bool(done)

    rig.processor.reload(load(str(rig.path)), ["f"], done.append)
    rig.until(became, "the end of the reload")
    rig.until(lambda: len(settled.outcomes) == delivered)
    assert set(settled.statuses()) == {200}
    assert rig.balanced()
    assert not rig.processor.assembly.beside
    return done[0]


@pytest.mark.parametrize("way", WAYS)
def test_a_version_whose_init_context_raises_stays_out_with_its_own_frames_in_the_log(tmp_path: Path, way: str) -> None:
    with Rig(tmp_path, manifest(way), f=code(way, "old")) as rig:
        assert rig.ask("/f") == (200, b"old")
        old = rig.processor.functions["f"]
        (tmp_path / "f.py").write_text(code(way, "bad", "raise ValueError('not today')"))
        assert reload(rig) == STAYS
        assert rig.processor.functions["f"] is old
        assert 'File "f.py", line 3, in init_context' in rig.records.text()
        assert "ValueError: not today" in rig.records.text()
        assert "function could not start" not in rig.records.text()
        assert rig.ask("/f") == (200, b"old")
        (tmp_path / "f.py").write_text(code(way, "new", "context.user_data.x = 1"))
        assert reload(rig) == ["function f replaced"]
        assert rig.ask("/f") == (200, b"new")


@pytest.mark.parametrize("way", ["thread", "async", "process"])
def test_a_version_whose_init_context_hangs_stays_out(tmp_path: Path, way: str) -> None:
    with Rig(tmp_path, manifest(way, 'timeout = "2s"'), f=code(way, "old")) as rig:
        assert rig.ask("/f") == (200, b"old")
        until = tmp_path / "end"
        hang = f"while not os.path.exists({str(until)!r}): time.sleep(0.01)"
        (tmp_path / "f.py").write_text(code(way, "bad", hang))
        try:
            assert reload(rig) == STAYS
            assert "init_context still running after 2 s" in rig.records.text()
            assert rig.ask("/f") == (200, b"old")
        finally:
            until.touch()


@pytest.mark.parametrize("way", WAYS)
def test_init_context_of_a_new_version_is_called_once_for_each_worker(tmp_path: Path, way: str) -> None:
    with Rig(tmp_path, manifest(way), f=code(way, "old")) as rig:
        assert rig.ask("/f") == (200, b"old")
        (tmp_path / "f.py").write_text(code(way, "new", "context.logger.info('begins')"))
        assert reload(rig) == ["function f replaced"]
        for _ in range(3):
            assert rig.ask("/f") == (200, b"new")
        assert sum(record[3] == "begins" for record in rig.records.records) == 1


def test_the_first_of_several_workers_decides(tmp_path: Path) -> None:
    init = "if context.worker_id != '0': raise ValueError('only one')"
    with Rig(tmp_path, manifest("thread", "workers = 2"), f=code("thread", "old")) as rig:
        (tmp_path / "f.py").write_text(code("thread", "new", init))
        done: list[Any] = []
        rig.processor.reload(load(str(rig.path)), ["f"], done.append)
        rig.until(lambda: done == [["function f replaced"]])
        rig.until(lambda: "ValueError: only one" in rig.records.text())
        assert rig.processor.functions["f"].suspended == "could not start"


def test_a_function_whose_old_version_is_suspended_takes_the_new_one_though_it_cannot_start(tmp_path: Path) -> None:
    with Rig(tmp_path, manifest("thread"), f=code("thread", "old", "raise ValueError('first')")) as rig:
        rig.until(lambda: rig.processor.functions["f"].suspended)
        (tmp_path / "f.py").write_text(code("thread", "bad", "raise ValueError('second')"))
        done: list[Any] = []
        rig.processor.reload(load(str(rig.path)), ["f"], done.append)
        rig.until(lambda: "ValueError: second" in rig.records.text())
        assert done == [["function f replaced"]]
        assert rig.processor.functions["f"].suspended == "could not start"


def test_a_function_whose_source_changes_with_it_begins_when_the_source_is_there(tmp_path: Path) -> None:
    text = manifest("thread")
    with Rig(tmp_path, text, f=code("thread", "old")) as rig:
        (tmp_path / "f.py").write_text(code("thread", "new", "context.bindings['more']"))
        rig.path.write_text(rig.path.read_text() + '[source.more]\nkind = "mqtt"\nurl = "mqtt://127.0.0.1:1"\n')
        done: list[Any] = []
        rig.processor.reload(load(str(rig.path)), ["f"], done.append)
        rig.until(lambda: done)
        assert rig.ask("/f") == (200, b"new")
        assert "function could not start" not in rig.records.text()


def test_a_suspended_version_is_not_tried_again_while_the_new_one_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclio_edge.functions.function.FIRST_PAUSE_MS", 200)
    with Rig(tmp_path, manifest("thread"), f=code("thread", "old", "raise ValueError('old')")) as rig:
        rig.until(lambda: rig.processor.functions["f"].suspended)
        go = tmp_path / "go"
        wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        (tmp_path / "f.py").write_text(wait + code("thread", "new"))
        done: list[Any] = []
        rig.processor.reload(load(str(rig.path)), ["f"], done.append)
        rig.turn_for(600)
        go.touch()
        rig.until(lambda: done == [["function f replaced"]])
        assert rig.records.text().count("ValueError: old") == 1
        assert rig.ask("/f") == (200, b"new")


def test_a_replaced_version_whose_hanging_threads_end_at_last_does_not_run_again(tmp_path: Path) -> None:
    hangs = "import threading\nstuck = threading.Event()\ndef handler(context, event):\n    stuck.wait(20)\n"
    with Rig(tmp_path, manifest("thread", 'timeout = "100ms"'), f=hangs) as rig:
        assert rig.ask("/f")[0] == rig.ask("/f")[0] == 408
        old = rig.processor.functions["f"]
        assert old.suspended == "handlers hang"
        stuck = old.handler.__globals__["stuck"]
        (tmp_path / "f.py").write_text(code("thread", "new"))
        done: list[Any] = []
        rig.processor.reload(load(str(rig.path)), ["f"], done.append)
        rig.until(lambda: done and not rig.processor.retired)
        stuck.set()
        rig.until(lambda: not old.runner.lost)
        assert "runs again" not in rig.records.text()
        assert rig.ask("/f") == (200, b"new")


def test_an_import_that_hangs_at_a_reload_keeps_its_own_function_alone_at_the_old_version(tmp_path: Path) -> None:
    both = manifest("thread", 'timeout = "2s"')
    both += both.replace(MEMORY, "").replace("function.f", "function.g").replace("f.py", "g.py").replace("/f", "/g")
    with Rig(tmp_path, both, f=code("thread", "old"), g=code("thread", "old")) as rig:
        go = tmp_path / "go"
        hang = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        (tmp_path / "f.py").write_text(hang + code("thread", "new"))
        (tmp_path / "g.py").write_text(code("thread", "new", "context.user_data.x = 1"))
        done: list[Any] = []
        rig.processor.reload(load(str(rig.path)), ["f", "g"], done.append)
        try:
            rig.until(lambda: done == [["function f keeps its old version", "function g replaced"]])
            assert "its import has not ended after 2 s" in rig.records.text()
            assert rig.ask("/f") == (200, b"old")
            assert rig.ask("/g") == (200, b"new")
        finally:
            go.touch()


def test_each_of_several_imports_has_the_time_of_its_function(tmp_path: Path) -> None:
    second = manifest("thread", 'timeout = "1s"').replace(MEMORY, "").replace("function.f", "function.g")
    text = manifest("thread", 'timeout = "1s"') + second.replace("f.py", "g.py").replace("/f", "/g")
    old, new = code("thread", "old", "pass"), "import time\ntime.sleep(0.7)\n" + code("thread", "new", "pass")
    with Rig(tmp_path, text, f=old, g=old) as rig:
        rig.until(lambda: rig.processor.ready)
        for name in "fg":
            (tmp_path / f"{name}.py").write_text(new)
        done: list[list[str]] = []
        rig.processor.reload(load(str(rig.path)), ["f", "g"], done.append)
        rig.until(lambda: done, "the end of the reload")
        assert done[0] == ["function f replaced", "function g replaced"]


@pytest.mark.parametrize("way", ["thread", "inline"])
def test_a_new_level_of_the_log_holds_for_a_version_that_comes_with_it(tmp_path: Path, way: str) -> None:
    text = "def init_context(context):\n    pass\n\ndef handler(context, event):\n    context.logger.debug('seen')\n"
    with Rig(tmp_path, manifest(way), f=text) as rig:
        rig.until(lambda: rig.processor.ready)
        rig.path.write_text(rig.path.read_text() + '\n[log]\nlevel = "debug"\n')
        reload(rig)
        rig.ask("/f")
        assert "seen" in rig.records.text()


@pytest.mark.parametrize("slow", ["import", "init_context"])
@pytest.mark.parametrize("way", ["thread", "async"])
def test_a_version_that_comes_too_late_leaves_no_code_behind_once_its_thread_has_ended(
    tmp_path: Path, way: str, slow: str
) -> None:
    wait = "while not os.path.exists(os.path.join(os.path.dirname(__file__), 'go')): time.sleep(0.01)"
    with Rig(tmp_path, manifest(way, 'timeout = "300ms"'), f=code(way, "old", "pass")) as rig:
        rig.until(lambda: rig.processor.ready)
        rig.ask("/f")
        before = modules()
        bad = code(way, "new", wait if slow == "init_context" else "pass")
        (tmp_path / "f.py").write_text(bad if slow == "init_context" else f"import os, time\n{wait}\n{bad}")
        assert reload(rig) == STAYS
        (tmp_path / "go").touch()
        rig.until(lambda: modules() == before, "the late version's code to go")


def modules() -> set[str]:
    """The packages of functions that are in memory."""
    return {name.split(".")[1] for name in list(sys.modules) if name.startswith("nuclio_edge_functions.")}
