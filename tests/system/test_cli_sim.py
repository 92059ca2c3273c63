"""`sim` and the socket behind it: a simulated board driven from another process."""

from __future__ import annotations

import json
import select
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli import PROGRAM, Running, call, environment, write
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST = """
[device]
name = "hall"
board = "sim"
state_dir = "state"
[function.f]
handler = "f.py"
isolation = "inline"
[[function.f.trigger]]
pin = "GPIO17"
"""
ECHO = 'def handler(context, event):\n    context.bindings["pins"].set("GPIO27", event.value)\n'


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    write(tmp_path, MANIFEST, f=ECHO)
    with Running(tmp_path) as run:
        yield run.ready()
        assert run.stop() == 0
    assert not (tmp_path / "state" / "sim.sock").exists()


def level(folder: Path, pin: str) -> int:
    found: int = json.loads(call("sim", "get", pin, "--json", cwd=folder).stdout)["level"]
    return found


def test_a_pin_is_set_and_what_the_function_did_is_seen(running: Running) -> None:
    done = call("sim", "set", "pin 11", "1", cwd=running.folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait_until(lambda: level(running.folder, "GPIO27") == 1, "the echo")
    shown = call("sim", "get", cwd=running.folder).stdout
    assert shown == "GPIO17 1  in, nuclio-edge pins\nGPIO27 1  out, nuclio-edge pins\n"


def test_a_script_plays_and_expects(running: Running, tmp_path: Path) -> None:
    script = "# a press\n0s GPIO17 1\nexpect GPIO27 1\n10ms GPIO17 0  # and its end\nexpect GPIO27 0 5s\n"
    (tmp_path / "press.txt").write_text(script)
    assert call("sim", "script", "press.txt", cwd=tmp_path).returncode == 0
    wrong = call("sim", "script", "-", cwd=tmp_path, stdin=b"expect GPIO27 1 20ms\n")
    assert (wrong.returncode, wrong.stderr) == (1, "nuclio-edge sim: GPIO27 is 0 after 20 ms, 1 was expected\n")


def test_watch_shows_changes_until_the_processor_ends(running: Running) -> None:
    with subprocess.Popen(
        [*PROGRAM, "sim", "watch", "GPIO27"], cwd=running.folder, stdout=subprocess.PIPE,
        env=environment(running.folder),
    ) as watching:  # fmt: skip
        assert watching.stdout is not None
        while True:  # until it listens
            call("sim", "set", "GPIO17", "1", cwd=running.folder)
            call("sim", "set", "GPIO17", "0", cwd=running.folder)
            if select.select([watching.stdout], [], [], 0.2)[0]:
                break
        assert watching.stdout.readline().endswith(b"  out, nuclio-edge pins\n")
        running.stop()
        assert watching.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("set", "GPIO99", "1"), 1, "has no pin 'GPIO99'"),
        (("set", "GPIO17"), 2, "pins and levels in turn"),
        (("set", "GPIO17", "maybe"), 2, "'maybe' is no level"),
        (("script", "absent.txt"), 1, "absent.txt: No such file"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: tuple[str, ...], code: int, text: str, running: Running) -> None:
    done = call("sim", *arguments, cwd=running.folder)
    assert done.returncode == code
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_script_that_makes_no_sense_names_its_line(tmp_path: Path) -> None:
    done = call("sim", "script", "-", cwd=tmp_path, stdin=b"0s GPIO17 1\nsoon GPIO17 0\n")
    assert (done.returncode, done.stderr[:21]) == (2, "nuclio-edge sim: -:2:")


def test_without_a_processor_it_ends_with_4(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST, f=ECHO)
    done = call("sim", "get", cwd=tmp_path)
    assert done.returncode == 4
    assert "no processor" in done.stderr


def test_a_client_that_talks_nonsense_harms_nobody(running: Running) -> None:
    path = str(running.folder / "state" / "sim.sock")

    def asked(connection: socket.socket, data: bytes) -> Any:
        connection.sendall(data)
        return json.loads(connection.makefile("rb").readline())

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        for nonsense in (b"\n{}", b"[1]", b"\xff\xfe", b'{"fly": 1}', b'{"set": 7}', b'{"set": {"GPIO17": 5}}'):
            assert "error" in asked(connection, nonsense + b"\n"), nonsense
        assert asked(connection, b'{"connect": ["GPIO27", "GPIO4"]}\n') == {"ok": True}
        assert asked(connection, b'{"set": {"GPIO17": 1}}\n') == {"ok": True}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        try:
            while True:
                connection.sendall(b"x" * 65_536)
        except (BrokenPipeError, ConnectionResetError):
            pass  # a line without an end is hung up on
    wait_until(lambda: level(running.folder, "GPIO4") == 1, "the wire to show the echo")
