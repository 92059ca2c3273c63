"""What `check` says of a trigger, a handler or an address that is wrong: all of it at once, and what is meant."""

from __future__ import annotations

import ast
import gc
from typing import TYPE_CHECKING

import pytest

from nuclio_edge.manifest import check
from nuclio_edge.manifest.handler import names_of
from tests.cli import call

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Said = list[tuple[int, str, str, str, "str | None"]]

BROKER = '[source.broker]\nkind = "mqtt"\nurl = "mqtt://localhost"\n'
FUNCTION = '[function.f]\nhandler = "f.py"\n'
GPIO = '[source.a]\nkind = "gpio"\nchip = "0"\n[source.a.lines]\n'
TRIGGER = "[[function.f.trigger]]\n"
CODE = "def handler(context, event):\n    return 1\n"


@pytest.fixture
def said(tmp_path: Path) -> Callable[..., Said]:
    """(line, code, key, message, hint) of each problem of a manifest, beside which f.py holds the code."""

    def said(text: str, code: str = CODE) -> Said:
        (tmp_path / "f.py").write_text(code)
        path = tmp_path / "edge.toml"
        path.write_text(text)
        return [(p.line, p.code, p.key_path, p.message, p.hint) for p in check(str(path))[1]]

    return said


def test_a_trigger_whose_source_is_unknown_is_told_whole_where_its_keys_say_the_kind(said: Callable[..., Said]) -> None:
    found = said(BROKER + FUNCTION + TRIGGER + 'source = "q"\ntopic = "#/"\nqos = 7\nretian = 1\n')
    assert [(line, code, key.rpartition(".")[2]) for line, code, key, _, _ in found] == [
        (7, "E301", "source"),
        (8, "E304", "topic"),
        (9, "E116", "qos"),
        (10, "E110", "retian"),
    ]
    found = said(BROKER + FUNCTION + TRIGGER + 'source = "q"\ntopic = "#/"\norder_by = "size"\n')
    assert [code for _, code, _, _, _ in found] == ["E301", "E304", "E312"]
    found = said(FUNCTION + TRIGGER + 'topic = "a+"\n')
    assert [code for _, code, _, _, _ in found] == ["E302", "E304"], "and one that no source fits"
    found = said(FUNCTION + TRIGGER + 'tpc = 1\ntopic = "a"\n')
    assert [(line, code) for line, code, _, _, _ in found] == [(3, "E302"), (4, "E110")]


