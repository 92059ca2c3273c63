"""What the log says of an event that has failed by the status of its answer."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

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
RETRY = 'retry = { attempts = 2, backoff = "1ms" }'


def rig(folder: Path, way: str, answer: str, more: str = "") -> Rig:
    code = textwrap.dedent(f"""
    def handler(context, event):
        return {answer}
    """)
    if way == "async":
        code = code.replace("def handler", "async def handler")
    isolation = "thread" if way == "async" else way
    return Rig(folder, MEMORY + FUNCTION.format(isolation=isolation, more=more), f=code)


def said(it: Rig, settled: Settled | None = None) -> dict[str, dict[str, Any]]:
    """Have an event fail; what was said then: message -> its pairs."""
    it.deliver("/f", b"", settled)
    it.until(lambda: it.trigger("f").failed, "the failure")
    records = [record for record in it.records.records if record[3].startswith("failed")]
    return {record[3]: dict(zip(record[4][::2], record[4][1::2], strict=True)) for record in records}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        ("context.Response(status_code=400, body='no temperature')", 400, "no temperature"),
        ("(404, {'no': 'such'})", 404, '{"no":"such"}'),
        ("context.Response(status_code=500)", 500, None),
    ],
)
def test_its_status_and_what_the_answer_says_whether_somebody_gets_it_or_not(
    tmp_path: Path, way: str, answer: str, status: int, body: str | None, answered: bool
) -> None:
    with rig(tmp_path, way, answer) as it:
        pairs = said(it, Settled() if answered else None)["failed"]
        assert (pairs["status"], pairs.get("body")) == (status, body)


@pytest.mark.parametrize("way", WAYS)
def test_both_of_each_attempt(tmp_path: Path, way: str) -> None:
    with rig(tmp_path, way, "(503, 'the pump is off')", RETRY) as it:
        for pairs in said(it).values():
            assert (pairs["status"], pairs["body"]) == (503, "the pump is off")
        assert set(said(it)) == {"failed, will be tried again", "failed"}


def test_no_more_than_the_beginning_and_no_secret_not_even_a_part_of_it(tmp_path: Path) -> None:
    with rig(tmp_path, "thread", "(400, 'x' * 195 + 'open-sesame' + 'y' * 1000)") as it:
        it.processor.log.mask("open-sesame")
        assert said(it)["failed"]["body"] == "x" * 195 + "***yy…"


def test_of_an_exception_its_text(tmp_path: Path) -> None:
    with rig(tmp_path, "thread", "1 // 0", RETRY) as it:
        for pairs in said(it).values():
            assert pairs["status"] == 500 and "ZeroDivisionError" in pairs["error"] and "body" not in pairs
