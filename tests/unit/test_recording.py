"""The recorder's file: a ring of whole records, whatever happens to its bytes."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclio_edge.core import msgpack
from nuclio_edge.delivery.stored import pack
from nuclio_edge.recorder.recording import (
    EVENT,
    OUTCOME,
    START,
    Recording,
    RecordingError,
    Ring,
    entry_parts,
    parse,
    read,
)
from nuclio_edge.sources.mqtt_event import mqtt_event

SIZE = 65536


def event_parts(number: int, body: bytes) -> tuple[bytes, ...]:
    event = mqtt_event(None, None, 0x32, b"a/b", b"", body, 1_700_000_000_000 + number)
    event.id = f"0badcafe-{number}"
    return entry_parts(number.to_bytes(8, "little"), "function.f.trigger[0]", "broker", number, pack(event))


def outcome_parts(number: int) -> tuple[bytes, ...]:
    return number.to_bytes(8, "little"), msgpack.pack({"status": 200, "n": number})


def fill(path: Path, count: int, first: int = 0, size: int = SIZE, body: int = 100) -> None:
    ring = Ring(str(path), size)
    for number in range(first, first + count):
        ring.append([(EVENT, 0, event_parts(number, b"x" * body)), (OUTCOME, 0, outcome_parts(number))])
    ring.close()


def numbers(recording: Recording) -> list[int]:
    return [int((entry.event.id or "").partition("-")[2]) for entry in recording.entries]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3000), min_size=1, max_size=8), max_size=60),
    st.integers(0, 3),
)
def test_the_newest_records_that_fit_are_there_in_their_order(batches: list[list[int]], reopen: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ring"
        ring = Ring(str(path), SIZE)
        written: list[int] = []
        for batch in batches:
            if reopen and len(written) % (reopen + 1) == 0:
                ring.close()
                ring = Ring(str(path), SIZE)
            ring.append([(EVENT, 0, event_parts(len(written) + at, b"x" * size)) for at, size in enumerate(batch)])
            written += batch
            assert path.stat().st_size == SIZE
        ring.close()
        recording = read(str(path))
        found = numbers(recording)
        # The newest, without a gap; and of those that are gone none that would have fitted twice over.
        assert found == list(range(len(written) - len(found), len(written)))
        assert (recording.lost, recording.unreadable) == (0, 0)
        kept = sum(size + 200 for size in written[len(written) - len(found) :])
        assert len(found) == len(written) or kept > SIZE - 2 * 3500
        assert [entry.event.size for entry in recording.entries] == written[len(written) - len(found) :]


def test_small_records_behind_the_last_large_one_do_not_outlive_their_time(tmp_path: Path) -> None:
    fill(tmp_path / "ring", 500)
    for number in range(500, 560):
        fill(tmp_path / "ring", 1, first=number, body=3000)
        found = numbers(read(str(tmp_path / "ring")))
        assert found == list(range(found[0], number + 1))


def test_an_event_meets_its_outcome_and_the_process_that_it_came_to(tmp_path: Path) -> None:
    ring = Ring(str(tmp_path / "ring"), SIZE)
    ring.append([(START, 0, (msgpack.pack({"device": "gw"}),)), (EVENT, 0, event_parts(1, b"a"))])
    ring.append([(OUTCOME, 0, outcome_parts(1)), (EVENT, 0, event_parts(2, b"b")), (OUTCOME, 0, outcome_parts(9))])
    ring.close()
    first, second = read(str(tmp_path / "ring")).entries
    assert first.outcome == {"status": 200, "n": 1} and first.start == {"device": "gw"}
    assert (first.function, first.trigger_name, first.came_ms) == ("f", "broker", 1)
    assert second.outcome is None
    assert read(str(tmp_path / "ring")).find("0badcafe-2")[0].event.body == b"b"


@pytest.mark.parametrize("size", [SIZE * 2, SIZE // 2])
def test_a_file_of_another_size_takes_the_newest_over(tmp_path: Path, size: int) -> None:
    fill(tmp_path / "ring", 500)
    before = numbers(read(str(tmp_path / "ring")))
    assert 100 < len(before) < 500
    fill(tmp_path / "ring", 1, first=500, size=size)
    after = numbers(read(str(tmp_path / "ring")))
    assert os.path.getsize(tmp_path / "ring") == size
    assert after == list(range(501 - len(after), 501))
    assert len(after) == (len(before) + 1 if size > SIZE else len(after)) and len(after) > 80
    assert os.listdir(tmp_path) == ["ring"]


def test_what_is_no_recording_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "ring").write_bytes(b"my diary")
    fill(tmp_path / "ring", 3)
    assert numbers(read(str(tmp_path / "ring"))) == [0, 1, 2]
    assert (tmp_path / "ring.unreadable").read_bytes() == b"my diary"


@given(st.data())
@settings(deadline=None)
def test_a_cut_anywhere_costs_the_last_records_and_no_others(data: st.DataObject) -> None:
    """A power cut tears a write: any of its pages may be old or new."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ring"
        fill(path, data.draw(st.integers(1, 300)))
        before, old = path.read_bytes(), numbers(read(str(path)))
        fill(path, data.draw(st.integers(1, 60)), first=old[-1] + 1)
        after, new = path.read_bytes(), numbers(read(str(path)))
        pages = data.draw(st.lists(st.booleans(), min_size=SIZE // 4096, max_size=SIZE // 4096))
        torn = b"".join((after if page else before)[at * 4096 : (at + 1) * 4096] for at, page in enumerate(pages))
        recording = parse(torn)
        found = numbers(recording)
        assert found == sorted(set(found))
        assert set(found) <= set(old) | set(new)
        assert {number for number in old if number in new} <= set(found) | set(range(old[-1] - 80, new[-1] + 1))
        path.write_bytes(torn)
        fill(path, 1, first=new[-1] + 1)  # the next process goes on
        assert numbers(read(str(path)))[-1] == new[-1] + 1


@given(st.data())
def test_any_damage_leaves_what_is_whole(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ring"
        fill(path, 20)
        raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(64, 4500))
        raw[at : at + data.draw(st.integers(0, 60))] = data.draw(st.binary(max_size=60))
    recording = parse(bytes(raw))
    assert numbers(recording) == sorted(set(numbers(recording)) & set(range(20)))
    for entry in recording.entries:
        assert entry.event.body == b"x" * 100


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "no recording"),
        (b"NERC", "no recording"),
        (b"\x7fELF" + bytes(100), "no recording"),
        (b"NERC\x02\x00" + bytes(100), "version 2; this release reads version 1"),
        (b"NERC\x01\x00" + bytes(100), "header is damaged"),
    ],
    ids=["nothing", "cut", "another", "version", "damaged"],
)
def test_what_is_no_recording_is_told(raw: bytes, told: str) -> None:
    with pytest.raises(RecordingError, match=told):
        parse(raw)


def test_a_copy_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    fill(tmp_path / "ring", 50)
    raw = (tmp_path / "ring").read_bytes()
    assert numbers(parse(raw[:4000])) == list(range(len(numbers(parse(raw[:4000])))))
    assert len(numbers(parse(raw[:4000]))) > 10


def test_records_of_a_later_release_are_counted_and_passed_over(tmp_path: Path) -> None:
    ring = Ring(str(tmp_path / "ring"), SIZE)
    later = list(event_parts(1, b"a"))
    later[3] = b"\x09" + later[3][1:]
    more: list[Any] = [(EVENT, 0, tuple(later)), (77, 0, (b"?",)), (OUTCOME, 0, (bytes(8), b"\xc1"))]
    ring.append([*more, (EVENT, 0, event_parts(2, b"b"))])
    ring.close()
    recording = read(str(tmp_path / "ring"))
    assert numbers(recording) == [2]
    assert recording.unreadable == 3 and recording.why.startswith("an event of version 9")
