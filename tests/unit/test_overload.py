"""What a full inbox and a used-up memory budget come to: by each policy, within bounds, and back to normal."""

from __future__ import annotations

import builtins
import socket
import threading
import time
from collections import deque
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclio_edge.core.encode import to_response
from nuclio_edge.core.event import Event
from nuclio_edge.core.failure import HandlerTimeout, error_response
from nuclio_edge.core.inbox import EVENT_COST, Budget, Trigger
from nuclio_edge.core.loop import Loop
from nuclio_edge.core.response import Response
from nuclio_edge.sources.mqtt_link import FIRST, Link
from nuclio_edge.workers import asynchronous
from tests.mqtt_packets import publish
from tests.rig import MEMORY, Rig, Settled

if TYPE_CHECKING:
    from pathlib import Path

POLICIES = ["block", "drop-oldest", "drop-newest", "thin", "reject"]
GATED = """
import os, time
def handler(context, event):
    while not os.path.exists(os.environ["GO"]):
        time.sleep(0.002)
"""


def function(trigger: str, *, name: str = "f", more: str = "") -> str:
    return f"""
[function.{name}]
handler = "f.py"
{more}
[[function.{name}.trigger]]
source = "mem"
path = "/{name}"
{trigger}
"""


class Source:
    """Settles nothing in particular."""

    kind = "test"
    name = "s"

    def settle(self, *_: Any) -> None:
        """Nobody waits."""


@given(
    when_full=st.sampled_from(POLICIES),
    floor=st.integers(0, 20_000),
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30_000), st.booleans()), max_size=120),
)
@settings(deadline=None)
def test_the_inboxes_together_keep_to_the_budget_whatever_comes(
    when_full: str, floor: int, steps: list[tuple[int, int, bool]]
) -> None:
    limit = 100_000
    loop = Loop()
    budget = Budget(limit, floor)
    triggers = []
    for _ in range(3):
        trigger = Trigger(None, Source(), loop, size=40, when_full=when_full, budget=budget)
        trigger.box = deque()
        triggers.append(trigger)
    for which, size, works in steps:
        trigger = triggers[which]
        if works:
            if trigger.box:
                event = trigger.box.popleft()
                trigger.handled += 1
                trigger.leave(1, len(event.raw_body), event)
            continue
        trigger._grace = 1  # it is over
        event = Event(b"x" * size)
        if trigger.enter(event) == 1:
            trigger.box.append(event)
        # Beyond the limit each may hold its floor and the event that reached it.
        assert budget.used <= limit + 3 * (floor + 30_000 + EVENT_COST)
        assert budget.used == sum(one.held for one in triggers)
        over = [one for one in triggers if one.held > floor]
        if len(over) == 3:
            assert budget.used <= limit + EVENT_COST
        for one in triggers:
            assert one.pending <= 40
            assert one.admitted == one.handled + sum(one.shed.values()) + one.pending
    loop.close()


def test_large_events_push_out_as_many_small_ones_as_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    text = MEMORY + function('inbox = { size = 100000, when_full = "drop-oldest" }')
    with Rig(tmp_path, text, f=GATED) as rig:
        rig.processor.budget.limit, rig.processor.budget.floor = 1 << 20, 0
        for _ in range(2000):
            rig.deliver("/f", b"x" * 200)
        trigger = rig.trigger("f")
        rig.until(lambda: trigger.admitted == 2000)
        for _ in range(200):
            rig.deliver("/f", b"x" * 100_000)
        rig.until(lambda: trigger.admitted == 2200)
        assert rig.processor.budget.used <= (1 << 20) + EVENT_COST
        assert trigger.pending < 12 and rig.balanced()
        (tmp_path / "go").touch()
        rig.until(lambda: trigger.pending == 0)
        assert rig.processor.budget.used == 0 and trigger._grace < 0


@pytest.mark.parametrize("when_full", POLICIES)
def test_ten_times_too_much_is_all_accounted_for_and_then_it_is_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when_full: str
) -> None:
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    text = MEMORY + function(f'inbox = {{ size = 50, when_full = "{when_full}" }}')
    with Rig(tmp_path, text, f=GATED) as rig:
        settled = Settled()
        for number in range(500):
            rig.deliver("/f", b"%d" % number, settled)
        trigger = rig.trigger("f")
        if when_full == "block":
            rig.until(lambda: trigger.pending == 50)
            rig.turn_for(30)
            assert trigger.admitted == 50
        else:
            rig.until(lambda: trigger.admitted == 500)
            assert trigger.pending <= 50
        (tmp_path / "go").touch()
        rig.until(lambda: len(settled.outcomes) == 500, "all outcomes")
        assert rig.balanced() and trigger.pending == 0
        assert rig.records.text().count("events are shed") == (when_full != "block")
        shed = {} if when_full == "block" else {when_full: 500 - trigger.handled}
        assert trigger.shed == shed
        assert trigger.handled == (500 if when_full == "block" else trigger.handled)
        bodies = [event.raw_body for event, answer, _ in settled.outcomes if answer is None]
        if when_full in ("drop-oldest", "thin"):
            assert bodies[-1] == b"499"
        elif when_full != "block":
            assert bodies == [b"%d" % number for number in range(50)]
        # As before: a burst as large as the inbox is taken whole, no source waits, nothing is held.
        assert rig.processor.budget.used == 0 and trigger._grace < 0
        before = trigger.handled
        for _ in range(50):
            rig.deliver("/f", b"again", settled)
        rig.until(lambda: len(settled.outcomes) == 550)
        assert trigger.handled == before + 50


