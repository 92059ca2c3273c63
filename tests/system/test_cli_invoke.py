"""`nuclio-edge invoke`: one event by the real path, what it answers, and what would be sent."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli import PROGRAM, call, environment, write

if TYPE_CHECKING:
    from tests.mosquitto import Mosquitto

MANIFEST = """
[source.broker]
kind = "mqtt"
url = "mqtt://127.0.0.1:1"
will = { topic = "gone", payload = "offline" }
[function.f]
handler = "f.py"
env = { WHO = "me" }
[[function.f.trigger]]
topic = "in/+/t"
qos = 0
[[function.f.trigger]]
name = "second"
topic = "other"
qos = 0
retry = { attempts = 5, backoff = "10s" }
[[function.f.trigger]]
every = "1h"
[[function.f.output]]
topic = "out"
"""


def invoke(folder: Path, code: str, *arguments: str, stdin: bytes = b"", rc: int = 0, manifest: str = MANIFEST) -> Any:
    write(folder, manifest, f=code)
    done = call("invoke", "f", "--json", *arguments, cwd=folder, stdin=stdin)
    assert done.returncode == rc, done.stderr
    assert 'Traceback (most recent call last):\n  File "/' not in done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def test_the_answer_has_status_headers_content_type_and_body(tmp_path: Path) -> None:
    code = """
def handler(context, event):
    return context.Response(status_code=201, body={"got": event.body.decode()}, headers={"X-A": "b"})
"""
    said = invoke(tmp_path, code, "-b", "héllo")
    assert said["status"] == 201
    assert said["headers"] == {"X-A": "b"}
    assert said["content_type"] == "application/json"
    assert json.loads(said["body"]) == {"got": "héllo"}
    assert said["trigger"] == "function.f.trigger[0]"
    assert said["elapsed_ms"] >= 0


def test_the_printed_form_is_nuctls_and_shows_what_would_be_sent_as_a_handler_writes_it(tmp_path: Path) -> None:
    code = """
def handler(context, event):
    context.bindings["broker"].publish("a/b", {"x": 1}, retain=True)
    return {"ok": True}
"""
    write(tmp_path, MANIFEST, f=code)
    done = call("invoke", "f", cwd=tmp_path)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "> Event: mqtt broker, in/x/t"
    assert lines[1].startswith("> Response status: 200 (")
    assert lines[2:4] == ["> Response headers:", "Content-Type = application/json"]
    assert lines[4:8] == ["> Response body:", "{", '    "ok": true', "}"]
    assert lines[8:] == [
        "> Would send:",
        "broker.publish('a/b', {'x': 1}, retain=True)",
        "broker.publish('out', '{\"ok\":true}', qos=1, retain=False)  # output",
    ]


@pytest.mark.parametrize(("result", "status"), [("400, 'no'", 400), ("context.Response(status_code=503)", 503)])
def test_an_answer_of_400_or_more_ends_with_3(tmp_path: Path, result: str, status: int) -> None:
    said = invoke(tmp_path, f"def handler(context, event):\n    return {result}\n", rc=3)
    assert said["status"] == status
    assert said["sent"] == []


def test_an_exception_ends_with_3_and_shows_the_users_frames_only(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST, f="def handler(context, event):\n    return 1 / 0\n")
    done = call("invoke", "f", cwd=tmp_path)
    assert done.returncode == 3
    (record,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert 'File "f.py", line 2, in handler' in record["with"]["error"]
    assert "nuclio_edge/" not in record["with"]["error"]
    assert "ZeroDivisionError" in done.stdout


def test_a_failing_handler_is_tried_once_whatever_its_retry_says(tmp_path: Path) -> None:
    code = "def handler(context, event):\n    print('called')\n    raise ValueError\n"
    write(tmp_path, MANIFEST, f=code)
    done = call("invoke", "f", "--trigger", "second", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.count('"called"') == 1


def test_code_that_cannot_be_imported_ends_with_3_and_says_why(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST, f="import absent_module\ndef handler(context, event):\n    pass\n")
    done = call("invoke", "f", cwd=tmp_path)
    assert done.returncode == 3
    assert "No module named 'absent_module'" in done.stderr


def test_a_handler_that_hangs_is_answered_with_408(tmp_path: Path) -> None:
    code = "import time\ndef handler(context, event):\n    time.sleep(3600)\n"
    manifest = MANIFEST.replace('handler = "f.py"', 'handler = "f.py"\ntimeout = "300ms"')
    assert invoke(tmp_path, code, rc=3, manifest=manifest)["status"] == 408
    assert invoke(tmp_path, code, "-t", "300ms", rc=3)["body"] == "no answer within --timeout"


def test_the_body_comes_from_the_argument_from_a_file_or_from_stdin(tmp_path: Path) -> None:
    code = "def handler(context, event):\n    return event.raw_body\n"
    (tmp_path / "body.bin").write_bytes(b"from a file")
    assert invoke(tmp_path, code, "-b", "plain")["body"] == "plain"
    assert invoke(tmp_path, code, "-b", "@body.bin")["body"] == "from a file"
    assert invoke(tmp_path, code, "-b", "-", stdin=b"from stdin")["body"] == "from stdin"
    assert invoke(tmp_path, code)["body"] == ""
    assert "--body @absent: No such file" in invoke(tmp_path, code, "-b", "@absent", rc=2)


def test_content_type_headers_method_topic_and_path_reach_the_event(tmp_path: Path) -> None:
    code = """
