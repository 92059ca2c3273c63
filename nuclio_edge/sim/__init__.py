"""A simulated board: pins, ports and sensors that a test, a script or a person drives, behind the sources' own code.

There is one board to a state directory, as there is one under a real processor; it stays when its sources are opened
again. `board(state_dir)` is that board for a test in the same process, the socket <state_dir>/sim.sock for everybody
else (control.py).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.sim.control import Control
    from nuclio_edge.sim.pins import SimBoard

_boards: dict[str, SimBoard] = {}
_users: dict[str, tuple[int, Control]] = {}


def board(state_dir: str) -> SimBoard:
    """The board of a processor, also before it is opened."""
    if state_dir not in _boards:
        from nuclio_edge.sim.pins import SimBoard

        _boards[state_dir] = SimBoard(folder=os.path.join(state_dir, "sim"))
    return _boards[state_dir]


def attach(host: Any) -> SimBoard:
    """The board of the processor that a source lives in; with the first source its socket is opened. On the loop."""
    found = board(host.state_dir)
    count, control = _users.get(host.state_dir, (0, None))
    if control is None:
        from nuclio_edge.sim.control import Control

        found.loop = host.loop
        control = Control(found, host)
        control.open()
    _users[host.state_dir] = (count + 1, control)
    return found


def detach(host: Any) -> None:
    """A source is closed; with the last one the socket goes."""
    count, control = _users.pop(host.state_dir)
    if count > 1:
        _users[host.state_dir] = (count - 1, control)
        return
    control.close()
    _boards[host.state_dir].loop = None
