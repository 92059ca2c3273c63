"""Run one fuzzer: `python -m tests.fuzz TARGET [CORPUS FOLDER …] [-runs=N] [-seed=N]`, libFuzzer's options."""

from __future__ import annotations

import sys

import atheris


def main() -> None:
    """Fuzz until an input breaks the target, which is then written to crash-… in the current folder."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    target = sys.argv.pop(1)
    with atheris.instrument_imports(include=["nuclio_edge", "tomli"]):
        from tests.fuzz.targets import TARGETS
    if target not in TARGETS:
        sys.exit(f"no target is called {target}; there are {', '.join(TARGETS)}")
    atheris.Setup(sys.argv, TARGETS[target])
    atheris.Fuzz()


main()
