"""A bounded run of every fuzzer, and all that has ever broken one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

DATA = Path(__file__).parents[1] / "data"
KEPT = DATA / "fuzz"
# A few seconds each; what a longer run finds is kept in tests/data/fuzz.
RUNS = {
    "manifest": 4_000,
    "mqtt": 4_000,
    "msgpack": 20_000,
    "decode": 60_000,
    "frames": 20_000,
    "stored": 20_000,
    "recording": 10_000,
    "records": 10_000,
}
SEEDS = {"manifest": [DATA / "good", DATA / "invalid"], "stored": [DATA / "stored"]}
BROKE = sorted(path for path in KEPT.glob("*/*") if path.is_file())


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine or this Python"
)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("target", TARGETS)
def test_a_fuzzer_finds_nothing_in_a_bounded_run(target: str, tmp_path: Path) -> None:
    seeds = [str(folder) for folder in (KEPT / target, *SEEDS.get(target, [])) if folder.is_dir()]
    options = [f"-runs={RUNS[target]}", "-seed=1", "-max_len=600", f"-artifact_prefix={tmp_path}/"]
    (tmp_path / "corpus").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", target, str(tmp_path / "corpus"), *seeds, *options],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
    )
    log = done.stderr.decode(errors="replace")
    found = next(tmp_path.glob("crash-*"), None)
    again = "" if found is None else f"\nTo be kept in tests/data/fuzz/{target}: {found.read_bytes()!r}"
    assert done.returncode == 0, log[-4000:] + again
    assert f"Done {RUNS[target]} runs" in log


@pytest.mark.parametrize("path", BROKE, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_broke_once_breaks_no_more(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())
