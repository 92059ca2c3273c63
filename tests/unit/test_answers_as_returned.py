"""What a function returns goes out as it was at that moment, whatever its handler does to it afterwards."""

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
[[function.f.trigger]]
source = "mem"
path = "/f"
{batch}
"""
OUTPUT = """
[[function.f.output]]
to = "mem"
path = "/out"
"""
WAYS = ["inline", "thread", "process", "async"]
COUNT = 200
AGAIN = {
    "dict": "same",
    "nested": "{'held': same}",
    "list": "[same]",
    "tuple": "(201, same)",
    "Response": "fill(response, same)",
}
CODE = """
same = {"n": -1}
response = None

def fill(response, value):
    response.body = value
    return response

def handler(context, event):
    global response
    response = response or context.Response(None, None, "application/json", 200)
    same["n"] = int(event.raw_body)
    return RESULT
"""
STATUS = """
response = None

def handler(context, event):
    global response
    response = response or context.Response()
    response.status_code = 500 if event.raw_body == b"bad" else 200
    return response
"""


def rig(folder: Path, way: str, code: str, *, output: bool = False, batch: str = "") -> Rig:
    code = textwrap.dedent(code)
    if way == "async":
        code = code.replace("def handler", "async def handler")
    text = FUNCTION.format(isolation="thread" if way == "async" else way, batch=batch)
    return Rig(folder, MEMORY + text + (OUTPUT if output else ""), f=code)


def body(kind: str, number: int) -> bytes:
    return {"nested": b'{"held":{"n":%d}}', "list": b'[{"n":%d}]'}.get(kind, b'{"n":%d}') % number


@pytest.mark.parametrize("kind", AGAIN)
@pytest.mark.parametrize("way", WAYS)
def test_one_object_that_is_returned_again_and_again_is_sent_as_it_was_each_time(
    tmp_path: Path, way: str, kind: str
) -> None:
    with rig(tmp_path, way, CODE.replace("RESULT", AGAIN[kind]), output=True) as it:
        settled = Settled()
        for number in range(COUNT):
            it.deliver("/f", b"%d" % number, settled)
        it.until(lambda: len(settled.outcomes) == COUNT)
        expected = [body(kind, number) for number in range(COUNT)]
        assert [data for _, data in it.processor.sources["mem"].outputs] == expected
        assert settled.bodies() == expected
        assert set(settled.statuses()) == {201 if kind == "tuple" else 200}
        it.until(it.balanced)


@pytest.mark.parametrize("way", WAYS)
def test_without_anybody_to_tell_a_status_counts_as_it_was_each_time(tmp_path: Path, way: str) -> None:
    with rig(tmp_path, way, STATUS) as it:
        for number in range(COUNT):
            it.deliver("/f", b"bad" if number % 4 == 0 else b"")
        trigger = it.trigger("f")
        it.until(lambda: trigger.admitted == COUNT and not trigger.pending)
        assert (trigger.handled, trigger.failed) == (COUNT * 3 // 4, COUNT // 4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("value", "status"), [("{'a': '\\ud800'}", 500), ("{1: {2, 3}, 'b': [1]}", 200)])
def test_what_json_cannot_say_fails_its_own_event_alone_where_somebody_is_told(
    tmp_path: Path, way: str, told: bool, value: str, status: int
) -> None:
    code = f"def handler(context, event):\n    return {value} if event.raw_body == b'x' else {{'fine': 1}}\n"
    with rig(tmp_path, way, code) as it:
        settled = Settled()
        for number in range(30):
            it.deliver("/f", b"x" if number == 11 else b"", settled if told else None)
        trigger = it.trigger("f")
        it.until(lambda: trigger.admitted == 30 and not trigger.pending)
        bad = int(told and status == 500)
        assert (trigger.handled, trigger.failed) == (30 - bad, bad)
        if told:
            assert settled.statuses()[11] == status
            assert settled.bodies()[:11] == [b'{"fine":1}'] * 11


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_whose_encoding_ends_the_thread_fails_its_own_event_alone(tmp_path: Path, way: str) -> None:
    code = """
    class Bad:
        def __repr__(self):
            raise SystemExit

    def handler(context, event):
        return {"a": Bad() if event.raw_body == b"x" else 1}
    """
    with rig(tmp_path, way, code) as it:
        settled = Settled()
        for number in range(30):
            it.deliver("/f", b"x" if number == 11 else b"", settled)
        it.until(lambda: len(settled.outcomes) == 30)
        assert [number for number, status in enumerate(settled.statuses()) if status != 200] == [11]
        assert it.ask("/f") == (200, b'{"a":1}')


@pytest.mark.parametrize("way", WAYS)
def test_events_of_a_batch_still_find_their_answers(tmp_path: Path, way: str) -> None:
    code = """
    def handler(context, events):
        return [context.Response(body={"n": int(event.raw_body)}, event_id=event.id) for event in events]
    """
    with rig(tmp_path, way, code, batch='batch = { size = 4, timeout = "10ms" }') as it:
        settled = Settled()
        for number in range(8):
            it.deliver("/f", b"%d" % number, settled)
        it.until(lambda: len(settled.outcomes) == 8)
        assert sorted(settled.bodies()) == [b'{"n":%d}' % number for number in range(8)]


SHARED = {
    "dict": "shared",
    "Response": "fill(response, shared)",
    "list": "[shared]",
    "Responses": "[fill(response, shared)]",
}


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("way", WAYS)
def test_what_a_handler_of_batches_returns_again_and_again_is_sent_as_it_was_each_time(
    tmp_path: Path, way: str, kind: str
) -> None:
    code = """
    shared = {"n": -1}
    response = None

    def fill(response, value):
        response.body = value
        return response

    def handler(context, events):
        global response
        response = response or context.Response(None, None, "application/json", 200)
        shared["n"] = int(events[0].raw_body)
        return RESULT
    """.replace("RESULT", SHARED[kind])
    with rig(tmp_path, way, code, batch='batch = { size = 1, timeout = "10ms" }') as it:
        settled = Settled()
        for number in range(COUNT):
            it.deliver("/f", b"%d" % number, settled)
        it.until(lambda: len(settled.outcomes) == COUNT)
        text = b'[{"n":%d}]' if kind == "list" else b'{"n":%d}'
        assert sorted(settled.bodies()) == sorted(text % number for number in range(COUNT))


@pytest.mark.parametrize("way", WAYS)
def test_single_events_beside_batches_are_answered_as_it_was_each_time(tmp_path: Path, way: str) -> None:
    code = """
    same = {"n": -1}
    def handler(context, event):
        same["n"] = int((event[0] if isinstance(event, list) else event).raw_body)
        return same
    """
    with rig(
        tmp_path, way, code, batch='[[function.f.trigger]]\nsource = "mem"\npath = "/b"\nbatch = { size = 2 }'
    ) as it:
        settled = Settled()
        for number in range(COUNT):
            it.deliver("/f", b"%d" % number, settled)
        it.until(lambda: len(settled.outcomes) == COUNT)
        assert sorted(settled.bodies()) == sorted(b'{"n":%d}' % number for number in range(COUNT))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", ["7", "[1, 2]", "(200, {'a': 1})", "context.Response(body='x')"])
def test_whatever_is_returned_goes_to_the_outputs_though_nobody_waits(tmp_path: Path, way: str, value: str) -> None:
    code = f"def handler(context, event):\n    return {value}\n"
    with rig(tmp_path, way, code, output=True) as it:
        for _ in range(3):
            it.deliver("/f")
        it.until(lambda: it.trigger("f").handled == 3)
        body = {"7": b"7", "[1, 2]": b"[1,2]"}.get(value, b"x" if "x" in value else b'{"a":1}')
        assert [data for _, data in it.processor.sources["mem"].outputs] == [body] * 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [399, 400, 404, 500])
def test_a_status_counts_as_failed_from_400_on_whoever_is_told(tmp_path: Path, way: str, status: int) -> None:
    code = f"def handler(context, event):\n    return context.Response(status_code={status})\n"
    for settled in (Settled(), None):
        with rig(tmp_path, way, code) as it:
            for _ in range(3):
                it.deliver("/f", b"", settled)
            trigger = it.trigger("f")
            it.until(lambda: trigger.admitted == 3 and not trigger.pending)  # noqa: B023 - called at once
            assert trigger.failed == (3 if status >= 400 else 0)


@pytest.mark.parametrize("way", WAYS)
def test_a_dict_of_a_batch_is_what_it_is_without_workers(tmp_path: Path, way: str) -> None:
    code = "def handler(context, events):\n    return {'all': 1}\n"
    with rig(tmp_path, way, code, batch='batch = { size = 2, timeout = "10ms" }') as it:
        settled = Settled()
        for _ in range(2):
            it.deliver("/f", b"", settled)
        it.until(lambda: len(settled.outcomes) == 2)
        assert set(settled.statuses()) == {200}
        assert set(settled.bodies()) == {b'{"all":1}'}


SPOILS = """
class Ends(bytes):
    def __len__(self):
        raise SystemExit

def handler(context, event):
    if event.raw_body == b"x":
        event.raw_body = SPOILED
    END
"""


@pytest.mark.parametrize("spoiled", ["None", "Ends()", "5"])
@pytest.mark.parametrize("end", ["return {}", "return None", "raise ValueError", "return 500, ''"])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_handler_that_spoils_its_event_takes_no_other_along(
    tmp_path: Path, way: str, told: bool, end: str, spoiled: str
) -> None:
    with rig(tmp_path, way, SPOILS.replace("SPOILED", spoiled).replace("END", end), output=True) as it:
        settled = Settled()
        for number in range(20):
            it.deliver("/f", b"x" if number == 7 else b"y", settled if told else None)
        trigger = it.trigger("f")
        it.until(lambda: trigger.admitted == 20 and not trigger.pending)
        failed = 0 if end.endswith(("{}", "None")) else 20
        assert (trigger.handled, trigger.failed) == (20 - failed, failed)
        assert len(settled.outcomes) == (20 if told else 0)
        it.until(it.balanced)
        assert trigger.held == 0
