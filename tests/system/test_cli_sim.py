"""`sim` and the socket behind it: a simulated board driven from another process."""

from __future__ import annotations

import json
import os
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


def test_a_reader_that_has_enough_is_no_fault(running: Running) -> None:
    read, written = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*PROGRAM, "sim", "get"], cwd=running.folder, stdout=written, stderr=subprocess.PIPE,
            env=environment(running.folder), check=False,
        )  # fmt: skip
    finally:
        os.close(written)
    assert (done.returncode, done.stderr) == (0, b"")


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
        (("set", "GPIO17"), 2, "names and values in turn"),
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


WORLD = """
[device]
name = "boat"
board = "sim"
state_dir = "state"
[source.gps]
kind = "serial"
device = "header"
[source.meter]
kind = "serial"
device = "sim:meter"
framing = "delimiter"
delimiter = "\\u0003"
[source.climate]
kind = "sensor"
path = "sim:climate"
every = "20ms"
min_change = 0.5
unit = "V"
[function.talk]
handler = "talk.py"
isolation = "inline"
[[function.talk.trigger]]
source = "gps"
[[function.talk.trigger]]
source = "meter"
[[function.talk.trigger]]
source = "climate"
"""
TALK = """
def handler(context, event):
    context.logger.info_with("talk", "source", event.trigger.name, "said", event.raw_body.decode("latin-1"))
    if event.trigger.name == "climate":
        context.bindings["pins"].set("GPIO27", event.get_field("value") < 20)
    else:
        context.bindings["gps"].write(b"seen " + event.raw_body + b"\\xff\\r\\n")
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Running]:
    write(tmp_path, WORLD, talk=TALK)
    with Running(tmp_path) as run:
        yield run.ready()
        assert run.stop() == 0


def sim(run: Running, *words: str, code: int = 0, stdin: bytes = b"") -> str:
    done = call("sim", *words, cwd=run.folder, stdin=stdin)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_what_is_sent_to_a_port_is_an_event_and_what_its_handler_wrote_is_seen(world: Running) -> None:
    sim(world, "send", "header", "$GPGGA,123519")
    sim(world, "send", "meter", "--raw", r"21\xb0\x03")
    assert world.wait_for(message="talk")["with"] == {"source": "gps", "said": "$GPGGA,123519"}
    assert world.wait_for(2, message="talk")["with"] == {"source": "meter", "said": "21°"}

    def heard() -> Any:
        return json.loads(sim(world, "get", "header", "--json"))

    wait_until(lambda: heard()["tail"] == "seen $GPGGA,123519\xff\r\nseen 21\xb0\xff\r\n", "what the handler wrote")
    assert heard()["path"].startswith("/dev/pts/")
    assert "header open, /dev/pts/" in sim(world, "get")


def test_watch_shows_what_handlers_write(world: Running) -> None:
    with subprocess.Popen(
        [*PROGRAM, "sim", "watch", "header"], cwd=world.folder, stdout=subprocess.PIPE, env=environment(world.folder)
    ) as watching:
        assert watching.stdout is not None
        while not select.select([watching.stdout], [], [], 0.2)[0]:  # until it listens
            sim(world, "send", "header", "ping")
        assert watching.stdout.readline() == b"header wrote seen ping\\xff\\r\\n\n"
        world.stop()
        assert watching.wait(30) == 0


def test_a_sensor_says_what_it_is_set_to_and_is_away_when_it_is_taken(world: Running) -> None:
    sim(world, "set", "climate", "18.5", "GPIO4", "1")
    assert json.loads(world.wait_for(message="talk")["with"]["said"]) == {
        "value": 18.5, "unit": "V", "sensor": "climate",
    }  # fmt: skip
    wait_until(lambda: sim(world, "get", "GPIO27").startswith("GPIO27 1"), "the heating")
    assert sim(world, "get", "climate") == "climate 18.5\n"
    sim(world, "set", "climate", "-")
    world.wait_for(2, message="no reading")  # the first one was before it was set
    assert sim(world, "get", "climate") == "climate away\n"


def test_a_script_sets_sensors_sends_to_ports_pulls_them_out_and_expects_what_is_written(world: Running) -> None:
    script = (
        "0s climate 18\nexpect GPIO27 1\n0s climate 25.5\nexpect GPIO27 0 5s\n"
        "10ms send header $GPGGA,1  # said, and not this\nexpect header $GPGGA,1\\xff\n"
        "0s send header $GPGGA,2\nexpect header $GPGGA,2\n0s unplug header\n0s plug header\n"
    )
    sim(world, "script", "-", stdin=script.encode())
    wait_until(lambda: "header open" in sim(world, "get", "header"), "the source to find it again")
    assert world.wait_for(message="the port is there")["with"]["source"] == "gps"
    wrong = sim(world, "script", "-", stdin=b"expect header $GPGGA,3 20ms\n", code=1)
    assert wrong.startswith("nuclio-edge sim: header wrote seen $GPGGA,1")
    assert "after 20 ms, $GPGGA,3 was expected" in wrong


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("send", "tracker", "hello"), 1, "no port 'tracker'; by name there is header, meter"),
        (("send", "header"), 2, "a port and a text"),
        (("unplug",), 2, "a port is expected"),
        (("set", "climate", "warm"), 2, "'warm' is no level"),
        (("set", "GPIO4", "21.5"), 1, "21.5 is no level of GPIO4"),
        (("set", "../climate", "21"), 1, "has no pin '../climate'"),
    ],
)
def test_what_the_world_does_not_have_is_told(words: tuple[str, ...], code: int, text: str, world: Running) -> None:
    assert text in sim(world, *words, code=code)


def test_an_unplugged_port_takes_nothing(world: Running) -> None:
    sim(world, "unplug", "meter")
    assert "no source has the port meter open" in sim(world, "send", "meter", "x", code=1)


def test_a_simulated_port_or_sensor_needs_the_simulated_board(tmp_path: Path) -> None:
    write(tmp_path, WORLD.replace('board = "sim"', 'board = "raspberrypi/4b"'), talk=TALK)
    done = call("check", cwd=tmp_path)
    assert done.returncode == 2
    assert 'source.meter.device: raspberrypi/4b has no "sim:meter"' in done.stderr
    assert 'source.climate.path: raspberrypi/4b has no "sim:climate"' in done.stderr
    assert 'need board = "sim" in [device]' in done.stderr
