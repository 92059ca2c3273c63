"""Ports and buses that a manifest names as its board does: a name that the board does not have is told at once."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.manifest.problems import Report
    from nuclio_edge.manifest.sources import Sources


def check_ports(sources: Sources, board_id: Any, report: Report) -> None:
    """Report what is no port of the board; where nothing is known of the board, only its kernel can tell."""
    named = [
        (name, key, kind, port)
        for name in (*sources.specs, *sources.bindings)
        for key, kind, port in sources.board_ports(name)
        if not report.tells_of(("source", name, key))
    ]
    if not named or not isinstance(board_id, str):  # that is reported where it stands
        return
    from nuclio_edge import board
    from nuclio_edge.board_detect import GENERIC
    from nuclio_edge.errors import UnknownBoardError
    from nuclio_edge.manifest.problems import listed, quote, suggest

    for name, key, _, port in named:
        if port.startswith("sim:") and board_id != "sim":
            hint = 'simulated ports and sensors need board = "sim" in [device]'
            report.error(("source", name, key), "E301", f"{board_id} has no {quote(port)}", hint)
    if board_id == GENERIC:
        return
    try:
        profile = board.load(board_id)
    except UnknownBoardError:
        return  # reported where the board is named
    for name, key, kind, port in named:
        if port.startswith("sim:"):
            continue
        there = getattr(profile, kind)
        if port not in there:
            hint = suggest(port, there) or (f"there is {listed(there)}" if there else "give its path")
            report.error(("source", name, key), "E301", f"{board_id} has no {kind} port named {quote(port)}", hint)
