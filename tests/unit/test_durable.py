"""Durable triggers inside one process: a real processor, the memory source, a real spool in a temporary folder."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.delivery.dead_letters import all_of, send_again
from nuclio_edge.delivery.overflow import LOOK_MS, Overflow
from nuclio_edge.manifest import load
from nuclio_edge.sources.memory import MemoryEvent
from nuclio_edge.spool.unwritten import Unwritten
from tests.rig import MEMORY, Rig, Settled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUICK = """
seen = []
def handler(context, event):
    seen.append((event.raw_body, event.duplicate, event.attempt))
"""
GATED = """
import threading
gate = threading.Event()
seen = []
def handler(context, event):
    gate.wait()
    seen.append((event.raw_body, event.duplicate, event.attempt))
"""
BY_TURNS = """
import threading
turns = threading.Semaphore(0)
seen = []
def handler(context, event):
    turns.acquire()
    seen.append((event.raw_body, event.duplicate, event.attempt))
"""
FAILS = """
def handler(context, event):
    raise ValueError("no good")
"""


def function(more: str = "", top: str = "") -> str:
    return f"""
[function.f]
handler = "f.py"
{top}
[[function.f.trigger]]
path = "/in"
durable = true
{more}
"""


def spool_of(rig: Rig) -> Any:
    return rig.processor.delivery._begin_to_write()  # type: ignore[union-attr]


def module(rig: Rig) -> dict[str, Any]:
    """The names in the function's module."""
    return rig.processor.functions["f"].handler.__globals__  # type: ignore[no-any-return]


def bodies(rig: Rig) -> list[bytes]:
    return [body for body, _, _ in module(rig)["seen"]]


def stored(rig: Rig) -> int:
    """Records on disk that are pending."""
    return int(spool_of(rig).totals()["pending"])


def durable(rig: Rig) -> bool:
    """Whether all that was appended is on the disk."""
    spool = spool_of(rig)
    return spool._flying is None and not spool._has_work()


def crashed(rig: Rig, tmp_path: Path) -> Path:
    """The state directory as it is at this moment, as a killed process leaves it, in another folder."""
    folder = tmp_path / f"after-{len(list(tmp_path.glob('after-*')))}"
    folder.mkdir()
    shutil.copytree(rig.folder / "state", folder / "state")
    return folder


def killed(start: Any, tmp_path: Path, manifest: str, *bodies: bytes) -> Path:
    """What a process leaves that dies while it is at these events, all of them on disk; in another folder."""
    with start(manifest, GATED) as rig:
        for body in bodies:
            rig.deliver("/in", body)
        rig.until(lambda: stored(rig) == len(bodies) and durable(rig))
        folder = crashed(rig, tmp_path)
        module(rig)["gate"].set()
    return folder


def replace(rig: Rig) -> None:
    """Put a new version of the function, of what is in its file and manifest now, in the place of the old one."""
    switched: list[bool] = []
    rig.processor.replace(load(str(rig.path)).functions["f"], lambda: switched.append(True))
    rig.until(lambda: switched)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Rig]:
    def begin(manifest: str, code: str, folder: Path | None = None) -> Rig:
        return Rig(folder or tmp_path, MEMORY + manifest, f=code)

    return begin


def test_what_is_handled_at_once_leaves_no_byte_on_the_disk(start: Any, tmp_path: Path) -> None:
    with start(function(), QUICK) as rig:
        settled = Settled()
        for number in range(50):
            rig.deliver("/in", b"%d" % number, settled)
        rig.until(lambda: len(settled.outcomes) == 50)
        rig.turn_for(400)
        assert rig.trigger("f").handled == 50
        assert spool_of(rig).written == 0
        assert rig.balanced()
    assert not [path for path in (tmp_path / "state" / "spool").iterdir() if path.stat().st_size]


def test_an_event_that_ran_when_the_process_died_runs_again_and_is_marked(start: Any, tmp_path: Path) -> None:
    folder = killed(start, tmp_path, function(), b"a", b"b")
    with start(function(), QUICK, folder) as rig:
        rig.until(lambda: rig.trigger("f").handled == 2)
        assert module(rig)["seen"] == [(b"a", True, 1), (b"b", True, 1)]
        assert rig.trigger("f").duplicates == 2
        assert rig.balanced()
        rig.until(lambda: stored(rig) == 0)


def test_a_spool_that_cannot_be_loaded_is_a_disk_that_cannot_be_used_until_it_can(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(function(), GATED) as rig:
        delivery: Any = rig.processor.delivery
        load = delivery._load

        def fails() -> Any:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(delivery, "_load", fails)
        settled = Settled()
        for number in range(3):
            rig.deliver("/in", b"%d" % number, settled)
        rig.until(lambda: delivery.spool.trouble)
        rig.until(lambda: delivery.spool.refused.get("EMFILE", 0) >= 3)
        assert rig.records.text().count("the spool cannot be used") == 1
        monkeypatch.setattr(delivery, "_load", load)
        rig.until(lambda: type(delivery.spool) is not Unwritten)
        rig.until(lambda: stored(rig) == 3 and durable(rig))
        assert "the spool can be used again" in rig.records.text()
        module(rig)["gate"].set()
        rig.until(lambda: len(settled.outcomes) == 3)
        assert bodies(rig) == [b"0", b"1", b"2"]
        assert rig.balanced()
        assert rig.processor.differences() == []


def test_that_a_spool_can_be_loaded_again_is_found_out_without_anything_to_store(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclio_edge.spool.unwritten.AGAIN_MS", 20)
    with start(function(), GATED) as rig:
        delivery: Any = rig.processor.delivery
        load, tries = delivery._load, []

        def fails() -> Any:
            tries.append(1)
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(delivery, "_load", fails)
        rig.deliver("/in", b"a")
        rig.until(lambda: delivery.spool.trouble)
        module(rig)["gate"].set()
        rig.until(lambda: rig.trigger("f").handled == 1 and len(tries) > 3)
        assert rig.records.text().count("the spool cannot be used") == 1
        monkeypatch.setattr(delivery, "_load", load)
        rig.until(lambda: not delivery.spool.trouble)
        assert rig.records.text().count("the spool can be used again") == 1
        assert rig.processor.differences() == []


def test_what_is_on_disk_is_read_in_bulk_and_not_for_each_event_that_fits(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(function("inbox = { size = 8 }"), BY_TURNS) as rig:
        spool, trigger = spool_of(rig), rig.trigger("f")
        reads: list[Any] = []
        records = spool.records

        def read(*about: Any) -> Any:
            reads.append(about)
            return records(*about)

        monkeypatch.setattr(spool, "records", read)
        for number in range(300):
            rig.deliver("/in", b"%d" % number)
            if number % 20 == 19:
                rig.until(lambda upto=number: trigger.admitted == upto + 1)
                spool.commit_soon()
                rig.until(lambda: durable(rig))
                module(rig)["turns"].release()
                rig.until(lambda upto=number: trigger.handled == (upto + 1) // 20)
        assert spool.commits > 10
        assert len(reads) <= 5
        module(rig)["turns"].release(300)
        rig.until(lambda: trigger.handled == 300)
        assert bodies(rig) == [b"%d" % number for number in range(300)]


def test_what_finds_no_room_in_memory_is_on_disk_alone_and_keeps_its_order(start: Any) -> None:
    with start(function("inbox = { size = 8 }"), GATED) as rig:
        for number in range(200):
            rig.deliver("/in", b"%d" % number)
        rig.until(lambda: rig.trigger("f").admitted == 200)
        rig.until(lambda: durable(rig))
        trigger = rig.trigger("f")
        assert trigger.pending <= 8
        assert trigger.pending + trigger.source.alone == 200
        assert rig.balanced()
        assert rig.processor.tally().pending == 200
        module(rig)["gate"].set()
        rig.until(lambda: trigger.handled == 200)
        assert bodies(rig) == [b"%d" % number for number in range(200)]
        assert trigger.shed == {}
        assert trigger.source.alone == 0
        rig.deliver("/in", b"then")
        rig.until(lambda: trigger.handled == 201)
        assert not trigger.source.durable_side.detour
        rig.until(lambda: stored(rig) == 0)


def test_a_stop_leaves_what_is_queued_to_the_next_start_and_is_clean(start: Any, tmp_path: Path) -> None:
    with start(function(), GATED) as rig:
        for number in range(20):
            rig.deliver("/in", b"%d" % number)
        rig.until(lambda: rig.trigger("f").pending == 20)
        processor = rig.processor
        processor.stop()
        rig.turn_for(50)
        module(rig)["gate"].set()
    assert processor.exit_code == 0
    done = processor.tally().handled
    assert done < 20
    assert processor.tally().pending == 20 - done
    assert not processor.tally().wrong
    with start(function(), QUICK) as rig:
        rig.until(lambda: rig.trigger("f").handled == 20 - done)
        assert bodies(rig) == [b"%d" % number for number in range(done, 20)]
        assert not any(duplicate for _, duplicate, _ in module(rig)["seen"])
        assert rig.trigger("f").admitted == 20 - done


def test_attempts_end_in_a_dead_letter_that_can_be_sent_again(start: Any, tmp_path: Path) -> None:
    manifest = function('dead_letter = true\nretry = { attempts = 2, backoff = "1ms" }')
    with start(manifest, FAILS) as rig:
        settled = Settled()
        rig.deliver("/in", b"bad", settled, content_type="text/plain")
        rig.until(lambda: settled.outcomes)
        assert settled.statuses() == [500]
        trigger = rig.trigger("f")
        assert (trigger.dead_lettered, trigger.failed, trigger.retried) == (1, 0, 1)
        assert rig.balanced()
        (letter,) = all_of(spool_of(rig))
        assert letter.event.raw_body == b"bad"
        assert letter.event.content_type == "text/plain"
        assert letter.about["attempts"] == 2
        assert "no good" in letter.about["error"]
        assert letter.about["trigger"] == "function.f.trigger[0]"
    with start(manifest, QUICK) as rig:
        (letter,) = all_of(spool_of(rig))
        send_again(spool_of(rig), letter)
    with start(manifest, QUICK) as rig:
        rig.until(lambda: rig.trigger("f").handled == 1)
        assert bodies(rig) == [b"bad"]
        assert all_of(spool_of(rig)) == []


def test_a_trigger_that_is_not_durable_can_have_dead_letters(start: Any) -> None:
    manifest = function("dead_letter = true").replace("durable = true", "durable = false")
    with start(manifest, FAILS) as rig:
        rig.deliver("/in", b"bad")
        rig.until(lambda: rig.trigger("f").dead_lettered == 1)
        rig.until(lambda: durable(rig))
        assert [letter.event.raw_body for letter in all_of(spool_of(rig))] == [b"bad"]
        assert rig.trigger("f").failed == 0
        assert rig.balanced()


def test_without_dead_letter_a_failure_is_counted_and_settled(start: Any) -> None:
    with start(function(), FAILS) as rig:
        assert rig.ask("/in", b"bad")[0] == 500
        assert rig.trigger("f").failed == 1
        assert rig.balanced()
        rig.turn_for(300)
        assert stored(rig) == 0


def test_events_of_a_suspended_function_wait_on_disk(start: Any) -> None:
    with start(function(), GATED) as rig:
        function_ = rig.processor.functions["f"]
        for number in range(5):
            rig.deliver("/in", b"%d" % number)
        rig.until(lambda: rig.trigger("f").pending == 5)
        function_.suspend("for the test", 300)
        for number in range(5, 8):
            rig.deliver("/in", b"%d" % number)
        rig.until(lambda: rig.trigger("f").admitted == 8)
        assert rig.trigger("f").shed == {}
        assert rig.balanced()
        module(rig)["gate"].set()
        rig.until(lambda: rig.trigger("f").handled == 8)
        assert bodies(rig) == [b"%d" % number for number in range(8)]


def test_each_event_that_waits_on_disk_for_a_suspended_function_is_answered(start: Any) -> None:
    with start(function(), QUICK) as rig:
        rig.until(lambda: rig.processor.ready)
        function_, settled = rig.processor.functions["f"], Settled()
        function_.suspend("for the test", 0)
        for number in range(3):
            rig.deliver("/in", b"%d" % number, settled)
            rig.turn_for(20)
        rig.until(lambda: len(settled.outcomes) == 3, "an answer to each")
        assert settled.statuses() == [202] * 3
        function_.resume()
        rig.until(lambda: rig.trigger("f").handled == 3)


def test_it_is_looked_for_a_suspended_function_no_oftener_the_more_events_wait(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(function("inbox = { size = 4 }"), GATED) as rig:
        rig.until(lambda: rig.processor.ready)
        rig.processor.functions["f"].suspend("for the test", 0)
        for number in range(100):
            rig.deliver("/in", b"%d" % number)
            rig.processor.loop.turn(2)
        rig.until(lambda: rig.trigger("f").admitted == 100)
        looks: list[int] = []
        refill = Overflow.refill
        monkeypatch.setattr(Overflow, "refill", lambda self: looks.append(1) or refill(self))  # type: ignore[func-returns-value]  # it notes
        rig.until(lambda: looks)
        rig.turn_for(2 * LOOK_MS)
        assert len(looks) <= 4
        rig.processor.functions["f"].resume()
        module(rig)["gate"].set()
        rig.until(lambda: rig.trigger("f").handled == 100)


def _no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_spool_is_loaded_when_something_is_to_be_stored_and_not_before(tmp_path: Path) -> None:
    with Rig(tmp_path, MEMORY + function(), f=GATED) as rig:
        delivery: Any = rig.processor.delivery
        assert type(delivery.spool) is Unwritten
        assert rig.processor.differences() == []
        settled = Settled()
        rig.deliver("/in", b"quick", settled)
        rig.until(lambda: "gate" in module(rig))
        module(rig)["gate"].set()
        rig.until(lambda: settled.outcomes)
        assert type(delivery.spool) is Unwritten
        assert os.listdir(tmp_path / "state" / "spool") == []
        module(rig)["gate"].clear()
        rig.deliver("/in", b"slow")
        rig.until(lambda: stored(rig) == 1 and durable(rig))
        assert type(delivery.spool) is not Unwritten
        module(rig)["gate"].set()
        rig.until(lambda: stored(rig) == 0)
        assert bodies(rig) == [b"quick", b"slow"]
        assert rig.balanced()
        assert rig.processor.differences() == []


def test_without_a_disk_events_are_settled_after_the_handler_and_said_once(start: Any) -> None:
    with start(function("inbox = { size = 4 }"), GATED) as rig:
        spool = spool_of(rig)
        write = spool.disk.write
        spool.disk.write = _no_space
        settled = Settled()
        for number in range(20):
            rig.deliver("/in", b"%d" % number, settled)
        rig.until(lambda: spool.trouble)
        rig.turn_for(100)
        assert rig.trigger("f").pending <= 4
        assert rig.balanced()
        module(rig)["gate"].set()
        rig.until(lambda: len(settled.outcomes) == 20)
        assert bodies(rig) == [b"%d" % number for number in range(20)]
        assert rig.records.text().count("the spool cannot be used") == 1
        assert rig.trigger("f").shed == {}
        spool.disk.write = write
        module(rig)["gate"].clear()
        rig.deliver("/in", b"later", settled)
        rig.until(lambda: stored(rig) == 1 and durable(rig) and not spool.trouble, "durable by itself")
        assert "the spool can be used again" in rig.records.text()
        module(rig)["gate"].set()
        rig.until(lambda: len(settled.outcomes) == 21)


def test_what_could_not_be_stored_is_stored_when_the_disk_is_back(start: Any) -> None:
    with start(function(), GATED) as rig:
        spool = spool_of(rig)
        write = spool.disk.write
        spool.disk.write = _no_space
        rig.deliver("/in", b"a")
        rig.until(lambda: spool.trouble)
        assert stored(rig) == 0
        spool.disk.write = write
        rig.until(lambda: stored(rig) == 1 and durable(rig))
        assert rig.trigger("f").pending == 1
        module(rig)["gate"].set()
        rig.until(lambda: rig.trigger("f").handled == 1)


def test_what_the_spool_gives_up_to_stay_within_its_size_is_shed_and_counted(start: Any, tmp_path: Path) -> None:
    manifest = '[spool]\nmax_size = "1MiB"\n' + function("inbox = { size = 4 }")
    with start(manifest, GATED) as rig:
        for number in range(1500):
            rig.deliver("/in", b"%04d" % number + b"x" * 1500)
        rig.until(lambda: rig.trigger("f").admitted == 1500)
        rig.until(lambda: durable(rig))
        trigger = rig.trigger("f")
        assert trigger.shed.get("spool-full", 0) > 500
        assert rig.balanced()
        assert spool_of(rig).differences() == []
        module(rig)["gate"].set()
        rig.until(lambda: not trigger.pending and not trigger.source.alone)
        assert trigger.handled + trigger.shed["spool-full"] == 1500
        numbers = [int(body[:4]) for body in bodies(rig)]
        assert numbers == sorted(numbers)
        assert numbers[-1] == 1499
        assert rig.balanced()


def test_a_new_version_of_the_function_goes_on_with_the_backlog(start: Any) -> None:
    with start(function("inbox = { size = 4 }"), GATED) as rig:
        for number in range(50):
            rig.deliver("/in", b"%d" % number)
        rig.until(lambda: rig.trigger("f").admitted == 50)
        old = rig.trigger("f")
        gate = module(rig)["gate"]
        (rig.folder / "f.py").write_text(QUICK)
        replace(rig)
        new = rig.trigger("f")
        assert new is not old
        rig.until(lambda: new.handled + old.pending == 50)
        assert rig.balanced()
        gate.set()
        rig.until(lambda: not rig.processor.retired)
        assert rig.processor.tally().handled == 50
        assert rig.balanced()
        numbers = [int(body) for body in bodies(rig)]
        assert numbers == sorted(numbers)


def test_what_a_source_has_held_for_the_old_version_is_counted_and_handled_by_the_new_one(start: Any) -> None:
    with start(function("inbox = { size = 4 }"), GATED) as rig:
        for number in range(20):
            rig.deliver("/in", b"%d" % number)
        rig.until(lambda: rig.trigger("f").admitted == 20)
        old = rig.trigger("f")
        gate = module(rig)["gate"]
        (rig.folder / "f.py").write_text(QUICK)
        replace(rig)
        new = rig.trigger("f")
        rig.until(lambda: new.handled + old.pending == 20 and not new.source.durable_side.detour)
        assert old.submit(MemoryEvent(old, None, "/in", b"20", {}))
        assert rig.balanced()
        rig.until(lambda: new.handled + old.pending == 21)
        gate.set()
        rig.until(lambda: not rig.processor.retired)
        assert rig.processor.tally().handled == 21
        assert rig.processor.differences() == []
        assert bodies(rig)[-1] == b"20"


@pytest.mark.parametrize("gone", [False, True])
def test_what_a_source_has_held_for_the_old_version_does_not_wait_for_a_disk_that_nobody_tries(
    start: Any, gone: bool
) -> None:
    with start(function("inbox = { size = 4 }"), GATED) as rig:
        spool, old = spool_of(rig), rig.trigger("f")
        write = spool.disk.write
        spool.disk.write = _no_space
        for number in range(20):
            rig.deliver("/in", b"%d" % number)
        rig.until(lambda: spool.trouble and old.source.durable_side.detour)
        whole = load(str(rig.path))
        gate = module(rig)["gate"]
        (rig.folder / "f.py").write_text(QUICK)
        became: list[Any] = []
        if gone:
            rig.path.write_text(rig.path.read_text().split("[function.f]")[0])
            rig.processor.reload(load(str(rig.path)), done=became.append)
        else:
            rig.processor.replace(whole.functions["f"], lambda: became.append(True))
        rig.until(lambda: became)
        gate.set()
        rig.until(lambda: not old.pending)
        assert spool.trouble
        event: Any = MemoryEvent(old, None, "/in", b"20", {})
        rig.until(lambda: event._trigger.submit(event), "room")
        if gone:
            spool.disk.write = write
            rig.until(lambda: not rig.processor.retired)
            assert stored(rig) == 21 - old.handled
            rig.processor.reload(whole, done=became.append)
        rig.until(lambda: rig.processor.tally().handled == 21)
        assert b"20" in bodies(rig)
        assert rig.processor.differences() == []
        spool.disk.write = write


def test_what_could_not_be_stored_for_the_old_version_is_handled_by_the_new_one(start: Any) -> None:
    with start(function("inbox = { size = 4 }"), GATED) as rig:
        spool, old = spool_of(rig), rig.trigger("f")
        write = spool.disk.write
        spool.disk.write = _no_space
        for number in range(20):
            rig.deliver("/in", b"%d" % number)
        rig.until(lambda: old.source.durable_side.overflow.unsafe and spool.trouble)
        gate = module(rig)["gate"]
        (rig.folder / "f.py").write_text(QUICK)
        replace(rig)
        assert not old.source.durable_side.overflow.unsafe
        assert rig.balanced()
        assert rig.processor.differences() == []
        spool.disk.write = write
        rig.until(lambda: rig.trigger("f").handled + old.pending == 20)
        gate.set()
        rig.until(lambda: not rig.processor.retired)
        assert rig.processor.tally().handled == 20
        assert rig.processor.differences() == []


def test_what_was_read_back_before_the_disk_refused_it_is_handled_once(start: Any) -> None:
    """The disk stalls while it takes events that are to be on it alone; they come back from the group in memory."""
    with start(function("inbox = { size = 2 }"), BY_TURNS) as rig:
        spool, trigger = spool_of(rig), rig.trigger("f")
        stalled = threading.Event()

        def refuse_late(*_: Any) -> None:
            stalled.wait()
            _no_space()

        spool.disk.write = refuse_late
        settled = Settled()
        sent = 6  # two in the inbox, and four
        for number in range(sent):
            rig.deliver("/in", b"%d" % number, settled)
        rig.until(lambda: trigger.source.durable_side.overflow.storing == 4)
        rig.until(lambda: spool.in_hand is not None)
        module(rig)["turns"].release(sent - 1)
        rig.until(lambda: trigger.handled == sent - 1)  # the last one still runs
        rig.until(lambda: trigger.pending == 1)
        stalled.set()
        rig.until(lambda: not trigger.source.durable_side.overflow.storing)
        assert spool.trouble
        assert rig.processor.differences() == []
        module(rig)["turns"].release(sent)
        rig.until(lambda: len(settled.outcomes) == sent)
        rig.turn_for(50)
        assert bodies(rig) == [b"%d" % number for number in range(sent)]
        assert sorted(int(event.raw_body) for event, _, _ in settled.outcomes) == list(range(sent))
        assert rig.processor.differences() == []


@pytest.mark.parametrize("first", ["the disk", "the function"])
def test_what_could_not_be_stored_for_a_function_that_a_reload_removes_waits_for_disk_or_function(
    start: Any, first: str
) -> None:
    with start(function("inbox = { size = 4 }"), GATED) as rig:
        spool, trigger, settled = spool_of(rig), rig.trigger("f"), Settled()
        write = spool.disk.write
        spool.disk.write = _no_space
        for number in range(20):
            rig.deliver("/in", b"%d" % number, settled)
        rig.until(
            lambda: trigger.source.durable_side.backlog.strand and not trigger.source.durable_side.overflow.storing
        )
        whole = load(str(rig.path))
        rig.path.write_text(rig.path.read_text().split("[function.f]")[0])
        became: list[Any] = []
        gate = module(rig)["gate"]
        rig.processor.reload(load(str(rig.path)), done=became.append)
        rig.until(lambda: became)
        gate.set()
        rig.until(lambda: not trigger.pending)
        assert trigger.source.durable_side.unsafe() == 20 - trigger.handled > 0
        assert rig.processor.differences() == []
        if first == "the disk":
            spool.disk.write = write
            rig.until(lambda: not rig.processor.retired)
            assert len(settled.outcomes) == 20
            assert stored(rig) == 20 - trigger.handled
        (rig.folder / "f.py").write_text(QUICK)
        rig.processor.reload(whole, done=became.append)
        rig.until(lambda: rig.processor.tally().handled == 20)
        rig.until(lambda: not rig.processor.retired)
        rig.until(lambda: len(settled.outcomes) == 20)
        assert sorted(bodies(rig)) == sorted(b"%d" % number for number in range(trigger.handled, 20))
        assert rig.processor.differences() == []
        spool.disk.write = write


def test_the_backlog_of_a_function_that_a_reload_removes_counts_again_when_it_is_back(
    start: Any, tmp_path: Path
) -> None:
    with start(function("inbox = { size = 4 }"), GATED) as rig:
        for number in range(20):
            rig.deliver("/in", b"%d" % number)
        rig.until(lambda: rig.trigger("f").admitted == 20)
        whole = load(str(rig.path))
        rig.path.write_text(rig.path.read_text().split("[function.f]")[0])
        became: list[Any] = []
        gate = module(rig)["gate"]
        rig.processor.reload(load(str(rig.path)), done=became.append)
        rig.until(lambda: became)
        assert rig.processor.differences() == []
        gate.set()
        rig.until(lambda: not rig.processor.retired)
        assert rig.processor.differences() == []
        handled = rig.processor.tally().handled
        assert 0 < handled < 20
        (tmp_path / "f.py").write_text(QUICK)
        rig.processor.reload(whole, done=became.append)
        rig.until(lambda: len(became) == 2)
        rig.until(lambda: rig.processor.tally().handled == 20)
        assert bodies(rig) == [b"%d" % number for number in range(handled, 20)]
        assert rig.processor.differences() == []


def test_the_backlog_of_a_trigger_that_was_removed_is_kept_and_named(start: Any, tmp_path: Path) -> None:
    with start(function("inbox = { size = 4 }"), GATED) as rig:
        for number in range(50):
            rig.deliver("/in", b"%d" % number)
        rig.until(lambda: rig.trigger("f").admitted == 50 and durable(rig))
        rig.processor.stop()
        module(rig)["gate"].set()
    other = function().replace("function.f", "function.g")
    with start(other, QUICK) as rig:
        left = stored(rig)
        assert left > 40
        assert "no longer in the manifest" in rig.records.text()
        assert rig.processor.delivery.orphans() == [(1, "function.f.trigger[0]", left)]
    with start(function(), QUICK) as rig:
        rig.until(lambda: rig.trigger("f").handled == left)


def test_a_poison_event_ends_as_a_dead_letter(start: Any, tmp_path: Path) -> None:
    """Each death is the state directory as it is while the handler runs."""
    folder = killed(start, tmp_path, function(), b"poison", b"good")
    with start(function(), GATED, folder) as rig:
        rig.until(lambda: rig.trigger("f").pending == 1)  # alone, and marked on disk
        rig.turn_for(50)
        assert rig.trigger("f").pending == 1
        assert rig.trigger("f").source.alone == 1
        folder = crashed(rig, tmp_path)
        module(rig)["gate"].set()
    with start(function(), QUICK, folder) as rig:
        rig.until(lambda: rig.trigger("f").handled == 1)
        assert bodies(rig) == [b"good"]
        assert rig.trigger("f").dead_lettered == 1
        assert rig.balanced()
        rig.until(lambda: durable(rig))
        (letter,) = all_of(spool_of(rig))
        assert letter.event.raw_body == b"poison"
        assert "died" in letter.about["reason"]


def test_a_poison_event_whose_dead_letter_is_refused_is_left_to_the_next_start(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = killed(start, tmp_path, function(), b"poison")
    with start(function(), GATED, folder) as rig:
        rig.until(lambda: rig.trigger("f").pending == 1)
        folder = crashed(rig, tmp_path)
        module(rig)["gate"].set()
    monkeypatch.setattr("nuclio_edge.spool.disk.Disk.write", _no_space)
    with start(function(), QUICK, folder) as rig:
        rig.until(lambda: "a dead letter could not be kept" in rig.records.text())
        assert rig.trigger("f").dead_lettered == 0
        assert rig.processor.differences() == []
        folder = crashed(rig, tmp_path)
    monkeypatch.undo()
    with start(function(), QUICK, folder) as rig:
        rig.until(lambda: rig.trigger("f").dead_lettered == 1)
        rig.until(lambda: durable(rig))
        assert [letter.event.raw_body for letter in all_of(spool_of(rig))] == [b"poison"]
        assert bodies(rig) == []
        assert rig.processor.differences() == []


def test_a_poison_event_has_its_attempts(start: Any, tmp_path: Path) -> None:
    manifest = function("retry = { attempts = 3 }")
    folder = killed(start, tmp_path, manifest, b"poison")
    for _ in range(2):
        with start(manifest, GATED, folder) as rig:
            rig.until(lambda: rig.trigger("f").pending == 1)
            folder = crashed(rig, tmp_path)
            module(rig)["gate"].set()
    with start(manifest, QUICK, folder) as rig:
        rig.until(lambda: rig.trigger("f").dead_lettered == 1)
        assert rig.balanced()


def test_when_all_have_run_alone_and_brokers_have_had_their_time_nothing_is_suspected_any_more(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclio_edge.delivery.one_at_a_time.WARY_MS", 100)
    folder = killed(start, tmp_path, function(), b"a", b"b")
    with start(function(), GATED, folder) as rig:
        side: Any = rig.trigger("f").source.durable_side
        rig.until(lambda: rig.trigger("f").pending == 1)
        rig.until(lambda: "wary" not in side.reasons)
        rig.turn_for(50)
        assert side.suspects is not None  # one runs alone, another one waits for that
        module(rig)["gate"].set()
        rig.until(lambda: side.suspects is None)
        assert bodies(rig) == [b"a", b"b"]
        rig.until(lambda: stored(rig) == 0)
        replace(rig)
        again: Any = rig.trigger("f").source.durable_side
        assert again is not side
        assert again.suspects is None
        assert again.reasons == set()
        module(rig)["gate"].set()
        rig.deliver("/in", b"c")
        rig.until(lambda: rig.trigger("f").handled == 1)
        rig.until(lambda: not rig.processor.retired)
        assert rig.processor.tally().handled == 3
        assert rig.processor.differences() == []


@pytest.mark.parametrize("attempts", [1, 3])
def test_what_runs_alone_when_a_new_version_comes_is_no_culprit_and_ends_first(
    start: Any, tmp_path: Path, attempts: int
) -> None:
    manifest = function(f"retry = {{ attempts = {attempts} }}")
    folder = killed(start, tmp_path, manifest, b"a", b"b")
    with start(manifest, GATED, folder) as rig:
        old = rig.trigger("f")
        rig.until(lambda: old.pending == 1)
        gate, seen = module(rig)["gate"], module(rig)["seen"]
        (rig.folder / "f.py").write_text(QUICK)
        replace(rig)
        new = rig.trigger("f")
        rig.deliver("/in", b"c")
        rig.turn_for(100)
        assert (new.handled, new.dead_lettered, old.pending) == (0, 0, 1)
        assert rig.processor.differences() == []
        gate.set()
        rig.until(lambda: new.handled == 2 and not rig.processor.retired)
        assert [body for body, _, _ in seen] == [b"a"]
        assert bodies(rig) == [b"b", b"c"]
        assert rig.processor.differences() == []
        rig.until(lambda: stored(rig) == 0)


def test_what_was_about_to_run_alone_when_a_new_version_comes_is_run_by_that_one_once(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nuclio_edge.delivery.delivery import Delivery

    folder = killed(start, tmp_path, function(), b"a", b"b")
    mark, late = Delivery.mark, []

    def mark_late(self: Delivery, key: str, number: int, attempt: int, then: Any) -> int:
        return mark(self, key, number, attempt, lambda _: late.append(then))

    with start(function(), QUICK, folder) as rig:
        monkeypatch.setattr(Delivery, "mark", mark_late)  # a slow card
        rig.until(lambda: late)
        monkeypatch.undo()
        seen = module(rig)["seen"]
        replace(rig)
        late[0](None)
        rig.until(lambda: rig.trigger("f").handled == 2)
        assert seen == []
        assert bodies(rig) == [b"a", b"b"]
        assert rig.trigger("f").dead_lettered == 0
        assert rig.processor.differences() == []


def test_a_call_of_a_function_of_which_an_event_runs_alone_is_turned_away(start: Any, tmp_path: Path) -> None:
    calls = """
def handler(context, event):
    return str(context.platform.call_function("f", event).status_code)
"""
    manifest = function() + '[function.g]\nhandler = "g.py"\n[[function.g.trigger]]\npath = "/g"\n'
    (tmp_path / "g.py").write_text(calls)
    folder = killed(start, tmp_path, manifest, b"a")
    (folder / "g.py").write_text(calls)
    with start(manifest, QUICK, folder) as rig:
        assert rig.ask("/g") == (200, b"200")  # now the function has a trigger for calls
        side: Any = rig.trigger("f").source.durable_side
        rig.until(lambda: not side.suspects._active())
        rig.deliver("/in", b"b", duplicate=True)
        rig.until(lambda: side.suspects._gates)
        assert rig.ask("/g") == (200, b"503")
        rig.until(lambda: rig.trigger("f").handled == 2)
        rig.until(lambda: rig.ask("/g") == (200, b"200"))
        assert rig.processor.differences() == []


@pytest.mark.parametrize("more", ["durable = true", "dead_letter = true", "durable = true\nrate_limit = '100/s'"])
def test_a_function_is_called_whatever_its_only_trigger_is(tmp_path: Path, more: str) -> None:
    calls = """
def handler(context, event):
    return context.platform.call_function("f", event).body
"""
    table = '[function.{0}]\nhandler = "{0}.py"\n[[function.{0}.trigger]]\npath = "/{0}"\n'
    manifest = MEMORY + table.format("f") + more + "\n" + table.format("g")
    with Rig(tmp_path, manifest, f="def handler(context, event):\n    return 'f'\n", g=calls) as rig:
        rig.ask("/f")
        assert rig.ask("/g") == (200, b"f")
        assert rig.processor.differences() == []


def test_an_event_that_finds_no_room_leaves_nothing_behind(start: Any) -> None:
    with start(function("inbox = { size = 4 }"), BY_TURNS) as rig:
        side: Any = rig.trigger("f").source.durable_side
        for number in range(30):
            rig.deliver("/in", b"%d" % number)
        for _ in range(30):
            module(rig)["turns"].release()
        rig.until(lambda: rig.trigger("f").handled == 30)
        rig.until(lambda: not side.ids and not len(side.stage))
        assert side._packed == {}


def test_batches_are_durable_too(start: Any, tmp_path: Path) -> None:
    code = GATED.replace("seen.append((event.raw_body, event.duplicate, event.attempt))",
                         "seen.extend((one.raw_body, one.duplicate, one.attempt) for one in event)")  # fmt: skip
    manifest = function('batch = { size = 4, timeout = "10ms" }\ninbox = { size = 8 }')
    with start(manifest, code) as rig:
        for number in range(30):
            rig.deliver("/in", b"%d" % number)
        rig.until(lambda: rig.trigger("f").admitted == 30 and durable(rig))
        folder = crashed(rig, tmp_path)
        module(rig)["gate"].set()
        rig.until(lambda: rig.trigger("f").handled == 30)
        assert bodies(rig) == [b"%d" % number for number in range(30)]
        assert rig.balanced()
    with start(manifest, code.replace("gate.wait()", "pass"), folder) as rig:
        rig.until(lambda: rig.trigger("f").handled == 30)
        assert sorted(bodies(rig), key=int) == [b"%d" % number for number in range(30)]


@pytest.mark.parametrize("isolation", ["thread", "inline", "process"])
def test_every_isolation_is_durable(start: Any, tmp_path: Path, isolation: str) -> None:
    manifest = function("", f'isolation = "{isolation}"')
    with start(manifest, "def handler(context, event):\n    return event.raw_body") as rig:
        for number in range(20):
            assert rig.ask("/in", b"%d" % number) == (200, b"%d" % number)
        assert rig.trigger("f").handled == 20
        rig.turn_for(300)
        assert stored(rig) == 0
        assert rig.balanced()
