"""SIGHUP and --watch: which functions take new code, from which files, and what a refused manifest leaves behind."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.cli import Running, write

if TYPE_CHECKING:
    from pathlib import Path

FUNCTION = """
[function.{name}]
handler = "{name}.py"
isolation = "{isolation}"
[[function.{name}.trigger]]
every = "20ms"
"""
SAYS = """
def init_context(context):
    context.logger.info("{word} begins")
def handler(context, event):
    context.logger.info("{word}")
"""
LAZY = """
def handler(context, event):
    import words
    context.logger.info(words.WORD)
"""


def changes(run: Running, count: int = 1) -> str:
    return str(run.wait_for(count, event="reloaded")["with"]["changes"])


@pytest.mark.parametrize("isolation", ["thread", "inline", "process"])
def test_sighup_takes_changed_code_and_leaves_other_functions_alone(tmp_path: Path, isolation: str) -> None:
    manifest = FUNCTION.format(name="one", isolation=isolation) + FUNCTION.format(name="two", isolation=isolation)
    write(tmp_path, manifest, one=SAYS.format(word="one"), two=LAZY, words="WORD = 'two'\n")
    with Running(tmp_path) as run:
        run.wait_for(message="one")
        run.wait_for(message="two")
        run.send(signal.SIGHUP)
        assert changes(run) == "nothing changed"
        (tmp_path / "words.py").write_text("WORD = 'two again'\n")
        run.send(signal.SIGHUP)
        assert changes(run, 2) == "function two replaced"
        run.wait_for(message="two again")
        (tmp_path / "one.py").write_text(SAYS.format(word="another"))
        run.send(signal.SIGHUP)
        assert changes(run, 3) == "function one replaced"
        run.wait_for(message="another")
        assert run.stop() == 0
        assert sum(record["message"] == "one begins" for record in run.records) == 1


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_sighup_brings_a_function_back_that_could_not_start_when_its_folder_has_changed(
    tmp_path: Path, isolation: str
) -> None:
    write(tmp_path, FUNCTION.format(name="one", isolation=isolation), one="import words\n" + LAZY)
    with Running(tmp_path) as run:
        run.wait_for(3, message="function could not start")  # the next attempt is 4 s away
        run.send(signal.SIGHUP)
        assert changes(run) == "nothing changed"
        (tmp_path / "words.py").write_text("WORD = 'mended'\n")
        run.send(signal.SIGHUP)
        assert changes(run, 2) == "function one replaced"
        run.wait_for(message="mended")
        assert run.stop() == 0


def test_sighup_replaces_a_function_whose_import_does_not_end(tmp_path: Path) -> None:
    hangs = "import time\ntime.sleep(600)\n" + SAYS.format(word="old")
    write(tmp_path, FUNCTION.format(name="one", isolation="thread"), one=hangs)
    with Running(tmp_path) as run:
        assert run.ready().wait_for(event="ready")["with"]["loading"] == ["one"]
        run.send(signal.SIGHUP)
        assert changes(run) == "nothing changed"
        (tmp_path / "one.py").write_text(SAYS.format(word="mended"))
        run.send(signal.SIGHUP)
        assert changes(run, 2) == "function one replaced"
        run.wait_for(message="mended")
        run.stop()
        assert not any(record["message"] == "function runs again" for record in run.records)


def test_sighup_takes_a_changed_init_of_a_package_by_relative_imports(tmp_path: Path) -> None:
    code = "from . import WORD\ndef handler(context, event):\n    context.logger.info(WORD)\n"
    write(tmp_path, FUNCTION.format(name="one", isolation="thread"), one=code, __init__="WORD = 'old'\n")
    with Running(tmp_path) as run:
        run.wait_for(message="old")
        (tmp_path / "__init__.py").write_text("WORD = 'newer'\n")
        run.send(signal.SIGHUP)
        run.wait_for(message="newer")
        assert run.stop() == 0


def test_a_refused_manifest_says_that_nothing_was_changed(tmp_path: Path) -> None:
    path = write(tmp_path, FUNCTION.format(name="one", isolation="thread"), one=SAYS.format(word="one"))
    with Running(tmp_path) as run:
        run.ready()
        path.write_text(path.read_text() + "[function.two]\nhandler = 'two.py'\n")
        run.send(signal.SIGHUP)
        problems = run.wait_for(event="reload-failed")["with"]["problems"]
        assert problems.endswith("1 problem in edge.toml; nothing was changed.")
        assert run.stop() == 0


def test_watch_sees_the_file_that_a_refused_manifest_lacked(tmp_path: Path) -> None:
    path = write(tmp_path, FUNCTION.format(name="one", isolation="thread"), one=SAYS.format(word="one"))
    with Running(tmp_path, "--watch") as run:
        run.wait_for(message="one")
        path.write_text(path.read_text() + FUNCTION.format(name="two", isolation="thread"))
        run.wait_for(event="reload-failed")
        (tmp_path / "two.py").write_text("def handle\n")
        run.wait_for(2, event="reload-failed")
        (tmp_path / "two.py").write_text(SAYS.format(word="two"))
        assert changes(run) == "function two added"
        run.wait_for(message="two")
        assert run.stop() == 0


def test_watch_sees_a_file_that_only_the_refused_version_of_a_function_reads(tmp_path: Path) -> None:
    write(tmp_path, FUNCTION.format(name="one", isolation="thread"), one=SAYS.format(word="old"), words="")
    with Running(tmp_path, "--watch") as run:
        run.wait_for(message="old")
        (tmp_path / "one.py").write_text("from words import WORD\n" + LAZY)
        assert changes(run) == "function one keeps its old version"
        (tmp_path / "words.py").write_text("WORD = 'new'\n")
        assert changes(run, 2) == "function one replaced"
        run.wait_for(message="new")
        assert run.stop() == 0


def test_watch_keeps_in_mind_what_changed_while_the_manifest_could_not_be_used(tmp_path: Path) -> None:
    path = write(tmp_path, FUNCTION.format(name="one", isolation="thread"), one=SAYS.format(word="old"))
    good = path.read_text()
    with Running(tmp_path, "--watch") as run:
        run.wait_for(message="old")
        path.write_text("[[[")
        (tmp_path / "one.py").write_text(SAYS.format(word="new"))
        run.wait_for(event="reload-failed")
        path.write_text(good)
        run.wait_for(message="new")
        assert run.stop() == 0
