"""A running processor is asked: over its unix socket, over `[admin] listen`, by people, Prometheus and enemies."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.admin import Unix, get, request
from tests.cli import Running, call, write
from tests.exposition import parse
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST = """
[device]
name = "gw"
state_dir = "state"
[source.api]
kind = "http"
listen = "unix:{folder}/api.sock"
[function.echo]
handler = "echo.py"
description = "says it again"
[[function.echo.trigger]]
source = "api"
path = "/echo"
[[function.echo.trigger]]
source = "api"
path = "/in/*"
method = "PUT"
"""
ECHO = """
import os
def handler(context, event):
    if event.body == b"fail":
        raise ValueError("asked for")
    if event.body == b"who":
        return {"pid": os.getpid(), "kind": event.trigger.kind, "path": event.path, "method": event.method,
                "type": event.content_type, "x": event.get_header("X-Thing")}
    context.logger.info_with("seen", "body", event.body)
    return event.body
"""


def manifest(folder: Path, more: str = "", top: str = "") -> Path:
    return write(folder, top + MANIFEST.format(folder=folder) + more, echo=ECHO)


@pytest.fixture
def at(tmp_path: Path) -> Path:
    """Where the admin socket is."""
    return tmp_path / "state" / "admin.sock"


def post(folder: Path, body: bytes, path: str = "/echo") -> int:
    """An event by the manifest's own source."""
    return request(Unix(folder / "api.sock"), "POST", path, body)[0]


def test_the_socket_is_its_owners_alone_and_goes_with_the_processor(tmp_path: Path, at: Path) -> None:
    manifest(tmp_path)
    with Running(tmp_path) as run:
        run.ready()
        found = at.lstat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert get(at, "/healthz")["status"] == "ok"
        assert run.stop() == 0
    assert not at.exists()


def test_a_socket_that_a_killed_processor_has_left_is_replaced(tmp_path: Path, at: Path) -> None:
    manifest(tmp_path)
    with Running(tmp_path) as run:
        run.ready().send(signal.SIGKILL)
        run.wait()
    assert at.exists()
    with Running(tmp_path) as run:
        run.ready()
        assert get(at, "/healthz")["status"] == "ok"
        assert run.stop() == 0


def test_a_living_processors_socket_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    admin = f'[admin]\nsocket = "{tmp_path}/a.sock"\n'
    manifest(tmp_path / "one", top=admin)
    manifest(tmp_path / "other", top=admin)
    with Running(tmp_path / "one").ready() as first, Running(tmp_path / "other") as second:
        second.ready()
        said = second.wait_for(message="the processor cannot be asked there; trying again")
        assert "another processor" in said["with"]["reason"]
        connection = Unix(tmp_path / "a.sock")
        assert json.loads(request(connection, "POST", "/invoke/echo", b"who")[2])["pid"] == first.process.pid
        assert first.stop() == 0
        # The other one gets it by itself as soon as it is free.
        wait_until((tmp_path / "a.sock").exists, second.log)
        assert get(tmp_path / "a.sock", "/healthz")["status"] == "ok"
        assert second.stop() == 0


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_no_socket_is_left_alone_and_the_processor_runs_without(tmp_path: Path, at: Path, what: str) -> None:
    manifest(tmp_path)
    at.parent.mkdir()
    at.write_text("precious") if what == "file" else at.mkdir()
    with Running(tmp_path) as run:
        run.ready()
        assert run.wait_for(message="the processor cannot be asked there; trying again")
        assert run.stop() == 0
    assert at.is_dir() if what == "folder" else at.read_text() == "precious"


