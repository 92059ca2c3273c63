"""What every figure is given: how often to run, where to write, and the interleaving of ours and the peers."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.broker import LostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.report import Report

Found = dict[str, dict[str, list[float]]]


class Bench:
    """One run of `make bench`."""

    def __init__(self, report: Report, folder: Path, *, runs: int, quick: bool) -> None:
        self.report = report
        self.runs = runs
        self.quick = quick
        self._folder = folder
        self._number = itertools.count()

    def folder(self) -> Path:
        """A new empty folder."""
        path = self._folder / str(next(self._number))
        path.mkdir()
        return path

    def many(self, count: int) -> int:
        """`count` events, or a fifth where it must be quick: with fewer the dear first thousands would show."""
        return max(1, count // 5) if self.quick else count

    def interleave(self, variants: dict[str, Callable[[], dict[str, float]]], runs: int | None = None) -> Found:
        """Run A B C A B C …; for each variant its measures by name, one value a run.

        A variant that fails is reported as not measured and left out.
        """
        found: Found = {name: {} for name in variants}
        for _ in range(runs or self.runs):
            for name, measure in variants.items():
                if name not in found:
                    continue
                try:
                    for key, value in measure().items():
                        found[name].setdefault(key, []).append(value)
                except (LostError, OSError, AssertionError, LookupError) as error:
                    del found[name]
                    self.report.missing(
                        name, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                    )
        return found

    def ratio(self, what: str, found: Found, ours: str, peer: str, key: str = "cpu", *, bar: float) -> None:
        """Report ours to the peer's median; says so where one of them is absent."""
        for name in (ours, peer):
            if name not in found:
                self.report.missing(what, f"there is no figure of {name}")
                return
        self.report.ratio(what, middle(found, ours, key) / middle(found, peer, key), bar=bar)


def middle(found: Found, name: str, key: str) -> float:
    """The median of one measure of one variant."""
    values = sorted(found[name][key])
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def cache() -> Path:
    """Where what was downloaded for benchmarks is kept: not in the project's folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nuclio-edge-bench"


def note(text: str) -> None:
    """A word to whoever watches."""
    print(text, file=sys.stderr, flush=True)