def test_every_problem_of_a_table_is_told_at_once(said: Callable[..., Said]) -> None:
    def told(text: str) -> list[tuple[str, str]]:
        return [(code, key.rpartition(".")[2]) for _, code, key, _, _ in said(text)]

    source = (
        '[source.broker]\nkind = "mqtt"\nurl = "mqtt://h:99999"\nkeepalive = "5"\ncert = "nope"\nversion = 4\n'
        'session_expiry = "1500ms"\nwill = { topic = "a/#" }\nbirth = { topic = "b/+", payload = 1 }\npassword = 1\n'
    )
    assert told(source) == [
        ("E205", "url"),
        ("E112", "keepalive"),
        ("E205", "cert"),
        ("E205", "cert"),
        ("E115", "version"),
        ("E205", "session_expiry"),
        ("E205", "topic"),
        ("E111", "payload"),
        ("E205", "topic"),
        ("E111", "password"),
    ]
    trigger = 'topic = "a/#/b"\nqos = 7\nbatch = { size = 0 }\norder_by = "size"\n'
    retry = 'retry = { attempts = 0, backoff = "2s", max_backoff = "1s" }\n'
    assert told(BROKER + FUNCTION + TRIGGER + trigger + retry) == [
        ("E304", "topic"),
        ("E116", "qos"),
        ("E116", "size"),
        ("E312", "order_by"),
        ("E116", "attempts"),
        ("E124", "max_backoff"),
    ]
    output = '[[function.f.output]]\ntopic = "a/+"\nqos = 9\n'
    assert told(BROKER + FUNCTION + output) == [("E305", "topic"), ("E116", "qos")]
    function = '[function.f]\nhandler = "f.py:nope"\nbindings = ["x"]\nworkers = { min = 3, max = 2 }\ntimeout = "5"\n'
    env = 'env = { A = 5, B = "x\\u0000" }\n'
    assert told(function + env) == [
        ("E403", "handler"),
        ("E301", "bindings[0]"),
        ("E124", "workers"),
        ("E112", "timeout"),
        ("E111", "A"),
        ("E116", "B"),
    ]
    assert told('[admin]\nsocket = 5\nlisten = "nowhere"\n') == [("E111", "socket"), ("E304", "listen")]
    assert told('[sync]\nevery = 5\nhint = "b"\n') == [
        ("E117", "url"),
        ("W502", "sync"),
        ("E111", "every"),
        ("E301", "hint"),
    ]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ('[source.a]\nkind = "mqtt"\nurl = 5\nca = "nope"\n', ["url", "ca"]),
        ('[source.a]\nkind = "serial"\ndevice = "a/b"\nframing = "fixd"\nsize = 0\n', ["device", "framing", "size"]),
        ('[source.a]\nkind = "sensor"\nreader = 5\nmax_silence = "1s"\n', ["reader", "max_silence"]),
        ('[source.a]\nkind = "sensor"\nreader = "f.py:handler"\ni2c = "x"\naddress = "0x76"\n', ["address"]),
        ('[source.a]\nkind = "http"\nlisten = 5\ncert = "nope"\ncors = { allow_origins = ["x"], max_age = 5 }\n',
         ["listen", "cert", "cert", "max_age", "allow_origins"]),
        ('[source.a]\nkind = "coap"\nlisten = [5]\nmulticast = ["127.0.0.1"]\n', ["listen", "multicast"]),
        (GPIO + 'x = { pin = 5, direction = "out", edge = "both" }\ny = 5\nz = { pin = "P", direction = 1, edge = 1}\n',
         ["chip", "pin", "edge", "y", "direction", "edge"]),
        (FUNCTION + TRIGGER + "every = 5\n", ["every"]),
        (FUNCTION + TRIGGER + 'every = 5\ncron = "x"\n', ["every", "cron"]),
        (FUNCTION + TRIGGER + 'pin = 5\nhold_after = "1s"\n', ["pin", "hold_after"]),
        (FUNCTION + TRIGGER + 'pin = "GPIO5"\npress = "clik"\nhold_after = "1s"\n', ["press"]),
        ('[source.a]\nkind = "http"\n' + FUNCTION + TRIGGER + 'path = "x"\nmethod = "get"\n', ["path", "method"]),
        ('[source.a]\nkind = "coap"\n' + FUNCTION + TRIGGER + 'observe = "x"\nmethod = "get"\n', ["observe", "method"]),
        ('[function.f]\nhandler = "f.py"\nisolation = "proces"\nlimits = { cpu = 1 }\n', ["isolation"]),
        (FUNCTION + 'requirements = "x"\nbindings = "y"\n', ["requirements", "bindings"]),
    ],
)  # fmt: skip
def test_what_follows_from_a_reported_value_is_not_told(said: Callable[..., Said], text: str, keys: list[str]) -> None:
    found = [key.rpartition(".")[2].partition("[")[0] for _, code, key, _, _ in said(text) if code != "W504"]
    assert found == keys


def test_pins_and_ports_are_looked_up_beside_other_problems(said: Callable[..., Said]) -> None:
    def told(text: str, board: str = "raspberrypi/4b") -> list[tuple[str, str]]:
        return [(code, key.partition(".")[2]) for _, code, key, _, _ in said(f'[device]\nboard = "{board}"\n' + text)]

    lines = (
        'x = { pin = "GPIO99", edge = 1 }\ny = { pin = 5 }\nz = { pin = "GPIO4", direction = "pwm", frequency = "1" }\n'
    )
    assert told(GPIO.replace('chip = "0"\n', "") + lines) == [
        ("E111", "a.lines.x.edge"),
        ("E310", "a.lines.x"),
        ("E111", "a.lines.y.pin"),
        ("E111", "a.lines.z.frequency"),
        ("E309", "a.lines.z.direction"),
    ]
    wanted = [("E310", "f.trigger[0].pin"), ("E111", "f.trigger[0].edge")]
    assert told(FUNCTION + TRIGGER + 'pin = "GPIO99"\nedge = 1\n') == wanted
    assert told(FUNCTION + "disabled = true\n" + TRIGGER + 'pin = "GPIO99"\nedge = 1\n') == wanted[1:]
    assert told(FUNCTION + TRIGGER + 'pin = "GPIO99"\nqos = 1\n')[0] == wanted[0]
    serial = '[source.a]\nkind = "serial"\ndevice = "headr"\nbaud = "x"\n'
    assert told(serial) == [("E301", "a.device"), ("E111", "a.baud")]
    assert told(serial, "no/board")[1:] == [("E111", "a.baud")]
    sensor = '[source.a]\nkind = "sensor"\npath = "sim:a/b"\n'
    assert told(sensor) == [("E205", "a.path")], "once"


