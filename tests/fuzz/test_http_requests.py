"""The fuzz targets, for a bounded number of inputs; for longer by hand, with `-max_total_time=3600`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import memory

SEEDS = [
    b"\0GET / HTTP/1.1\r\nHost: h\r\n\r\nPOST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
    b"\1\0\5POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"\2\0\1\0\2GET http://h/x HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nUpgrade: h2c\r\n\r\n",
]
DICTIONARY = (
    '"\\x0d\\x0a"\n"HTTP/1.1"\n"Host: h"\n"Content-Length: "\n"Transfer-Encoding: chunked"\n"0\\x0d\\x0a\\x0d\\x0a"\n'
)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine")
@pytest.mark.parametrize("target", ["http_requests.py"])
def test_no_input_breaks_the_laws_of_a_target(target: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS):
        (corpus / f"{number}").write_bytes(seed)
    words = tmp_path / "words"
    words.write_text(DICTIONARY)
    done = subprocess.run(
        [
            sys.executable, str(Path(__file__).with_name(target)), "-runs=20000", "-seed=1",
            "-max_total_time=15", "-max_len=2000", memory.limit(), f"-dict={words}",
            f"-artifact_prefix={tmp_path}/", str(corpus),
        ],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr
