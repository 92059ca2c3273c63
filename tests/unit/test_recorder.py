"""The recorder in a processor: what it keeps of events and outcomes, and that it harms neither them nor the disk."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.manifest import check
from nuclio_edge.metrics import exposition
from nuclio_edge.recorder import recorder as recorder_module
from nuclio_edge.recorder.recording import read
from nuclio_edge.recorder.witness import WITNESSED
from nuclio_edge.sources.memory import MemoryEvent
from tests.rig import MEMORY, Rig, Settled

if TYPE_CHECKING:
    from pathlib import Path

HANDLER = """
def init_context(context):
    context.user_data.count = 0

def handler(context, event):
    context.user_data.count += 1
    if event.raw_body == b"raise":
        raise ValueError("out of order")
    if event.raw_body == b"teapot":
        return context.Response(status_code=418, body="no", headers={"X-A": "b"})
    if event.raw_body == b"none":
        return None
    if event.raw_body == b"big":
        return "x" * 5000
    if event.raw_body == b"send":
        context.bindings["mem"].publish("/elsewhere", "17", method="PUT")
    return {"count": context.user_data.count}
"""

MANIFEST = (
    MEMORY
    + """
[record]
triggers = ["{pattern}"]
max_size = "64KiB"

[function.f]
handler = "f.py"
{more}
[[function.f.trigger]]
path = "/f"
name = "door"
{trigger}
[[function.f.trigger]]
path = "/other"

[[function.f.output]]
path = "/out"

