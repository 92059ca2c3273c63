"""What `limits` does to the processes of a function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuclio_edge.workers.limits import processor_time
from tests.rig import Settled
from tests.system.test_process_workers import rig

if TYPE_CHECKING:
    from pathlib import Path

ALLOCATE = """
def handler(context, event):
    if event.body:
        data = bytearray(int(event.body) << 20)
        return str(len(data) >> 20)
    return "small"
"""


def test_a_handler_that_takes_a_gibibyte_of_64_mebibytes_fails_and_the_others_go_on(tmp_path: Path) -> None:
    with rig(tmp_path, ALLOCATE, 'limits = { memory = "64MiB" }') as it:
        settled = Settled()
        for body in (b"", b"8", b"1024", b"", b"8"):
            it.deliver("/f", body, settled)
        it.until(lambda: len(settled.outcomes) == 5)
        assert settled.statuses() == [200, 200, 500, 200, 200]
        said = settled.bodies()[2]
        assert b"MemoryError" in said or b"killed" in said
        assert it.processor.functions["f"].runner.describe().startswith("memory 64.0 MiB by ")
        assert it.balanced()


def test_a_handler_that_leaks_in_small_pieces_fails_and_the_others_go_on(tmp_path: Path) -> None:
    code = """
    def handler(context, event):
        kept = []
        while event.body:
            kept.append(b"x" * 100_000 + event.body)
    """
    with rig(tmp_path, code, 'limits = { memory = "64MiB" }') as it:
        assert it.ask("/f", b"leak")[0] == 500
        assert it.ask("/f")[0] == 200


def test_a_spinning_handler_gets_its_share_of_a_processor_and_no_more(tmp_path: Path) -> None:
    code = """
    def handler(context, event):
        while True:
            pass
    """
    with rig(tmp_path, code, 'limits = { cpu = 0.25 }\ntimeout = "60s"') as it:
        runner = it.processor.functions["f"].runner
        it.deliver("/f", b"")
        it.until(lambda: runner.children and runner.children[0].ready and runner.children[0].inflight)
        pid = runner.children[0].spawned.pid
        it.turn_for(300)
        start, used = it.processor.loop.now, processor_time(pid)
        it.turn_for(3000)
        share = (processor_time(pid) - used) / 1e6 / (it.processor.loop.now - start)
        assert 0.02 < share <= 0.35
        runner.children[0].spawned.kill()
        it.until(lambda: it.trigger("f").failed == 1)


def test_a_stopped_process_is_killed_at_its_timeout(tmp_path: Path) -> None:
    code = "def handler(context, event):\n    while event.body:\n        pass"
    with rig(tmp_path, code, 'limits = { cpu = 0.05 }\ntimeout = "1s"') as it:
        assert it.ask("/f", b"spin")[0] == 408
