"""`order_by`: the order of each key is kept among several workers, and no key waits for another."""

from __future__ import annotations

import json
import textwrap
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nuclio_edge.core.event import Event
from nuclio_edge.core.inbox import Budget
from nuclio_edge.core.loop import Loop
from nuclio_edge.workers.ordered import attach
from nuclio_edge.workers.queues import Queue
from nuclio_edge.workers.shaped import ShapedTrigger
from tests.rig import MEMORY, Rig, Settled

if TYPE_CHECKING:
    from pathlib import Path

WAYS = ["thread", "process", "async", "batch"]
FUNCTION = """
[function.f]
handler = "f.py"
timeout = "20s"
{keys}
[[function.f.trigger]]
source = "mem"
path = "/f"
order_by = "topic"
{more}
"""


class Law(RuleBasedStateMachine):
    """Events of a few keys come, are claimed, end, fail, are shed; whatever happens in between."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        source = SimpleNamespace(kind="test", name="s", settle=lambda *_: None)
        function: Any = SimpleNamespace(suspended=None, trigger_specs=(1,))
        self.function = function
        self.queue = Queue(function, lambda: None)
        self.budget = Budget(1 << 20, 0)
        self.trigger: Any = None
        self.begin_with("block", source)

    def begin_with(self, when_full: str, source: Any) -> None:
        trigger = ShapedTrigger(self.function, source, self.loop, "id", "n", 12, when_full)
        trigger.budget = self.budget
        attach(self.queue, trigger, "topic")
        self.trigger = trigger
        self.number = 0
        self.working: list[Event] = []
        self.resting: list[Event] = []
        self.begun: dict[str, int] = {}  # key -> the newest event that was begun
        self.shed_before = 0

    @rule(when_full=st.sampled_from(["block", "drop-oldest", "drop-newest", "thin"]))
    def the_policy_changes(self, when_full: str) -> None:
        self.trigger.when_full = when_full

    @rule(key=st.sampled_from("abcde"), path=st.sampled_from("xy"))
    def an_event_comes(self, key: str, path: str) -> None:
        self.number += 1
        event = Event(b"%d" % self.number, path=path)
        event.topic = key
        event._trigger = self.trigger
        self.trigger._grace = 1  # it is over
        self.trigger.submit(event)

    @rule()
    def a_worker_claims(self) -> None:
        try:
            event = self.queue.claim()
        except IndexError:
            return
        key, number = str(event.topic), int(event.raw_body)
        assert all(key != other.topic for other in (*self.working, *self.resting)), "two of a key at a time"
        assert number >= self.begun.get(key, 0), "an older one after a newer one"
        self.begun[key] = number
        self.working.append(event)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def one_is_concluded(self, data: Any) -> None:
        event = self.working.pop(data.draw(st.integers(0, len(self.working) - 1)))
        self.trigger.handled += 1
        key = event.topic
        event.topic = "changed by its handler"
        self.trigger.leave(1, len(event.raw_body), event)
        event.topic = key

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def one_fails_and_rests(self, data: Any) -> None:
        self.resting.append(self.working.pop(data.draw(st.integers(0, len(self.working) - 1))))

    @precondition(lambda self: self.resting)
    @rule(data=st.data())
    def one_is_tried_again(self, data: Any) -> None:
        event = self.resting.pop(data.draw(st.integers(0, len(self.resting) - 1)))
        self.trigger.box.again(event)

    @rule()
    def the_function_is_suspended_and_resumed(self) -> None:
        self.function.suspended = "hangs"
        self.queue.turn_away("suspended")
        for event in self.resting:
            self.trigger.box.again(event)
        self.resting.clear()
        assert self.trigger.pending == len(self.working)
        self.function.suspended = None

    @invariant()
    def the_ledger_balances_and_nothing_is_forgotten(self) -> None:
        trigger, order = self.trigger, self.trigger.order
        assert trigger.admitted == trigger.handled + sum(trigger.shed.values()) + trigger.pending
        waiting = len(order.ready) + len(order._held)
        assert trigger.pending == waiting + len(self.working) + len(self.resting)
        assert len(order._keys) == len(order._behind) == trigger.pending - len(order._held)
        assert sum(map(len, order._behind.values())) == len(order._held)
        assert trigger.pending <= 12
        assert trigger.held == self.budget.used and (trigger.held > 0) == (trigger.pending > 0)
        self.queue.end_of_turn()
        assert len(self.queue.turns) <= 2 * len(self.queue) + 64

    def teardown(self) -> None:
        while self.working or self.resting or self.queue:
            self.a_worker_claims()
            if self.resting:
                self.trigger.box.again(self.resting.pop())
            for event in self.working:
                self.trigger.handled += 1
                self.trigger.leave(1, len(event.raw_body), event)
            self.working.clear()
        assert self.trigger.pending == 0 and self.budget.used == 0
        self.loop.close()


TestLaw = Law.TestCase
TestLaw.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def rig(folder: Path, way: str, code: str, more: str = "", workers: int = 4) -> Rig:
    code = textwrap.dedent(code)
    keys = {"process": 'isolation = "process"\n', "async": f"concurrency = {workers}\n"}.get(way, "")
    if way != "async":
        keys += f"workers = {workers}\n"
    else:
        code = code.replace("def handler", "async def handler").replace("time.sleep", "await asyncio.sleep")
    if way == "batch":
        more += '\nbatch = { size = 3, timeout = "2ms" }'
    return Rig(folder, MEMORY + FUNCTION.format(keys=keys, more=more), f=code)


NOTING = """
import asyncio, os, time
def note(path, text):
    with open(path, "a") as file:
        file.write(text + "\\n")