def test_an_output_names_its_source_by_to(said: Callable[..., Said]) -> None:
    output = FUNCTION + '[[function.f.output]]\ntopic = "a"\n'
    two = BROKER + BROKER.replace("broker", "other")
    told = (11, "E110", "function.f.output[0].source", "unknown key", 'did you mean "to"?')
    assert said(two + output + 'source = "broker"\n') == [told]
    found = said(two + output + 'source = "broker"\nretian = true\n')
    assert [problem[-1] for problem in found] == ['did you mean "to"?', 'did you mean "retain"?']
    assert said(BROKER + output + 'source = "nowhere"\n') == [(8, *told[1:])]
    ((*_, hint),) = said(BROKER + output + "xyz = 1\n")
    assert hint == "known here: topic, qos, retain, to"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ('topic = ["a", "b"]', "one each: write a [[function.f.trigger]] for each of them"),
        ("retry = 3", "write retry = { attempts = 3 }"),
        ("batch = 5", "write batch = { size = 5 }"),
        ("inbox = 10", "write inbox = { size = 10 }"),
        ("retry = true", None),
        ('batch = "5"', None),
        ('cron = "@daily"', 'write cron = "0 0 * * *"'),
        ('cron = "@Hourly "', 'write cron = "0 * * * *"'),
        ('cron = "@every 5m"', 'write every = "5m"'),
        ('cron = "@reboot"', 'minute hour day month weekday, e.g. "*/5 * * * *"'),
    ],
)
def test_what_is_meant_is_told_where_it_is_plain(said: Callable[..., Said], key: str, hint: str | None) -> None:
    topic = "" if key.startswith(("topic", "cron")) else 'topic = "a"\n'
    ((*_, told),) = said(BROKER + FUNCTION + TRIGGER + topic + key + "\n")
    assert told == hint


def test_a_label_that_is_not_there_is_told_as_that(said: Callable[..., Said]) -> None:
    def hint(labels: str, word: str = "labels.room") -> str | None:
        text = f"[device]\nlabels = {labels}\n" + BROKER + f'client_id = "{{device.{word}}}"\n'
        ((*_, told),) = said(text)
        return told

    assert hint("{}") == "[device] has no label of this name: labels = { room = … }"
    assert hint('{ floor = "1" }') == "[device] has no label of this name: labels = { room = … }"
    assert hint('{ rooms = "1" }') == 'did you mean "device.labels.rooms"?'
    assert hint('{ name = "1" }', "nam") == 'did you mean "device.name"?'


def test_a_function_without_a_trigger_may_still_be_called(said: Callable[..., Said]) -> None:
    message = "has no trigger: only invoke runs it, or a function that calls it"
    assert said(FUNCTION) == [(1, "W504", "function.f", message, None)]


def test_an_output_to_what_is_unknown_is_told_whole_as_well(said: Callable[..., Said]) -> None:
    found = said(BROKER + FUNCTION + '[[function.f.output]]\nto = "q"\ntopic = "a/#"\nqos = 1\n')
    assert [(line, code) for line, code, _, _, _ in found] == [(7, "E301"), (8, "E305")]


def test_keys_that_several_kinds_take_say_no_kind_and_nothing_is_guessed(said: Callable[..., Said]) -> None:
    found = said(FUNCTION + TRIGGER + 'source = "q"\npath = 7\n')
    assert [code for _, code, _, _, _ in found] == ["E301"]
    found = said('[source.b]\nkind = "kafka"\n' + FUNCTION + TRIGGER + 'source = "q"\ntopic = 7\n')
    assert [code for _, code, _, _, _ in found] == ["E201", "E301"], "it may be a kafka's"


