"""Handlers that spoil the attributes of their event: it ends like any other, and so do those beside it."""

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
{more}
"""
WAYS = ["thread", "inline", "process", "async"]
CODE = """
class Silent:
    def __str__(self):
        raise SystemExit
    __repr__ = __str__


def handler(context, event):
    if type(event) is list:
        event[0].{name} = {value}
    else:
        event.{name} = {value}
    raise RuntimeError("no")
"""
SPOILED = [("trigger", "None"), ("trigger", "7"), ("path", "['a']"), ("path", "Silent()"), ("id", "Silent()")]


def rig(folder: Path, way: str, code: str, more: str = "") -> Rig:
    code = textwrap.dedent(code)
    if way == "async":
        code = code.replace("def handler", "async def handler")
    return Rig(folder, MEMORY + FUNCTION.format(isolation="thread" if way == "async" else way, more=more), f=code)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "value"), SPOILED)
def test_it_is_tried_again_said_and_settled(tmp_path: Path, way: str, name: str, value: str) -> None:
    retry = 'retry = { attempts = 2, backoff = "1ms" }'
    with rig(tmp_path, way, CODE.format(name=name, value=value), retry) as it:
        assert [it.ask("/f")[0] for _ in range(2)] == [500, 500]
        trigger = it.trigger("f")
        assert (trigger.failed, trigger.retried, trigger.pending) == (2, 2, 0) and it.balanced()
        said = [record[4] for record in it.records.records if record[3] == "failed"]
        assert [pairs[3] for pairs in said] == ["mem", "mem"]
        assert it.processor.exit_code == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "value"), SPOILED)
def test_the_others_of_its_batch_are_settled(tmp_path: Path, way: str, name: str, value: str) -> None:
    settled = Settled()
    with rig(tmp_path, way, CODE.format(name=name, value=value), 'batch = { size = 3, timeout = "20s" }') as it:
        for _ in range(3):
            it.deliver("/f", b"", settled)
        it.until(lambda: len(settled.outcomes) == 3)
        assert settled.statuses() == [500] * 3
        assert it.trigger("f").failed == 3 and it.trigger("f").pending == 0 and it.balanced()
        assert it.processor.exit_code == 0


@pytest.mark.parametrize("way", WAYS)
def test_an_output_that_raises_is_a_defect_that_is_said_and_the_events_are_settled(tmp_path: Path, way: str) -> None:
    def broken(response: object, event: object) -> None:
        raise ValueError("broken output")

    batch = 'batch = { size = 3, timeout = "20s" }'
    for more in ("", batch):
        folder = tmp_path / str(len(more))
        folder.mkdir()
        settled = Settled()
        with rig(folder, way, "def handler(context, event):\n    return 'ok'", more) as it:
            it.processor.functions["f"].outputs = (broken,)
            for _ in range(3):
                it.deliver("/f", b"", settled)
            it.until(lambda settled=settled: len(settled.outcomes) == 3)  # type: ignore[misc]  # bound at once
            assert settled.statuses() == [200] * 3
            assert it.trigger("f").handled == 3 and it.trigger("f").pending == 0 and it.balanced()
            assert "broken output" in it.records.text()