def handler(context, event):
    events = event if isinstance(event, list) else [event]
    for event in events:
        note(os.environ["OUT"], event.topic + " " + event.raw_body.decode() + " begin")
    time.sleep(0.001)
    for event in events:
        note(os.environ["OUT"], event.topic + " " + event.raw_body.decode() + " end")
"""


@pytest.mark.parametrize("way", WAYS)
def test_the_order_of_each_key_is_kept_among_several_workers(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    with rig(tmp_path, way, NOTING) as it:
        settled = Settled()
        for number in range(200):
            it.deliver("/f", b"%d" % number, settled, topic=f"k{number % 7}")
        it.until(lambda: len(settled.outcomes) == 200, "all outcomes")
        assert set(settled.statuses()) == {200} and it.balanced()
    seen: dict[str, list[tuple[int, str]]] = {}
    for line in (tmp_path / "out").read_text().splitlines():
        key, index, what = line.split()
        seen.setdefault(key, []).append((int(index), what))
    for key, steps in seen.items():
        wanted = [at for at in range(200) if f"k{at % 7}" == key]
        assert steps == [(at, step) for at in wanted for step in ("begin", "end")]
    whole = [line.split()[2] for line in (tmp_path / "out").read_text().splitlines()]
    assert "begin begin" in " ".join(whole), "nothing ran side by side"


SLOW = """
import asyncio, os, time
def handler(context, event):
    events = event if isinstance(event, list) else [event]
    if events[0].topic == "slow":
        while not os.path.exists(os.environ["GO"]):
            time.sleep(0.002)
    return [context.Response(body=b"done", event_id=e.id) for e in events] if isinstance(event, list) else b"done"
"""


@pytest.mark.parametrize("way", ["thread", "process", "async"])
def test_a_slow_key_holds_up_its_own_events_and_no_others(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    with rig(tmp_path, way, SLOW, workers=2) as it:
        slow, others = Settled(), Settled()
        for number in range(30):
            it.deliver("/f", b"%d" % number, slow, topic="slow")
        for number in range(100):
            it.deliver("/f", b"%d" % number, others, topic=f"k{number % 5}")
        it.until(lambda: len(others.outcomes) == 100, "the other keys")
        assert not slow.outcomes
        (tmp_path / "go").touch()
        it.until(lambda: len(slow.outcomes) == 30, "the slow key")
        assert [event.raw_body for event, _, _ in slow.outcomes] == [b"%d" % number for number in range(30)]


RETRIED = """
import asyncio, os, time
def handler(context, event):
    with open(os.environ["OUT"], "a") as file:
        file.write(event.topic + event.raw_body.decode() + "\\n")
    if event.topic == "bad" and event.raw_body == b"0" and not os.path.exists(os.environ["GO"]):
        raise ValueError("not yet")
