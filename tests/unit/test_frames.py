"""Frames between the processor and its worker processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge.workers.frames import CALL, FrameError, Reader, frame, parted, two

FRAMES = st.lists(st.tuples(st.integers(0, CALL), st.binary(max_size=50)))


@given(FRAMES, st.integers(1, 20))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(frames: list[tuple[int, bytes]], step: int) -> None:
    stream = b"".join(frame(kind, content) for kind, content in frames)
    reader = Reader()
    got = [one for at in range(0, len(stream), step) for one in reader.feed(stream[at : at + step])]
    assert got == frames


def test_good_frames_before_a_bad_one_are_still_given() -> None:
    frames = Reader().feed(frame(1, b"good") + b"x" * 100)
    assert next(frames) == (1, b"good")
    with pytest.raises(FrameError):
        next(frames)


@given(st.binary(max_size=64))
def test_any_bytes_are_frames_or_a_frame_error(data: bytes) -> None:
    try:
        frames = list(Reader().feed(data))
        for _, content in frames:
            parted(content)
    except FrameError:
        pass


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_two_parts_come_apart_again(first: bytes, second: bytes) -> None:
    assert parted(b"".join(two(first, second))) == (first, second)
