"""The memory source: whoever hands an event in is told what came of it, whatever that is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.sources import memory
from nuclio_edge.sources.memory import MemorySource
from nuclio_edge.testing.rig import Bench, Function, SourceRig
from tests.rig import MEMORY, Rig, Settled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class OneBench(Bench):
    """A memory source with a function for each test to make."""

    def __init__(self) -> None:
        rig = SourceRig()
        rig.source = MemorySource
        rig.trigger = {"path": "/in"}
        super().__init__(rig)

    def deliver(self, path: str = "/in", body: bytes = b"", **about: Any) -> Settled:
        settled = Settled()
        self.source.deliver(path, body, settled, **about)
        return settled

    def opened(self, *functions: Function) -> Function:
        self.open()
        return functions[0]


@pytest.fixture
def bench() -> Iterator[OneBench]:
    bench = OneBench()
    with bench:
        yield bench


def test_an_event_for_which_there_is_no_trigger_is_answered_404(bench: OneBench) -> None:
    bench.opened(bench.function())
    settled = bench.deliver("/nowhere")
    bench.until(lambda: settled.outcomes, "an answer")
    assert settled.statuses() == [404]
    assert settled.outcomes[0][0].trigger.kind == "memory"
    assert bench.source.unrouted == 1


def test_an_event_for_a_closed_source_is_answered_503(bench: OneBench) -> None:
    bench.function()
    before = bench.deliver()
    bench.until(lambda: before.outcomes, "an answer")
    bench.open()
    bench.source.stop_receiving()
    after = bench.deliver()
    bench.until(lambda: after.outcomes, "an answer")
    assert before.statuses() == after.statuses() == [503]
    assert bench.source.rejected == {"closed": 2}


def test_a_backlog_has_an_end_and_what_is_beyond_it_is_answered_503(
    bench: OneBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "BACKLOG", 3)
    function = bench.opened(bench.function(holds=True, size=1))
    settled = [bench.deliver(body=b"%d" % number) for number in range(6)]
    bench.until(lambda: settled[5].outcomes, "an answer")
    assert bench.source.rejected == {"backlog": 2}
    while len(function.arrived) < 4 or function.held:
        if function.held:
            function.finish()
        bench.turn()
    assert function.bodies() == [b"0", b"1", b"2", b"3"]
    assert [one.statuses() for one in settled] == [[200]] * 4 + [[503]] * 2


def test_what_waits_for_room_at_the_close_is_answered_503(bench: OneBench) -> None:
    function = bench.opened(bench.function(holds=True, size=1))
    settled = [bench.deliver() for _ in range(3)]
    bench.until(lambda: function.arrived, "an event")
    bench.source.close()
    bench.turn()
    assert [one.statuses() for one in settled] == [[], [503], [503]]
    assert bench.source.rejected == {"closed": 2}


def test_what_waits_for_room_is_answered_404_when_its_function_goes(bench: OneBench) -> None:
    function = bench.opened(bench.function(holds=True, size=1))
    settled = [bench.deliver() for _ in range(3)]
    bench.until(lambda: function.arrived, "an event")
    bench.functions = []
    bench.route()
    bench.until(lambda: settled[2].outcomes, "an answer")
    assert [one.statuses() for one in settled] == [[], [404], [404]]


def test_a_function_without_room_holds_up_the_order_and_doubles_nothing(bench: OneBench) -> None:
    quick, slow, other = bench.function(), bench.function(holds=True, size=1), bench.function()
    bench.open()
    settled = [bench.deliver(body=b"%d" % number) for number in range(3)]
    bench.until(lambda: len(quick.arrived) == 2, "two events")
    bench.turn_for(30)
    assert (quick.bodies(), slow.bodies(), other.bodies()) == ([b"0", b"1"], [b"0"], [b"0"])
    while len(slow.arrived) < 3 or slow.held:
        if slow.held:
            slow.finish()
        bench.turn()
    assert quick.bodies() == slow.bodies() == other.bodies() == [b"0", b"1", b"2"]
    assert [one.statuses() for one in settled] == [[200, 200, 200]] * 3


def test_what_is_said_about_an_event_are_its_attributes(bench: OneBench) -> None:
    function = bench.opened(bench.function())
    settled = bench.deliver(body=b'{"a": 1}', content_type="application/json", method="PUT", headers={"x": "y"})
    bench.until(lambda: settled.outcomes, "an outcome")
    [event] = function.arrived
    assert (event.body, event.method, event.headers, event.path) == ({"a": 1}, "PUT", {"x": "y"}, "/in")


def test_whoever_is_told_may_raise_without_harm(bench: OneBench) -> None:
    function = bench.opened(bench.function())
    bench.source.deliver("/in", b"", lambda *_: 1 // 0)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):  # the loop heard of it, and only the loop
        bench.until(lambda: False, "an error")
    bench.errors.clear()
    assert function.triggers[0].handled == 1
    bench.audit()


def test_any_thread_may_hand_events_in(bench: OneBench) -> None:
    function = bench.opened(bench.function())
    threads = [
        threading.Thread(target=lambda: [bench.source.deliver("/in", b"x") for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    bench.until(lambda: len(function.arrived) == 2000, "two thousand events")
    for thread in threads:
        thread.join()


def test_handlers_publish_to_other_functions_and_outputs_are_kept(tmp_path: Path) -> None:
    manifest = (
        MEMORY + '[function.first]\nhandler = "first.py"\n[[function.first.trigger]]\nsource = "mem"\npath = "/first"\n'
        '[[function.first.output]]\nto = "mem"\npath = "/out"\n'
        '[function.second]\nhandler = "second.py"\n[[function.second.trigger]]\nsource = "mem"\npath = "/second"\n'
        '[[function.second.output]]\nto = "mem"\npath = "/first"\n'
    )
    first = (
        "def handler(context, event):\n    if event.body == b'go':\n"
        "        context.bindings['mem'].publish('/second', 'x')\n    return event.body\n"
    )
    with Rig(tmp_path, manifest, first=first, second="def handler(context, event):\n    return 'back'\n") as rig:
        assert rig.ask("/first", b"go") == (200, b"go")
        source = rig.processor.sources["mem"]
        rig.until(lambda: len(source.outputs) == 3, "the way back")
        assert sorted(source.outputs) == [("/first", b"back"), ("/out", b"back"), ("/out", b"go")]
        assert rig.balanced()