def test_an_address_of_another_kind_beside_the_first_is_told_as_that(said: Callable[..., Said]) -> None:
    hint = "a trigger has one address: write two of them"
    message = "is for kind timer, and topic is for kind mqtt"
    for source in ("", 'source = "broker"\n'):
        found = said(BROKER + FUNCTION + TRIGGER + source + 'topic = "x"\nevery = "5s"\n')
        assert [problem[1:] for problem in found] == [("E110", "function.f.trigger[0].every", message, hint)]
    found = said(BROKER + FUNCTION + TRIGGER + 'source = "broker"\nevery = "5s"\n')
    assert [problem[1:4] for problem in found] == [
        ("E117", "function.f.trigger[0].topic", "is missing"),
        ("E110", "function.f.trigger[0].every", "is for kind timer, and its source is of kind mqtt"),
    ]
    found = said(BROKER + FUNCTION + '[[function.f.output]]\nto = "broker"\ntopic = "x"\npath = "/x"\n')
    message = "is for kind coap or memory, and topic is for kind mqtt"
    hint = "an output has one address: write two of them"
    assert [problem[1:] for problem in found] == [("E110", "function.f.output[0].path", message, hint)]


@pytest.mark.parametrize(
    ("value", "is_a"),
    [
        ("5", "a number"),
        ("'f'", "a string"),
        ("b'f'", "bytes"),
        ("None", "None"),
        ("[1]", "a list"),
        ("{}", "a dict"),
        ("(f, f)", "a tuple"),
    ],
)
def test_a_handler_that_is_plainly_no_function_is_named(said: Callable[..., Said], value: str, is_a: str) -> None:
    code = f"def main(context, event):\n    return 1\nhandler = {value}\n"
    message = f'handler in "f.py" is {is_a} and no function'
    assert said(FUNCTION + TRIGGER + 'every = "1s"\n', code) == [
        (2, "E403", "function.f.handler", message, "it defines main")
    ]


@pytest.mark.parametrize(
    "code",
    [
        f"handler = None\n{CODE}",
        "handler = None\nfrom somewhere import handler\n",
        "try:\n    from somewhere import handler\nexcept ImportError:\n    handler = None\n",
        "handler = None\nif True:\n    handler = print\n",
        "handler = None\nfrom somewhere import *\n",
        "handler = None\ndef later():\n    global handler\n    handler = print\nlater()\n",
        "handler = None\nglobals()['handler'] = print\n",
        "handler = None\n(handler := print)\n",
        "handler = made(5)\n",
        "handler = {}['f']\n",
        "class handler:\n    pass\n",
    ],
)
def test_what_may_be_a_function_after_all_is_taken_on_trust(said: Callable[..., Said], code: str) -> None:
    assert said(FUNCTION + TRIGGER + 'every = "1s"\n', code) == []


@pytest.mark.parametrize("handler", [".", "..:f", "a..b", ".a", "a."])
def test_a_handler_that_names_no_module_is_told_as_it_is_written(said: Callable[..., Said], handler: str) -> None:
    found = said(f'[function.f]\nhandler = "{handler}"\n' + TRIGGER + 'every = "1s"\n')
    assert [problem[1:4] for problem in found] == [
        ("E405", "function.f.handler", f'"{handler}" does not say a file and a callable')
    ]


@pytest.mark.parametrize(
    ("url", "write"),
    [
        ("http://x", "mqtt://…, or ws://… for MQTT over WebSocket"),
        ("https://x", "mqtts://…, or wss://… for MQTT over WebSocket"),
        ("tcp://x", "mqtt://…"),
        ("ssl://x", "mqtts://…"),
    ],
)
def test_another_scheme_of_a_broker_is_told_with_what_is_meant(said: Callable[..., Said], url: str, write: str) -> None:
    ((_, code, _, message, _),) = said(f'[source.b]\nkind = "mqtt"\nurl = "{url}"\n')
    assert (code, message) == ("E205", f"not the address of a broker: write {write}")


def test_a_key_that_only_mqtt_5_has_is_warned_of_beside_version_3(said: Callable[..., Said]) -> None:
    keys = 'session_expiry = "1h"\nreceive_maximum = 10\n'
    assert said(BROKER + keys) == []
    assert said(BROKER + "version = 3\n") == []
    message, hint = "is not told to the broker: MQTT 3.1.1 has no place for it", "the broker's own setting holds"
    assert said(BROKER + "version = 3\n" + keys) == [
        (5, "W508", "source.broker.session_expiry", message, hint),
        (6, "W508", "source.broker.receive_maximum", message, hint),
    ]