[function.g]
handler = "f.py"
[[function.g.trigger]]
path = "/g"
"""
)


def manifest(pattern: str = "f/door", more: str = "", trigger: str = "") -> str:
    return MANIFEST.format(pattern=pattern, more=more, trigger=trigger)


def recorded(folder: Path) -> list[Any]:
    return read(str(folder / "state" / "recorder.bin")).entries


def waiting(folder: Path) -> str:
    """A handler that waits until the file `go` is there."""
    wait = f"while not os.path.exists('{folder}/go'):\n        time.sleep(0.001)"
    return f"import os, time\ndef handler(context, event):\n    {wait}"


ISOLATIONS = ['isolation = "thread"', 'isolation = "inline"', 'isolation = "process"']


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_events_are_kept_byte_for_byte_with_what_came_of_them(tmp_path: Path, isolation: str) -> None:
    bodies = [b"none", b"17", b"raise", b"teapot", b"big", b"send", b"\x00\xff"]
    with Rig(tmp_path, manifest(more=isolation), f=HANDLER) as rig:
        for body in bodies:
            rig.ask("/f", body, headers={"a": "b"})
        rig.ask("/other", b"not recorded")
        rig.ask("/g", b"not recorded")
    entries = recorded(tmp_path)
    assert [entry.event.body for entry in entries] == bodies
    assert {entry.event.event(None).headers["a"] for entry in entries} == {"b"}
    assert {entry.trigger for entry in entries} == {"function.f.trigger[0]"}
    assert {entry.trigger_name for entry in entries} == {"door"}
    assert {entry.function for entry in entries} == {"f"}
    outcomes = [entry.outcome for entry in entries]
    assert [outcome["status"] for outcome in outcomes] == [200, 200, 500, 418, 200, 200, 200]
    assert [outcome["attempts"] for outcome in outcomes] == [1] * 7
    assert outcomes[1]["body"] == b'{"count":2}' and outcomes[1]["content_type"] == "application/json"
    assert "body" not in outcomes[0]
    assert outcomes[2]["error"].endswith("ValueError: out of order") and "recorder" not in outcomes[2]["error"]
    assert outcomes[3]["headers"] == {"X-A": "b"}
    assert outcomes[4]["body"]["size"] == 5000 and len(outcomes[4]["body"]["~digest"]) == 16
    sent = outcomes[5]["sent"]
    if isolation != ISOLATIONS[2]:
        assert [note[:2] for note in sent] == [["mem", "publish"], ["mem", ""]]
        assert sent[0] == ["mem", "publish", ["/elsewhere", "17"], {"method": "PUT"}, None]
        assert outcomes[1]["worker"] == "0"
        assert all(outcome["ran_us"] >= 0 and outcome["waited_us"] >= 0 for outcome in outcomes)
    assert sent[-1] == ["mem", "", [b'{"count":6}'], {"path": "/out"}, None]
    assert outcomes[1]["version"].startswith("1 ") and len(outcomes[1]["version"]) == 10


def test_async_handlers_are_recorded_with_the_time_that_they_took(tmp_path: Path) -> None:
    handler = "import asyncio\nasync def handler(context, event):\n    await asyncio.sleep(0.02)\n    return 'late'"
    with Rig(tmp_path, manifest(), f=handler) as rig:
        assert rig.ask("/f", b"1") == (200, b"late")
    (entry,) = recorded(tmp_path)
    assert entry.outcome["body"] == b"late" and entry.outcome["ran_us"] >= 20_000


def test_events_for_which_nobody_waits_are_recorded_and_counted_as_ever(tmp_path: Path) -> None:
    text = '[record]\ntriggers = ["f/*"]\n[function.f]\nhandler = "f.py"\n[[function.f.trigger]]\nevery = "10ms"\n'
    with Rig(tmp_path, text, f="def handler(context, event):\n    return {'at': 1}") as rig:
        rig.until(lambda: rig.trigger("f").handled >= 3)
        assert rig.balanced()
    entries = recorded(tmp_path)
    assert len(entries) >= 3
    assert [entry.outcome["body"] for entry in entries[:3]] == [b'{"at":1}'] * 3
    assert entries[0].event.kind == "timer"


def test_a_retried_event_is_one_entry_with_its_attempts(tmp_path: Path) -> None:
    trigger = 'retry = { attempts = 3, backoff = "1ms" }'
    with Rig(tmp_path, manifest(trigger=trigger), f=HANDLER) as rig:
        rig.ask("/f", b"raise")
    (entry,) = recorded(tmp_path)
    assert entry.outcome["attempts"] == 3 and entry.outcome["status"] == 500 and entry.event.attempt == 0


def test_what_is_shed_is_recorded_with_the_reason(tmp_path: Path) -> None:
    trigger = 'inbox = { size = 1, when_full = "drop-newest" }'
    with Rig(tmp_path, manifest(trigger=trigger), f=waiting(tmp_path)) as rig:
        settled = Settled()
        for body in (b"1", b"2"):
            rig.deliver("/f", body, settled)
        rig.until(lambda: settled.outcomes)
        (tmp_path / "go").touch()
        rig.until(lambda: len(settled.outcomes) == 2)
        assert rig.balanced()
    first, second = sorted(recorded(tmp_path), key=lambda entry: entry.event.body)
    assert "shed" not in first.outcome
    assert second.outcome["shed"] == "drop-newest" and second.outcome["status"] == 503
    assert "worker" not in second.outcome


def test_an_event_that_has_come_to_no_end_is_there_without_an_outcome(tmp_path: Path) -> None:
    with Rig(tmp_path, manifest(), f=waiting(tmp_path)) as rig:
        rig.deliver("/f", b"hangs")
        rig.until(lambda: (tmp_path / "state" / "recorder.bin").exists() and recorded(tmp_path))
        (entry,) = recorded(tmp_path)
        assert entry.event.body == b"hangs" and entry.outcome is None
        (tmp_path / "go").touch()
    (entry,) = recorded(tmp_path)
    assert entry.outcome["status"] == 200


def test_a_batch_is_recorded_event_by_event(tmp_path: Path) -> None:
    handler = (
        "def handler(context, events):\n    return [context.Response(body=e.raw_body, event_id=e.id) for e in events]"
    )
    with Rig(tmp_path, manifest(trigger='batch = { size = 3, timeout = "10ms" }'), f=handler) as rig:
        settled = Settled()
        for number in range(3):
            rig.deliver("/f", b"%d" % number, settled)
        rig.until(lambda: len(settled.outcomes) == 3)
    entries = recorded(tmp_path)
    assert [entry.outcome["body"] for entry in entries] == [b"0", b"1", b"2"]
    assert all(entry.outcome["worker"] == "0" for entry in entries)


def test_events_of_other_triggers_do_not_meet_the_recorder(tmp_path: Path) -> None:
    with Rig(tmp_path, manifest(), f=HANDLER) as rig:
        other = rig.trigger("f", 1)
        assert other.source is rig.processor.sources["mem"]
        assert type(other.submit.__self__).__name__ == "Entry"  # type: ignore[attr-defined]  # a bound method
        assert rig.trigger("f").source is not rig.processor.sources["mem"]
        assert rig.processor.functions["g"].handler.__name__ == "handler"
    with Rig(tmp_path, manifest().replace('"f/door"', ""), f=HANDLER) as rig:
        assert rig.processor.assembly.recorder is None


def test_nothing_is_written_while_nothing_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "FLUSH_MS", 20)
    with Rig(tmp_path, manifest(), f=HANDLER) as rig:
        rig.turn_for(60)
        assert not (tmp_path / "state" / "recorder.bin").exists()
        rig.ask("/f", b"17")
        recorder = rig.processor.assembly.recorder
        rig.until(lambda: recorder._timer is None and not recorder._writing.locked())
        before = os.stat(recorder.path)
        rig.turn_for(100)
        assert os.stat(recorder.path).st_mtime_ns == before.st_mtime_ns
        assert recorder._timer is None


def test_events_that_come_together_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    with Rig(tmp_path, manifest(), f=HANDLER) as rig:
        recorder = rig.processor.assembly.recorder
        original = recorder._write

        def write(batch: list[Any], size: int) -> None:
            writes.append(len(batch))
            original(batch, size)

        monkeypatch.setattr(recorder, "_write", write)
        for _ in range(20):
            rig.ask("/f", b"17")
        rig.until(lambda: writes and not recorder._writing.locked())
    assert writes == [41]  # the start, 20 events, 20 outcomes


def test_a_full_disk_is_said_once_counted_and_gets_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "FLUSH_MS", 10)
    monkeypatch.setattr(recorder_module, "RETRY_MS", 10)
    full = [True]

    def allocate(self: Any, descriptor: int, size: int) -> None:
        if full[0]:
            raise OSError(28, "No space left on device")
        os.posix_fallocate(descriptor, 0, size)

    monkeypatch.setattr("nuclio_edge.spool.disk.Disk.allocate", allocate)
    with Rig(tmp_path, manifest(), f=HANDLER) as rig:
        recorder = rig.processor.assembly.recorder
        for number in range(3):
            rig.ask("/f", b"17")
            rig.until(lambda number=number: recorder.dropped == number + 1)  # type: ignore[misc]  # bound at once
        assert rig.records.text().count("events cannot be recorded") == 1
        assert "No space left" in rig.records.text()
        assert os.listdir(tmp_path / "state") == []
        full[0] = False
        rig.ask("/f", b"18")
        rig.until(lambda: recorder.recorded and not recorder.trouble)
        assert "events are recorded again ('not_recorded', 3)" in rig.records.text()
        assert "\nnuclio_edge_recorder_dropped_total 3\n" in "".join(exposition(rig.processor))
        assert rig.balanced()
    assert [entry.event.body for entry in recorded(tmp_path)] == [b"18"]


def test_a_disk_that_hangs_holds_up_neither_events_nor_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    go = threading.Event()
    monkeypatch.setattr(recorder_module, "FLUSH_MS", 10)
    monkeypatch.setattr(recorder_module, "CLOSE_S", 0.05)
    monkeypatch.setattr(recorder_module, "MOST_WAITING", 10_000)
    original = os.pwrite
    monkeypatch.setattr("nuclio_edge.spool.disk.os.pwrite", lambda *a: (go.wait(30), original(*a))[1])
    try:
        with Rig(tmp_path, manifest(), f=HANDLER) as rig:
            recorder = rig.processor.assembly.recorder
            for _ in range(50):
                assert rig.ask("/f", b"17")[0] == 200
            assert recorder.dropped > 20  # bounded, and counted
    finally:
        go.set()
    while recorder._writing.locked():
        pass


def test_of_a_flood_the_last_events_are_kept_whole_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "MOST_WAITING", 20_000)
    with Rig(tmp_path, manifest(more=ISOLATIONS[1]), f=HANDLER) as rig:
        settled = Settled()
        for number in range(200):
            rig.deliver("/f", b"%d" % number, settled)
        rig.until(lambda: len(settled.outcomes) == 200)
        recorder = rig.processor.assembly.recorder
        assert recorder.recorded + recorder.dropped == 200 and recorder.dropped > 100
        rig.until(lambda: recorder._timer is None and not recorder._writing.locked())
        assert rig.records.text().count("more events come than are recorded") == 1
    entries = recorded(tmp_path)
    assert [int(entry.event.body) for entry in entries] == list(range(200 - len(entries), 200))
    assert len(entries) == recorder.recorded
    assert all(entry.outcome["status"] == 200 for entry in entries)


def test_a_reload_begins_and_ends_recording(tmp_path: Path) -> None:
    from nuclio_edge.manifest import load

    with Rig(tmp_path, manifest().replace('"f/door"', ""), f=HANDLER) as rig:
        rig.ask("/f", b"before")
        for pattern, body in (("f/*", b"recorded"), ("g/*", b"after")):
            text = manifest(pattern)
            rig.path.write_text(f'[device]\nname = "rig"\nstate_dir = "{tmp_path}/state"\n' + text)
            done: list[Any] = []
            rig.processor.reload(load(str(rig.path)), (), done.append)
            rig.until(lambda done=done: done)  # type: ignore[misc]  # bound at once
            rig.ask("/f", body)
        rig.ask("/g", b"of g")
    assert [entry.event.body for entry in recorded(tmp_path)] == [b"recorded", b"of g"]
    assert recorded(tmp_path)[0].outcome["worker"] == "0"


@pytest.mark.parametrize("pattern", ["f/door", "f/0", "f/*", "*/*", "?/d*", "function.f.trigger[0]", "function.f.*"])
def test_patterns_name_triggers(tmp_path: Path, pattern: str) -> None:
    with Rig(tmp_path, manifest(pattern), f=HANDLER) as rig:
        rig.ask("/f", b"17")
    assert [entry.event.body for entry in recorded(tmp_path)] == [b"17"]


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("f", 'no trigger matches "f"; write "f/*" for all triggers of the function'),
        ("f/dor", 'no trigger matches "f/dor"; did you mean "door"?'),
        ("h/*", 'no trigger matches "h/*"'),
        ("f/9", 'no trigger matches "f/9"; its triggers: door, mem'),
    ],
)
def test_a_pattern_that_matches_nothing_is_a_problem(tmp_path: Path, pattern: str, told: str) -> None:
    (tmp_path / "f.py").write_text(HANDLER)
    path = tmp_path / "edge.toml"
    path.write_text(manifest(pattern))
    _, problems = check(str(path))
    (problem,) = problems
    said = problem.as_dict("edge.toml")
    assert (said["code"], said["key"]) == ("E301", "record.triggers[0]")
    assert f"{said['message']}; {said['hint']}".startswith(told)


def test_an_event_that_was_not_seen_to_come_is_recorded_with_what_its_handler_does(tmp_path: Path) -> None:
    """As one that a durable trigger reads back from the disk: it goes to the function behind the recorder's back."""
    with Rig(tmp_path, manifest(), f=HANDLER) as rig:
        trigger = rig.trigger("f")
        mine: Any = trigger.source
        event = MemoryEvent(trigger, None, "/f", b"send", {})
        event._token = WITNESSED
        mine.wrapped(event)
        rig.until(lambda: trigger.handled == 1)
        assert rig.processor.assembly.recorder.open == {}
    (entry,) = recorded(tmp_path)
    assert [note[1] for note in entry.outcome["sent"]] == ["publish", ""]
    assert entry.outcome["worker"] == "0" and "waited_us" not in entry.outcome