def handler(context, event):
    e = event
    return [e.content_type, e.get_header("a"), e.method, e.topic, e.path, e.body, e.trigger.kind, e.trigger.name, e.qos]
"""
    arguments = ["-c", "application/json", "-d", "a=1,b=x=y", "-m", "PUT", "--topic", "other", "-b", '{"t": 1}']
    said = json.loads(invoke(tmp_path, code, *arguments)["body"])
    assert said == ["application/json", "1", "PUT", "other", "other", {"t": 1}, "mqtt", "second", 0]


def test_the_trigger_is_chosen_by_name_number_or_topic_and_is_the_first_otherwise(tmp_path: Path) -> None:
    code = "def handler(context, event):\n    return context.trigger.kind + ' ' + event.path\n"
    assert invoke(tmp_path, code)["body"] == "mqtt in/x/t"
    assert invoke(tmp_path, code, "--topic", "in/a/t")["body"] == "mqtt in/a/t"
    assert invoke(tmp_path, code, "--trigger", "second")["body"] == "mqtt other"
    assert invoke(tmp_path, code, "--trigger", "2")["body"] == "timer /"
    assert "there are: 0 (broker), 1 (second) and 2 (clock)" in invoke(tmp_path, code, "--trigger", "x", rc=2)
    assert 'its filters: "in/+/t" and "other"' in invoke(tmp_path, code, "--topic", "x", rc=2)
    assert "is a filter" in invoke(tmp_path, code, "--topic", "in/+/t", rc=2)


@pytest.mark.parametrize("isolation", ["inline", "thread", "process"])
def test_env_init_context_and_every_isolation_work_as_in_a_run(tmp_path: Path, isolation: str) -> None:
    code = """
import os
def init_context(context):
    context.user_data.who = os.environ["WHO"]
def handler(context, event):
    return context.user_data.who + " " + context.function_name
"""
    manifest = MANIFEST.replace('handler = "f.py"', f'handler = "f.py"\nisolation = "{isolation}"')
    assert invoke(tmp_path, code, manifest=manifest)["body"] == "me f"


def test_an_async_handler_is_awaited(tmp_path: Path) -> None:
    code = "import asyncio\nasync def handler(context, event):\n    await asyncio.sleep(0)\n    return 'awaited'\n"
    assert invoke(tmp_path, code)["body"] == "awaited"


def test_a_disabled_function_and_one_without_a_trigger_can_be_tried(tmp_path: Path) -> None:
    manifest = '[function.f]\nhandler = "f.py"\ndisabled = true\n'
    said = invoke(tmp_path, "def handler(context, event):\n    return 'yes'\n", manifest=manifest)
    assert said["body"] == "yes"
    assert said["trigger"] is None


def test_json_says_of_bytes_whether_they_are_text_or_base64(tmp_path: Path) -> None:
    code = """
def handler(context, event):
    context.bindings["broker"].publish("a", event.raw_body)
    context.bindings["broker"].publish("b", bytearray(event.raw_body), correlation_data=b"\\xfe")
    return event.raw_body
