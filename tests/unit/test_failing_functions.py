"""A function that fails whatever comes is suspended for a while, tried again, and suspended for longer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.functions.function import FAILING_FOR_MS, FAILURES_IN_A_ROW, FIRST_WAIT_MS, LONGEST_WAIT_MS, Function
from nuclio_edge.logs import Log
from nuclio_edge.manifest import load
from nuclio_edge.processor import Processor
from nuclio_edge.testing import Clock
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nuclio_edge.core.response import Response

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
retry = {{ attempts = {attempts}, backoff = "1s" }}
"""
CODE = """
mode = ["fail"]
def handler(context, event):
    if mode[0] == "fail":
        raise ValueError("broken")
    if mode[0] != "work":
        return context.Response(status_code=int(mode[0]))
"""


class Bench:
    """A processor with one function, and a clock."""

    def __init__(self, processor: Processor, clock: Clock) -> None:
        self.processor = processor
        self.clock = clock
        self.function: Function = processor.functions["f"]
        self.mode: list[str] = self.function.handler.__globals__["mode"]
        self.replies: list[int] = []

    def turn_until(self, condition: Callable[[], Any], what: str) -> None:
        def there() -> Any:
            self.processor.loop.turn(2)
            return condition()

        wait_until(there, what)

    def send(self, count: int = 1) -> None:
        """Hand events in and wait until each has come to its end."""
        settled: list[Response | None] = []
        for _ in range(count):
            self.processor.sources["m"].deliver("a", b"x", lambda event, response, error: settled.append(response))
        self.turn_until(lambda: len(settled) == count, "the outcomes")
        self.replies += [200 if response is None else response.status_code for response in settled]

    def fail_until_suspended(self) -> None:
        self.send(FAILURES_IN_A_ROW)
        assert self.function.suspended is None
        self.clock.advance(FAILING_FOR_MS, self.processor.loop)
        self.send()
        assert self.function.suspended == "keeps failing"


@pytest.fixture(params=["thread", "inline"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    yield from made(tmp_path, request.param, 1)


def made(folder: Path, isolation: str, attempts: int) -> Iterator[Bench]:
    (folder / "edge.toml").write_text(MANIFEST.format(isolation=isolation, attempts=attempts))
    (folder / "f.py").write_text(CODE)
    processor = Processor(load(str(folder / "edge.toml")), Log())
    processor.open()
    wait_until(lambda: processor.loop.turn(5) or processor.ready, "it to be ready")  # type: ignore[func-returns-value]  # it turns
    with Clock() as clock:
        bench = Bench(processor, clock)
        yield bench
        processor.stop()  # by the same clock: it may wait for an event that is to be tried again
        bench.turn_until(lambda: clock.advance(100, processor.loop) or not processor.functions, "the stop")  # type: ignore[func-returns-value]  # it advances
    processor.loop.close()


def test_failures_in_a_row_over_a_while_suspend_it_and_its_events_are_turned_away(bench: Bench) -> None:
    bench.fail_until_suspended()
    bench.send()
    assert bench.replies[-1] == 503
    assert bench.function.triggers[0].shed == {"suspended": 1}


def test_many_failures_in_a_moment_or_few_in_a_long_time_do_not(bench: Bench) -> None:
    bench.send(10 * FAILURES_IN_A_ROW)
    assert bench.function.suspended is None
    bench.mode[0] = "work"
    bench.send()
    bench.mode[0] = "fail"
    for _ in range(FAILURES_IN_A_ROW - 1):
        bench.send()
        bench.clock.advance(FAILING_FOR_MS, bench.processor.loop)
    assert bench.function.suspended is None


@pytest.mark.parametrize("good", ["work", "404"])
def test_one_that_works_now_and_then_or_that_refuses_requests_is_not_suspended(bench: Bench, good: str) -> None:
    for number in range(3 * FAILURES_IN_A_ROW):
        bench.mode[0] = good if number % 10 == 9 or good == "404" else "500"
        bench.send()
        bench.clock.advance(10_000, bench.processor.loop)
    assert bench.function.suspended is None


def test_after_each_suspension_one_event_decides_and_the_next_one_is_twice_as_long(bench: Bench) -> None:
    bench.fail_until_suspended()
    wait = FIRST_WAIT_MS
    for _ in range(8):
        bench.clock.advance(wait - 1, bench.processor.loop)
        assert bench.function.suspended == "keeps failing"
        bench.clock.advance(1, bench.processor.loop)
        assert bench.function.suspended is None
        bench.send()
        assert bench.function.suspended == "keeps failing"
        wait = min(wait * 2, LONGEST_WAIT_MS)
    assert wait == LONGEST_WAIT_MS
    bench.clock.advance(wait, bench.processor.loop)
    bench.mode[0] = "work"
    bench.send()
    bench.mode[0] = "500"
    bench.send(FAILURES_IN_A_ROW)
    assert bench.function.suspended is None  # it has worked: the count begins anew
    bench.clock.advance(FAILING_FOR_MS, bench.processor.loop)
    bench.send()
    bench.clock.advance(FIRST_WAIT_MS, bench.processor.loop)
    assert bench.function.suspended is None  # and so do the pauses


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Bench]:
    yield from made(tmp_path, "thread", 1000)


def test_attempts_that_are_tried_again_count_too(patient: Bench) -> None:
    trigger = patient.function.triggers[0]
    patient.processor.sources["m"].deliver("a", b"x")
    patient.turn_until(lambda: trigger.retried, "the first attempt to fail")
    while patient.function.suspended is None:
        before = trigger.retried
        patient.clock.advance(61_000, patient.processor.loop)
        patient.turn_until(lambda before=before: trigger.retried > before, "the next attempt to fail")  # type: ignore[misc]  # at once
    assert patient.function.suspended == "keeps failing"
    assert trigger.retried == FAILURES_IN_A_ROW


def test_a_processor_that_failed_before_its_functions_could_run_is_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edge.toml").write_text(MANIFEST.format(isolation="thread", attempts=1))
    (tmp_path / "f.py").write_text(CODE)
    processor = Processor(load(str(tmp_path / "edge.toml")), Log())

    def fail(*_: Any) -> None:
        raise OverflowError("on purpose")

    monkeypatch.setattr(processor.assembly, "load_all", fail)
    with pytest.raises(OverflowError):
        processor.open()
    processor.close()
    assert not processor.functions
    processor.loop.close()
