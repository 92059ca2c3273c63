"""A target for atheris: `python tests/fuzz/http_requests.py [libFuzzer options] [corpus]`.

Any bytes, cut anywhere: no exception but a Refusal, nothing held that grows, and what is taken is what h11 reads.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # not on every machine

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["nuclio_edge"]):
    from nuclio_edge.sources.http_strict import by_h11 as opinion_of_h11
    from nuclio_edge.sources.http_strict import by_httptools as opinion_of_httptools
    from tests.http_streams import by_h11, ours


def one(data: bytes) -> None:
    """The first bytes say where to cut, the rest is the stream."""
    count = data[0] % 4 if data else 0
    cuts = [int.from_bytes(data[1 + 2 * at : 3 + 2 * at], "big") % 2000 for at in range(count)]
    stream = data[1 + 2 * count :]
    found, status = ours(stream, opinion=opinion_of_h11)
    assert (found, status) == ours(stream, opinion=opinion_of_httptools)
    assert ours(stream, cuts, opinion_of_h11)[0] == found
    assert found == by_h11(stream)[: len(found)]


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
