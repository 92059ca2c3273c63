"""The fuzz target of serial frames, for a bounded number of inputs; for longer by hand, with `-max_total_time=3600`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import memory

SERIAL = [
    bytes([way, 1, 7]) + stream
    for way, stream in enumerate(
        [
            b"one\r\ntwo\n", b"one\r\ntwo\n", b"\x01\x03\x00\x00\x00\x01\x84\x0a\x03\x04", b"/ab\r\n!0000\r\n",
            b"\xaa\xc0" + bytes(8), b"\x01\x03\x00\x00\x00\x01\x84\x0a", b"\x02\x01\x05abcd", b"\x03\0\0\0abcde",
            b"\xc0a\xdb\xdc\xdb\xddb\xc0", b"\x03ab\x01\x02c\0", b"$GPGGA,1*5E\r\n!AIVDM*00\n",
            b"\x01\x03\x00\x00\x00\x01\x84\x0a",
        ]
    )
]  # fmt: skip
WORDS = {
    "serial_frames.py": ["\\x0d\\x0a", "\\xc0", "\\xdb\\xdc", "\\x00", "$GP", "*", "!", "\\x03\\x04", "\\xaa\\xc0"],
}  # fmt: skip


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine")
@pytest.mark.parametrize(("target", "seeds"), [("serial_frames.py", SERIAL)])
def test_no_input_breaks_the_laws_of_a_target(target: str, seeds: list[bytes], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / f"{number}").write_bytes(seed)
    words = tmp_path / "words"
    words.write_text("".join(f'"{word}"\n' for word in WORDS[target]))
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