"""
    (tmp_path / "body.bin").write_bytes(b"\xff\x00")
    said = invoke(tmp_path, code, "-b", "@body.bin")
    assert (said["body"], said["body_encoding"]) == ("/wA=", "base64")
    assert [sent["arguments"] for sent in said["sent"]] == [
        {"topic": "a", "payload": "/wA=", "payload_encoding": "base64"},
        {"topic": "b", "payload": "/wA=", "payload_encoding": "base64", "correlation_data": "/g==",
         "correlation_data_encoding": "base64"},
        {"topic": "out", "payload": "/wA=", "payload_encoding": "base64", "qos": 1, "retain": False},
    ]  # fmt: skip
    said = invoke(tmp_path, code, "-b", "b'\\xff'")
    assert (said["body"], said["body_encoding"]) == ("b'\\xff'", "text")
    assert said["sent"][0]["arguments"] == {"topic": "a", "payload": "b'\\xff'"}


def test_the_help_and_the_page_name_every_key_of_the_json_object(tmp_path: Path) -> None:
    keys = invoke(tmp_path, "def handler(context, event):\n    return 1\n").keys()
    shown = " ".join(call("invoke", "--help", cwd=tmp_path).stdout.partition("one JSON object: ")[2].split())
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| `--json` | one JSON object: `function`"))
    assert [key for key in keys if not re.search(rf"\b{key}\b", shown)] == []
    assert [key for key in keys if f"`{key}`" not in row] == []


def test_a_path_is_the_topic_of_an_mqtt_message_and_has_to_fit_as_one(tmp_path: Path) -> None:
    code = "def handler(context, event):\n    return context.trigger.name + ' ' + event.path\n"
    assert invoke(tmp_path, code, "-p", "in/a/t")["body"] == "broker in/a/t"
    assert invoke(tmp_path, code, "-p", "other")["body"] == "second other"
    assert 'no trigger of f takes "/foo"; its filters: "in/+/t"' in invoke(tmp_path, code, "-p", "/foo", rc=2)
    assert 'takes "other"; its filters: "in/+/t"' in invoke(tmp_path, code, "--trigger", "0", "-p", "other", rc=2)
    assert invoke(tmp_path, code, "--trigger", "clock", "-p", "/foo")["body"] == "clock /foo"


def test_a_reader_that_has_enough_of_a_long_answer_is_no_fault(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST, f="def handler(context, event):\n    return 'x' * 1_000_000\n")
    command = ["sh", "-c", '{ "$@"; echo "rc $?" >&2; } | head -c 10', "sh", *PROGRAM, "invoke", "f"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, check=True)
    assert done.stdout == b"> Event: m"
    assert done.stderr == b"rc 0\n"


def test_a_binding_refuses_what_the_real_one_would_refuse(tmp_path: Path) -> None:
    for call_text in ("publsh('t', 1)", "publish('a/#', 1)", "publish('t', 1, quality=2)", "publish()"):
        code = f"def handler(context, event):\n    context.bindings['broker'].{call_text}\n"
        said = invoke(tmp_path, code, rc=3)
        assert said["status"] == 500
        assert said["sent"] == []


def test_what_is_only_shown_is_not_told_as_lost(tmp_path: Path) -> None:
    code = """
def handler(context, event):
    context.bindings["broker"].publish("a", 1)
    context.bindings["broker"].publish("b", 2, qos=1)
"""
    write(tmp_path, MANIFEST, f=code)
    done = call("invoke", "f", cwd=tmp_path)
    assert "Would send:" in done.stdout
    assert done.stderr == ""


def test_the_log_level_chooses_what_is_shown_and_none_shows_nothing(tmp_path: Path) -> None:
    code = "def handler(context, event):\n    context.logger.debug('fine')\n    context.logger.warn('rough')\n"
    write(tmp_path, MANIFEST, f=code)
    shown = {level: call("invoke", "f", "-l", level, cwd=tmp_path).stderr for level in ("debug", "warn", "none")}
    assert "fine" in shown["debug"]
    assert "fine" not in shown["warn"]
    assert "rough" in shown["warn"]
    assert shown["none"] == ""


def test_an_unknown_function_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST.replace("function.f", "function.thermostat"), f="def handler(c, e): pass\n")
    done = call("invoke", "thermostt", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        'nuclio-edge invoke: edge.toml has no function named "thermostt"; did you mean "thermostat"?\n'
    )


def test_send_really_sends_and_says_neither_birth_nor_will(tmp_path: Path, mosquitto: Mosquitto) -> None:
    code = """
def handler(context, event):
    context.bindings["broker"].publish("direct", "now", retain=True)
    return "returned"
"""
    manifest = MANIFEST.replace("mqtt://127.0.0.1:1", mosquitto.url).replace(
        'topic = "out"', 'topic = "out"\nretain = true'
    )
    said = invoke(tmp_path, code, "--send", manifest=manifest)
    assert said["really_sent"] is True
    assert [sent["arguments"]["topic"] for sent in said["sent"]] == ["direct", "out"]
    assert _retained(mosquitto, "direct") == b"now"
    assert _retained(mosquitto, "out") == b"returned"
    assert "gone" not in mosquitto.log


def test_send_without_a_broker_says_so_and_ends_with_1(tmp_path: Path) -> None:
    said = invoke(tmp_path, "def handler(context, event): pass\n", "--send", "-t", "300ms", rc=1)
    assert "no connection to broker within --timeout" in said


def _retained(mosquitto: Mosquitto, topic: str) -> bytes:
    from paho.mqtt import subscribe

    host, port = "127.0.0.1", mosquitto.port
    message = subscribe.simple(topic, hostname=host, port=port)  # type: ignore[no-untyped-call]  # paho's own
    return bytes(message.payload)


def test_functions_that_it_calls_run_as_well_and_their_outputs_are_shown(tmp_path: Path) -> None:
    manifest = """
