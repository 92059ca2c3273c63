"""Which pin is whose: two sources on one pin, pins that the board does not have, lines that are not what is wanted.

Kinds that use a board's pins offer `pins`, `used_pin` and `check_uses` (registry.py). Pins are told apart by the facts
of the manifest's board: "GPIO17" and "pin 11" are one. Where nothing is known of the board it goes by the name.
"""

from __future__ import annotations

from nuclio_edge.manifest.convert import has_bad
from nuclio_edge.manifest.problems import LINE
from nuclio_edge.manifest.schema import ReportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nuclio_edge.manifest.model import FunctionSpec
    from nuclio_edge.manifest.problems import KeyPath, Report
    from nuclio_edge.manifest.sources import Sources


def check_pins(sources: Sources, functions: Mapping[str, FunctionSpec], board_id: str, report: Report) -> None:
    """Report every use of a pin that cannot be."""
    _Pins(sources, board_id, report).check(sources.with_pins(), functions)


class _Pins:
    """The pins of one manifest."""

    def __init__(self, sources: Sources, board_id: str, report: Report) -> None:
        self._sources = sources
        self._report = report
        self._board = _board(board_id)
        self._taken: dict[Any, tuple[str, KeyPath]] = {}

    def check(self, users: list[str], functions: Mapping[str, FunctionSpec]) -> None:
        """First what the sources' tables take, then what triggers and outputs want of it."""
        for name in users:
            self._check_table(name)
        for name in users:
            uses = [*_uses(name, functions), *_unusable(name, functions, self._sources)]
            self._claim_used(name, uses)
            if not has_bad(self._sources.specs[name].params):
                self._check_uses(name, [use for use in uses if not has_bad(use[2])])

    def _check_table(self, name: str) -> None:
        tables, path = self._sources.tables(name), ("source", name)
        params = self._sources.known(self._sources.specs[name].params, path)
        try:
            for key, pin, chip in tables.pins(params):
                self._claim(name, (*path, *key.split(".")), pin, chip)
            for key, message, hint in tables.check_board(params, self._board) if self._board is not None else ():
                self._report.error((*path, *key.split(".")), "E309", message, hint)
        except ReportedError:
            pass

    def _claim_used(self, name: str, uses: list[tuple[str, KeyPath, Any]]) -> None:
        tables = self._sources.tables(name)
        params = self._sources.known(self._sources.specs[name].params, ("source", name))
        for _, path, values in uses:
            try:
                pin = tables.used_pin(params, self._sources.known(values, path))
            except ReportedError:
                continue
            if pin is not None:
                self._claim(name, (*path, pin[0]), *pin[1:], shared=True)

    def _check_uses(self, name: str, uses: list[tuple[str, KeyPath, Any]]) -> None:
        tables, params = self._sources.tables(name), self._sources.specs[name].params
        by_part = {part: [use for use in uses if use[0] == part] for part in ("trigger", "output")}
        contents = [[use[2] for use in by_part[part]] for part in ("trigger", "output")]
        chip = getattr(params, "chip", None)
        for part, at, key, message, hint in tables.check_uses(params, *contents, lambda pin: self._same(pin, chip)):
            self._report.error((*by_part[part][at][1], key), "E309", message, hint)

    def _claim(self, source: str, path: KeyPath, pin: str, chip: str | None, *, shared: bool = False) -> None:
        """Take a pin for a source; `shared` with whatever that source does with it elsewhere."""
        from nuclio_edge.sources.gpio_place import place

        try:
            identity = place(pin, self._board, chip).identity()
        except LookupError as error:
            hint = f"nuclio-edge boards show {self._board.id} lists them" if self._board is not None else None
            self._report.error(path, "E310", str(error), hint)
            return
        if identity not in self._taken:
            self._taken[identity] = (source, path)
            return
        other, see = self._taken[identity]
        if not (shared and other == source):
            message = f"{pin} is already used by source.{other} (line {LINE})"
            self._report.error(path, "E204", message, see=see)

    def _same(self, pin: str, chip: str | None) -> Any:
        from nuclio_edge.sources.gpio_place import place

        try:
            return place(pin, self._board, chip).identity()
        except LookupError:
            return pin  # reported already


def _uses(name: str, functions: Mapping[str, FunctionSpec]) -> list[tuple[str, KeyPath, Any]]:
    """The triggers and outputs of a source: (part, path, contents)."""
    found: list[tuple[str, KeyPath, Any]] = []
    for function in functions.values():
        if function.disabled:
            continue
        path: KeyPath = ("function", function.name)
        found += [
            ("trigger", (*path, "trigger", trigger.index), trigger.address)
            for trigger in function.triggers
            if trigger.source == name
        ]
        found += [
            ("output", (*path, "output", at), output.params)
            for at, output in enumerate(function.outputs)
            if output.to == name
        ]
    return found


def _unusable(name: str, functions: Mapping[str, FunctionSpec], sources: Sources) -> list[tuple[str, KeyPath, Any]]:
    """The same of triggers of which something was reported."""
    off = [function.name for function in functions.values() if function.disabled]
    return [use[1:] for use in sources.unusable if use[0] == name and use[2][1] not in off]


def _board(board_id: Any) -> Any:
    """The facts of the manifest's board; None where it was reported."""
    from nuclio_edge import board
    from nuclio_edge.errors import UnknownBoardError

    try:
        return board.load(board_id) if isinstance(board_id, str) else None
    except UnknownBoardError:
        return None  # reported where the board is named
