"""What a manifest becomes: names, defaults, placeholders, sources left out, select, and what a reload leaves alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nuclio_edge.errors import ManifestError
from nuclio_edge.manifest import Manifest, check, load
from nuclio_edge.manifest.schema import Secret
from nuclio_edge.manifest.units import duration_ms, rate_per_s, size_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = Path(__file__).parents[1] / "data" / "good"

BROKER = '[source.broker]\nkind = "mqtt"\nurl = "mqtt://localhost"\n'
DOOR = '[function.door]\nhandler = "door.py"\n'
TOPIC = '[[function.door.trigger]]\ntopic = "a"\n'


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Write a manifest beside a file door.py, and return its path."""
    (tmp_path / "door.py").write_text("def handler(context, event):\n    return event.body\n")

    def write(text: str) -> str:
        path = tmp_path / "edge.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture(scope="module")
def whole() -> Manifest:
    return load(str(GOOD / "whole.toml"))


def codes(path: str) -> list[str]:
    return [problem.code for problem in check(path)[1]]


def test_an_empty_manifest_has_the_defaults_of_the_design(write: Callable[[str], str], tmp_path: Path) -> None:
    manifest = load(write(""))
    assert manifest.folder == str(tmp_path)
    assert manifest.device.name == os.uname().nodename.partition(".")[0]
    assert manifest.device.namespace == "default"
    assert manifest.device.stop_timeout_ms == 5000
    assert manifest.device.memory_budget == 48 << 20
    assert manifest.device.secrets_dir == "/etc/nuclio-edge/secrets"
    assert manifest.log.level == "info"
    assert [sink.kind for sink in manifest.log.sinks] == ["console"]
    assert manifest.sync is None
    assert {name: spec.kind for name, spec in manifest.sources.items()} == {"clock": "timer", "pins": "gpio"}
    assert manifest.functions == {}


def test_a_function_has_the_defaults_of_the_design(write: Callable[[str], str], tmp_path: Path) -> None:
    manifest = load(write(BROKER + DOOR + TOPIC))
    door = manifest.functions["door"]
    assert (door.file, door.module, door.callable, door.path) == (
        str(tmp_path / "door.py"),
        "door",
        "handler",
        str(tmp_path),
    )
    assert (door.workers_min, door.workers_max, door.isolation, door.load) == (1, 1, "thread", "start")
    assert (door.timeout_ms, door.concurrency, door.bindings, door.disabled) == (30_000, None, None, False)
    assert (door.limits.memory, door.limits.cpu) == (None, None)
    trigger = door.triggers[0]
    assert (trigger.name, trigger.source, trigger.kind) == ("broker", "broker", "mqtt")
    assert trigger.ledger_id == "function.door.trigger[0]"
    assert (trigger.address.topic, trigger.address.qos) == ("a", 1)
    assert (trigger.inbox_size, trigger.when_full, trigger.rate_limit, trigger.batch) == (1024, "block", None, None)
    assert (trigger.retry.attempts, trigger.retry.backoff_ms, trigger.retry.max_backoff_ms) == (1, 1000, 60_000)
    assert trigger.durable
    assert not trigger.dead_letter


def test_a_source_has_the_defaults_of_the_design(write: Callable[[str], str]) -> None:
    manifest = load(write('[device]\nname = "gw"\n' + BROKER))
    params = manifest.sources["broker"].params
    assert params.client_id == f"gw-{manifest.device.id}-broker"
    assert (params.version, params.clean_start, params.receive_maximum) == (5, False, 64)
    assert (params.keepalive, params.session_expiry, params.max_packet) == (60_000, 604_800_000, 16 << 20)
    assert (params.username, params.password, params.will) == (None, None, None)


def test_an_inbox_that_is_full_does_by_default_what_suits_the_source(write: Callable[[str], str]) -> None:
    text = BROKER + DOOR + '[[function.door.trigger]]\nevery = "1s"\n' + TOPIC + TOPIC + "qos = 0\n"
    triggers = load(write(text)).functions["door"].triggers
    assert [trigger.when_full for trigger in triggers] == ["drop-newest", "block", "drop-oldest"]


