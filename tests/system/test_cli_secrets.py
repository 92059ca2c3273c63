"""What a manifest has as secrets, in a function's `env` too, never shows in a log."""

from __future__ import annotations

import json
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.cli import Running, call, write
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

SECRETS = """
[device]
secrets_dir = "."
[function.tick]
handler = "tick.py"
isolation = "{isolation}"
env = {{ API_KEY = {{ secret = "key" }}, PEM = {{ secret = "pem" }}, PLAIN = "seen", KIND = "{isolation}" }}
[[function.tick.trigger]]
every = "50ms"
"""
TELLS = """
import logging, os, sys
print("imported with", os.environ["API_KEY"])
def handler(context, event):
    key = os.environ["API_KEY"]
    print("printed", key, os.environ["PLAIN"])
    print(os.environ["PEM"])
    sys.stderr.write("on stderr " + key + "\\n")
    if os.environ["KIND"] == "process":  # elsewhere that is the processor's own descriptor
        os.write(2, b"past Python " + key.encode() + b"\\n")
    logging.warning("by logging %s", key)
    context.logger.info_with("with pairs", "pair", {"key": [key]})
    raise ValueError("wrong key " + key)
"""
KEY = 'wea"ther-\\key-ä'
PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nAbCdEf0123456789+/==\n-----END KEY-----\n"


def put(folder: Path, isolation: str, key: str) -> None:
    (folder / "key").write_text(key)
    (folder / "pem").write_text(PEM)
    write(folder, SECRETS.format(isolation=isolation), tick=TELLS)


@pytest.mark.parametrize("isolation", ["thread", "inline", "process"])
def test_a_secret_in_env_shows_as_stars_wherever_a_function_says_it(tmp_path: Path, isolation: str) -> None:
    put(tmp_path, isolation, KEY)
    with Running(tmp_path) as run:
        run.wait_for(message="printed *** seen")
        run.wait_for(message="imported with ***")
        run.wait_for(message="on stderr ***")
        run.wait_for(message="by logging ***")
        assert run.wait_for(message="with pairs")["with"] == {"pair": {"key": ["***"]}}
        assert "wrong key ***" in run.wait_for(message="failed")["with"]["error"]
        run.wait_for(message="-----BEGIN KEY-----")
        if isolation == "process":
            run.wait_for(message="past Python ***")
        run.stop()
        for part in ("ther-", "MIIEvQ", "AbCdEf"):
            assert part not in run.log + run.out_file.read_text()


def test_a_secret_that_is_new_at_a_reload_is_hidden_as_well(tmp_path: Path) -> None:
    put(tmp_path, "thread", "the-first-one")
    with Running(tmp_path) as run:
        run.wait_for(message="printed *** seen")
        (tmp_path / "key").write_text("another-one")
        run.send(signal.SIGHUP)
        assert run.wait_for(event="reloaded")["with"]["changes"] == "function tick replaced"
        run.wait_for(2, message="imported with ***")
        run.stop()
        assert "the-first-one" not in run.log and "another-one" not in run.log


def test_invoke_hides_them_in_the_logs_that_it_shows(tmp_path: Path) -> None:
    put(tmp_path, "thread", KEY)
    done = call("invoke", "tick", cwd=tmp_path)
    assert "printed *** seen" in done.stderr
    assert "ther-" not in done.stderr


@pytest.mark.parametrize("isolation", ["thread", "inline", "process"])
def test_an_answer_that_tells_of_an_exception_shows_none_either(tmp_path: Path, isolation: str) -> None:
    put(tmp_path, isolation, KEY)
    alone = call("invoke", "tick", "-l", "none", cwd=tmp_path)
    with Running(tmp_path) as run:
        run.ready()
        through = call("invoke", "tick", "-l", "none", "--json", cwd=tmp_path)
        run.stop()
    assert "Exception caught in handler - ValueError: wrong key ***\n" in alone.stdout
    assert json.loads(through.stdout)["body"] == "Exception caught in handler - ValueError: wrong key ***"


def test_the_records_that_a_request_asks_for_show_none_either(tmp_path: Path) -> None:
    put(tmp_path, "thread", KEY)
    api = f'[source.api]\nkind = "http"\nlisten = "unix:{tmp_path}/s"\n[[function.tick.trigger]]\npath = "/"\n'
    with (tmp_path / "edge.toml").open("a") as manifest:
        manifest.write(api)
    with Running(tmp_path) as run, socket.socket(socket.AF_UNIX) as client:
        run.ready()
        client.connect(str(tmp_path / "s"))
        client.sendall(b"GET / HTTP/1.0\r\nX-Nuclio-Log-Level: debug\r\n\r\n")
        with client.makefile("rb") as answer:
            said = answer.read().decode()
        run.stop()
    assert "X-Nuclio-Logs: " in said and "printed *** seen" in said and '{"key": ["***"]}' in said
    assert said.endswith("Exception caught in handler - ValueError: wrong key ***")
    assert "ther-" not in said


def test_what_a_handler_answers_itself_is_its_own_matter(tmp_path: Path) -> None:
    put(tmp_path, "thread", KEY)
    (tmp_path / "tick.py").write_text(
        "import os\ndef handler(context, event):\n    return 400, os.environ['API_KEY']\n"
    )
    assert json.loads(call("invoke", "tick", "--json", cwd=tmp_path).stdout)["body"] == KEY


def test_the_outcomes_that_are_recorded_and_replayed_show_none(tmp_path: Path) -> None:
    put(tmp_path, "thread", KEY)
    manifest = (tmp_path / "edge.toml").read_text().replace("[device]", '[device]\nstate_dir = "state"')
    (tmp_path / "edge.toml").write_text('[record]\ntriggers = ["*/*"]\n' + manifest)
    with Running(tmp_path) as run:
        run.wait_for(message="failed")
        wait_until(lambda: call("explain", cwd=tmp_path).stdout.count("\n") > 1, "events are recorded")
        run.stop()
    again = call("replay", "-l", "info", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "printed *** seen" in again.stderr
    recording = (tmp_path / "state" / "recorder.bin").read_bytes().decode("utf-8", "replace")
    assert "wrong key ***" in recording
    assert "ther-" not in recording + again.stdout + again.stderr
