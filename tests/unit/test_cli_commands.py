"""The command line apart from `run`: names, help, mistakes, check, new, version; exit codes and colours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from nuclio_edge import __version__, cli
from nuclio_edge.manifest import load
from tests.cli import PROGRAM, call, environment, write
from tests.terminal import open_terminal

if TYPE_CHECKING:
    from pathlib import Path

MAKES = "; nuclio-edge new makes one"
HELLO = "def handler(context, event):\n    return 'hello'\n"
MANIFEST = '[function.hello]\nhandler = "hello.py"\n[[function.hello.trigger]]\nevery = "5s"\n'


def test_help_shows_every_command_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for name, purpose in cli.COMMANDS.items():
        assert f"  {name} " in shown.out
        assert purpose in shown.out
    assert "examples:" in shown.out
    assert "exit codes:" in shown.out


def test_no_command_is_a_mistake_that_is_answered_with_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "commands:" in shown.err


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_the_help_of_each_command_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([name, "--help"], ["help", name]):
        assert cli.main(arguments) == 0
        shown = capsys.readouterr()
        assert shown.out.startswith(f"usage: nuclio-edge {name}")
        assert f"examples:\n  nuclio-edge {name}" in shown.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chekc"], 'nuclio-edge: no command is called "chekc"; did you mean "check"?'),
        (["xyz"], 'nuclio-edge: no command is called "xyz"; there are: run, check, invoke, '),
        (["--frobnicate"], 'nuclio-edge: no option is called "--frobnicate"; there are: '),
        (["check", "--jsn"], 'nuclio-edge check: no option is called "--jsn"; did you mean "--json"?'),
        (["run", "--wach", "edge.toml"], 'nuclio-edge run: no option is called "--wach"; did you mean "--watch"?'),
        (["run", "a", "b"], "nuclio-edge run: unrecognized arguments: b"),
        (["invoke"], "nuclio-edge invoke: the following arguments are required: FUNCTION"),
        (["invoke", "f", "--log-level", "loud"], "nuclio-edge invoke: argument -l/--log-level: invalid choice"),
        (["ledger", "x.toml"], 'nuclio-edge ledger: "x.toml" has no place here; write --manifest x.toml'),
        (["replay", "--speed", "1", "x.toml"], 'nuclio-edge replay: "x.toml" has no place here; write --manifest x'),
        (["explain", "--json", "x.toml"], 'nuclio-edge explain: "x.toml" has no place here; write --manifest x.toml'),
        (["dead-letters", "x.toml"], 'nuclio-edge dead-letters: "x.toml" has no place here; write --manifest x.toml'),
        (["sim", "get", "x.toml"], 'nuclio-edge sim: "x.toml" has no place here; write --manifest x.toml'),
        (["version", "now"], "nuclio-edge version: only --json can follow"),
        (["events", "--count", "x"], "nuclio-edge events: argument --count: invalid int value"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_was_meant_and_ends_with_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(said)
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "file", "hint"),
    [
        (["check"], "edge.toml", "say which file: nuclio-edge check MANIFEST" + MAKES),
        (["run"], "edge.toml", "say which file: nuclio-edge run MANIFEST" + MAKES),
        (["events"], "edge.toml", "say which file: nuclio-edge events MANIFEST" + MAKES),
        (
            ["invoke", "f"],
            "edge.toml",
            "say which file: nuclio-edge invoke FUNCTION MANIFEST; nuclio-edge new makes one",
        ),
        (["ledger"], "edge.toml", "say which file: nuclio-edge ledger --manifest FILE" + MAKES),
        (["explain"], "edge.toml", "say which file: nuclio-edge explain --manifest FILE" + MAKES),
        (["sim", "get"], "edge.toml", "say which file: nuclio-edge sim --manifest FILE" + MAKES),
        (["check", "gatway.toml"], "gatway.toml", 'did you mean "gateway.toml"?'),
        (["replay", "--manifest", "x/y.toml"], "x/y.toml", "looked for {here}/x/y.toml"),
        (["dead-letters", "--manifest", "/nowhere/y.toml"], "/nowhere/y.toml", None),
        (["invoke", "gateway.toml", "f"], "f", "the function comes first: nuclio-edge invoke f gateway.toml"),
        (["invoke", "gateway.toml"], "edge.toml", "say which function: nuclio-edge invoke FUNCTION gateway.toml"),
    ],
)
def test_where_there_is_no_manifest_each_command_says_how_it_is_given_one(
    arguments: list[str], file: str, hint: str | None, tmp_path: Path
) -> None:
    (tmp_path / "gateway.toml").write_text("")
    done = call(*arguments, cwd=tmp_path)
    more = "" if hint is None else " " * (len(file) + 2) + hint.format(here=tmp_path) + "\n"
    said = f"{file}: there is no such file\n{more}1 problem in {file}; nothing was started.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_the_version_is_told_three_ways_without_argparse(tmp_path: Path) -> None:
    for name in ("version", "--version", "-V"):
        done = call(name, cwd=tmp_path)
        assert done.returncode == 0
        assert done.stdout.startswith(f"nuclio-edge {__version__} (Python 3.")
    assert json.loads(call("version", "--json", cwd=tmp_path).stdout)["version"] == __version__
    code = "import sys; from nuclio_edge.cli import main; main(['version']); sys.exit('argparse' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0


def test_the_script_and_the_module_are_the_same_program(tmp_path: Path) -> None:
    script = os.path.join(os.path.dirname(sys.executable), "nuclio-edge")
    done = subprocess.run([script, "--version"], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.decode() == call("--version", cwd=tmp_path).stdout


def test_check_says_ok_with_what_the_manifest_holds(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST, hello=HELLO)
    done = call("check", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "edge.toml: ok, 1 function, 1 source\n", "")


def test_check_never_runs_the_users_code(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST, hello="open('ran', 'w')\n" + HELLO)
    assert call("check", cwd=tmp_path).returncode == 0
    assert not (tmp_path / "ran").exists()


def test_check_names_every_problem_on_stderr_and_ends_with_2(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST.replace("every", "evry") + "[log]\nlevel = 7\n", hello=HELLO)
    done = call("check", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "edge.toml:4: function.hello.trigger[0].evry" in done.stderr
    assert "edge.toml:6: log.level: " in done.stderr
    assert done.stderr.endswith("problems in edge.toml; nothing was started.\n")


def test_check_json_is_one_object_for_editors(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST.replace('"5s"', '"5 s!"'), hello=HELLO)
    done = call("check", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert said["file"] == "edge.toml"
    assert said["ok"] is False
    (problem,) = said["problems"]
    assert problem["line"] == 4
    assert problem["key"] == "function.hello.trigger[0].every"
    assert problem["severity"] == "error"
    assert set(problem) == {"file", "line", "column", "key", "severity", "code", "message", "hint"}
    write(tmp_path, MANIFEST, hello=HELLO)
    assert json.loads(call("check", "--json", cwd=tmp_path).stdout) == {"file": "edge.toml", "ok": True, "problems": []}


def test_check_schema_prints_a_json_schema(tmp_path: Path) -> None:
    done = call("check", "--schema", cwd=tmp_path)
    assert done.returncode == 0
    assert "function" in json.loads(done.stdout)["properties"]


def test_new_makes_a_project_that_is_right_and_runs(tmp_path: Path) -> None:
    done = call("new", "door", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.split() == ["door/edge.toml", "door/hello.py", "door/README.md", "door/.gitignore"]
    assert call("check", "door/edge.toml", cwd=tmp_path).returncode == 0
    answer = call("invoke", "hello", "-b", '{"name": "you"}', "--json", cwd=tmp_path / "door")
    assert answer.returncode == 0
    assert json.loads(json.loads(answer.stdout)["body"]) == {"greeted": "you", "count": 1}


def test_two_projects_that_new_makes_share_no_state(tmp_path: Path) -> None:
    places = []
    for name in ("one", "two"):
        call("new", name, cwd=tmp_path)
        places.append(load(str(tmp_path / name / "edge.toml")).device.state_dir)
        assert "state/" in (tmp_path / name / ".gitignore").read_text().split()
    assert places == [str(tmp_path / "one" / "state"), str(tmp_path / "two" / "state")]


def test_what_new_says_comes_next_can_be_given_to_a_shell(tmp_path: Path) -> None:
    done = call("new", "bäd name; exit 9", cwd=tmp_path)
    assert done.returncode == 0
    line = done.stderr.removeprefix("next: nuclio-edge run ").removesuffix(" --watch\n")
    assert subprocess.run(["sh", "-c", f"test -f {line}"], cwd=tmp_path, check=False).returncode == 0
    assert line == "'bäd name; exit 9/edge.toml'"
    assert call("new", "door", cwd=tmp_path).stderr == "next: nuclio-edge run door/edge.toml --watch\n"


def test_what_new_comments_out_is_right_as_well(tmp_path: Path) -> None:
    call("new", cwd=tmp_path)
    path = tmp_path / "edge.toml"
    lines = path.read_text().splitlines()
    commented = [
        line.removeprefix("# ") if line.startswith("# ") and ("=" in line or "[" in line) else line for line in lines
    ]
    path.write_text("\n".join(commented) + "\n")
    env = {"NUCLIO_EDGE_SECRET_MQTT_PASSWORD": "x"}
    done = call("check", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "edge.toml: ok, 1 function, 2 sources\n"


def test_new_writes_over_nothing_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("precious")
    done = call("new", ".", cwd=tmp_path)
    assert done.returncode == 2
    assert "already has hello.py; nothing was written" in done.stderr
    assert os.listdir(tmp_path) == ["hello.py"]
    assert call("new", ".", "--force", cwd=tmp_path).returncode == 0
    assert (tmp_path / "hello.py").read_text() != "precious"


def test_new_in_a_folder_that_cannot_be_is_no_stack_trace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call("new", "file/door", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_enough_is_no_fault(tmp_path: Path) -> None:
    read, written = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*PROGRAM, "check", "--schema"],
            cwd=tmp_path,
            stdout=written,
            stderr=subprocess.PIPE,
            env=environment(tmp_path),
            check=False,
        )
    finally:
        os.close(written)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("extra", "coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
    ],
)
def test_colours_follow_no_color_force_color_and_term(tmp_path: Path, extra: dict[str, str], coloured: bool) -> None:
    write(tmp_path, MANIFEST, hello=HELLO)
    ours, theirs = open_terminal()
    try:
        subprocess.run(
            [*PROGRAM, "invoke", "hello", "-l", "none"],
            cwd=tmp_path,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            env=environment(tmp_path, extra),
            check=True,
        )
        assert (b"\x1b[" in os.read(ours, 65536)) is coloured
    finally:
        os.close(ours)
        os.close(theirs)