def test_a_longer_first_pause_moves_the_longest_one_unless_that_is_said(write: Callable[[str], str]) -> None:
    path = write(BROKER + DOOR + TOPIC + 'retry = { attempts = 2, backoff = "5m" }\n')
    assert load(path).functions["door"].triggers[0].retry.max_backoff_ms == 300_000


def test_every_name_becomes_an_attribute_in_its_unit(whole: Manifest) -> None:
    thermostat = whole.functions["thermostat"]
    assert (thermostat.workers_min, thermostat.workers_max) == (0, 4)
    assert (thermostat.limits.memory, thermostat.limits.cpu) == (64 << 20, 0.25)
    assert (thermostat.timeout_ms, thermostat.load, thermostat.isolation) == (5000, "first-event", "process")
    assert thermostat.bindings == ("broker", "inside")
    readings = thermostat.triggers[0]
    assert readings.batch is not None
    assert (readings.batch.size, readings.batch.timeout_ms) == (10, 1000)
    assert (readings.name, readings.rate_limit, readings.content_type) == ("readings", 100.0, "text/plain")
    assert (readings.inbox_size, readings.when_full) == (16, "thin")
    assert (readings.retry.attempts, readings.retry.backoff_ms, readings.retry.max_backoff_ms) == (3, 1000, 60_000)
    assert [output.to for output in thermostat.outputs] == ["broker", "inside"]
    assert (thermostat.outputs[0].params.qos, thermostat.outputs[0].params.retain) == (2, True)
    assert whole.device.stop_timeout_ms == 90_000
    assert whole.functions["waits"].concurrency == 100
    assert whole.functions["off"].disabled