def test_a_state_directory_deeper_than_a_sockets_name_is_no_obstacle(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    write(deep, '[device]\nstate_dir = "state"\n[function.f]\nhandler = "f.py"\n', f="def handler(context, event): 0\n")
    with Running(deep) as run:
        run.ready()
        done = call("ledger", cwd=deep)
        assert done.returncode == 0, done.stderr
        assert run.stop() == 0


def test_the_ledger_has_every_source_and_trigger_with_their_equations(tmp_path: Path, at: Path) -> None:
    manifest(tmp_path)
    with Running(tmp_path) as run:
        run.ready()
        assert [post(tmp_path, b"x"), post(tmp_path, b"fail"), post(tmp_path, b"", "/nowhere")] == [200, 500, 404]
        found = get(at, "/ledger")
        assert found["balanced"] is True
        assert found["differences"] == []
        assert found["sources"]["api"] == {
            "kind": "http", "state": "open", "received": 3, "routed": 2, "unrouted": 1, "rejected": {}, "difference": 0,
        }  # fmt: skip
        row = found["triggers"]["function.echo.trigger[0]"]
        assert (row["admitted"], row["handled"], row["failed"], row["pending"]) == (2, 1, 1, 0)
        assert found["triggers"]["function.echo.trigger[1]"]["admitted"] == 0
        assert run.stop() == 0


def test_counters_go_on_when_a_function_is_replaced(tmp_path: Path, at: Path) -> None:
    path = manifest(tmp_path)
    with Running(tmp_path) as run:
        run.ready()
        assert post(tmp_path, b"x") == 200
        path.write_text(path.read_text().replace("says it again", "says it once more"))
        run.send(signal.SIGHUP)
        run.wait_for(event="reloaded")
        assert post(tmp_path, b"x") == 200
        found = get(at, "/ledger")
        assert found["triggers"]["function.echo.trigger[0]"]["handled"] == 2
        assert found["balanced"]
        samples = parse(get(at, "/metrics"))["nuclio_edge_trigger_handled_total"]
        assert samples.value(trigger="function.echo.trigger[0]") == 2
        assert run.stop() == 0


def test_metrics_are_what_prometheus_reads_and_say_what_the_ledger_says(tmp_path: Path, at: Path) -> None:
    manifest(tmp_path)
    with Running(tmp_path) as run:
        run.ready()
        for body in (b"a", b"b", b"fail"):
            post(tmp_path, body)
        status, headers, body = request(Unix(at), "GET", "/metrics")
        assert status == 200
        assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = parse(body.decode())
        first = {"trigger": "function.echo.trigger[0]", "function": "echo", "source": "api", "kind": "http"}
        assert found["nuclio_edge_trigger_admitted_total"].value(**first) == 3
        assert found["nuclio_edge_trigger_handled_total"].value(**first) == 2
        assert found["nuclio_edge_trigger_failed_total"].value(**first) == 1
        assert found["nuclio_edge_trigger_pending"].value(**first) == 0
        assert found["nuclio_edge_source_received_total"].value(source="api") == 3
        assert found["nuclio_edge_source_up"].value(source="api") == 1
        durations = found["nuclio_edge_call_duration_seconds"]
        assert durations.kind == "histogram"
        assert durations.value(**first, le="+Inf") == 3
        assert set(found["nuclio_edge_ledger_difference"].samples.values()) == {0}
        assert found["process_resident_memory_bytes"].value() == pytest.approx(rss_kib(run) * 1024, rel=0.2)
        assert found["nuclio_edge_info"].value(name="gw") == 1
        assert run.stop() == 0


def test_whatever_a_name_holds_its_label_is_read_as_it_was_written(tmp_path: Path, at: Path) -> None:
    name = 'a "b" \\n \\\\ c'
    write(
        tmp_path,
        f"[device]\nname = '{name}'\nstate_dir = 'state'\n[function.f]\nhandler = 'f.py'\n",
        f="def handler(context, event): 0\n",
    )
    with Running(tmp_path) as run:
        run.ready()
        assert parse(get(at, "/metrics"))["nuclio_edge_info"].value(name=name) == 1
        assert run.stop() == 0


def test_shed_and_suspended_events_have_their_reason(tmp_path: Path, at: Path) -> None:
    more = '[function.bad]\nhandler = "bad.py"\n[[function.bad.trigger]]\npath = "/bad"\n'
    manifest(tmp_path, more)
    (tmp_path / "bad.py").write_text("def init_context(context): 1 / 0\ndef handler(context, event): 0\n")
    with Running(tmp_path) as run:
        run.ready()
        assert post(tmp_path, b"", "/bad") == 503
        found = parse(get(at, "/metrics"))
        assert found["nuclio_edge_trigger_shed_total"].value(function="bad", reason="suspended") == 1
        assert found["nuclio_edge_function_suspended"].value(function="bad", reason="could not start") == 1
        health = get(at, "/healthz")
        assert health["status"] == "degraded"
        assert health["suspended"] == {"bad": "could not start"}
        shown = call("ledger", cwd=tmp_path).stdout
        assert "shed 1 (suspended 1)" in shown
        assert run.stop() == 0


def test_functions_are_listed_with_their_state_and_triggers(tmp_path: Path, at: Path) -> None:
    manifest(tmp_path)
    with Running(tmp_path) as run:
        run.ready()
        (found,) = get(at, "/functions")["functions"]
        assert found["name"] == "echo"
        assert found["description"] == "says it again"
        assert found["state"] == "running"
        assert [trigger["id"] for trigger in found["triggers"]] == [
            "function.echo.trigger[0]", "function.echo.trigger[1]",
        ]  # fmt: skip
        assert found["triggers"][1]["address"] == {"path": "/in/*", "method": ["PUT"]}
        assert run.stop() == 0


def test_a_wrong_path_or_method_says_what_there_is(tmp_path: Path, at: Path) -> None:
    manifest(tmp_path)
    with Running(tmp_path) as run:
        run.ready()
        status, _, body = request(Unix(at), "GET", "/ledgr")
        assert status == 404
        assert "/ledger" in json.loads(body)["error"]
        status, headers, _ = request(Unix(at), "POST", "/ledger", b"")
        assert (status, headers["allow"]) == (405, "GET, HEAD")
        status, headers, _ = request(Unix(at), "GET", "/invoke/echo")
        assert (status, headers["allow"]) == (405, "POST")
        assert request(Unix(at), "HEAD", "/metrics")[::2] == (200, b"")
        assert run.stop() == 0


BREAKS = """
import gc
from nuclio_edge.core.inbox import Trigger
def handler(context, event):
    for trigger in gc.get_objects():
        if type(trigger) is Trigger and trigger.ledger_id == "function.echo.trigger[0]":
            trigger.{what} += 3
"""


@pytest.mark.parametrize(("what", "said"), [("admitted", "3 missing"), ("handled", "3 too many")])
def test_a_trigger_that_counts_wrongly_is_named_everywhere(tmp_path: Path, at: Path, what: str, said: str) -> None:
    manifest(tmp_path)
    (tmp_path / "echo.py").write_text(BREAKS.format(what=what))
    with Running(tmp_path) as run:
        run.ready()
        assert post(tmp_path, b"x") == 200
        done = call("ledger", cwd=tmp_path)
        assert done.returncode == 1
        assert f"DIFFERENCE: {said}" in done.stdout
        assert f"does not add up: function.echo.trigger[0]: admitted {4 if what == 'admitted' else 1}" in done.stderr
        as_json = call("ledger", "--json", cwd=tmp_path)
        assert as_json.returncode == 1
        assert json.loads(as_json.stdout)["balanced"] is False
        found = parse(get(at, "/metrics"))["nuclio_edge_ledger_difference"]
        assert found.value(equation="trigger", of="function.echo.trigger[0]") == (3 if what == "admitted" else -3)
        health = get(at, "/healthz")
        assert health["status"] == "degraded"
        assert said in health["ledger"][0]
        assert run.stop() == 1
        assert run.wait_for(message="the ledger does not balance: a defect of nuclio-edge")


def test_ledger_ends_with_4_where_no_processor_runs_and_with_2_without_a_manifest(tmp_path: Path) -> None:
    done = call("ledger", cwd=tmp_path)
    assert done.returncode == 2
    manifest(tmp_path)
    done = call("ledger", cwd=tmp_path)
    assert done.returncode == 4
    assert "no processor runs here" in done.stderr
    done = call("ledger", "--socket", "nowhere.sock", cwd=tmp_path)
    assert done.returncode == 4
    done = call("invoke", "echo", "--socket", "nowhere.sock", cwd=tmp_path)
    assert done.returncode == 4
    assert call("invoke", "echo", "-b", "x", cwd=tmp_path).returncode == 0, "without --socket none is needed"


def test_the_ledger_can_be_asked_for_although_the_manifest_has_become_wrong(tmp_path: Path) -> None:
    path = manifest(tmp_path)
    with Running(tmp_path) as run:
        run.ready()
        path.write_text(path.read_text() + '[function.other]\nhandler = "nowhere.py"\n')
        done = call("ledger", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "everything adds up" in done.stdout
        assert run.stop() == 0


def test_a_processor_that_does_not_answer_is_a_fault_and_nothing_is_run_twice(tmp_path: Path) -> None:
    manifest(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.bind(str(tmp_path / "deaf.sock"))
        deaf.listen(4)
        done = call("invoke", "echo", "--socket", "deaf.sock", "-t", "1ms", cwd=tmp_path)
    assert done.returncode == 1
    assert "has not answered within" in done.stderr


# -- invoke -----------------------------------------------------------------------------------------------------------


def test_a_posted_event_is_answered_by_the_function_that_runs(tmp_path: Path, at: Path) -> None:
    manifest(tmp_path)
    with Running(tmp_path) as run:
        run.ready()
        headers = {"Content-Type": "text/x", "X-Thing": "yes"}
        status, answer, body = request(Unix(at), "POST", "/invoke/echo?trigger=1&method=PUT", b"who", headers)
        assert status == 200
        assert json.loads(body) == {
            "pid": run.process.pid, "kind": "http", "path": "/in/x", "method": "PUT", "type": "text/x", "x": "yes",
        }  # fmt: skip
        assert re.fullmatch(r"[0-9a-f]+-[0-9]+", answer["x-nuclio-edge-event"])
        assert "x-nuclio-edge-refused" not in answer
        assert request(Unix(at), "POST", "/invoke/echo", b"fail")[0] == 500
        found = get(at, "/ledger")
        assert found["triggers"]["function.echo.trigger[1].invoke"]["handled"] == 1
        assert found["triggers"]["function.echo.trigger[0].invoke"]["failed"] == 1
        assert found["triggers"]["function.echo.trigger[0]"]["admitted"] == 0, "the trigger's own counters stay its own"
        assert found["balanced"]
        assert run.stop() == 0
        assert run.records[-1]["with"]["received"] == 2


@pytest.mark.parametrize(
    ("target", "status", "why"),
    [
        ("/invoke/ehco", 404, 'did you mean "echo"?'),
        ("/invoke/echo?trigger=9", 400, "has no trigger"),
        ("/invoke/echo?topic=a/b", 400, "no trigger of echo takes"),
        ("/invoke/echo?timeout=soon", 400, "timeout is a duration"),
        ("/invoke/echo?send=maybe", 400, "send is yes or no"),
        ("/invoke/echo?colour=red", 400, "the query has no 'colour'"),
    ],
)
def test_what_cannot_be_invoked_is_refused_with_the_reason(
    tmp_path: Path, at: Path, target: str, status: int, why: str
) -> None:
    manifest(tmp_path)
    with Running(tmp_path) as run:
        run.ready()
        found = request(Unix(at), "POST", target, b"x")
        assert found[0] == status
        assert why in json.loads(found[2])["error"]
        assert found[1]["x-nuclio-edge-refused"] == "yes"
        assert run.stop() == 0


def test_an_answer_that_takes_too_long_is_408_and_the_event_is_counted_when_it_ends(tmp_path: Path, at: Path) -> None:
    manifest(tmp_path)
    (tmp_path / "echo.py").write_text(
        "import time, os\ndef handler(context, event):\n    while not os.path.exists('go'):\n        time.sleep(0.01)\n"
    )
    with Running(tmp_path) as run:
        run.ready()
        assert request(Unix(at), "POST", "/invoke/echo?timeout=100ms", b"")[0] == 408
        assert get(at, "/ledger")["triggers"]["function.echo.trigger[0].invoke"]["pending"] == 1
        (tmp_path / "go").touch()
        wait_until(lambda: get(at, "/ledger")["triggers"]["function.echo.trigger[0].invoke"]["handled"] == 1)
        assert run.stop() == 0


@pytest.mark.parametrize("isolation", ["thread", "inline", "process"])
def test_a_trial_sends_nothing_not_even_by_a_binding_that_init_context_has_kept(
    tmp_path: Path, at: Path, isolation: str
) -> None:
    more = f"""
[source.mem]
kind = "memory"
[function.sends]
handler = "sends.py"
isolation = "{isolation}"
[[function.sends.trigger]]
every = "1h"
[[function.sends.output]]
to = "mem"
path = "/out"
[function.gets]
handler = "gets.py"
[[function.gets.trigger]]
source = "mem"
path = "/out"
[[function.gets.trigger]]
source = "mem"
path = "/kept"
"""
    manifest(tmp_path, more)
    level = "info" if isolation == "process" else "debug"
    (tmp_path / "sends.py").write_text(
        "import os\n"
        "def init_context(context):\n"
        "    context.user_data.kept = context.bindings['mem']\n"
        "def handler(context, event):\n"
        f"    context.logger.{level}_with('quiet', 'pid', os.getpid())\n"
        "    context.user_data.kept.publish('/kept', b'k')\n"
        "    context.bindings['mem'].publish('/kept', b'again')\n"
        "    return b'result'\n"
    )
    (tmp_path / "gets.py").write_text("def handler(context, event): context.logger.info('got ' + event.path)\n")
    with Running(tmp_path) as run:
        run.ready()
        target = "/invoke/sends?send=no&whole=yes&logs=debug"
        status, _, body = request(Unix(at), "POST", target, b"")
        assert status == 200
        said = json.loads(body)
        assert [one["line"] for one in said["sent"]] == [
            "mem.publish('/kept', 'k')", "mem.publish('/kept', 'again')", "mem.send('/out', 'result')",
        ]  # fmt: skip
        assert said["really_sent"] is False
        assert "quiet" in said["logs"][0]
        # A worker process knows only the level that it was begun with.
        said_too = [one for one in run.records if one["message"] == "quiet"]
        assert len(said_too) == (isolation == "process"), "what is below the log's level is for who asked alone"
        assert get(at, "/ledger")["sources"]["mem"]["received"] == 0
        # The same for real.
        assert request(Unix(at), "POST", "/invoke/sends", b"")[2] == b"result"
        run.wait_for(message="got /out")
        run.wait_for(2, message="got /kept")
        assert get(at, "/ledger")["sources"]["mem"]["received"] == 3
        assert get(at, "/ledger")["balanced"]
        assert run.stop() == 0


def test_a_trial_runs_beside_a_worker_that_is_busy(tmp_path: Path, at: Path) -> None:
    manifest(tmp_path)
    (tmp_path / "echo.py").write_text(
        "import time, os\nN = []\ndef handler(context, event):\n"
        "    while event.body == b'wait' and not os.path.exists('go'):\n        time.sleep(0.01)\n"
        "    N.append(1)\n    return str(len(N))\n"
    )
    with Running(tmp_path) as run:
        run.ready()
        waiting = Unix(tmp_path / "api.sock")
        waiting.request("POST", "/echo", b"wait")
        wait_until(lambda: get(at, "/ledger")["triggers"]["function.echo.trigger[0]"]["pending"] == 1)
        assert request(Unix(at), "POST", "/invoke/echo?send=no", b"x")[2] == b"1"
        (tmp_path / "go").touch()
        assert waiting.getresponse().read() == b"2", "the module is the same one"
        waiting.close()
        assert run.stop() == 0


def test_a_function_without_a_trigger_is_counted_under_its_own_name(tmp_path: Path, at: Path) -> None:
    manifest(tmp_path, "".join(f'[function.{name}]\nhandler = "echo.py"\n' for name in ("one", "two")))
    with Running(tmp_path) as run:
        run.ready()
        for name in ("one", "two", "two"):
            said = json.loads(call("invoke", name, "-b", "x", "--send", "--json", cwd=tmp_path).stdout)
            assert (said["function"], said["trigger"], said["body"]) == (name, None, "x")
        found = get(at, "/ledger")["triggers"]
        assert [found[f"function.{name}.invoke"]["handled"] for name in ("one", "two")] == [1, 2]
        assert not [name for name in found if "events" in name]
        assert run.stop() == 0


def test_invoke_goes_through_the_processor_that_runs_and_shows_what_would_be_sent(tmp_path: Path) -> None:
    more = '[source.mem]\nkind = "memory"\n[[function.echo.output]]\nto = "mem"\npath = "/out"\n'
    manifest(tmp_path, more)
    with Running(tmp_path) as run:
        run.ready()
        done = call("invoke", "echo", "-b", "héllo", "-l", "info", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"(by the processor {run.process.pid})" in done.stdout
        assert "> Would send:\nmem.send('/out', b'h" in done.stdout
        assert "seen" in done.stderr
        found = json.loads(
            call("invoke", "echo", "-b", "who", "--json", "--socket", "state/admin.sock", cwd=tmp_path).stdout
        )
        assert found["pid"] == json.loads(found["body"])["pid"] == run.process.pid
        assert found["really_sent"] is False
        assert call("invoke", "echo", "-b", "fail", cwd=tmp_path).returncode == 3
        done = call("invoke", "ehco", "--socket", "state/admin.sock", cwd=tmp_path)
        assert done.returncode == 2
        assert 'did you mean "echo"?' in done.stderr
        beside = json.loads(call("invoke", "echo", "-b", "who", "--json", "--beside", cwd=tmp_path).stdout)
        assert json.loads(beside["body"])["pid"] != run.process.pid
        sent = json.loads(call("invoke", "echo", "-b", "x", "--send", "--json", cwd=tmp_path).stdout)
        assert sent["really_sent"] is True
        assert get(tmp_path / "state" / "admin.sock", "/ledger")["balanced"]
        assert run.stop() == 0


def test_invoke_through_the_processor_shows_what_it_really_sent(tmp_path: Path) -> None:
    more = """
[source.mem]
kind = "memory"
[record]
triggers = ["thread/*"]
"""
    for isolation in ("thread", "inline", "process"):
        more += f"""
[function.{isolation}]
handler = "sends.py"
isolation = "{isolation}"
[[function.{isolation}.trigger]]
every = "1h"
[[function.{isolation}.output]]
to = "mem"
path = "/out"
"""
    manifest(tmp_path, more)
    (tmp_path / "sends.py").write_text(
        "def handler(context, event):\n"
        "    context.bindings['mem'].publish('/direct', b'now', method='X')\n"
        "    if event.body == b'fail':\n        raise ValueError\n"
        "    return event.body or None\n"
    )
    direct, out = "mem.publish('/direct', 'now', method='X')", "mem.send('/out', 'result')  # output"
    with Running(tmp_path) as run:
        run.ready()
        for name in ("thread", "inline", "process"):
            for body, sent in ((b"result", [direct, out]), (b"", [direct]), (b"fail", [direct])):
                said = call("invoke", name, "--send", "-b", "-", cwd=tmp_path, stdin=body).stdout
                assert said.partition("> Sent:\n")[2].splitlines() == sent, (name, body, said)
        found = get(tmp_path / "state" / "admin.sock", "/ledger")
        assert found["sources"]["mem"]["received"] == 9, "each was sent once"  # an output without a trigger is kept
        assert run.stop() == 0


def test_invoke_through_the_processor_takes_any_header_and_says_why_a_function_is_suspended(tmp_path: Path) -> None:
    manifest(tmp_path, '[function.bad]\nhandler = "bad.py"\n')
    (tmp_path / "bad.py").write_text("import absent_module\ndef handler(c, e): pass\n")
    (tmp_path / "echo.py").write_text("def handler(c, e):\n    return {**e.headers}\n")
    with Running(tmp_path) as run:
        run.ready()
        said = json.loads(call("invoke", "echo", "-d", "é=€,Accept=yes", "-c", "text/ü", "--json", cwd=tmp_path).stdout)
        assert said["pid"] == run.process.pid
        wanted = {"é": "€", "Accept": "yes", "Content-Type": "text/ü"}
        assert wanted.items() <= json.loads(said["body"]).items()
        for more in ((), ("--send",)):
            said = json.loads(call("invoke", "bad", "-l", "none", "--json", *more, cwd=tmp_path).stdout)
            assert said["status"] == 503
            assert "No module named 'absent_module'" in said["body"]
        assert run.stop() == 0


@pytest.mark.parametrize("headers", ["{", "[]", '{"a": 1}'])
def test_headers_in_the_query_are_a_json_object_of_text(tmp_path: Path, at: Path, headers: str) -> None:
    manifest(tmp_path)
    with Running(tmp_path) as run:
        run.ready()
        status, _, body = request(Unix(at), "POST", f"/invoke/echo?headers={quote(headers)}", b"")
        assert (status, json.loads(body)["error"][:24]) == (400, "headers is a JSON object")
        assert run.stop() == 0


def test_invoke_names_a_file_that_has_changed_since_it_was_loaded(tmp_path: Path) -> None:
    manifest(tmp_path)
    (tmp_path / "echo.py").write_text("import helper\ndef handler(context, event):\n    return helper.WORD\n")
    (tmp_path / "helper.py").write_text("WORD = 'old'\n")
    with Running(tmp_path) as run:
        run.ready()
        done = call("invoke", "echo", cwd=tmp_path)
        assert (done.stdout.splitlines()[-1], done.stderr) == ("old", "")
        (tmp_path / "helper.py").write_text("WORD = 'another'\n")
        done = call("invoke", "echo", cwd=tmp_path)
        assert done.stdout.splitlines()[-1] == "old"
        assert done.stderr == (
            "nuclio-edge invoke: helper.py has changed since it was loaded; --beside runs the file as it is now\n"
        )
        assert call("invoke", "echo", "--beside", cwd=tmp_path).stdout.splitlines()[-1] == "another"
        assert run.stop() == 0


# -- whose processor it is --------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Running, Path]]:
    """A processor, and the folder of another manifest with the same state directory."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        path = manifest(folder, '[record]\ntriggers = ["*/*"]\n')
        path.write_text(path.read_text().replace('state_dir = "state"', f'state_dir = "{tmp_path}/state"'))
        (folder / "echo.py").write_text(f"def handler(context, event): return {folder.name!r}\n")
    with Running(one).ready() as run:
        yield run, other
        assert run.stop() == 0


def test_invoke_leaves_the_processor_of_another_manifest_alone(two: tuple[Running, Path]) -> None:
    run, other = two
    for more in ((), ("--send",)):
        done = call("invoke", "echo", "--json", *more, cwd=other)
        assert json.loads(done.stdout)["body"] == "other"
        assert done.stderr == (
            f"nuclio-edge invoke: the processor {run.process.pid} at {other.parent}/state/admin.sock runs"
            f" {run.folder}/edge.toml, not {other}/edge.toml; it is left alone, and the event is run beside it\n"
        )
    socket = str(other.parent / "state" / "admin.sock")
    assert json.loads(call("invoke", "echo", "--json", "--socket", socket, cwd=other).stdout)["body"] == "one"
    # The same file by another way is the same manifest.
    (other / "link.toml").symlink_to(run.folder / "edge.toml")
    done = call("invoke", "echo", "link.toml", "--json", cwd=other)
    assert (json.loads(done.stdout)["pid"], done.stderr) == (run.process.pid, "")
    # One that cannot be read says so, whoever runs.
    (other / "edge.toml").write_text("[")
    assert call("invoke", "echo", cwd=other).returncode == 2


@pytest.mark.parametrize(
    ("command", "code"),
    [(("ledger",), 4), (("explain",), 4), (("replay",), 2), (("dead-letters",), 1), (("sim", "get"), 4)],
)
def test_no_command_takes_what_another_manifests_processor_keeps_for_its_own(
    two: tuple[Running, Path], command: tuple[str, ...], code: int
) -> None:
    run, other = two
    done = call(*command, cwd=other)
    assert (done.returncode, done.stdout) == (code, "")
    assert f"runs {run.folder}/edge.toml, not {other}/edge.toml" in done.stderr
    own = call(*command, cwd=run.folder)
    assert f"not {other}" not in own.stderr
    if command == ("ledger",):
        assert own.returncode == 0
        assert call("ledger", "--socket", str(other.parent / "state" / "admin.sock"), cwd=other).stdout


# -- who asks ---------------------------------------------------------------------------------------------------------


def listening(folder: Path, address: str = "127.0.0.1:0") -> Running:
    manifest(folder, top=f'[admin]\nlisten = "{address}"\n')
    return Running(folder)


def port_of(run: Running) -> int:
    """The port at which the process listens, from the kernel's list."""
    inodes = set()
    for name in os.listdir(f"/proc/{run.process.pid}/fd"):
        try:
            target = os.readlink(f"/proc/{run.process.pid}/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    with open("/proc/net/tcp") as file:
        for line in file.readlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                return int(fields[1].partition(":")[2], 16)
    raise AssertionError("it does not listen")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:{port}"}, 200),
        ({"Host": "localhost:{port}"}, 200),
        ({"Host": "gw.local:{port}"}, 200),
        ({"Host": "[::1]:{port}"}, 200),
        ({"Host": "evil.example:{port}"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "127.0.0.1:{port}", "Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Host": "127.0.0.1:{port}", "Origin": "http://evil.example"}, 403),
        ({"Host": "127.0.0.1:{port}", "Origin": "null"}, 403),
        ({"Host": "127.0.0.1:{port}", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "127.0.0.1:{port}", "Sec-Fetch-Site": "none"}, 200),
    ],
)
def test_no_web_page_can_ask_by_way_of_a_browser_on_the_device(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    with listening(tmp_path) as run:
        run.ready()
        port = port_of(run)
        sent = {key: value.format(port=port) for key, value in headers.items()}
        for method, target in (("GET", "/ledger"), ("POST", "/invoke/echo")):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.putrequest(method, target, skip_host=True)
            for key, value in {**sent, "Content-Length": "0"}.items():
                connection.putheader(key, value)
            connection.endheaders()
            assert connection.getresponse().status == status
            connection.close()
        assert run.stop() == 0


def test_over_the_network_it_is_read_and_nothing_is_invoked(tmp_path: Path) -> None:
    with listening(tmp_path, "0.0.0.0:0") as run:
        run.ready()
        assert any("whoever reaches this address" in one.get("with", {}).get("message", "") for one in run.records)
        port = port_of(run)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        assert request(connection, "GET", "/metrics")[0] == 200
        assert request(connection, "POST", "/invoke/echo", b"")[0] == 403
        assert run.stop() == 0


def test_an_address_that_is_taken_is_tried_again_and_the_rest_works(tmp_path: Path, at: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with listening(tmp_path, f"127.0.0.1:{port}") as run:
            run.ready()
            assert run.wait_for(message="the processor cannot be asked there; trying again")
            assert get(at, "/healthz")["status"] == "ok"
            taken.close()

            def served() -> bool:
                try:
                    return request(http.client.HTTPConnection("127.0.0.1", port), "GET", "/healthz")[0] == 200
                except OSError:
                    return False

            wait_until(served)
            assert run.stop() == 0


def test_a_reload_that_changes_admin_listens_at_the_new_place(tmp_path: Path, at: Path) -> None:
    path = manifest(tmp_path)
    with Running(tmp_path) as run:
        run.ready()
        assert get(at, "/healthz")["status"] == "ok"
        path.write_text(f'[admin]\nsocket = "{tmp_path}/other.sock"\n' + path.read_text())
        run.send(signal.SIGHUP)
        run.wait_for(event="reloaded")
        assert get(tmp_path / "other.sock", "/healthz")["status"] == "ok"
        assert not at.exists()
        assert run.stop() == 0


# -- slow and hostile clients -----------------------------------------------------------------------------------------


def rss_kib(run: Running) -> int:
    """The resident memory of the processor."""
    for line in Path(f"/proc/{run.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError("it has ended")


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(30)
    sock.connect(str(path))
    return sock


def test_clients_that_say_nothing_or_half_a_request_keep_nobody_out(tmp_path: Path, at: Path) -> None:
    manifest(tmp_path)
    with Running(tmp_path) as run:
        run.ready()
        silent = [connected(at) for _ in range(40)]
        for sock in silent[::2]:
            sock.sendall(b"GET /metr")

        def answered() -> bool:
            try:
                return bool(get(at, "/healthz")["status"] == "ok")
            except (OSError, http.client.HTTPException, AssertionError):
                return False  # turned away for the moment: more than sixteen are there

        wait_until(answered)
        assert post(tmp_path, b"x") == 200
        for sock in silent:
            sock.close()
        assert run.stop() == 0


def test_a_client_that_does_not_read_a_long_answer_holds_up_no_event(tmp_path: Path, at: Path) -> None:
    functions = "".join(
        f'[function.f{number}]\nhandler = "f.py"\n[[function.f{number}.trigger]]\npath = "/f{number}"\n'
        for number in range(400)
    )
    manifest(tmp_path, functions)
    (tmp_path / "f.py").write_text("def handler(context, event): return b'ok'\n")
    with Running(tmp_path) as run:
        run.ready()
        assert get(at, "/healthz")["status"] == "ok"
        before = rss_kib(run)
        lazy = [connected(at) for _ in range(8)]
        for sock in lazy:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
        for _ in range(20):
            assert post(tmp_path, b"x") == 200
        assert len(parse(get(at, "/metrics"))["nuclio_edge_trigger_admitted_total"].samples) == 402
        assert rss_kib(run) - before < 16 * 1024, "what nobody reads is not made"
        for sock in lazy:
            sock.close()
        assert run.stop() == 0


def test_no_bytes_of_a_client_stop_the_processor(tmp_path: Path, at: Path) -> None:
    manifest(tmp_path)
    attacks = [
        b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"/" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /invoke/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST /invoke/%00 HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /invoke/../../etc HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /invoke/echo?" + b"a=b&" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /invoke/echo?topic=%ff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /invoke/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /ledger HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    ]  # fmt: skip
    with Running(tmp_path) as run:
        run.ready()
        for attack in attacks:
            with connected(at) as sock:
                sock.sendall(attack)
                sock.shutdown(socket.SHUT_WR)
                first = sock.recv(4096)
                assert re.match(rb"HTTP/1.1 [45][0-9][0-9] ", first) or not first, (attack[:40], first[:60])
        assert get(at, "/healthz")["status"] == "ok"
        assert run.stop() == 0
        assert not [one for one in run.records if one["level"] == "error"]


def test_a_stop_answers_who_waits_and_takes_no_new_events_by_hand(tmp_path: Path, at: Path) -> None:
    manifest(tmp_path)
    (tmp_path / "echo.py").write_text(
        "import time, os\ndef handler(context, event):\n    open('begun', 'w').close()\n"
        "    while not os.path.exists('go'):\n        time.sleep(0.01)\n    return b'done'\n"
    )
    with Running(tmp_path) as run:
        run.ready()
        waiting = Unix(at)
        waiting.request("POST", "/invoke/echo", b"")
        wait_until((tmp_path / "begun").exists)
        run.send(signal.SIGTERM)
        wait_until(lambda: request(Unix(at), "GET", "/healthz")[0] == 503)
        assert request(Unix(at), "POST", "/invoke/echo", b"")[0] == 503
        (tmp_path / "go").touch()
        assert waiting.getresponse().read() == b"done"
        waiting.close()
        assert run.wait() == 0


# -- what it costs ----------------------------------------------------------------------------------------------------


def test_until_somebody_connects_no_module_of_http_is_loaded(tmp_path: Path, at: Path) -> None:
    listing = """
import sys
def handler(context, event):
    return {"names": sorted(sys.modules)}
"""
    write(
        tmp_path,
        '[device]\nstate_dir = "state"\n[function.f]\nhandler = "f.py"\n[[function.f.trigger]]\nevery = "200ms"\n',
        f=listing.replace("return", "context.logger.info_with('modules', 'found',"
                          ).replace("}\n", "})\n"),
    )  # fmt: skip
    with Running(tmp_path) as run:
        loaded = set(run.wait_for(message="modules")["with"]["found"]["names"])
        assert not [name for name in loaded if name.startswith("nuclio_edge.sources.http")]
        assert "socket" not in loaded
        assert [name for name in loaded if name.startswith("nuclio_edge.admin.")] == ["nuclio_edge.admin.admin"]
        assert get(at, "/healthz")["status"] == "ok"
        time.sleep(0)
        count = len([one for one in run.records if one["message"] == "modules"])
        later = run.wait_for(count + 1, message="modules")["with"]["found"]["names"]
        assert "nuclio_edge.admin.server" in later
        assert "nuclio_edge.admin.invoke" not in later
        assert run.stop() == 0