def test_what_is_waited_for_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MOST_OPEN", 3)
    with Rig(tmp_path, manifest(), f=waiting(tmp_path)) as rig:
        settled = Settled()
        for number in range(10):
            rig.deliver("/f", b"%d" % number, settled)
        recorder = rig.processor.assembly.recorder
        rig.until(lambda: recorder.recorded == 10)
        assert len(recorder.open) == 3
        (tmp_path / "go").touch()
        rig.until(lambda: len(settled.outcomes) == 10)
    # Those that were forgotten are there a second time, with their outcome.
    assert sum(entry.outcome is not None for entry in recorded(tmp_path)) == 10


def test_an_event_that_is_too_large_is_kept_without_its_body(tmp_path: Path) -> None:
    with Rig(tmp_path, manifest(), f=HANDLER) as rig:
        rig.ask("/f", b"x" * 9000)
        rig.ask("/f", b"x" * 6000)
        rig.ask("/f", b"17", headers={"a": "y" * 9000})  # not even what stands before its body can be kept
        assert rig.processor.assembly.recorder.dropped == 1
    large, fits = recorded(tmp_path)
    assert large.trimmed and large.event.body == b"" and large.outcome["status"] == 200
    assert not fits.trimmed and fits.event.size == 6000


def test_an_event_that_finds_no_room_is_as_it_was_and_recorded_when_it_does(tmp_path: Path) -> None:
    trigger = 'inbox = { size = 1, when_full = "block" }'
    with Rig(tmp_path, manifest(trigger=trigger), f=waiting(tmp_path)) as rig:
        there, recorder = rig.trigger("f"), rig.processor.assembly.recorder
        first, second = (MemoryEvent(there, None, "/f", body, {}) for body in (b"1", b"2"))
        assert there.submit(first)
        rig.until(lambda: not there.submit(second))
        assert second._token is None and list(recorder.open) == [first.id]
        (tmp_path / "go").touch()
        rig.until(lambda: there.submit(second))
        rig.until(lambda: there.handled == 2)
        assert first._token is None and "defect" not in rig.records.text()
        assert rig.balanced()
    assert [entry.event.body for entry in recorded(tmp_path)] == [b"1", b"2"]


