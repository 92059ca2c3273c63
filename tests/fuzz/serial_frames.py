"""A target for atheris: `python tests/fuzz/serial_frames.py [libFuzzer options] [corpus]`.

Any bytes, cut anywhere, in every framing: nothing raises, the cuts change nothing, what is held and
what comes out is bounded.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # not on every machine

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["nuclio_edge.sources"]):
    from nuclio_edge.sources.serial_params import PARAMS, framing
from nuclio_edge.testing.rig import filled

LIMIT = 64
WAYS: list[dict[str, Any]] = [
    {"framing": "line"},
    {"framing": "line", "keep_framing": True},
    {"framing": "delimiter", "delimiter": "\x03\x04", "checksum": "modbus"},
    {"framing": "delimiter", "start": "/", "delimiter": "!", "trailer": 6, "keep_framing": True, "checksum": "p1"},
    {"framing": "fixed", "size": 10, "start": "\xaa\xc0"},
    {"framing": "fixed", "size": 8, "checksum": "modbus"},
    {"framing": "length-prefixed", "length": "u8", "start": "\x02", "length_at": 1, "length_adds": -1},
    {"framing": "length-prefixed", "length": "u32le", "length_adds": 2, "checksum": "modbus"},
    {"framing": "slip"},
    {"framing": "cobs"},
    {"framing": "nmea"},
    {"framing": "gap", "checksum": "modbus"},
]


def parsed(way: dict[str, Any], pieces: list[bytes]) -> tuple[list[bytes], list[str], bytes]:
    """(frames, what was rejected, what is left) of a stream in pieces."""
    rejected: list[str] = []
    parser = framing(filled(PARAMS, {"device": "/dev/null", "max_frame": LIMIT, **way}), rejected.append)
    frames: list[bytes] = []
    for piece in pieces:
        frames += parser.feed(piece)
        assert len(parser.tail) <= 2 * LIMIT
    left = bytes(parser.tail)
    frames += parser.silence()
    return frames, rejected, left


def one(data: bytes) -> None:
    """The first bytes say which framing and where to cut, the rest is the stream."""
    way = WAYS[data[0] % len(WAYS)] if data else WAYS[0]
    count = data[1] % 4 if len(data) > 1 else 0
    stream = data[2 + count :]
    cuts = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in data[2 : 2 + count])})
    pieces = [stream[begin:end] for begin, end in pairwise(cuts)]
    whole = parsed(way, [stream])
    assert parsed(way, pieces) == whole
    frames, rejected, _ = whole
    assert sum(map(len, frames)) <= len(stream) * 2
    assert len(frames) + len(rejected) <= len(stream) + 1


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
