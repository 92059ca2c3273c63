"""At a terminal: one line when the process has ended without a word of its own.

A process that a handler has frozen is ended by a thread in C, and one that crashes says nothing either: whoever sits
there would see the prompt and no more. A shell that waits for our end says it in our place. In the field there is none:
the next start says it in the log.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Its input is at its end without a line: nobody has told it that all is well. It is no child of ours: a handler may
# wait until there is none any more.
_SCRIPT = """exec 3<&0; (read -r _ <&3 && exit
if grep -aqs '^Timeout (' "$1"
then echo; echo "nuclio-edge: ended, as a handler has frozen the process: its stack is in $1; the next start names it"
else echo; echo "nuclio-edge: the process was killed or has crashed; the next start says what is known"
fi) &"""


class Obituary:
    """The shell that waits, until `close`; nothing where there is no shell. `report` is the watchdog's."""

    def __init__(self, report: str) -> None:
        reader, self._writer = os.pipe()
        try:
            actions: list[Any] = [(os.POSIX_SPAWN_DUP2, reader, 0), (os.POSIX_SPAWN_DUP2, 2, 1)]
            # In a group of its own: Ctrl-C is not meant for it.
            pid = os.posix_spawn(
                "/bin/sh", ["sh", "-c", _SCRIPT, "sh", report], os.environ, file_actions=actions, setpgroup=0
            )
            os.waitpid(pid, 0)  # what waits is its child
        except OSError:
            pass
        finally:
            os.close(reader)
        os.register_at_fork(after_in_child=self._give_up)

    def close(self) -> None:
        """The process ends by itself, and has said how; idempotent."""
        if self._writer >= 0:
            try:
                os.write(self._writer, b"\n")
            except OSError:
                pass  # somebody has ended it
            self._give_up()

    def _give_up(self) -> None:
        """Close the pipe: in a forked child, which must not keep the shell waiting."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
