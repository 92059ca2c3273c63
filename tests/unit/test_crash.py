"""The verdict on the end of a process, the reports that are kept, and who is suspended for how long."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge.supervision import crash
from nuclio_edge.supervision.crash import CRASHED, EXITED, FROZE, KEPT, KILLED, LONGEST, MEMORY, POWER, End, judge, keep
from nuclio_edge.supervision.slots import Left, Slots, set_event, set_name, start_of
from nuclio_edge.supervision.suspects import Suspects, kills_for_memory
from nuclio_edge.testing import make_event

if TYPE_CHECKING:
    from pathlib import Path

BOOT = "0000beef"
SEGFAULT = """Fatal Python error: Segmentation fault

Current thread 0x00007f3d3ffff6c0 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "{file}", line 5 in handler
  File "/site-packages/nuclio_edge/workers/threads.py", line 201 in serve

Thread 0x00007f3d5a1ff740 (most recent call first):
  File "/f/other.py", line 9 in handler
"""
NAMES = ("a", "b")


class Spec:
    """A function's table, as far as the verdict reads it."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.path = file.rpartition("/")[0]


FUNCTIONS: Any = {"a": Spec("/f/a.py"), "b": Spec("/g/b.py"), "other": Spec("/f/other.py")}


def left(*running: str, boot: str = BOOT, kills: int = 4, note: str = "") -> Left:
    return Left(boot, kills, note, [(name, f"id-{name} /path") for name in running])


def verdict(report: str, rows: Left | None, kills: int = 4, before: dict[str, int] | None = None) -> End:
    return judge(report, rows, FUNCTIONS, BOOT, kills, before or {})


def test_a_crash_is_that_of_the_function_in_the_thread_that_crashed_not_of_the_others() -> None:
    end = verdict(SEGFAULT.format(file="/g/b.py"), left("other", "b"))
    assert (end.kind, end.what) == (CRASHED, "crashed: Segmentation fault")
    assert (end.culprit, end.event) == ("b", "id-b /path")
    assert end.why == "its code was running in the thread that crashed"
    assert verdict(SEGFAULT.format(file="/g/deep/x.py"), left("other", "b")).why.startswith("its folder's code")


def test_a_crash_in_a_thread_of_nobody_is_laid_to_the_one_that_was_running_if_there_was_one() -> None:
    nobody = SEGFAULT.format(file="/lib/x.py")
    assert verdict(nobody, left("a")).why == "nothing else was running"
    assert verdict(nobody, left("a", "b")).culprit == "a"
    assert verdict(nobody, left()).culprit is None
    assert verdict(nobody, None).culprit is None


def test_who_supervises_the_process_and_ended_it_brings_nobody_under_suspicion() -> None:
    aborted = SEGFAULT.format(file="/lib/x.py").replace("Segmentation fault", "Aborted")
    end = verdict(aborted, left("a", note="systemd was not told for: a defect"))
    assert end.culprit is None
    assert "a defect" in end.what
    assert verdict(aborted, left("a")).culprit == "a"
    assert verdict(SEGFAULT.format(file="/g/b.py").replace("Segm", "Abort"), left("b", note="x")).culprit == "b"


def test_memory_that_ran_out_is_told_from_a_kill_by_the_kernels_count() -> None:
    assert verdict("", left("a"), kills=4).kind == KILLED
    assert verdict("", left("a"), kills=5).kind == MEMORY
    assert verdict("", left("a", kills=-1), kills=-1).kind == KILLED
    assert kills_for_memory() >= -1


def used_by(*files: str) -> str:
    """Notes of who used the processor, one a second of its time."""
    return "".join(f'Stack (most recent call first):\n  File "{file}", line 3 in handler\n' for file in files)


def test_of_several_that_ran_when_memory_ran_out_it_is_the_one_that_used_the_processor_most() -> None:
    report = used_by("/f/a.py", "/g/b.py", "/lib/loop.py", "/g/b.py", "/f/a.py", "/g/b.py", "/f/a.py", "/g/b.py")
    end = verdict(report, left("a", "b"), kills=5)
    assert (end.kind, end.culprit, end.event) == (MEMORY, "b", "id-b /path")
    assert end.why == "its code used the processor most"
    assert crash.text_of(end).endswith(report)
    assert verdict(report, left("a", "b"), kills=5, before={"a": 1}).culprit == "b"
    assert verdict(used_by("/g/deep/x.py"), left("a", "b"), kills=5).why == "its folder's code used the processor most"
    mixed = used_by("/f/a.py", "/f/a.py", "/g/b.py", "/g/deep/x.py", "/g/deep/y.py")
    assert verdict(mixed, left("a", "b"), kills=5).why == "its code used the processor most"
    assert verdict(mixed, left("a", "b"), kills=5).culprit == "b"


def test_who_used_the_processor_is_no_evidence_of_who_is_not_running_any_more_nor_of_a_kill_from_outside() -> None:
    assert verdict(used_by("/g/b.py"), left("a", "other"), kills=5).why == "it began last"
    assert verdict(used_by("/lib/loop.py"), left("a", "b"), kills=5).why == "it began last"
    assert verdict(used_by("/f/other.py"), left("b", "a"), kills=5).culprit == "b"  # a is in the folder of the other
    assert verdict(used_by("/f/a.py"), left("a"), kills=5).why == "nothing else was running"
    assert verdict(used_by("/g/b.py"), left("a", "b"), kills=4).why == "it began last"


