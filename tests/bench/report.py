"""The rows of a run: what was measured, the bar, and whether it is met; as text or JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class Report:
    """Collects rows and prints each as it comes (to stderr where JSON is wanted)."""

    def __init__(self, *, as_json: bool) -> None:
        self.rows: list[dict[str, Any]] = []
        self._as_json = as_json
        self._figure = ""

    def figure(self, title: str) -> None:
        """Begin a figure."""
        self._figure = title
        self.say(f"\n{title}")

    def say(self, text: str) -> None:
        """A line for the reader that is no result."""
        print(text, file=sys.stderr if self._as_json else sys.stdout, flush=True)

    def value(
        self, name: str, values: Sequence[float], unit: str, *, bar: float | None = None, note: str = ""
    ) -> float:
        """A measured value, the median of `values`; with `bar` it must not be greater. Returns the median."""
        middle = median(values)
        row: dict[str, Any] = {"what": name, "median": middle, "min": min(values), "max": max(values), "unit": unit}
        row["runs"] = len(values)
        text = f"  {name:<52} {_short(middle):>9} {unit:<10} ({_short(min(values))} … {_short(max(values))})"
        self._add(row, text, middle, bar, note)
        return middle

    def ratio(self, name: str, value: float, *, bar: float | None = None, note: str = "") -> None:
        """How many times the peer's median ours is; must not exceed `bar`."""
        text = f"  {name:<52} {_short(value):>9} {'x':<10}"
        if value and value < 1:
            text += f" (1/{1 / value:.1f})"
        self._add({"what": name, "ratio": value}, text, value, bar, note)

    def difference(self, name: str, value: float, unit: str, *, bar: float | None = None, note: str = "") -> None:
        """A difference of medians that must not exceed `bar`, where there is one."""
        self._add(
            {"what": name, "difference": value, "unit": unit},
            f"  {name:<52} {_short(value):>9} {unit}",
            value,
            bar,
            note,
        )

    def missing(self, name: str, why: str) -> None:
        """What could not be measured, and why."""
        self.rows.append({"figure": self._figure, "what": name, "not_measured": why})
        self.say(f"  {name:<52} not measured: {why}")

    def _add(self, row: dict[str, Any], text: str, value: float, bar: float | None, note: str) -> None:
        row = {"figure": self._figure, **row}
        if bar is not None:
            row["bar"], row["ok"] = bar, value <= bar
            text += f"   bar <= {_short(bar)}: {'ok' if value <= bar else 'MISSED'}"
        if note:
            row["note"] = note
            text += f"   {note}"
        self.rows.append(row)
        self.say(text)

    def close(self) -> int:
        """Print the sum; 1 if a bar is missed."""
        barred = [row for row in self.rows if "bar" in row]
        missed = [row for row in barred if not row["ok"]]
        absent = [row for row in self.rows if "not_measured" in row]
        self.say(f"\n{len(barred) - len(missed)} of {len(barred)} bars met, {len(absent)} not measured")
        for row in missed:
            self.say(f"  missed: {row['figure']}: {row['what']}")
        if self._as_json:
            print(json.dumps({"machine": machine(), "rows": self.rows}, indent=1))
        return 1 if missed else 0


def machine() -> dict[str, Any]:
    """What it ran on, and how busy that was."""
    return {
        "python": platform.python_version(), "implementation": platform.python_implementation(),
        "machine": platform.machine(), "system": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg(),
    }  # fmt: skip


def _short(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
