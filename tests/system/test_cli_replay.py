"""`replay` and `explain` on recordings that real processors made."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.recorder.recording import read
from tests.cli import Running, call, write
from tests.mosquitto import program
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mosquitto import Mosquitto

MANIFEST = """
[device]
name = "gateway"
board = "sim"
state_dir = "state"
[record]
triggers = ["*/*"]
[source.api]
kind = "http"
listen = "unix:FOLDER/api.sock"
[function.f]
handler = "f.py"
[[function.f.trigger]]
path = "/f"
[[function.f.trigger]]
pin = "GPIO17"
[function.g]
handler = "g.py"
[[function.g.trigger]]
path = "/g"
"""
# What it answers depends on the body, the time, earlier events, and on what a pin and another function say.
CODE = """
import time
from datetime import datetime

seen = {"count": 0, "at": 0.0}

def handler(context, event):
    if event.trigger.kind == "gpio":
        return None
    seen["count"] += 1
    since, seen["at"] = time.time() - seen["at"], time.time()
    assert abs(datetime.now().timestamp() - time.time()) < 1
    if event.raw_body == b"fail":
        raise ValueError("no")
    context.bindings["pins"].set("GPIO27", seen["count"] % 2)
    level = context.bindings["pins"].get("GPIO22")
    return {"body": event.body.decode(), "count": seen["count"], "level": level, "path": event.path}
"""
OTHER = "def handler(context, event):\n    return context.Response(body='g', status_code=202, headers={'X-A': 'b'})\n"
BODIES = [b"1", b"fail", b"2", b"3" * 3000, b"\xe2\x82\xac"]


def ask(folder: Path, path: str, body: bytes) -> bytes:
    import http.client
    import socket

    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(folder / "api.sock"))
    try:
        connection.request("POST", path, body)
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a processor has recorded."""
    folder = tmp_path_factory.mktemp("recorded")
    write(folder, MANIFEST.replace("FOLDER", str(folder)), f=CODE, g=OTHER)
    with Running(folder) as run:
        run.ready()
        assert call("sim", "set", "GPIO22", "1", cwd=folder).returncode == 0
        for body in BODIES:
            ask(folder, "/f", body)
        assert call("sim", "set", "GPIO17", "1", cwd=folder).returncode == 0
        ask(folder, "/g", b"x")
        wait_until(lambda: call("explain", cwd=folder).stdout.count("\n") == len(BODIES) + 2, "all of them")
        assert run.stop() == 0
    return folder


