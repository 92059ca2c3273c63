"""Events of durable triggers that are larger than any record of the spool: in memory until they are handled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.inbox import EVENT_COST
from nuclio_edge.stop import UNDRAINED
from tests.rig import MEMORY, Rig, Settled

if TYPE_CHECKING:
    from pathlib import Path

SPOOL = '[spool]\nmax_size = "1MiB"\n'
LARGE = bytes(100_000)  # a record of this spool has half as much
BY_TURNS = """
import threading
turns = threading.Semaphore(0)
seen = []
def handler(context, event):
    turns.acquire()
    seen.append(event.raw_body[:10])
"""


def function(more: str = "") -> str:
    return f"""
[function.f]
handler = "f.py"
[[function.f.trigger]]
source = "mem"
path = "/in"
durable = true
{more}
"""


def start(folder: Path, manifest: str, code: str = BY_TURNS) -> Rig:
    return Rig(folder, SPOOL + MEMORY + manifest, f=code)


def side_of(rig: Rig) -> Any:
    return rig.trigger("f").source.durable_side


def module(rig: Rig) -> dict[str, Any]:
    return rig.processor.functions["f"].handler.__globals__  # type: ignore[no-any-return]


def spool_of(rig: Rig) -> Any:
    return rig.processor.delivery.spool  # type: ignore[union-attr]


def stored(rig: Rig) -> int:
    """Events whose records are durable."""
    spool = spool_of(rig)
    return int(spool.totals()["pending"]) if spool.in_hand is None and not side_of(rig).storing else -1


def let_go(rig: Rig) -> None:
    """Let all events be handled, those to come too."""
    module(rig)["turns"].release(10_000)


def test_an_event_too_large_for_the_spool_is_settled_after_its_handler_and_the_others_are_durable(
    tmp_path: Path,
) -> None:
    with start(tmp_path, function()) as rig:
        settled = Settled()
        rig.deliver("/in", LARGE, settled)
        rig.until(lambda: side_of(rig).stage.large)
        for number in range(3):
            rig.deliver("/in", b"%d" % number)
        rig.until(lambda: stored(rig) == 3)
        rig.deliver("/in", LARGE)
        rig.until(lambda: len(side_of(rig).stage.large) == 2)
        rig.turn_for(400)
        assert spool_of(rig).refused == {"EFBIG": 2}, "they are not tried again and again"
        assert side_of(rig).unsafe() == 2
        assert settled.outcomes == []
        assert spool_of(rig).trouble == ""
        let_go(rig)
        rig.until(lambda: rig.trigger("f").handled == 5)
        rig.until(lambda: settled.statuses() == [200])
        assert not side_of(rig).unsafe()
        assert rig.balanced()
        assert rig.processor.differences() == []
        assert rig.records.text().count("too large to be stored") == 1
        assert "the spool cannot be used" not in rig.records.text()


def test_an_event_too_large_for_the_spool_keeps_its_place_among_those_on_disk(tmp_path: Path) -> None:
    with start(tmp_path, function("inbox = { size = 4 }")) as rig:
        bodies = [b"%05d" % number + b"x" * 5 for number in range(60)]
        for number, body in enumerate(bodies):
            rig.deliver("/in", body + LARGE if number in (30, 31, 59) else body)
        rig.until(lambda: len(side_of(rig).backlog.strand) == 3)
        assert rig.balanced()
        let_go(rig)
        rig.until(lambda: rig.trigger("f").handled == 60)
        assert module(rig)["seen"] == bodies
        assert rig.balanced()
        assert rig.processor.differences() == []


def test_events_too_large_for_the_spool_wait_within_the_memory_budget(tmp_path: Path) -> None:
    with start(tmp_path, function("inbox = { size = 4 }")) as rig:
        budget = rig.processor.budget
        budget.limit = 1_000_000
        for _ in range(40):
            rig.deliver("/in", LARGE)
        rig.until(lambda: budget.used > budget.limit)
        rig.turn_for(200)
        in_flight = 1 << 20
        assert budget.used < budget.limit + in_flight + 2 * len(LARGE)
        assert rig.balanced()
        let_go(rig)
        rig.until(lambda: rig.trigger("f").handled == 40)
        assert budget.used == 0
        assert rig.balanced()


def test_an_event_too_large_for_the_spool_is_handled_at_a_stop_and_what_is_on_disk_is_not(tmp_path: Path) -> None:
    with start(tmp_path, function("inbox = { size = 4 }")) as rig:
        for number in range(20):
            rig.deliver("/in", b"%05d" % number)
        rig.deliver("/in", b"large" + LARGE)
        rig.until(lambda: side_of(rig).backlog.strand)
        rig.processor.stop()
        let_go(rig)
        seen = module(rig)["seen"]
        rig.until(rig.stopped)
        assert seen[-1][:5] == b"large"
        assert len(seen) < 20
        assert rig.processor.exit_code == 0
        assert "undrained" not in rig.records.text()


def test_an_event_too_large_for_the_spool_that_no_stop_can_wait_for_is_told(tmp_path: Path) -> None:
    with start(tmp_path, function()) as rig:
        rig.processor.manifest.device.stop_timeout_ms = 200
        rig.deliver("/in", LARGE)
        rig.until(lambda: side_of(rig).stage.large)
        rig.processor.stop()
        turns = module(rig)["turns"]
        rig.until(rig.stopped)
        turns.release(10)
        assert rig.processor.exit_code == UNDRAINED
        assert "stopped with events undrained" in rig.records.text()
        assert rig.processor.tally().pending == 1


def test_an_event_too_large_for_the_spool_waits_until_its_function_is_no_longer_suspended(tmp_path: Path) -> None:
    with start(tmp_path, function()) as rig:
        function_ = rig.processor.functions["f"]
        function_.suspend("for the test", 0)
        rig.deliver("/in", LARGE)
        rig.until(lambda: side_of(rig).backlog.strand)
        rig.turn_for(500)
        assert spool_of(rig).refused == {"EFBIG": 1}
        let_go(rig)
        function_.resume()
        rig.until(lambda: rig.trigger("f").handled == 1)
        assert rig.trigger("f").shed == {}
        assert spool_of(rig).refused == {"EFBIG": 1}
        assert rig.balanced()


@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_every_isolation_takes_events_too_large_for_the_spool(tmp_path: Path, isolation: str) -> None:
    code = "import time\ndef handler(context, event):\n    time.sleep(0.4)\n"
    manifest = function().replace('"f.py"', f'"f.py"\nisolation = "{isolation}"')
    with start(tmp_path, manifest, code) as rig:
        settled = Settled()
        for body in (LARGE, b"small", LARGE):
            rig.deliver("/in", body, settled)
        rig.until(lambda: settled.statuses() == [200] * 3)
        assert rig.balanced()
        assert rig.processor.budget.used < EVENT_COST
