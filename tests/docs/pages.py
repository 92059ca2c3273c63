"""The blocks of a page that are files: their first line is a comment with the name."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```(\w+)\n# ([\w./-]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def files(page: str) -> dict[str, str]:
    """Name -> text of the files on a page; comments of the first line included, so that line numbers fit."""
    found: dict[str, str] = {}
    for _, name, text in _BLOCK.findall((DOCS / page).read_text()):
        assert name not in found, f"{page} has two files named {name}"
        found[name] = f"# {name}\n{text}"
    return found


def write_out(page: str, folder: Path) -> None:
    """Put the files of a page into a folder."""
    for name, text in files(page).items():
        (folder / name).write_text(text)


def tables(page: str) -> list[list[list[str]]]:
    """The tables of a page, as rows of cells without their headings."""
    made: list[list[list[str]]] = []
    previous = False
    for line in (DOCS / page).read_text().splitlines():
        row = line.startswith("|")
        if row and not previous:
            made.append([])
        if row:
            made[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))])
        previous = row
    return [table[2:] for table in made]
