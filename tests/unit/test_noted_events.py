"""Which event a row of the slots names while a flood is handled."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core import worker
from nuclio_edge.core.loop import Loop
from nuclio_edge.logs import Log
from nuclio_edge.manifest import load
from nuclio_edge.processor import Processor
from nuclio_edge.supervision import watchdog
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST = """
[device]
state_dir = "state"
[source.m]
kind = "memory"
[function.f]
handler = "f.py"
isolation = "{isolation}"
[[function.f.trigger]]
source = "m"
path = "a"
"""
CODE = """
look = []
seen = []
{define}handler(context, event):
    seen.append((event.id, [noted for _, noted in look[0]().running] if look else []))
"""
COUNT = 300


def noted(folder: Path, isolation: str, define: str) -> list[tuple[str, list[str]]]:
    """What the row said while each of many events was handled."""
    (folder / "state").mkdir(exist_ok=True)
    (folder / "edge.toml").write_text(MANIFEST.format(isolation=isolation))
    (folder / "f.py").write_text(CODE.format(define=define))
    processor = Processor(load(str(folder / "edge.toml")), Log(), guarded=True)
    processor.open()
    names: Any = processor.functions["f"].runner

    def turn_until(condition: Any, what: str) -> None:
        def there() -> Any:
            processor.loop.turn(5)
            return condition()

        wait_until(there, what)

    turn_until(lambda: processor.ready and not names.starting(), "it to be ready")
    trigger = processor.functions["f"].triggers[0]
    source = processor.sources["m"]
    source.deliver("a", b"x")  # by this one it is imported and initialised
    turn_until(lambda: trigger.handled == 1, "the first event")
    code = processor.functions["f"].spec.file
    assert code is not None
    handler: Any = processor.functions["f"].handler
    space = handler.__globals__ if "seen" in handler.__globals__ else handler.__closure__[0].cell_contents.__globals__
    assert processor.watchdog is not None
    space["look"].append(processor.watchdog.slots.left)
    for _ in range(COUNT):
        source.deliver("a", b"x")
    turn_until(lambda: trigger.handled == COUNT + 1, "all to be handled")
    seen: list[tuple[str, list[str]]] = space["seen"][1:]
    processor.stop()
    if processor.functions:
        processor.run()
    processor.loop.close()
    return seen


@pytest.mark.parametrize(("isolation", "define"), [("thread", "def "), ("inline", "def "), ("thread", "async def ")])
def test_a_suspects_events_are_noted_one_by_one_and_those_of_others_only_now_and_then(
    tmp_path: Path, isolation: str, define: str
) -> None:
    worker.ACTIVE[0] = None  # a test that ended within a turn may have left its function there
    seen = noted(tmp_path, isolation, define)
    right = sum(f"{event} a" in rows for event, rows in seen)
    assert 0 < right < COUNT
    assert all(rows and rows[0].endswith(" a") for _, rows in seen)
    (tmp_path / "state" / "suspects.json").write_text(json.dumps({"ends": {"f": 1}, "kills": {}}))
    assert [event for event, rows in noted(tmp_path, isolation, define) if f"{event} a" not in rows] == []


class Begun:
    """A watchdog whose notes are listed, and a clock that only the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.now = 1_000_000_000
        self.noted: list[str] = []
        monkeypatch.setattr(watchdog, "set_event", lambda _row, event: self.noted.append(event.name))
        monkeypatch.setattr(watchdog, "time", SimpleNamespace(perf_counter_ns=lambda: self.now))
        self.dog = watchdog.Watchdog(Loop(), str(folder), lambda: 60_000)
        self.row = self.dog.slots.take()

    def begin(self, name: str, trigger: Any, after_ms: float) -> None:
        """A function begins to run with an event of that trigger, so long after the last one."""
        self.now += int(after_ms * 1e6)
        trigger.admitted += 1
        self.dog.begin(self.row, "f", SimpleNamespace(_trigger=trigger, name=name))
        self.dog.end(self.row)

    def close(self) -> None:
        """Give everything back."""
        self.dog.close()
        self.dog.loop.close()
        del self.dog, self.row  # with which the mapping goes


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Begun]:
    """One of them."""
    made = Begun(monkeypatch, tmp_path)
    yield made
    made.close()


def test_of_events_that_come_close_together_one_in_sixteen_milliseconds_is_noted(begun: Begun) -> None:
    trigger = SimpleNamespace(admitted=0)
    for _ in range(640):
        begun.begin("one", trigger, 0.1)
    assert 4 <= len(begun.noted) <= 6


def test_events_that_come_one_by_one_are_noted_each_of_whichever_trigger(begun: Begun) -> None:
    first, second = SimpleNamespace(admitted=0), SimpleNamespace(admitted=5000)
    for _ in range(5):
        begun.begin("a", first, 1.5)
        begun.begin("b", second, 1.5)
    assert begun.noted == ["a", "b"] * 5


def test_an_event_that_comes_after_a_pause_is_noted_whatever_was_before(begun: Begun) -> None:
    trigger = SimpleNamespace(admitted=0)
    for _ in range(50):
        begun.begin("burst", trigger, 0.01)
    begun.begin("culprit", trigger, 5)
    assert begun.noted == ["burst", "culprit"]