def test_no_local_is_warned_of_beside_version_3(said: Callable[..., Said]) -> None:
    trigger = FUNCTION + TRIGGER + 'topic = "a"\nno_local = true\n'
    assert said(BROKER + trigger) == []
    hint = "what this client publishes comes back to it"
    assert said(BROKER + "version = 3\n" + trigger) == [
        (9, "W508", "function.f.trigger[0].no_local", "cannot be asked for in MQTT 3.1.1", hint)
    ]
    assert [found[1] for found in said(BROKER + "version = 4\n" + trigger)] == ["E115"]


def test_a_shared_subscription_that_another_filter_overlaps_is_warned_of_beside_version_3(
    said: Callable[..., Said],
) -> None:
    topics = ['"t/a"', '"$share/g/t/x"', '"$share/g/z"', '"t/#"', '"+"']
    triggers = "".join(f"{TRIGGER}topic = {topic}\n" for topic in topics)
    assert said(BROKER + FUNCTION + triggers) == []
    (found, other) = said(BROKER + "version = 3\n" + FUNCTION + triggers)
    assert found[:3] == (10, "W509", "function.f.trigger[1].topic")
    assert '"$share/g/t/x" overlaps "t/#"' in found[3]
    assert other[:3] == (12, "W509", "function.f.trigger[2].topic")
    assert '"$share/g/z" overlaps "+"' in other[3]
    two = '[source.b]\nkind = "mqtt"\nurl = "mqtt://localhost"\nversion = 3\nclient_id = "b"\n'
    alone = TRIGGER + 'source = "b"\ntopic = "$share/g/t/x"\n' + TRIGGER + 'source = "broker"\ntopic = "t/#"\n'
    assert said(BROKER + "version = 3\n" + two + FUNCTION + alone) == [], "on a source of its own it is left alone"


@pytest.mark.parametrize(
    ("name", "wildcard", "trigger"),
    [
        ("a/+", "+", BROKER + FUNCTION + TRIGGER + 'topic = "{device.name}/x"\n'),
        ("#", "#", BROKER + FUNCTION + TRIGGER + 'topic = "x/{device.name}"\n'),
        ("*", "*", '[source.api]\nkind = "http"\n' + FUNCTION + TRIGGER + 'path = "/x/{device.name}"\n'),
        ("*", "*", '[source.api]\nkind = "coap"\n' + FUNCTION + TRIGGER + 'path = "/x/{device.name}"\n'),
    ],
)
def test_a_placeholder_brings_no_wildcard_into_an_address(
    said: Callable[..., Said], name: str, wildcard: str, trigger: str
) -> None:
    found = said(
        f'[device]\nname = "{name}"\n' + trigger.replace("[source.broker]", "[source.broker]\nclient_id = 'x'")
    )
    ((line, code, _, message, _),) = found
    assert (code, message) == ("E304", f'{{device.name}} is "{name}", whose {wildcard} would be a wildcard here')
    assert line > 2
    assert said('[device]\nname = "gw"\n' + trigger) == []


def test_the_text_of_check_is_sorted_by_line_warnings_among_the_errors(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def handler(event, context):\n    return 1\n")
    (tmp_path / "edge.toml").write_text(
        "[device]\nnam = 1\n" + FUNCTION + TRIGGER + 'evry = "5s"\n[sync]\nurl = "http://x"\n[log]\nlevel = "loud"\n'
    )
    done = call("check", cwd=tmp_path)
    assert done.returncode == 2
    lines = [line.split(":")[1:3] for line in done.stderr.splitlines() if line.startswith("edge.toml:")]
    assert lines == [
        ["2", " device.nam"],
        ["4", " warning"],
        ["6", " function.f.trigger[0].evry"],
        ["7", " warning"],
        ["10", " log.level"],
    ]
    assert done.stderr.endswith("\n3 problems in edge.toml; nothing was started.\n")


def test_code_can_be_read_while_garbage_is_collected_that_reads_code_itself() -> None:
    """As a task of asyncio does that is dropped with an exception: its traceback is formatted then."""
    read = []

    class Left:
        def __init__(self) -> None:
            self.circle = self

        def __del__(self) -> None:
            read.append(ast.parse("a = 1"))

    code = "def handler(context, event): ...\n" + "\n".join(f"x{n} = [{n}, {{1: (2, 3)}}]" for n in range(200))
    before = gc.get_threshold()
    gc.set_threshold(50)
    try:
        for _ in range(5):
            Left()
            assert "handler" in names_of(code, "f.py").bound
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert len(read) == 5
