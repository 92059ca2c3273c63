"""A strict reader of Prometheus' text exposition format 0.0.4, for tests: what a real scraper could stumble over fails.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Labels = tuple[tuple[str, str], ...]

_HELP = re.compile(r"# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) ((?:[^\\\n]|\\\\|\\n)+)")
_TYPE = re.compile(r"# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|histogram|summary|untyped)")
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)')
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|Inf)|NaN")
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}


class Family:
    """One metric: its kind, its help, and its samples by (name, labels)."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.kind = ""
        self.samples: dict[tuple[str, Labels], float] = {}

    def value(self, **labels: str) -> float:
        """The value of the one sample that has at least these labels."""
        found = list(self.values(**labels))
        assert len(found) == 1, f"{self.name}{labels}: {len(found)} samples"
        return found[0]

    def values(self, **labels: str) -> Iterator[float]:
        """The values of all samples that have at least these labels."""
        wanted = set(labels.items())
        return (value for (_, have), value in self.samples.items() if wanted <= set(have))


def parse(text: str) -> dict[str, Family]:
    """All families by name; AssertionError names what the format does not allow."""
    assert text.endswith("\n"), "the last line does not end"
    families: dict[str, Family] = {}
    family: Family | None = None
    for line in text[:-1].split("\n"):
        assert line, "an empty line"
        if line.startswith("# HELP"):
            found = _HELP.fullmatch(line)
            assert found, line
            assert found[1] not in families, f"{found[1]} comes twice: its lines have to be one group"
            family = families[found[1]] = Family(found[1], found[2])
        elif line.startswith("# TYPE"):
            found = _TYPE.fullmatch(line)
            assert found, line
            assert family is not None and found[1] == family.name, f"{found[1]}: TYPE stands by itself"
            assert not family.kind and not family.samples, f"{family.name}: TYPE stands behind its samples"
            family.kind = found[2]
        else:
            assert family is not None and family.kind, line
            _sample(family, line)
    for one in families.values():
        _check(one)
    return families


def _sample(family: Family, line: str) -> None:
    found = _SAMPLE.fullmatch(line)
    assert found, line
    name, raw, number = found.groups()
    assert name in [family.name + suffix for suffix in _SUFFIXES.get(family.kind, ("",))], f"{name} in {family.name}"
    labels: list[tuple[str, str]] = []
    at = 0
    while raw and at < len(raw):
        one = _LABEL.match(raw, at)
        assert one, line
        plain = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], one[2])
        labels.append((one[1], plain))
        assert not (one[3] and one.end() == len(raw)), f"a comma at the end: {line}"
        at = one.end()
    assert len({key for key, _ in labels}) == len(labels), f"a label comes twice: {line}"
    assert _NUMBER.fullmatch(number), f"no number: {line}"
    key = (name, tuple(sorted(labels)))
    assert key not in family.samples, f"a series comes twice: {line}"
    family.samples[key] = float(number)


def _check(family: Family) -> None:
    """What the kinds promise."""
    assert family.kind, f"{family.name} has no TYPE"
    assert family.samples, f"{family.name} has no sample"
    if family.kind == "counter":
        assert family.name.endswith("_total"), f"{family.name}: a counter is called _total"
        assert all(value >= 0 for value in family.samples.values())
    if family.kind == "histogram":
        series: dict[Labels, list[tuple[float, float]]] = {}
        for (name, labels), value in family.samples.items():
            if name.endswith("_bucket"):
                bound = dict(labels)["le"]
                rest = tuple(pair for pair in labels if pair[0] != "le")
                series.setdefault(rest, []).append((float(bound), value))
        for rest, buckets in series.items():
            bounds = [bound for bound, _ in buckets]
            counts = [count for _, count in buckets]
            assert bounds == sorted(bounds), f"{family.name}: bounds fall"
            assert counts == sorted(counts), f"{family.name}: buckets are cumulative"
            assert math.isinf(bounds[-1]), f"{family.name}: no +Inf"
            assert family.samples[f"{family.name}_count", rest] == counts[-1]
            assert (f"{family.name}_sum", rest) in family.samples