@pytest.fixture
def folder(recorded: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(recorded, tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock", "run-*"))
    return tmp_path / "copy"


def replay(folder: Path, *arguments: str, rc: int) -> tuple[list[Any], dict[str, Any]]:
    """What changed, and the summary."""
    done = call("replay", "--json", *arguments, cwd=folder)
    assert done.returncode == rc, done.stdout + done.stderr
    *changed, last = [json.loads(line) for line in done.stdout.splitlines()]
    return changed, last["summary"]


def test_the_same_code_does_the_same_again(folder: Path) -> None:
    changed, summary = replay(folder, rc=0)
    assert changed == []
    assert summary == {"replayed": 7, "changed": 0, "same": 7, "not_replayed": {}}


def test_a_new_version_shows_what_it_does_otherwise(folder: Path) -> None:
    new = CODE.replace('raise ValueError("no")', 'raise KeyError("yes")').replace("% 2)", "% 3)")
    (folder / "new.py").write_text(new.replace('"path": event.path', '"path": event.path.upper()'))
    changed, summary = replay(folder, "--function", "f", "--path", "new.py", rc=1)
    assert (summary["replayed"], summary["changed"]) == (6, 5)
    assert [sorted(one["changes"]) for one in changed] == [
        ["body"],
        ["error"],
        ["body", "sent"],
        ["body", "sent"],
        ["body", "sent"],
    ]
    error = changed[1]["changes"]["error"]
    assert error == {"old": "ValueError: no", "new": "KeyError: 'yes'"}
    assert json.loads(changed[0]["changes"]["body"]["old"]) == {"body": "1", "count": 1, "level": 1, "path": "/f"}
    assert json.loads(changed[0]["changes"]["body"]["new"])["path"] == "/F"
    sent = changed[4]["changes"]["sent"]
    assert [one for one in sent["old"] if one not in sent["new"]] == [
        ["pins", "set", [], {"name": "GPIO27", "value": 1}]
    ]
    assert [one for one in sent["new"] if one not in sent["old"]] == [
        ["pins", "set", [], {"name": "GPIO27", "value": 2}]
    ]
    assert changed[3]["changes"]["body"]["old"]["size"] > 3000  # too long to be kept: its digest tells


def test_a_folder_of_new_code_takes_the_place_of_the_functions_own(folder: Path) -> None:
    (folder / "next").mkdir()
    (folder / "next" / "f.py").write_text("from helper import answer as handler")
    (folder / "next" / "helper.py").write_text("def answer(context, event):\n    return 'other'")
    changed, summary = replay(folder, "--function", "f", "--path", "next", rc=1)
    assert summary["changed"] == 6
    assert changed[0]["changes"]["body"]["new"] == "other"


def test_a_recording_of_another_machine_is_replayed_by_its_path(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "state" / "recorder.bin", tmp_path / "from-the-field.bin")
    shutil.rmtree(folder / "state")
    changed, summary = replay(folder, str(tmp_path / "from-the-field.bin"), rc=0)
    assert (changed, summary["replayed"]) == ([], 7)
    missing = call("replay", cwd=folder)
    assert missing.returncode == 2
    assert "state/recorder.bin: No such file or directory; nothing has been recorded yet" in missing.stderr


def test_functions_that_the_manifest_does_not_have_are_left_out_and_counted(folder: Path) -> None:
    text = (folder / "edge.toml").read_text()
    (folder / "edge.toml").write_text(text.partition("[function.g]")[0])
    _, summary = replay(folder, rc=0)
    assert summary["replayed"] == 6
    assert summary["not_replayed"] == {"no function g in the manifest": 1}
    (folder / "edge.toml").write_text(text.replace("function.f", "function.h").replace("function.g", "function.i"))
    done = call("replay", cwd=folder)
    assert done.returncode == 2 and "nothing in it can be run again" in done.stderr


def test_a_trigger_that_has_moved_is_found_by_its_name_or_kind(folder: Path) -> None:
    text = (folder / "edge.toml").read_text()
    pin = '[[function.f.trigger]]\npin = "GPIO17"\n'
    first = text.replace(pin, "").replace(
        '[[function.f.trigger]]\npath = "/f"', f'{pin}[[function.f.trigger]]\npath = "/f"'
    )
    assert first.index("GPIO17") < first.index('path = "/f"')
    (folder / "edge.toml").write_text(first)
    assert replay(folder, rc=0)[1]["replayed"] == 7
    (folder / "edge.toml").write_text(text.replace(pin, ""))
    assert replay(folder, rc=0)[1]["not_replayed"] == {"its function has no trigger of that kind": 1}


def test_damage_costs_what_is_damaged_and_is_said(folder: Path) -> None:
    file = folder / "state" / "recorder.bin"
    raw = bytearray(file.read_bytes())
    at = raw.index(b"333333")
    raw[at + 10 : at + 12] = b"??"
    file.write_bytes(raw)
    changed, summary = replay(folder, rc=1)  # without the fourth event the fifth counts one less
    assert [sorted(one["changes"]) for one in changed] == [["body", "sent"]]
    assert summary["replayed"] == 6 and summary["not_replayed"] == {"damaged": 1}
    file.write_bytes(raw[: raw.index(b"333333")])  # a copy that was cut off
    assert replay(folder, rc=0)[1]["replayed"] == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--function", "x"), 'edge.toml has no function named "x"'),
        (("--path", "f.py"), "--path is for one function: add --function, one of f and g"),
        (("--function", "f", "--path", "gone.py"), "gone.py: there is no such file or folder"),
        (("--function", "f", "--path", "state"), "state: there is no f.py in it"),
        (("f.py",), "f.py: it is no recording of nuclio-edge"),
        (("gone.bin",), "gone.bin: No such file or directory"),
        (("--manifest", "gone.toml"), "gone.toml"),
        (("--spede", "1"), "no option is called"),
    ],
)
def test_a_mistake_is_said_in_a_line_and_ends_with_2(folder: Path, arguments: tuple[str, ...], told: str) -> None:
    done = call("replay", *arguments, cwd=folder)
    assert done.returncode == 2
    assert told in done.stderr and "Traceback" not in done.stderr


