"""When a lost connection is made again, and what the log is told of it: once for each reason in one outage.

A pause doubles from attempt to attempt up to a minute, and a random part of it is waited. Another client with our
client id is known where the broker names it (MQTT 5, 0x8E). Otherwise it is a guess, made only when it looks like
nothing else: the broker closed open connections in good order, `KICKS` in a row within a minute each, and took the
next one at once each time. A broker that restarts refuses one in between, a bad network resets or falls silent. Either
way at least half of the pause is waited, and the pause goes on to grow: two clients that throw each other out become
quiet, and a wrong guess costs seconds.
"""

from __future__ import annotations

from nuclio_edge.jitter import up_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FIRST_PAUSE_MS = 1_000
LONGEST_PAUSE_MS = 60_000
STABLE_MS = 10_000  # a connection that lasted so long has ended the series of failures
KICKS = 3
KICK_MS = 60_000
RIVAL_GONE_MS = 300_000  # a connection that lasted so long: the other client is no more
RIVAL_STEP = 2  # a rival's first pause is that of the attempt after so many failed ones: 4 s
_SAID = 32

# How a connection or an attempt ended.
CLOSED = "closed"  # by the broker, in good order
RESET = "reset"  # by a broker or network that did not wait for the end
SILENT = "silent"  # by us, as nothing came any more
FAILED = "failed"  # refused, broken off, dismissed with a reason, or never made
TAKEN = "taken"  # the broker says that another client has our client id


class Outages:
    """The outages of one source. Loop thread only; times are the loop's, in milliseconds."""

    def __init__(self, log: Any, url: str, client_id: str) -> None:
        self.attempts = 0  # connections tried since the last good one
        self._log = log
        self._url = url
        self._client_id = client_id
        self._said: set[str] = set()  # what the log has of this outage or connection
        self._connected_at = 0
        self._away_since = 0
        self._was_open = False
        self._kicks = 0
        self._rivals = 0

    def say_once(self, key: str, message: str, *pairs: Any) -> None:
        """Warn, but not twice of the same in one outage or connection."""
        if key not in self._said and len(self._said) < _SAID:
            self._said.add(key)
            self._log.warn_with(message, *pairs)

    def connected(self, now: int) -> None:
        """The broker has accepted a CONNECT."""
        self._connected_at = now

    def over(self, now: int, version: str) -> None:
        """The source is open."""
        if self._was_open:
            away = round((now - self._away_since) / 1000, 1)
            self._log.info_with("connected again", "url", self._url, "after_s", away, "attempts", self.attempts)
        else:
            self._log.info_with("connected", "url", self._url, "version", version, "attempts", self.attempts)
        self._was_open = True

    def pause(self, now: int, why: str, how: str, *, connected: bool, was_open: bool) -> int:
        """Say why the connection or the attempt is over; for how many milliseconds to wait before the next one."""
        lasted = now - self._connected_at if connected else 0
        if lasted >= STABLE_MS:
            self.attempts = 0
        if lasted >= RIVAL_GONE_MS:
            self._rivals = 0
        self._kicks = self._kicks + 1 if was_open and how == CLOSED and lasted < KICK_MS else 0
        series = self.attempts
        rival = how == TAKEN or self._kicks >= KICKS
        if how == TAKEN:
            self._rivals += 1
            series = max(series, self._rivals + RIVAL_STEP)
        elif rival:
            series = max(series, self._kicks)
            why += f", again and again: perhaps another client uses the client id {self._client_id}"
        if was_open:
            self._said.clear()
            self._away_since = now
        self.say_once(why, "the broker is away, trying again", "url", self._url, "reason", why)
        longest = min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS << min(max(series - 1, 0), 16))
        least = longest // 2 if rival else 0
        return least + up_to(longest - least)