"""


@pytest.mark.parametrize("way", ["thread", "process", "async"])
def test_a_failed_event_keeps_its_place_before_the_next_of_its_key(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    more = 'retry = { attempts = 1000, backoff = "2ms", max_backoff = "2ms" }'
    with rig(tmp_path, way, RETRIED, more) as it:
        bad, good = Settled(), Settled()
        for number in range(5):
            it.deliver("/f", b"%d" % number, bad, topic="bad")
        for number in range(20):
            it.deliver("/f", b"%d" % number, good, topic="good")
        it.until(lambda: len(good.outcomes) == 20 and it.trigger("f").retried > 3, "the good ones")
        assert not bad.outcomes
        (tmp_path / "go").touch()
        it.until(lambda: len(bad.outcomes) == 5, "the bad ones")
        lines = [line for line in (tmp_path / "out").read_text().split() if line.startswith("bad")]
        assert [line for at, line in enumerate(lines) if line != lines[at - 1] or at == 0] == [
            f"bad{number}" for number in range(5)
        ]
        assert it.balanced()


def test_when_the_inbox_is_full_the_oldest_of_all_keys_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    with rig(tmp_path, "thread", SLOW, 'inbox = { size = 6, when_full = "drop-oldest" }', workers=2) as it:
        settled = Settled()
        it.deliver("/f", b"first", settled, topic="slow")
        it.until(lambda: any(worker.current for worker in it.processor.functions["f"].runner.workers), "it to begin")
        for number in range(20):
            it.deliver("/f", b"%d" % number, settled, topic="slow")
        it.until(lambda: it.trigger("f").shed.get("drop-oldest") == 15, "the shedding")
        (tmp_path / "go").touch()
        it.until(lambda: len(settled.outcomes) == 21, "all outcomes")
        handled = [event.raw_body for event, answer, _ in settled.outcomes if answer and answer.status_code == 200]
        assert handled == [b"first", *(b"%d" % number for number in range(15, 20))]


def test_a_timed_out_event_gives_its_key_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    code = SLOW.replace('== "slow"', '== "slow" and events[0].raw_body == b"0"')
    manifest = FUNCTION.replace("20s", "50ms").format(keys="workers = 2", more="")
    with Rig(tmp_path, MEMORY + manifest, f=code) as it:
        settled = Settled()
        for number in range(3):
            it.deliver("/f", b"%d" % number, settled, topic="slow")
        it.until(lambda: len(settled.outcomes) == 3, "all outcomes")
        assert settled.statuses() == [408, 200, 200]
        (tmp_path / "go").touch()


def test_with_one_worker_nothing_is_different(tmp_path: Path) -> None:
    with rig(tmp_path, "thread", "def handler(context, event):\n    pass\n", workers=1) as it:
        assert it.ask("/f", topic="a")[0] == 200
        assert it.trigger("f").order is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", ["thread", "async"])
def test_keys_that_are_gone_are_forgotten(tmp_path: Path, way: str) -> None:
    with rig(tmp_path, way, "import asyncio\ndef handler(context, event):\n    pass\n") as it:
        settled = Settled()
        for number in range(300):
            it.deliver("/f", b"", settled, topic=f"k{number}")
        it.until(lambda: len(settled.outcomes) == 300)
        order: Any = it.trigger("f").order  # type: ignore[attr-defined]
        assert not order._keys and not order._behind and not order._held and not order.ready
        assert it.processor.budget.used == 0


def test_what_is_no_key_is_a_key_all_the_same(tmp_path: Path) -> None:
    with rig(tmp_path, "thread", "def handler(context, event):\n    pass\n") as it:
        settled = Settled()
        for number in range(20):
            it.deliver("/f", b"", settled, topic=json.loads("[1, {}]") if number % 2 else {"a": 1})
        it.until(lambda: len(settled.outcomes) == 20)
        assert set(settled.statuses()) == {200}