def test_a_new_version_that_cannot_start_ends_with_2_and_its_reason(folder: Path) -> None:
    (folder / "new.py").write_text("import nothing_of_the_kind\ndef handler(context, event): pass\n")
    done = call("replay", "--function", "f", "--path", "new.py", cwd=folder)
    assert done.returncode == 2
    assert "nothing_of_the_kind" in done.stderr and "f could not start, nothing of it was run" in done.stderr


def test_time_passes_for_the_function_as_it_did_and_not_for_us(folder: Path) -> None:
    code = "import time, datetime\ndef handler(context, event):\n    began = time.monotonic()\n    time.sleep(3600)\n"
    code += (
        "    return [round(time.monotonic() - began), datetime.datetime.now().timestamp() >= event.timestamp_ms / 1000]"
    )
    (folder / "new.py").write_text(code)
    began = time.monotonic()
    changed, _ = replay(folder, "--function", "f", "--path", "new.py", rc=1)
    assert time.monotonic() - began < 3600
    assert {one["changes"]["body"]["new"] for one in changed} == {"[3600,true]"}


def test_speed_1_takes_as_long_as_it_took(folder: Path) -> None:
    stamps = [entry.event.timestamp_ms for entry in read(str(folder / "state" / "recorder.bin")).entries]
    began = time.monotonic()
    replay(folder, "--speed", "1", rc=0)
    assert time.monotonic() - began >= (max(stamps) - min(stamps)) / 1000


def test_explain_tells_an_events_whole_way(folder: Path) -> None:
    listed = call("explain", cwd=folder).stdout.splitlines()
    assert len(listed) == 7
    first, failed = listed[0].split()[0], listed[1].split()[0]
    told = call("explain", first, cwd=folder).stdout
    assert 'taken by function.f.trigger[0] "api": path = "/f"' in told
    assert "in the inbox, ran " in told and "on worker 0, version 1 " in told and "one attempt" in told
    assert 'answered 200, application/json: {"body":"1","count":1,"level":1,"path":"/f"}' in told
    assert "sent pins.set('GPIO27', 1)" in told
    assert 'function.g.trigger[0]: path = "/g" is not as close to POST /f' in told
    told = call("explain", failed, cwd=folder).stdout
    assert "failed with 500:" in told and "ValueError: no" in told
    said = json.loads(call("explain", failed, "--json", cwd=folder).stdout)
    assert said["recorded"][0]["outcome"]["status"] == 500 and said["recorded"][0]["kind"] == "http"


def test_explain_finds_an_event_in_the_log(folder: Path, recorded: Path) -> None:
    log = next(recorded.glob("run-*.log"))
    failed = call("explain", cwd=folder).stdout.splitlines()[1].split()[0]
    told = call("explain", failed, "--log", str(log), cwd=folder).stdout
    assert "in the log" in told and "error f: failed trigger api" in told
    (folder / "state" / "recorder.bin").unlink()
    done = call("explain", failed, "--log", "-", cwd=folder, stdin=log.read_bytes())
    assert done.returncode == 0 and "ValueError: no" in done.stdout


def test_explain_says_what_can_be_said_of_an_event_that_is_nowhere(folder: Path) -> None:
    listed = call("explain", cwd=folder).stdout.split()
    boot = listed[0].partition("-")[0]
    for event, told in (
        (f"{boot}-99999", "came after the last one that is recorded of that process"),
        (f"{boot}-0", "came before the oldest one that is still recorded"),
        ("00000000-1", "there is no event of that process in the recording"),
    ):
        done = call("explain", event, cwd=folder)
        assert done.returncode == 4 and told in done.stderr, done.stderr