def test_a_function_with_two_triggers_one_of_them_flooded_holds_no_more_turns_than_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    second = '\n[[function.f.trigger]]\nsource = "mem"\npath = "/second"\n'
    text = MEMORY + function('inbox = { size = 20, when_full = "drop-oldest" }') + second
    with Rig(tmp_path, text, f=GATED) as rig:
        for round_ in range(20):
            for _ in range(200):
                rig.deliver("/f", b"x")
            rig.until(lambda round_=round_: rig.trigger("f").admitted == 200 * (round_ + 1))  # type: ignore[misc]
        queue: Any = rig.processor.functions["f"].runner.queue
        assert len(queue.turns) <= 2 * 20 + 64
        settled = Settled()
        rig.deliver("/second", b"y", settled)
        (tmp_path / "go").touch()
        rig.until(lambda: settled.outcomes and not rig.trigger("f").pending)
        assert rig.balanced()


def test_a_trigger_that_waits_for_memory_is_told_when_another_one_has_given_some_back() -> None:
    loop = Loop()
    budget = Budget(10_000, 0)
    greedy, waiting = (Trigger(None, Source(), loop, size=100, when_full="block", budget=budget) for _ in range(2))
    event = Event(b"x" * 9000)
    small = Event(b"x" * 400)
    assert waiting.enter(small) == 1
    assert greedy.enter(event) == 1
    assert waiting.enter(Event(b"x" * 400)) == 0
    told: list[int] = []
    waiting.on_room(lambda: told.append(1))
    for _ in range(5):
        loop.turn(10)
    assert not told
    greedy.leave(1, 9000, event)
    while not told:
        loop.turn(10)
    assert waiting.enter(Event(b"x" * 400)) == 1
    loop.close()


def test_floors_and_what_is_shared_are_the_budget_together(tmp_path: Path) -> None:
    text = MEMORY + "".join(function("", name=f"f{number}") for number in range(7))
    with Rig(tmp_path, text, f=GATED) as rig:
        budget = rig.processor.budget
        whole = rig.processor.manifest.device.memory_budget
        assert budget.limit + 7 * budget.floor <= whole
        assert budget.limit > 0.8 * whole


def test_a_flood_of_events_for_slow_inline_handlers_leaves_each_turn_to_the_other_sources_soon() -> None:
    loop = Loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    told: list[bytes] = []
    turns: list[int] = []

    def slow(_first: int, _topic: bytes, _id: int, _props: bytes, body: bytes) -> bool:
        time.sleep(0.001)
        told.append(body)
        return False

    sink: Any = SimpleNamespace(on_publish=slow, on_packet=print, on_oversize=print, on_lost=print, on_broken=print)
    link = Link(loop, ours, sink, v5=False, max_packet=1000, alias_max=0)
    theirs.sendall(b"".join(publish("a", b"%d" % number, version=4) for number in range(100)))
    while len(told) < 100:
        loop.turn(1000)
        turns.append(len(told))
    assert told == [b"%d" % number for number in range(100)]
    # A read, and what was put off by the turn before it.
    assert all(after - before <= 2 * FIRST for before, after in pairwise([0, *turns]))
    link.close()
    theirs.close()
    loop.close()


def test_a_handler_that_hangs_does_not_make_the_loop_wait_for_what_it_takes_to_end_it(tmp_path: Path) -> None:
    code = "import time\ndef handler(context, event):\n    end = time.monotonic() + 20\n"
    code += "    while time.monotonic() < end:\n        pass\n"
    text = MEMORY + function("", more='timeout = "50ms"')
    importing: list[int] = []

    def slow_import(name: str, *rest: Any, **more: Any) -> Any:
        if name == "ctypes":
            importing.append(threading.get_ident())
        return real(name, *rest, **more)

    real = builtins.__import__
    asynchronous._raise.clear()
    with pytest.MonkeyPatch.context() as patch, Rig(tmp_path, text, f=code) as rig:
        patch.setattr(builtins, "__import__", slow_import)
        for _ in range(2):
            assert rig.ask("/f")[0] == 408
            rig.until(lambda: not rig.processor.functions["f"].runner.lost, "the thread to end")
        assert importing and threading.get_ident() not in importing


def test_the_answer_to_a_timeout_is_what_its_json_would_be() -> None:
    spelled_out = error_response(HandlerTimeout())
    made = to_response(Response(status_code=408, body={"error": "handler timed out"}))
    assert (spelled_out.status_code, spelled_out.body, spelled_out.content_type, dict(spelled_out.headers)) == (
        made.status_code, made.body, made.content_type, dict(made.headers)
    )  # fmt: skip
