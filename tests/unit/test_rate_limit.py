"""`rate_limit`: the bucket's law, what excess comes to by each policy, and every way in which a function runs."""

from __future__ import annotations

import textwrap
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge.core.event import Event
from nuclio_edge.core.loop import Loop
from nuclio_edge.workers.rate import limit
from nuclio_edge.workers.shaped import ShapedTrigger
from tests.rig import MEMORY, Rig, Settled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAYS = ["thread", "inline", "process", "async", "batch"]
FUNCTION = """
[function.f]
handler = "f.py"
isolation = "{isolation}"
[[function.f.trigger]]
source = "mem"
path = "/f"
{more}
"""


class Clocked(Loop):
    """A loop whose time is what a test says."""

    def call_later(self, delay_ms: int, call: Any) -> Any:
        self.asked = (self.now + delay_ms, call)
        return SimpleNamespace(cancel=lambda: None)


class Bench:
    """A trigger whose runner only queues, on a clock of the test's."""

    def __init__(self, per_second: float, when_full: str, *, queues: bool = True) -> None:
        self.loop = Clocked()
        self.loop.now = 1_000_000
        self.settled: list[tuple[bytes, int]] = []
        self.retry_after = ""
        source = SimpleNamespace(kind="test", name="s", settle=self._settle)
        function = SimpleNamespace(suspended=None)
        self.trigger = ShapedTrigger(function, source, self.loop, "id", "n", 10_000, when_full)
        self.passed: list[bytes] = []
        self.box: deque[Event] = deque()
        if queues:
            self.trigger.box = self.box
        self.trigger.submit = self._queue
        limit(self.trigger, per_second)

    def _queue(self, event: Event) -> bool:
        verdict = self.trigger.enter(event)
        if verdict == 1:
            self.passed.append(event.raw_body)
            self.box.append(event)
        return verdict != 0

    def _settle(self, event: Any, response: Any, _error: Any) -> None:
        self.settled.append((event.raw_body, response.status_code))
        self.retry_after = response.headers.get("Retry-After", "")

    def submit(self, body: bytes = b"", path: str = "/") -> bool:
        event = Event(body, path=path)
        event._token = 1
        event._trigger = self.trigger
        return self.trigger.submit(event)

    def work(self) -> None:
        """Conclude the oldest event that waits."""
        event = self.box.popleft()
        self.trigger.handled += 1
        self.trigger.leave(1, len(event.raw_body), event)

    def balanced(self) -> bool:
        trigger = self.trigger
        return trigger.admitted == trigger.handled + sum(trigger.shed.values()) + trigger.pending


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Bench] = []

    def bench(*about: Any, **named: Any) -> Bench:
        made.append(Bench(*about, **named))
        return made[-1]

    yield bench
    for one in made:
        one.loop.close()


@given(
    rate=st.floats(0.01, 5000),
    when_full=st.sampled_from(["block", "drop-oldest", "drop-newest", "thin", "reject"]),
    steps=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 40), st.integers(0, 40)), max_size=60),
)
def test_no_more_than_a_second_and_what_comes_after_it_is_handled_in_any_window(
    rate: float, when_full: str, steps: list[tuple[int, int, int]]
) -> None:
    bench = Bench(rate, when_full)
    trigger = bench.trigger
    handled: list[tuple[int, int]] = [(bench.loop.now, 0)]
    for wait, arrive, work in steps:
        bench.loop.now += wait
        for number in range(arrive):
            bench.submit(path=f"/{number % 3}")
        assert bench.balanced()
        # What was handled or may be handled any time: to that the bucket's law applies.
        handled.append((bench.loop.now, trigger.handled + trigger.pending))
        for _ in range(min(work, len(bench.box))):
            bench.work()
    for at, (begin, before) in enumerate(handled):
        for end, after in handled[at:]:
            assert after - before <= max(rate, 1) + rate * (end - begin) / 1000 + 1e-6
    bench.loop.close()


@given(rate=st.floats(0.01, 300), waits=st.lists(st.integers(0, 1500), min_size=1, max_size=20))
def test_who_waits_for_a_token_is_told_when_there_is_one(rate: float, waits: list[int]) -> None:
    bench = Bench(rate, "block")
    for wait in waits:
        bench.loop.now += wait
        while bench.submit():
            bench.work()
        bench.trigger.on_room(lambda: None)
        at, told = bench.loop.asked
        assert at > bench.loop.now
        bench.loop.now = at
        told()
        assert bench.submit(), "told too early"
        bench.work()
    bench.loop.close()


def test_by_drop_oldest_the_newest_take_the_place_of_what_waits(make: Any) -> None:
    bench = make(2, "drop-oldest")
    assert all(bench.submit(b"%d" % number) for number in range(6))
    assert [event.raw_body for event in bench.box] == [b"4", b"5"]
    assert bench.trigger.shed == {"rate-limit": 4} and bench.balanced()
    assert bench.settled == [(b"%d" % number, 503) for number in range(4)]


def test_by_thin_every_second_event_of_the_busiest_address_goes(make: Any) -> None:
    bench = make(5, "thin")
    for number, path in enumerate("aabaa"):
        bench.submit(b"%d" % number, path)
    bench.submit(b"5", "a")
    assert [event.raw_body for event in bench.box] == [b"1", b"2", b"4", b"5"]
    assert bench.trigger.shed == {"rate-limit": 2} and bench.balanced()


@pytest.mark.parametrize("when_full", ["drop-oldest", "thin", "drop-newest", "reject"])
def test_where_nothing_waits_the_newest_is_turned_away(make: Any, when_full: str) -> None:
    bench = make(2, when_full, queues=False)
    for number in range(4):
        assert bench.submit(b"%d" % number)
    assert bench.passed == [b"0", b"1"]
    assert bench.settled == [(b"2", 503), (b"3", 503)]
    assert bench.trigger.shed == {"rate-limit": 2} and bench.balanced()


def test_who_is_turned_away_is_told_when_to_come_again(make: Any) -> None:
    bench = make(1 / 30, "reject")
    bench.submit()
    bench.submit()
    assert bench.retry_after == "30"
    bench.loop.now += 28_500
    bench.submit()
    assert bench.retry_after == "2"


def test_an_event_that_the_inbox_refuses_costs_no_token(make: Any) -> None:
    bench = make(3, "block")
    bench.trigger.size = 1
    assert bench.submit()
    for _ in range(5):
        assert not bench.submit()
    bench.work()
    assert bench.submit()
    bench.work()
    assert bench.submit()


def rig(folder: Path, way: str, more: str, code: str = "") -> Rig:
    code = textwrap.dedent(code or "def handler(context, event):\n    pass\n")
    if way == "async":
        code = code.replace("def handler", "async def handler")
    if way == "batch":
        more += '\nbatch = { size = 7, timeout = "5ms" }'
    isolation = way if way in ("inline", "process") else "thread"
    return Rig(folder, MEMORY + FUNCTION.format(isolation=isolation, more=more), f=code)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("when_full", ["drop-oldest", "drop-newest", "thin", "reject"])
def test_excess_is_shed_and_counted_however_the_function_runs(tmp_path: Path, way: str, when_full: str) -> None:
    more = f'rate_limit = "20/s"\ninbox = {{ when_full = "{when_full}" }}'
    with rig(tmp_path, way, more) as it:
        settled = Settled()
        begin = it.processor.loop.now
        for number in range(200):
            it.deliver("/f", b"%d" % number, settled)
        it.until(lambda: len(settled.outcomes) == 200, "all outcomes")
        trigger = it.trigger("f")
        passed = (it.processor.loop.now - begin) / 1000 * 20 + 20
        assert trigger.admitted == 200 and it.balanced()
        assert 20 <= trigger.handled <= passed
        assert trigger.shed == {"rate-limit": 200 - trigger.handled}
        [said] = [record[4] for record in it.records.records if record[3] == "events are shed"]
        assert said[said.index("so_far") + 1] > 0
        assert settled.statuses().count(503) == 200 - trigger.handled


@pytest.mark.parametrize("way", WAYS)
def test_block_makes_the_source_wait_and_loses_nothing(tmp_path: Path, way: str) -> None:
    with rig(tmp_path, way, 'rate_limit = "100/s"\ninbox = { when_full = "block" }') as it:
        settled = Settled()
        begin = it.processor.loop.now
        for number in range(130):
            it.deliver("/f", b"%d" % number, settled)
        it.until(lambda: len(settled.outcomes) == 130, "all outcomes")
        assert it.trigger("f").handled == 130
        assert (it.processor.loop.now - begin) / 1000 * 100 + 100 >= 130


def test_a_source_that_waits_for_tokens_wakes_the_loop_no_more_often_than_tokens_come(tmp_path: Path) -> None:
    with rig(tmp_path, "inline", 'rate_limit = "2/s"\ninbox = { when_full = "block" }') as it:
        settled = Settled()
        for number in range(5):
            it.deliver("/f", b"%d" % number, settled)
        it.until(lambda: len(settled.outcomes) == 2)
        before = it.processor.loop.wakeups
        while len(settled.outcomes) < 5:
            it.processor.loop.turn()
        assert it.processor.loop.wakeups - before < 30


def test_a_retry_needs_no_token(tmp_path: Path) -> None:
    code = "def handler(context, event):\n    context.user_data.n = n = getattr(context.user_data, 'n', 0) + 1\n"
    code += "    if n < 4:\n        raise ValueError(n)\n"
    more = 'rate_limit = "1/m"\nretry = { attempts = 5, backoff = "1ms" }\ninbox = { when_full = "reject" }'
    with rig(tmp_path, "thread", more, code) as it:
        assert it.ask("/f")[0] == 200
        assert it.ask("/f")[0] == 503
        assert it.trigger("f").retried == 3


def test_a_limited_function_can_still_be_called_by_another_one(tmp_path: Path) -> None:
    caller = "def handler(context, event):\n    return context.platform.call_function('f', event).body\n"
    text = FUNCTION.format(isolation="thread", more='rate_limit = "1/m"\ninbox = { when_full = "reject" }')
    text += (
        text.replace("function.f", "function.g")
        .replace("f.py", "g.py")
        .replace('"/f"', '"/g"')
        .replace('"1/m"', '"1000/s"')
    )
    with Rig(tmp_path, MEMORY + text, f="def handler(context, event):\n    return 'hi'\n", g=caller) as it:
        assert it.ask("/f") == (200, b"hi")
        assert it.ask("/g") == (200, b"hi")
        assert it.ask("/f")[0] == 503