def test_what_ran_when_the_process_was_killed_is_explained_by_that(tmp_path: Path) -> None:
    code = "import time\ndef handler(context, event):\n    time.sleep(60)\n"
    write(tmp_path, MANIFEST.replace("FOLDER", str(tmp_path)), f=code, g=OTHER)
    with Running(tmp_path) as run:
        run.ready()
        assert call("sim", "set", "GPIO17", "1", cwd=tmp_path).returncode == 0
        wait_until(
            lambda: (tmp_path / "state" / "recorder.bin").exists() and call("explain", cwd=tmp_path).stdout, "it"
        )
        run.process.send_signal(signal.SIGKILL)
        run.process.wait()
    (line,) = call("explain", cwd=tmp_path).stdout.splitlines()
    event = line.split()[0]
    assert "no outcome was recorded: it was queued or running" in call("explain", event, cwd=tmp_path).stdout
    done = call("replay", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert json.loads(done.stdout)["summary"]["not_replayed"] == {"no outcome recorded": 1}


def test_what_was_shed_is_explained_with_the_policy(tmp_path: Path) -> None:
    text = MANIFEST.replace('path = "/f"\n', 'path = "/f"\ninbox = { size = 1, when_full = "reject" }\n')
    code = (
        "import os, time\ndef handler(context, event):\n    while not os.path.exists('go'):\n        time.sleep(0.01)\n"
    )
    write(tmp_path, text.replace("FOLDER", str(tmp_path)), f=code, g=OTHER)
    with Running(tmp_path) as run:
        run.ready()
        import threading

        first = threading.Thread(target=ask, args=(tmp_path, "/f", b"1"))
        first.start()
        wait_until(lambda: call("explain", cwd=tmp_path).stdout, "the first")
        assert ask(tmp_path, "/f", b"2") == b"shed: reject"
        (tmp_path / "go").touch()
        first.join()
        assert run.stop() == 0
    shed = next(line for line in call("explain", cwd=tmp_path).stdout.splitlines() if "shed reject" in line)
    told = call("explain", shed.split()[0], cwd=tmp_path).stdout
    assert "not handled, shed (reject): the inbox was full, and who asked was told so: inbox.when_full" in told
    assert replay(tmp_path, rc=0)[1]["not_replayed"] == {"shed: reject": 1}


DURABLE = """
[device]
state_dir = "state"
[record]
triggers = ["f/*"]
[source.broker]
kind = "mqtt"
url = "URL"
[function.f]
handler = "f.py"
[[function.f.trigger]]
topic = "in/#"
durable = true
dead_letter = true
inbox = { size = 4 }
[[function.f.output]]
topic = "out"
"""
SLOW = """
import time
def handler(context, event):
    time.sleep(0.02)
    if event.raw_body == b"7":
        raise ValueError("seven")
    return {"id": event.id}
"""


def test_events_that_outlive_their_process_are_recorded_under_their_id(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """Durable ones: most find no room in the inbox and come from the disk, after a SIGKILL in another process."""
    write(tmp_path, DURABLE.replace("URL", mosquitto.url), f=SLOW)
    at = ("-h", "127.0.0.1", "-p", str(mosquitto.port))

    def outcomes() -> dict[str, Any]:
        file = tmp_path / "state" / "recorder.bin"
        entries = read(str(file)).entries if file.exists() else []
        return {entry.event.id or "": entry for entry in entries if entry.outcome is not None}

    with Running(tmp_path) as run:
        run.ready()
        run.wait_for(message="connected")
        lines = "".join(f"{number}\n" for number in range(60)).encode()
        subprocess.run([program("mosquitto_pub"), *at, "-t", "in/a", "-l", "-q", "1"], input=lines, check=True)
        wait_until(lambda: len(outcomes()) >= 5, "some of them")
        run.process.send_signal(signal.SIGKILL)
        run.process.wait()
    with Running(tmp_path) as run:
        run.ready()
        wait_until(lambda: len(outcomes()) == 60, "all of them")
        assert run.stop() == 0
    found = outcomes()
    for event, entry in found.items():
        if entry.event.body != b"7":
            assert json.loads(entry.outcome["body"]) == {"id": event}
            assert [note[3]["topic"] for note in entry.outcome["sent"]] == ["out"]
            assert entry.outcome["ran_us"] >= 20_000
    assert sorted(int(entry.event.body) for entry in found.values()) == list(range(60))
    assert any(entry.event.repeated for entry in found.values())
    # One number each, for ever: what had no outcome when the process died has one now, under the same id.
    assert {entry.event.id for entry in read(str(tmp_path / "state" / "recorder.bin")).entries} == set(found)
    _, summary = replay(tmp_path, rc=0)
    assert summary["replayed"] >= 60
    seventh = next(event for event, entry in found.items() if entry.event.body == b"7")
    told = call("explain", seventh, cwd=tmp_path).stdout
    assert "ValueError: seven" in told and "kept as a dead letter" in told


@pytest.mark.parametrize("isolation", ["thread", "inline", "process"])
def test_an_answer_in_parts_goes_out_in_parts_and_is_compared_by_its_status(tmp_path: Path, isolation: str) -> None:
    text = MANIFEST.replace("FOLDER", str(tmp_path)).replace('"f.py"', f'"f.py"\nisolation = "{isolation}"', 1)
    code = "def handler(context, event):\n    yield 'one,'\n    yield event.body.decode()\n"
    write(tmp_path, text, f=code, g=OTHER)
    with Running(tmp_path) as run:
        run.ready()
        assert ask(tmp_path, "/f", b"two") == b"one,two"
        assert ask(tmp_path, "/f", b"three") == b"one,three"
        assert run.stop() == 0
    listed = call("explain", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[3] for line in listed] == ["200", "200"]
    _, summary = replay(tmp_path, rc=0)
    assert summary["replayed"] == 2


ALL_KINDS = """
[device]
board = "sim"
state_dir = "state"
[record]
triggers = ["*/*"]
[source.broker]
kind = "mqtt"
url = "URL"
[source.lan]
kind = "coap"
listen = "127.0.0.1:PORT"
[source.api]
kind = "http"
listen = "unix:FOLDER/api.sock"
[source.gps]
kind = "serial"
device = "sim:gps"
framing = "line"
[source.climate]
kind = "sensor"
path = "sim:climate"
every = "50ms"
min_change = 0.1
[source.mem]
kind = "memory"
[function.f]
handler = "f.py"
[[function.f.trigger]]
source = "broker"
topic = "in/#"
[[function.f.trigger]]
source = "lan"
path = "/f"
[[function.f.trigger]]
source = "api"
path = "/f"
[[function.f.trigger]]
source = "gps"
[[function.f.trigger]]
source = "climate"
[[function.f.trigger]]
pin = "GPIO17"
[[function.f.trigger]]
every = "300ms"
headers = { a = "b" }
[function.g]
handler = "f.py"
[[function.g.trigger]]
source = "mem"
path = "/g"
[[function.f.output]]
to = "mem"
path = "/g"
"""


def test_events_of_every_kind_of_source_are_replayed_as_they_came(tmp_path: Path, mosquitto: Mosquitto) -> None:
    import socket

    from nuclio_edge.core.coap_codec import NON, URI_PATH, URI_QUERY
    from nuclio_edge.core.coap_compose import compose

    code = "def handler(context, event):\n    more = event.headers, event.source_address, event.clock_quality\n"
    code += "    return event.to_json() + repr(more)"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = ALL_KINDS.replace("URL", mosquitto.url).replace("PORT", str(port)).replace("FOLDER", str(tmp_path))
    write(tmp_path, text, f=code)

    def kinds() -> set[str]:
        file = tmp_path / "state" / "recorder.bin"
        return {e.event.kind for e in read(str(file)).entries if e.outcome is not None} if file.exists() else set()

    at = ("-h", "127.0.0.1", "-p", str(mosquitto.port))
    with Running(tmp_path) as run:
        run.ready()
        run.wait_for(message="connected")
        user = ("-V", "5", "-D", "publish", "user-property", "a", "b", "-D", "publish", "content-type", "text/csv")
        subprocess.run([program("mosquitto_pub"), *at, *user, "-t", "in/a", "-m", "x,y", "-q", "1"], check=True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(compose(NON, 2, 1, b"t", [(URI_PATH, b"f"), (URI_QUERY, b"a=1")], b"17"), ("127.0.0.1", port))
        ask(tmp_path, "/f?x=1", b"{}")
        assert call("sim", "send", "gps", "hello", cwd=tmp_path).returncode == 0
        assert call("sim", "set", "climate", "21.5", cwd=tmp_path).returncode == 0
        assert call("sim", "set", "GPIO17", "1", cwd=tmp_path).returncode == 0
        wait_until(lambda: len(kinds()) == 8, "all kinds")
        assert run.stop() == 0
    changed, summary = replay(tmp_path, rc=0)
    assert changed == [] and summary["replayed"] > 13 and summary["not_replayed"] == {}
