"""A batch waits for more events only as long as some may come: not at a stop, nor in a version that was replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nuclio_edge.manifest import load
from tests.rig import MEMORY, Rig, Settled

if TYPE_CHECKING:
    from pathlib import Path

# No time is left for what is wrong here: neither the batch's nor the stop's own would be over before the test's.
MANIFEST = """
stop_timeout = "1h"
[function.f]
handler = "f.py"
isolation = "{isolation}"
[[function.f.trigger]]
source = "mem"
path = "/f"
batch = {{ size = 10, timeout = "1h" }}
{more}
"""
CODE = """
calls = []
def handler(context, events):
    calls.append(len(events))
    if len(calls) <= FAIL:
        raise ValueError("on purpose")
    return str(len(events))
"""
WAYS = ["inline", "thread", "process", "async"]


def rig(folder: Path, way: str, *, more: str = "", fail: int = 0) -> Rig:
    code = CODE.replace("FAIL", str(fail))
    if way == "async":
        code = code.replace("def handler", "async def handler")
    manifest = MANIFEST.format(isolation="thread" if way == "async" else way, more=more)
    return Rig(folder, manifest.replace("[function.f]", MEMORY + "[function.f]", 1), f=code)


def stop(it: Rig) -> None:
    it.processor.loop.post(it.processor.stop)
    it.until(it.stopped, "the stop")


@pytest.mark.parametrize("way", WAYS)
def test_at_a_stop_an_incomplete_batch_is_handed_over_at_once(tmp_path: Path, way: str) -> None:
    settled = Settled()
    with rig(tmp_path, way) as it:
        it.until(lambda: it.processor.ready, "ready")
        for _ in range(3):
            it.deliver("/f", b"x", settled)
        it.turn_for(20)
        assert not settled.outcomes
        stop(it)
        assert it.processor.exit_code == 0
    assert settled.bodies() == [b"3"] * 3


@pytest.mark.parametrize("way", WAYS)
def test_what_is_tried_again_during_a_stop_waits_for_no_batch_either(tmp_path: Path, way: str) -> None:
    settled = Settled()
    with rig(tmp_path, way, more='retry = { attempts = 3, backoff = "10ms" }', fail=2) as it:
        it.until(lambda: it.processor.ready, "ready")
        it.deliver("/f", b"x", settled)
        stop(it)
    assert settled.bodies() == [b"1"]


@pytest.mark.parametrize("way", WAYS)
def test_a_version_that_is_replaced_hands_over_what_it_has_at_once(tmp_path: Path, way: str) -> None:
    settled = Settled()
    with rig(tmp_path, way) as it:
        it.until(lambda: it.processor.ready, "ready")
        for _ in range(2):
            it.deliver("/f", b"x", settled)
        it.processor.reload(load(str(it.path)), ["f"])
        it.until(lambda: len(settled.outcomes) == 2, "the old version's outcome")
        it.until(lambda: not it.processor.retired, "the old version to go")
        assert it.balanced()
        it.deliver("/f", b"x", settled)
        it.turn_for(20)
        assert len(settled.outcomes) == 2  # the new one waits as ever
        stop(it)
    assert settled.bodies() == [b"2", b"2", b"1"]


def test_at_a_stop_no_worker_starts_for_a_batch_whose_events_wait_on_disk(tmp_path: Path) -> None:
    settled = Settled()
    with rig(tmp_path, "thread", more="durable = true") as it:
        function = it.processor.functions["f"]
        it.until(lambda: it.processor.ready, "ready")
        it.deliver("/f", b"x", settled)
        it.until(lambda: it.trigger("f").admitted, "the event")
        begun: list[object] = []
        runner = function.runner
        submit = function.batchers[0].carrier.submit
        function.batchers[0].carrier.submit = lambda batch: begun.append(batch) or submit(batch)  # type: ignore[func-returns-value]  # it notes
        it.processor.loop.post(it.processor.stop)
        it.until(it.stopped, "the stop")
        assert (begun, runner.drain(), it.processor.exit_code) == ([], True, 0)