def test_paths_are_relative_to_the_manifest(whole: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    params = whole.sources["broker"].params
    assert params.ca == str(GOOD / "tls" / "ca.crt")
    assert whole.device.state_dir == str(GOOD / "state")
    monkeypatch.chdir(GOOD / "functions")
    assert load("../whole.toml").device.state_dir == str(GOOD / "state")


def test_placeholders_are_replaced_and_every_other_brace_is_kept(whole: Manifest) -> None:
    device = whole.device
    assert device.name == f"gateway-{device.id}"
    assert device.namespace == f"lab-{device.name}"
    params = whole.sources["broker"].params
    assert params.client_id == f"{device.name}-x"
    assert params.will.topic == "gw/2/state"
    assert params.will.payload == f'{{"{device.name}": {{"up": 0}}}}'
    assert whole.functions["thermostat"].triggers[2].address.body == device.name
    assert whole.functions["code"].code == 'def handler(context, event):\n    return f"{device.name}"\n'


def test_secrets_are_resolved_in_env_and_closed_elsewhere(whole: Manifest) -> None:
    params = whole.sources["broker"].params
    assert isinstance(params.password, Secret)
    assert params.password.text == "hunter2"
    assert params.key.content == b"key content"
    assert repr(params.password) == str(params.password) == "Secret('mqtt.password')"
    assert whole.functions["thermostat"].env == {"THRESHOLD": "21.5", "PLACE": "lab", "EMPTY": ""}


def test_a_secret_is_looked_for_in_three_places_in_a_fixed_order(
    write: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('[device]\nsecrets_dir = "secrets"\n' + DOOR + 'env = { A = { secret = "the.key-1" } }\n')

    def found() -> str | None:
        manifest = check(path)[0]
        return manifest.functions["door"].env["A"] if manifest else None

    credentials = tmp_path / "credentials"
    for folder in (credentials, tmp_path / "secrets"):
        folder.mkdir()
    assert found() is None
    monkeypatch.setenv("NUCLIO_EDGE_SECRET_THE_KEY_1", "of the environment\n")
    assert found() == "of the environment"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert found() == "of the environment"
    (credentials / "the.key-1").write_text("of systemd\n\n")
    assert found() == "of systemd\n"
    (tmp_path / "secrets" / "the.key-1").write_bytes(b"of the folder\r\n")
    assert found() == "of the folder"


def test_a_select_gives_each_chosen_function_its_own_trigger_after_its_others(whole: Manifest) -> None:
    shared = {
        name: [trigger.ledger_id for trigger in function.triggers if trigger.address.__slots__ == ("path",)]
        for name, function in whole.functions.items()
    }
    assert shared == {
        "thermostat": [
            "function.thermostat.trigger[1]",
            "function.thermostat.trigger[4]",
            "function.thermostat.trigger[5]",
        ],
        "waits": ["function.waits.trigger[1]"],
        "off": [],
        "code": ["function.code.trigger[0]"],
    }


def test_a_declared_timer_takes_the_place_of_the_built_in_clock(write: Callable[[str], str]) -> None:
    manifest = load(write('[source.ticks]\nkind = "timer"\n' + DOOR + '[[function.door.trigger]]\nevery = "1s"\n'))
    assert list(manifest.sources) == ["ticks", "pins"]
    assert manifest.functions["door"].triggers[0].source == "ticks"


def test_what_did_not_change_is_equal_wherever_it_moved(write: Callable[[str], str]) -> None:
    hall = DOOR.replace("function.door", "function.hall") + TOPIC.replace("function.door", "function.hall")
    before = load(write(BROKER + DOOR + TOPIC))
    after = load(write("# one line more\n" + BROKER + hall + DOOR + TOPIC))
    assert before.sources == after.sources
    assert before.functions["door"] == after.functions["door"]
    assert before.functions["door"] != after.functions["hall"]
    changed = load(write(BROKER + DOOR + TOPIC + "qos = 0\n"))
    assert before.functions["door"] != changed.functions["door"]


def test_a_secret_that_changed_is_a_change_of_its_source(
    write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(BROKER + 'username = "gw"\npassword = { secret = "pw" }\n')
    monkeypatch.setenv("NUCLIO_EDGE_SECRET_PW", "old")
    before = load(path)
    monkeypatch.setenv("NUCLIO_EDGE_SECRET_PW", "new")
    assert before.sources != load(path).sources


def test_the_line_of_a_key_can_be_asked_for_later(whole: Manifest) -> None:
    line = whole.line_of("source", "broker", "url")
    assert (GOOD / "whole.toml").read_text().splitlines()[line - 1] == 'url = "mqtts://broker.local"'
    assert whole.line_of("nothing") == 0


def test_a_file_that_is_not_there_is_a_problem_like_any_other(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        load("nowhere.toml")
    assert str(caught.value).startswith("nowhere.toml: there is no such file\n")
    assert str(caught.value).endswith("1 problem in nowhere.toml; nothing was started.")
    assert codes(str(tmp_path)) == ["E101"]
    large = tmp_path / "large.toml"
    with large.open("wb") as file:
        file.truncate((16 << 20) + 1)
    assert codes(str(large)) == ["E101"]


def test_a_file_may_begin_with_a_byte_order_mark_and_end_its_lines_as_on_windows(write: Callable[[str], str]) -> None:
    path = write("")
    Path(path).write_bytes(
        b"\xef\xbb\xbf" + (BROKER + DOOR + TOPIC + 'colour = "red"\n').replace("\n", "\r\n").encode()
    )
    problems = check(path)[1]
    assert [(problem.line, problem.code) for problem in problems] == [(8, "E110")]


def test_a_handler_is_never_run_by_a_check(write: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "door.py").write_text("import sys\nsys.exit(9)\ndef handler(context, event): pass\nraise SystemExit\n")
    assert codes(write(BROKER + DOOR + TOPIC)) == []
    assert "door" not in sys.modules


@pytest.mark.parametrize(
    "content", [b"def handler(context, event): pass\n\0", b"\xff\xfe", b"(" * 5000, b"# coding: nothing\n"]
)
def test_a_handler_file_that_is_no_python_is_one_problem(
    content: bytes, write: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "door.py").write_bytes(content)
    assert codes(write(BROKER + DOOR + TOPIC)) == ["E402"]


def test_control_characters_of_a_manifest_reach_no_terminal(write: Callable[[str], str]) -> None:
    with pytest.raises(ManifestError) as caught:
        load(write(BROKER + DOOR + '[[function.door.trigger]]\nsource = "\\u001b[2J\\u0000"\ntopic = "a"\n'))
    assert "\\u001b[2J\\u0000" in str(caught.value)
    assert all(char.isprintable() or char == "\n" for char in str(caught.value))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5s", 5000), ("250ms", 250), ("1h30m", 5_400_000), ("7d", 604_800_000), ("1.5s", 1500), ("2w", 1_209_600_000)]
    + [("0s", 0), ("1m0.5s", 60_500)]
    + [
        (bad, None)
        for bad in (
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "5S",
            "1s1s",
            "1s2m",
            "1.s",
            ".5s",
            "0.5ms",
            "1e3s",
            "٣s",
            "9" * 20 + "s",
        )
    ],
)
def test_a_duration_is_numbers_with_units_from_large_to_small(text: str, expected: int | None) -> None:
    assert duration_ms(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64MiB", 64 << 20),
        ("1KiB", 1024),
        ("1.5KiB", 1536),
        ("500kB", 500_000),
        ("2GB", 2_000_000_000),
        ("0B", 0),
        ("7B", 7),
    ]
    + [(bad, None) for bad in ("", "64", "MiB", "64 meg", "64 MiB", "64mib", "0.3B", "1MiB1KiB", "-1B")],
)
def test_a_size_is_one_number_and_one_unit(text: str, expected: int | None) -> None:
    assert size_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("100/s", 100.0), ("6/m", 0.1), ("0.5/s", 0.5), ("3600/h", 1.0)]
    + [(bad, None) for bad in ("", "100", "100/", "/s", "100/x", "1/2s")],
)
def test_a_rate_is_a_number_a_unit_of_time(text: str, expected: float | None) -> None:
    assert rate_per_s(text) == expected


def test_loading_imports_nothing_that_a_small_device_would_notice(write: Callable[[str], str]) -> None:
    path = write(BROKER + DOOR + TOPIC + '[[function.door.trigger]]\nevery = "1s"\n')
    # Without site: what it imports (.pth files of a development tree) is not ours.
    program = f"import sys; sys.path[:] = {sys.path!r}\nfrom nuclio_edge.manifest import load\n"
    program += f"load({path!r}); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    unwanted = (
        "argparse ast asyncio contextlib cronsim dataclasses difflib hashlib importlib.metadata inspect jsonschema"
    )
    unwanted += " logging nuclio_edge.manifest.lines paho pathlib socket ssl subprocess threading typing urllib"
    assert "nuclio_edge.manifest.validate" in loaded
    assert not loaded & set(unwanted.split())


def test_a_thousand_functions_cost_two_kilobytes_each(write: Callable[[str], str]) -> None:
    import gc
    import tracemalloc

    parts = [
        f'[function.f{i}]\nhandler = "door.py"\nlabels = {{ n = "{i}" }}\n[[function.f{i}.trigger]]\n'
        f'topic = "plant/{i}/+/t"\n[[function.f{i}.output]]\ntopic = "out/{i}"\n'
        for i in range(1000)
    ]
    path = write(BROKER + "".join(parts))
    load(path)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        manifest = load(path)
        gc.collect()
        each = (tracemalloc.get_traced_memory()[0] - before) / len(manifest.functions)
    finally:
        tracemalloc.stop()
    assert len(manifest.functions) == 1000
    assert each < 2048


def test_a_number_of_too_many_digits_is_a_problem_of_its_line(write: Callable[[str], str]) -> None:
    with pytest.raises(ManifestError, match=r"edge\.toml:3: a number of too many digits"):
        load(write("schema = 1\n[device]\nname = " + "9" * 5000 + "\n"))


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ('client_id = "a\\nb"\n', "client_id"),
        ('username = "a\\u0001"\n', "username"),
        ('will = { topic = "a\\u0007" }\n', "will.topic"),
        ('[function.f]\nhandler = "door.py"\n[[function.f.trigger]]\ntopic = "a\\u0007"\n', "trigger[0].topic"),
    ],
)
def test_a_text_at_which_brokers_hang_up_is_no_text_for_mqtt(write: Callable[[str], str], more: str, key: str) -> None:
    with pytest.raises(ManifestError, match=rf"{re.escape(key)}: .*holds U\+00"):
        load(write(BROKER + more))
