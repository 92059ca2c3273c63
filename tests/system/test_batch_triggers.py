"""Triggers with `batch`, over every way in which a function runs."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.rig import MEMORY, Rig, Settled

if TYPE_CHECKING:
    from pathlib import Path

FUNCTION = """
[function.f]
handler = "f.py"
isolation = "{isolation}"
{keys}
[[function.f.trigger]]
source = "mem"
path = "/f"
batch = {{ size = {size}, timeout = "{timeout}" }}
{more}
"""
WAYS = ["thread", "inline", "process", "async"]

ECHO = """
def handler(context, events):
    context.logger.info("batch of %d" % len(events))
    return [context.Response(body=b"%d:" % len(events) + event.body, event_id=event.id) for event in events][::-1]
"""


def rig(folder: Path, way: str, code: str, size: int = 5, timeout: str = "20s", keys: str = "", more: str = "") -> Rig:
    code = textwrap.dedent(code)
    if way == "async":
        code = code.replace("def handler", "async def handler")
    isolation = "thread" if way == "async" else way
    text = FUNCTION.format(isolation=isolation, keys=keys, size=size, timeout=timeout, more=more)
    return Rig(folder, MEMORY + text, f=code)


def several(it: Rig, bodies: list[bytes]) -> Settled:
    settled = Settled()
    for body in bodies:
        it.deliver("/f", body, settled)
    it.until(lambda: len(settled.outcomes) == len(bodies), "all outcomes")
    return settled


@pytest.mark.parametrize("way", WAYS)
def test_a_full_batch_is_one_call_and_each_event_gets_its_own_answer(tmp_path: Path, way: str) -> None:
    with rig(tmp_path, way, ECHO) as it:
        settled = several(it, [b"%d" % n for n in range(10)])
        assert sorted(settled.bodies()) == [b"5:%d" % n for n in range(10)]
        assert it.trigger("f").handled == 10 and it.trigger("f").pending == 0 and it.balanced()
        assert sum(it.trigger("f").buckets) == 10


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_that_does_not_fill_up_is_handled_at_its_timeout(tmp_path: Path, way: str) -> None:
    with rig(tmp_path, way, ECHO, timeout="50ms") as it:
        assert several(it, [b"a", b"b"]).bodies() == [b"2:a", b"2:b"]


@pytest.mark.parametrize("way", WAYS)
def test_none_or_one_value_is_for_all(tmp_path: Path, way: str) -> None:
    code = 'def handler(context, events):\n    return None if events[0].body == b"none" else {"n": len(events)}'
    with rig(tmp_path, way, code, size=2) as it:
        assert several(it, [b"none", b"x"]).bodies() == [b"", b""]
        assert several(it, [b"y", b"x"]).bodies() == [b'{"n":2}'] * 2


@pytest.mark.parametrize("way", WAYS)
def test_an_exception_fails_all_of_a_batch(tmp_path: Path, way: str) -> None:
    code = "def handler(context, events):\n    raise ValueError(len(events))"
    with rig(tmp_path, way, code, size=3) as it:
        assert several(it, [b""] * 3).statuses() == [500] * 3
        assert it.trigger("f").failed == 3 and it.balanced()


@pytest.mark.parametrize("way", WAYS)
def test_only_the_events_that_failed_are_tried_again(tmp_path: Path, way: str) -> None:
    code = """
    import os
    def handler(context, events):
        answers = []
        for event in events:
            mark = event.body.decode()
            status = 200
            if mark and not os.path.exists(mark):
                open(mark, "w").close()
                status = 500
            answers.append(context.Response(status_code=status, body=b"%d" % len(events), event_id=event.id))
        return answers
    """
    more = 'retry = { attempts = 2, backoff = "10ms" }'
    with rig(tmp_path, way, code, size=3, timeout="100ms", more=more) as it:
        settled = several(it, [b"", str(tmp_path / "mark").encode(), b""])
        assert settled.statuses() == [200] * 3
        assert settled.bodies() == [b"3", b"3", b"1"]
        assert it.trigger("f").retried == 1 and it.balanced()


def test_an_event_that_a_list_of_responses_leaves_out_has_failed(tmp_path: Path) -> None:
    code = "def handler(context, events):\n    return [context.Response(body='yes', event_id=events[0].id)]"
    with rig(tmp_path, "thread", code, size=2) as it:
        settled = several(it, [b"a", b"b"])
        assert settled.statuses() == [200, 500] and b"not this one" in settled.bodies()[1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("odd", ["[]", "10**5000", "object()"])
def test_an_id_that_is_none_fails_what_it_does_not_answer(tmp_path: Path, way: str, odd: str) -> None:
    code = f"""
    def handler(context, events):
        return [context.Response(event_id={odd}), context.Response(event_id=events[1].id)]
    """
    with rig(tmp_path, way, code, size=2) as it:
        assert several(it, [b"a", b"b"]).statuses()[0] == 500
        assert it.trigger("f").pending == 0 and it.balanced()


def test_responses_without_ids_are_matched_by_position(tmp_path: Path) -> None:
    code = "def handler(context, events):\n    return [context.Response(body=event.body * 2) for event in events]"
    with rig(tmp_path, "thread", code, size=2) as it:
        assert several(it, [b"a", b"b"]).bodies() == [b"aa", b"bb"]


@pytest.mark.parametrize("way", ["thread", "process", "async"])
def test_a_batch_past_its_timeout_fails_whole_and_the_next_one_is_handled(tmp_path: Path, way: str) -> None:
    code = "import time\ndef handler(context, events):\n    time.sleep(1 if events[0].body else 0)\n    return 'ok'"
    with rig(tmp_path, way, code, size=2, keys='timeout = "200ms"') as it:
        assert several(it, [b"x", b""]).statuses() == [408, 408]
        assert several(it, [b"", b""]).statuses() == [200, 200]
        assert it.balanced()


def test_a_process_that_dies_fails_its_batch_only(tmp_path: Path) -> None:
    code = "import os\ndef handler(context, events):\n    os._exit(1) if events[0].body else None"
    with rig(tmp_path, "process", code, size=2) as it:
        assert several(it, [b"x", b"", b"", b""]).statuses() == [500, 500, 200, 200]


def test_single_events_and_batches_of_one_function_do_not_mix(tmp_path: Path) -> None:
    other = '[[function.f.trigger]]\nsource = "mem"\npath = "/single"\n'
    code = """
    def handler(context, event):
        return "list of %d" % len(event) if isinstance(event, list) else "single"
    """
    for way in WAYS:
        folder = tmp_path / way
        folder.mkdir()
        with rig(folder, way, code, size=2, more=other) as it:
            settled = Settled()
            for path in ("/f", "/single", "/f", "/single"):
                it.deliver(path, b"", settled)
            it.until(lambda settled=settled: len(settled.outcomes) == 4)  # type: ignore[misc]  # bound at once
            assert sorted(settled.bodies()) == [b"list of 2", b"list of 2", b"single", b"single"], way


def test_the_inbox_policy_holds_for_events_that_wait_for_their_batch(tmp_path: Path) -> None:
    code = "import threading\ngo = threading.Event()\ndef handler(context, events):\n    go.wait(20)\n    return 'ok'"
    more = 'inbox = { size = 4, when_full = "drop-oldest" }'
    with rig(tmp_path, "thread", code, size=2, more=more) as it:
        settled = Settled()
        for number in range(9):
            it.deliver("/f", b"%d" % number, settled)
        it.until(lambda: len(settled.outcomes) == 5)
        assert settled.statuses() == [503] * 5
        it.processor.functions["f"].handler.__globals__["go"].set()
        it.until(lambda: len(settled.outcomes) == 9 or it.trigger("f").pending < 2)
        assert it.trigger("f").shed == {"drop-oldest": 5} and it.balanced()


def test_a_suspended_function_turns_its_batches_away(tmp_path: Path) -> None:
    code = "def init_context(context):\n    raise OSError('no')\ndef handler(context, events):\n    pass"
    with rig(tmp_path, "thread", code, size=2) as it:
        it.until(lambda: it.processor.functions["f"].suspended)
        assert several(it, [b"", b""]).statuses() == [503, 503]
        assert it.balanced()


def test_records_of_a_batch_go_by_its_first_event(tmp_path: Path) -> None:
    for way in WAYS:
        folder = tmp_path / way
        folder.mkdir()
        with rig(folder, way, ECHO, size=2) as it:
            it.deliver("/f", b"", None, id="first")
            it.deliver("/f", b"", None, id="second")
            it.until(lambda it=it: "batch of 2" in it.records.text())  # type: ignore[misc]  # bound at once
            assert next(record[6] for record in it.records.records if record[3] == "batch of 2") == "first"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("change", ["while events: events.pop()", "events.reverse()", "events.append(events[0])"])
def test_what_a_handler_makes_of_its_list_changes_nothing_for_the_events(tmp_path: Path, way: str, change: str) -> None:
    code = f"""
    def handler(context, events):
        answers = [context.Response(body=event.body) for event in events]
        {change}
        context.logger.info("changed")
        return answers
    """
    with rig(tmp_path, way, code, size=3) as it:
        assert several(it, [b"a", b"b", b"c"]).bodies() == [b"a", b"b", b"c"]
        assert it.trigger("f").handled == 3 and it.trigger("f").pending == 0 and it.balanced()
        assert next(record[6] for record in it.records.records if record[3] == "changed")
