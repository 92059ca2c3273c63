"""The command line where nothing is as it should be: no streams, no disk, no UTF-8, files that are none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from nuclio_edge.errors import StateError
from nuclio_edge.manifest.secrets import read_secret
from nuclio_edge.supervision.supervise import StateLock
from tests.cli import PROGRAM, Running, call, environment, write
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TICK = """
[device]
name = "gerät-名"
[function.f]
handler = "f.py"
[[function.f.trigger]]
every = "50ms"
"""
ECHO = "def handler(context, event):\n    return {'größe': event.body.decode(errors='replace')}\n"
COMMANDS = {
    "check": ["check"],
    "check --json": ["check", "--json"],
    "check --schema": ["check", "--schema"],
    "invoke": ["invoke", "f", "-b", "äö"],
    "events": ["events", "--count", "2"],
    "new": ["new", "there"],
    "version": ["version"],
    "help": ["help"],
    "invoke --help": ["invoke", "--help"],
}


def shell(folder: Path, line: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program by a shell, which redirects as the line says: `"$@" > /dev/full`."""
    command = ["sh", "-c", line, "sh", *PROGRAM, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(folder, env), capture_output=True, timeout=60, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, TICK, f=ECHO)
    return tmp_path


@pytest.mark.parametrize("name", [name for name in COMMANDS if "--help" not in name])  # argparse says nothing
def test_a_full_disk_behind_standard_output_is_told_in_one_line(folder: Path, name: str) -> None:
    done = shell(folder, '"$@" > /dev/full', *COMMANDS[name])
    assert done.returncode == 1
    assert done.stderr.endswith(b": No space left on device\n")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_closed_streams_are_no_fault(folder: Path, name: str) -> None:
    for at, line in enumerate(('"$@" >&-', '"$@" 2>&-', '"$@" <&- >&- 2>&-')):
        (folder / str(at)).mkdir()
        write(folder / str(at), TICK, f=ECHO)
        done = shell(folder / str(at), line, *COMMANDS[name])
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr


def test_a_standard_error_that_cannot_be_written_changes_no_exit_code(folder: Path) -> None:
    (folder / "edge.toml").write_text("[function.f]\nhandler = 1\n")
    for line in ('"$@" 2> /dev/full', '"$@" 2>&-', '"$@" > /dev/full 2> /dev/full'):
        assert shell(folder, line, "check").returncode == 2
        assert shell(folder, line, "chek").returncode == 2
        assert shell(folder, line, "invoke", "f").returncode == 2


