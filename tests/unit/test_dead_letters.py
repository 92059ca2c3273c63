"""The command `dead-letters`, on the state directory of a processor that has ended, and beside one that runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.cli import Running, call, write
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = """
[source.api]
kind = "http"
listen = "unix:FOLDER/api.sock"
[function.f]
handler = "f.py"
[[function.f.trigger]]
every = "1h"
[[function.f.trigger]]
source = "api"
path = "/in"
durable = true
dead_letter = true
"""
FAILS = 'def handler(context, event):\n    raise ValueError("no good")\n'
KEEPS = """
def handler(context, event):
    with open("handled", "ab") as file:
        file.write(event.raw_body + b"\\n")
"""


def post(folder: Path, body: bytes) -> int:
    import http.client
    import socket

    connection = http.client.HTTPConnection("edge")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(folder / "api.sock"))
    connection.request("POST", "/in", body, {"Content-Type": "text/plain"})
    status = connection.getresponse().status
    connection.close()
    return status


def test_dead_letters_are_listed_shown_dropped_and_sent_again(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST.replace("FOLDER", str(tmp_path)), f=FAILS)
    assert "no dead letters" in call("dead-letters", cwd=tmp_path).stderr
    with Running(tmp_path) as running:
        running.ready()
        for number in range(3):
            assert post(tmp_path, b"bad %d" % number) == 500
        listed = call("dead-letters", "list", "--json", cwd=tmp_path)  # beside the processor
        letters = [json.loads(line) for line in listed.stdout.splitlines()]
        assert [letter["path"] for letter in letters] == ["/in"] * 3
        refused = call("dead-letters", "drop", "--all", cwd=tmp_path)
        assert refused.returncode == 1
        assert str(running.process.pid) in refused.stderr
        assert post(tmp_path, b"bad 3") == 500
        assert running.stop() == 0
    numbers = [json.loads(line)["id"] for line in call("dead-letters", "--json", cwd=tmp_path).stdout.splitlines()]
    assert len(numbers) == 4
    text = call("dead-letters", cwd=tmp_path).stdout.splitlines()
    assert len(text) == 4
    assert "function.f.trigger[1]" in text[0]
    assert "no good" in text[0]
    shown = call("dead-letters", "show", str(numbers[0]), cwd=tmp_path)
    assert "bad 0" in shown.stdout
    whole = json.loads(call("dead-letters", "show", str(numbers[1]), "--json", cwd=tmp_path).stdout)
    assert whole["event"]["content_type"] == "text/plain"
    assert whole["attempts"] == 1
    assert call("dead-letters", "show", str(numbers[2]), "--body", cwd=tmp_path).stdout == "bad 2"
    assert call("dead-letters", "drop", str(numbers[0]), cwd=tmp_path).returncode == 0
    assert call("dead-letters", "show", str(numbers[0]), cwd=tmp_path).returncode == 2
    assert call("dead-letters", "send", cwd=tmp_path).returncode == 2
    assert call("dead-letters", "send", "--all", "--function", "other", cwd=tmp_path).returncode == 0
    assert call("dead-letters", "send", "--all", cwd=tmp_path).returncode == 0
    assert call("dead-letters", "--json", cwd=tmp_path).stdout == ""
    write(tmp_path, MANIFEST.replace("FOLDER", str(tmp_path)), f=KEEPS)
    with Running(tmp_path) as running:
        running.ready()
        handled = tmp_path / "handled"
        wait_until(lambda: handled.exists() and len(handled.read_text().splitlines()) == 3, lambda: running.log)
        assert running.stop() == 0
    assert handled.read_text().splitlines() == ["bad 1", "bad 2", "bad 3"]