[source.broker]
kind = "mqtt"
url = "mqtt://127.0.0.1:1"
[function.a]
handler = "a.py"
[[function.a.trigger]]
topic = "a"
[function.b]
handler = "b.py"
[[function.b.output]]
topic = "from/b"
[function.broken]
handler = "broken.py"
"""
    a = """
import nuclio_sdk
def handler(context, event):
    return context.platform.call_function("b", nuclio_sdk.Event(body=event.body)).body
"""
    b = "def handler(context, event):\n    return 'b had ' + event.body.decode()\n"
    write(tmp_path, manifest, a=a, b=b, broken="raise ValueError\ndef handler(c, e): ...\n")
    done = call("invoke", "a", "-b", "it", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "b had it" in done.stdout
    assert "broker.publish('from/b', 'b had it'" in done.stdout
    assert "ValueError" not in done.stderr


def test_a_batch_function_gets_the_event_as_a_batch_of_one(tmp_path: Path) -> None:
    code = "def handler(context, events):\n    return [f'{len(events)} of {e.topic}' for e in events][0]\n"
    manifest = MANIFEST.replace('topic = "other"', 'topic = "other"\nbatch = { size = 10, timeout = "1h" }')
    assert invoke(tmp_path, code, "--trigger", "second", manifest=manifest)["body"] == "1 of other"


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_the_time_for_an_answer_begins_when_the_code_is_loaded(tmp_path: Path, isolation: str) -> None:
    code = """
import time
time.sleep(1)
def init_context(context):
    time.sleep(1)
def handler(context, event):
    time.sleep(2)
"""
    more = f'handler = "f.py"\nisolation = "{isolation}"\nload = "first-event"'
    invoke(tmp_path, code, "-t", "3900ms", rc=0, manifest=MANIFEST.replace('handler = "f.py"', more))


def test_a_start_that_takes_too_long_is_a_line_and_no_defect(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST, f="import time\ntime.sleep(1.5)\ndef handler(context, event): pass\n")
    done = call("invoke", "f", "-t", "200ms", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "nuclio-edge invoke: the import has not ended within --timeout\n")


@pytest.mark.parametrize("isolation", ["thread", "inline", "process"])
def test_the_answer_of_a_function_that_could_not_start_says_why(tmp_path: Path, isolation: str) -> None:
    manifest = MANIFEST.replace('handler = "f.py"', f'handler = "f.py"\nisolation = "{isolation}"')
    said = invoke(tmp_path, "import absent_module\ndef handler(c, e): pass\n", "-l", "none", rc=3, manifest=manifest)
    assert said["status"] == 503
    assert said["body"].startswith("suspended: could not start\n")
    assert "No module named 'absent_module'" in said["body"]


def test_why_a_function_could_not_start_shows_no_secret(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("very-plain-key")
    manifest = MANIFEST.replace('env = { WHO = "me" }', 'env = { KEY = { secret = "key" } }')
    manifest = f'[device]\nsecrets_dir = "{tmp_path}"\n{manifest}'
    code = "import os\nraise ValueError('no use of ' + os.environ['KEY'])\ndef handler(c, e): pass\n"
    body = invoke(tmp_path, code, "-l", "none", rc=3, manifest=manifest)["body"]
    assert "no use of ***" in body


def test_send_waits_for_no_broker_that_the_function_cannot_use(tmp_path: Path, mosquitto: Mosquitto) -> None:
    manifest = f"""
[source.broker]
kind = "mqtt"
url = "{mosquitto.url}"
[source.dead]
kind = "mqtt"
url = "mqtt://127.0.0.1:1"
[function.f]
handler = "f.py"
bindings = ["broker"]
[[function.f.output]]
to = "broker"
topic = "out"
"""
    said = invoke(tmp_path, "def handler(context, event):\n    return 'sent'\n", "--send", manifest=manifest)
    assert [sent["arguments"]["topic"] for sent in said["sent"]] == ["out"]


def test_a_header_may_be_any_text_that_its_source_can_bring(tmp_path: Path) -> None:
    code = "def handler(context, event):\n    return {**event.headers, 'type': event.content_type}\n"
    said = invoke(tmp_path, code, "-d", "é=€,Accept=yes", "-c", "text/ü")
    assert json.loads(said["body"]) == {"é": "€", "Accept": "yes", "type": "text/ü"}


def test_beside_and_a_socket_contradict_each_other(tmp_path: Path) -> None:
    assert "not allowed with argument" in invoke(tmp_path, "", "--beside", "--socket", "x", rc=2)
