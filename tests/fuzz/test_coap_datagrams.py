"""libFuzzer's datagrams, for a bounded time: the rest of the fuzzing is in tests/unit/test_coap_fuzz.py."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import memory

SCRIPT = Path(__file__).parent / "coap_datagrams.py"


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python or machine"
)
@pytest.mark.timeout(120)
def test_no_input_of_libfuzzer_disturbs_the_source(tmp_path: Path) -> None:
    limits = ["-max_total_time=10", "-max_len=512", memory.limit(), f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *limits], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr
