"""What an event and a function may cost, in calls and bytes: what the benchmarks measure, guarded without a clock."""

from __future__ import annotations

import gc
import socket
import sys
import tracemalloc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import tomli

from nuclio_edge.core.context import Context
from nuclio_edge.core.inbox import EVENT_COST, Budget, Trigger
from nuclio_edge.core.loop import Loop
from nuclio_edge.core.mqtt_codec import Reader
from nuclio_edge.core.worker import InlineRunner
from nuclio_edge.logs import make_log
from nuclio_edge.manifest import load
from nuclio_edge.manifest.problems import Report
from nuclio_edge.manifest.validate import _Reading
from nuclio_edge.processor import Processor
from nuclio_edge.sources.mqtt import MqttSource
from nuclio_edge.sources.mqtt_event import mqtt_event
from nuclio_edge.sources.mqtt_intake import Intake
from nuclio_edge.sources.mqtt_subscribe import Subscriptions
from tests.mqtt_packets import publish
from tests.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FUNCTIONS = 200


def handler(context: Context, event: Any) -> None:
    """Does nothing."""


@pytest.fixture
def intake() -> Iterator[Intake]:
    """An intake that sends everything to one inline function; its source settles as the real one does."""
    loop = Loop()
    made = Intake(loop, len, print, print)
    source = SimpleNamespace(kind="mqtt", name="broker", content_type=None, url="", intake=made)
    source.settle = MqttSource.settle.__get__(source)  # it asks for `intake` alone
    nothing = SimpleNamespace(bind=handler, prepare=handler, on_started=handler)
    function: Any = SimpleNamespace(name="f", suspended=None, outputs=(), timeout_ms=30_000, handler=handler, loop=loop)
    function.bind = function.prepare = lambda context: nothing
    function.on_started = lambda: nothing
    spec = SimpleNamespace(address=SimpleNamespace(topic="a/#", qos=1), content_type=None)
    trigger = Trigger(function, source, loop, spec=spec, budget=Budget(1 << 20, 1 << 16))
    InlineRunner(function, lambda worker: Context()).attach(trigger)
    made.follow(Subscriptions([trigger], v5=False, numbered=False))
    yield made
    loop.close()


def python_calls(run: Callable[[], object]) -> list[str]:
    """The names of the Python functions that are called while `run` runs."""
    called: list[str] = []

    def note(frame: Any, kind: str, _what: object) -> None:
        if kind == "call":
            called.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return called


@pytest.mark.parametrize(
    ("qos", "calls"),
    [
        (0, ["on_publish", "submit", "handler"]),
        (1, ["on_publish", "submit", "handler", "settle", "settle"]),
    ],
)
def test_an_event_of_a_flood_costs_so_many_calls_of_python_and_no_more(
    intake: Intake, qos: int, calls: list[str]
) -> None:
    reader = Reader(v5=False)

    def drain(first: int, count: int) -> list[str]:
        reader.feed(b"".join(publish("a/b", b"x" * 64, qos, first + at, version=4) for at in range(count)))
        return python_calls(lambda: reader.drain(1000, intake.on_publish, print, print))

    drain(1, 1)  # the topic is resolved, the function started
    ten, twenty = drain(2, 10), drain(12, 20)
    assert len(twenty) - len(ten) == 10 * len(calls)
    assert twenty.count("handler") == 20
    assert set(calls) == set(twenty) - {"drain", "<lambda>", "at_turn_end"}


def test_a_kept_alive_request_costs_so_many_calls_of_python_and_no_more(tmp_path: Path) -> None:
    manifest = """
[source.api]
kind = "http"
listen = "127.0.0.1:0"
[function.f]
handler = "f.py"
isolation = "inline"
[[function.f.trigger]]
path = "/"
"""
    with Rig(tmp_path, manifest, f="def handler(context, event):\n    return b'hello'\n") as rig:
        host, _, port = rig.processor.sources["api"].addresses()[0].rpartition(":")
        with socket.create_connection((host, int(port)), 10) as client:

            def ask() -> None:
                client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                before = trigger.handled
                rig.until(lambda: trigger.handled > before)
                assert client.recv(1000).endswith(b"\r\n\r\nhello")

            source = rig.processor.sources["api"]
            trigger = rig.processor.functions["f"].triggers[0]
            for _ in range(3):  # the head is known, the function started, to_response imported
                ask()
            called = ["another second"]
            while "renew" in called or len(called) == 1:  # one that makes another Date
                called = python_calls(ask)
            assert source.received == trigger.handled
            request = called[called.index("_ready") : called.index("alone") + 1]
            first = request[3 : request.index("handler")]  # what the first event of a turn costs more
            assert request == ["_ready", "_respond", "submit", *first, "handler", "to_response", "settle", "alone"]
            assert len(first) <= 6


def test_a_queued_event_holds_no_more_than_the_budget_counts_for_it() -> None:
    made = [mqtt_event(None, None, 0x30, b"", b"", b"", 0) for _ in range(10)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        made += [
            mqtt_event(None, number << 32, 0x30, b"sensors/%04d" % number, b"", b"%d" % number, 1000)
            for number in range(1000)
        ]
        each = (tracemalloc.get_traced_memory()[0] - before) / 1000
    finally:
        tracemalloc.stop()
    assert 0.5 * EVENT_COST < each <= EVENT_COST * 1.15


def many_functions(folder: Path) -> str:
    (folder / "f.py").write_text("def handler(context, event):\n    pass\n")
    tables = [
        f'[function.f{n}]\nhandler = "f.py"\nisolation = "inline"\n'
        f'[[function.f{n}.trigger]]\ntopic = "a/{n:04d}/+"\nqos = 1\n'
        for n in range(FUNCTIONS)
    ]
    return '[source.broker]\nkind = "mqtt"\nurl = "mqtt://127.0.0.1:1"\n[device]\nstate_dir = "state"\n' + "".join(
        tables
    )


def test_a_function_that_is_not_called_yet_holds_less_than_four_kilobytes(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    text = many_functions(tmp_path)

    def start() -> Processor:
        manifest = load(str(path))
        made = Processor(manifest, make_log(manifest.log), offline=True)
        made.open()
        return made

    path.write_text(text.partition("[function.f10]")[0])
    first = start()  # what is imported and kept once is there now
    first.close()
    first.loop.close()
    path.write_text(text)
    gc.collect()
    tracemalloc.start()
    try:
        processor = start()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    processor.close()
    processor.loop.close()
    assert held / FUNCTIONS < 4000


def test_a_manifest_lets_go_of_its_tables_as_it_reads_them(tmp_path: Path) -> None:
    # Else the objects made of them lie between them in memory, and none of it goes back to the system: 2 KB a function.
    text = many_functions(tmp_path)

    def reading() -> _Reading:
        return _Reading(str(tmp_path / "edge.toml"), tomli.loads(text), Report(text), "/")

    reading().manifest()  # what is imported and kept once is there now
    tracemalloc.start()
    try:
        begun = reading()
        tables = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        manifest = begun.manifest()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(manifest.functions) == FUNCTIONS
    assert peak < tables * 1.3, (peak, tables)
