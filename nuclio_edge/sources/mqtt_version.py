"""Which version of MQTT a broker is spoken to in: 5 first, 3.1.1 once the broker has shown that it must be."""

from __future__ import annotations

EARLY_CLOSES = 2  # closed right after a CONNECT of version 5: then 3.1.1 is tried


class Version:
    """The version of the next CONNECT, learnt as the process runs.

    A broker that has spoken version 5 once is never asked for less: it may hang up while it restarts. One that was
    found to speak 3.1.1 because it hung up on version 5 is asked for 5 once more after each connection: whatever stands
    before it (a proxy, a container's port) may have hung up while the broker was away.
    """

    def __init__(self, *, v5: bool) -> None:
        self.v5 = v5
        self._works = False
        self._early_closes = 0
        self._trying = False  # 3.1.1, because version 5 may be why the peer hangs up
        self._guessed = False  # that worked
        self._told = False

    def connected(self) -> bool:
        """A CONNECT was accepted; true when it looks for the first time as if the broker only spoke 3.1.1."""
        self._guessed, self._trying = self._trying, False
        self._works = self._works or self.v5
        new = self._guessed and not self._told
        self._told = self._told or new
        return new

    def refused(self) -> bool:
        """The broker does not speak this version; true when it shall be asked for 3.1.1 at once."""
        if not self.v5 or self._works:
            return False
        self.v5 = False
        return True

    def closed_early(self) -> None:
        """The peer hung up on a CONNECT without a word."""
        if self.v5 and not self._works:
            self._early_closes += 1

    def failed(self) -> None:
        """The attempt is over; choose the version of the next one."""
        if self._trying:
            self._trying = False
            self._early_closes = 0
            self.v5 = True
        elif self.v5 and self._early_closes >= EARLY_CLOSES:
            self._trying = True
            self.v5 = False
        elif self._guessed:
            self._guessed = False
            self.v5 = True
            self._early_closes = EARLY_CLOSES - 1
