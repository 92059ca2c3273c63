"""The unit of docs/supervision.md, by systemd's own judgement."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.docs.pages import DOCS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    [text] = re.findall(r"```ini\n(.*?)```", (DOCS / "supervision.md").read_text(), re.DOTALL)
    path = tmp_path / "nuclio-edge.service"
    path.write_text(text.replace("/usr/local/bin/nuclio-edge run", f"{sys.executable} -m nuclio_edge run"))
    return path


def test_systemd_takes_the_unit_without_a_word(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_is_hardened(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-500:]