class Store:
    """A binding with everything that Python objects may have."""

    colour = "red"

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"a": 1}

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.values[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Any:
        return iter(self.values)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.values["closed"] = True

    def everything(self) -> dict[str, Any]:
        return self.values


def test_a_binding_that_is_heard_is_as_it_was(tmp_path: Path) -> None:
    store = Store()
    context = SimpleNamespace(_event=None)
    with Rig(tmp_path, manifest(), f=HANDLER) as rig:
        recorder = rig.processor.assembly.recorder
        heard = recorder.heard({"store": lambda context: store})["store"](context)
        trigger = rig.trigger("f")
        context._event = event = MemoryEvent(trigger, None, "/f", b"", {})
        heard["b"] = [2]
        with heard as inner:
            assert inner is store
        assert heard["b"] == [2] and "b" in heard and "c" not in heard and len(heard) == 3
        assert list(heard) == ["a", "b", "closed"] and heard.colour == "red"
        heard.colour = "blue"
        assert store.colour == "blue"
        everything = heard.everything()
        everything["later"] = 1  # what is changed afterwards was not there yet
        assert everything is store.values
        with pytest.raises(KeyError):
            heard["nothing"]
        with pytest.raises(AttributeError):
            heard.nothing  # noqa: B018 - it is not there
        notes = recorder.open.pop(event.id).sent
    calls = [note[1] for note in notes]
    assert calls == ["__setitem__", "__enter__", "__exit__", "__getitem__", "__contains__", "__contains__", "__len__",
                     "__iter__", "__len__", "everything"]  # fmt: skip
    assert notes[0][2] == ["b", [2]] and notes[3][4] == [2] and "~repr" in notes[1][4]
    assert notes[-1][4] == {"a": 1, "b": [2], "closed": True}