def test_a_body_from_a_closed_standard_input_is_a_mistake_of_the_command_line(folder: Path) -> None:
    done = shell(folder, '"$@" <&-', "invoke", "f", "-b", "-")
    assert done.returncode == 2
    assert done.stderr == b"nuclio-edge invoke: --body -: standard input is closed\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_locale_that_is_not_utf_8_is_no_fault_and_a_pipe_gets_utf_8(folder: Path, name: str) -> None:
    done = shell(folder, '"$@"', *COMMANDS[name], LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    if name == "invoke":
        assert '"größe": "äö"' in done.stdout.decode()
    elif name in ("check --json", "check --schema"):
        json.loads(done.stdout.decode())


def test_a_folder_whose_name_is_not_utf_8_can_be_made(tmp_path: Path) -> None:
    done = subprocess.run(
        [*map(str.encode, PROGRAM), b"new", b"caf\xe9"], cwd=tmp_path, env=environment(tmp_path), check=False
    )
    assert done.returncode == 0
    assert "caf\ufffd" in (tmp_path / os.fsdecode(b"caf\xe9") / "README.md").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a disk that is full")
def test_new_on_a_full_disk_leaves_what_is_there_and_nothing_half(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (disk / "edge.toml").write_text("mine")
        with (disk / "fill").open("wb") as fill, pytest.raises(OSError, match="No space"):
            fill.write(bytes(1 << 16))
        done = call("new", "disk", "--force", cwd=tmp_path)
        assert done.returncode == 2
        assert "No space left on device; nothing was written" in done.stderr
        assert "None" not in done.stderr
        assert (disk / "edge.toml").read_text() == "mine"
        assert sorted(path.name for path in disk.iterdir()) == ["edge.toml", "fill"]
        # A processor starts all the same: what it cannot write is its pid, for people.
        (disk / "state").mkdir()
        (disk / "state" / "processor.pid").touch()
        write(tmp_path, TICK, f=ECHO)
        with Running(tmp_path, env={"STATE_DIRECTORY": str(disk / "state")}) as run:
            run.ready()
            told = run.wait_for(message="the state directory cannot be written")["with"]
            assert told["error"] == "No space left on device"
            assert run.stop() == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_pid_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "processor.pid").symlink_to("precious")
    with pytest.raises(StateError, match="cannot be used"):
        StateLock(str(tmp_path))
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_handler_that_is_a_pipe_a_folder_or_a_loop_is_told_and_keeps_no_check_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe.py")
    (folder / "folder.py").mkdir()
    (folder / "loop.py").symlink_to("loop.py")
    for name, said in (("pipe", "not a file"), ("folder", "Is a directory"), ("loop", "Too many levels")):
        (folder / "edge.toml").write_text(TICK.replace("f.py", f"{name}.py"))
        done = call("check", cwd=folder)
        assert done.returncode == 2
        assert said in done.stderr
        assert "did you mean" not in done.stderr


def test_a_manifest_can_come_by_a_pipe_and_one_that_nobody_writes_to_keeps_no_check_waiting(folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" <(sleep 0.2; echo "schema = 1")', "bash", *PROGRAM, "check"],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    os.mkfifo(folder / "pipe")
    piped = call("check", "pipe", cwd=folder)
    assert piped.returncode == 2
    assert "pipe: is a pipe without a word in it" in piped.stderr


def test_whatever_takes_the_manifests_place_the_processor_runs_on(folder: Path) -> None:
    path = folder / "edge.toml"
    good = path.read_text()
    (folder / "f.py").write_text("def handler(context, event):\n    print('works')\n")

    places: tuple[Callable[[], object], ...] = (
        path.mkdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("edge.toml"),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.write_bytes(b"\xff\xfe"),
        lambda: None,
    )
    with Running(folder, "--watch") as run:
        run.wait_for(message="works")
        for count, put in enumerate(places, 1):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
            put()
            run.send(signal.SIGHUP)
            run.wait_for(count, event="reload-failed")
            run.wait_for(sum(r["message"] == "works" for r in run.records) + 2, message="works")
        path.write_text(good.replace("50ms", "60ms"))
        wait_until(lambda: any("function f replaced" in str(r.get("with")) for r in run.records), lambda: run.log)
        assert run.stop() == 0


def test_a_secret_that_is_a_pipe_a_folder_or_too_large_is_told_and_never_cut(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b"x" * ((1 << 20) + 1))
    (tmp_path / "whole").write_bytes(b"x" * (1 << 20))
    for name, said in (("pipe", "not a file"), ("folder", "directory"), ("large", "larger than 1 MiB")):
        with pytest.raises(OSError, match=said):
            read_secret(name, str(tmp_path))
    assert len(read_secret("whole", str(tmp_path))) == 1 << 20


def test_a_long_line_is_not_shown_whole(folder: Path) -> None:
    (folder / "f.py").write_text("x = " + "(" * 50_000 + "\n")
    assert len(call("check", cwd=folder).stderr) < 1000
    (folder / "edge.toml").write_text("x = [" + "1," * 50_000 + " ?]\n")
    shown = call("check", cwd=folder).stderr
    assert len(shown) < 1000
    line, caret = shown.splitlines()[1:3]
    assert line[caret.index("^")] == "?"


def test_no_home_is_no_fault(folder: Path) -> None:
    nothing = {key: value for key, value in environment(folder).items() if key not in ("HOME", "USER", "LOGNAME")}
    for arguments in (["check"], ["invoke", "f"], ["events", "--count", "1"]):
        assert subprocess.run([*PROGRAM, *arguments], cwd=folder, env=nothing, check=False).returncode == 0


@pytest.mark.parametrize("width", ["0", "1", "9", "-3", "x", "99999999"])
def test_any_width_of_a_terminal_has_room_for_the_help(folder: Path, width: str) -> None:
    for command in ("run", "check", "invoke", "events", "new"):
        done = call(command, "--help", cwd=folder, env={"COLUMNS": width})
        assert done.returncode == 0
        assert f"nuclio-edge {command}" in done.stdout


@pytest.mark.parametrize("isolation", ["thread", "inline", "process"])
@pytest.mark.parametrize("deed", ["sys.stdout = io.StringIO()", "sys.stdout = None", "sys.stdout.close()"])
def test_whatever_a_function_does_to_the_streams_its_answer_is_printed(
    tmp_path: Path, deed: str, isolation: str
) -> None:
    code = f"import io, sys\n{deed}\ndef handler(context, event):\n    {deed}\n    return 'answer'\n"
    write(tmp_path, f'[function.f]\nhandler = "f.py"\nisolation = "{isolation}"\n', f=code)
    done = call("invoke", "f", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["body"] == "answer"