def test_of_several_without_evidence_it_is_rather_the_one_that_was_suspected_the_last_time() -> None:
    assert verdict("", left("a", "b")).why == "it began last"
    end = verdict("", left("a", "b"), before={"b": 1})
    assert (end.culprit, end.why) == ("b", "it was running the last time, too")


def test_what_is_left_of_another_boot_is_no_evidence() -> None:
    end = verdict("", left("a", boot="0000cafe"))
    assert (end.kind, end.culprit, end.running) == (POWER, None, [])
    assert verdict("", None).kind == POWER


def test_an_exit_is_that_of_the_code_that_called_it() -> None:
    stack = 'os._exit(3)\nStack (most recent call first):\n  File "/g/b.py", line 3 in handler\n'
    end = verdict(stack, left("a", "b"))
    assert (end.kind, end.what, end.culprit) == (EXITED, "was ended by os._exit(3)", "b")
    notes = 'Stack (most recent call first):\n  File "/f/a.py", line 3 in handler\n'  # of an earlier second
    assert verdict(notes + stack, left("a", "b")).culprit == "b"


def test_a_freeze_is_that_of_who_used_the_processor() -> None:
    notes = 'Stack (most recent call first):\n  File "/f/a.py", line 3 in handler\n'
    end = verdict(notes + "Timeout (0:00:06)!\n", left("b", "a"))
    assert (end.kind, end.culprit) == (FROZE, "a")


@given(st.text(max_size=300), st.booleans())
def test_whatever_is_in_the_report_there_is_a_verdict(text: str, with_rows: bool) -> None:
    end = verdict(text, left("a", "b") if with_rows else None)
    assert end.culprit in (None, "a", "b")
    assert crash.text_of(end)


@given(st.binary(max_size=21_000))
def test_whatever_is_in_the_mapping_it_can_be_read(content: bytes) -> None:
    slots = Slots("")
    slots._map[: min(len(content), len(slots._map))] = content[: len(slots._map)]
    slots.left()
    slots._map[:4] = b"NE2\0"
    found = slots.left()
    assert found is not None
    assert all(name.isprintable() and event.isprintable() for name, event in found.running)


def test_a_row_says_which_event_by_its_id_and_path_and_a_new_function_takes_it_back() -> None:
    slots = Slots("")
    slots.begin(BOOT, 0)
    row = slots.take()
    set_name(row, "a")
    start_of(row)[0] = 1
    event = make_event(b"x", topic="t/1")
    set_event(row, event)
    assert slots.left().running == [("a", f"{event.id} t/1")]  # type: ignore[union-attr]  # it was begun
    event.path = "y" * 500 + "\n"
    set_event(row, event)
    assert slots.left().running[0][1].endswith("y")  # type: ignore[union-attr]  # as above
    set_event(row, [event])  # a batch
    assert slots.left().running == [("a", "")]  # type: ignore[union-attr]  # as above
    set_event(row, event)
    set_name(row, "b")
    assert slots.left().running == [("b", "")]  # type: ignore[union-attr]  # as above


def test_the_last_three_reports_are_kept_and_none_grows_beyond_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "crash.last.txt"
    for number in range(5):
        keep(str(path), End(CRASHED, f"crashed {number}", "x" * 2 * LONGEST, [("a", "id /p")]))
    kept = sorted(tmp_path.iterdir())
    assert [one.name for one in kept] == ["crash.last.2.txt", "crash.last.3.txt", "crash.last.txt"]
    assert len(kept) == KEPT
    assert [one.read_text().partition("process ")[2][:9] for one in kept] == ["crashed 3", "crashed 2", "crashed 4"]
    assert all(one.stat().st_size == LONGEST for one in kept)
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o600 for one in kept)


def test_proof_suspends_for_a_minute_and_twice_as_long_each_time_up_to_an_hour(tmp_path: Path) -> None:
    pauses = []
    for _ in range(8):
        end = verdict(SEGFAULT.format(file="/g/b.py"), left("b"))
        pauses.append(Suspects(str(tmp_path)).convict(end) // 60_000)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    suspects = Suspects(str(tmp_path))
    assert suspects.before() == {"b": 8}
    suspects.clear()
    assert not list(tmp_path.iterdir())


def test_kills_in_a_row_suspend_from_the_third_on_and_a_run_without_it_ends_the_row(tmp_path: Path) -> None:
    def kill(*running: str) -> int:
        suspects = Suspects(str(tmp_path))
        return suspects.convict(verdict("", left(*running), before=suspects.before()))

    assert [kill("a", "b"), kill("b", "a"), kill("a"), kill("a")] == [0, 0, 1000, 2000]
    assert kill("b") == 0
    assert [kill("a"), kill("a"), kill("a")] == [0, 0, 1000]
    assert [kill("a") for _ in range(9)][-1] == 60_000


def test_the_device_that_went_down_proves_nothing(tmp_path: Path) -> None:
    assert Suspects(str(tmp_path)).convict(verdict("", None)) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ends": 3, "kills": {}}', '{"ends": {"a": "x"}, "kills": {}}', "\0"])
def test_a_damaged_list_of_suspects_suspects_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "suspects.json").write_text(text)
    suspects = Suspects(str(tmp_path))
    assert suspects.names() == set()
    assert suspects.convict(verdict("", left("a"), kills=9)) == 60_000
    assert json.loads((tmp_path / "suspects.json").read_text()) == {"ends": {"a": 1}, "kills": {}}


def test_a_list_that_cannot_be_written_suspends_all_the_same_and_says_why() -> None:
    suspects = Suspects("/proc/self")
    assert suspects.convict(verdict("", left("a"), kills=9)) == 60_000
    assert suspects.trouble is not None
