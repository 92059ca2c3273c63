"""A simulated board driven from outside: JSON lines over the unix socket <state_dir>/sim.sock.

{"set": {"GPIO17": 1}}             drive pins; null lets go      -> {"ok": true}
{"get": ["GPIO17"]}                pins, or true: those in use   -> {"pins": {"GPIO17": {"level": 1, …}}}
{"watch": ["GPIO27"]}              pins, or true: all            -> {"ok": true}, then {"pin": "GPIO27", "level": 1}
{"connect": ["GPIO27", "GPIO17"]}  a wire between two pins       -> {"ok": true}

What cannot be done is answered by {"error": "why"}. Everything here runs on the processor's loop. Clients, lines and
what waits for a slow reader are bounded; a watcher that lost changes is told {"missed": count}.
"""

from __future__ import annotations

import os
import socket

from nuclio_edge.core.port import json_dumps, json_loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.sim.pins import SimBoard, SimPin

SOCKET = "sim.sock"
CLIENTS = 16
LONGEST = 65_536  # bytes of a line, and of what waits for a reader


class Control:
    """The socket of one simulated board; `verbs` are what it understands: others may add theirs."""

    def __init__(self, board: SimBoard, host: Any) -> None:
        self.path = os.path.join(host.state_dir, SOCKET)
        self.clients: list[Client] = []
        self.refused = 0
        self.verbs: dict[str, Callable[[Client, Any], dict[str, Any]]] = {
            "set": self._set, "get": self._get, "watch": self._watch, "connect": self._connect,
        }  # fmt: skip
        self._board = board
        self._loop = host.loop
        self._log = host.log
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Listen; a socket that cannot be made is said, and the board works without."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            if os.path.exists(self.path):
                os.unlink(self.path)  # of a process that was killed: the state directory is ours alone
            listening.bind(self.path)
            os.chmod(self.path, 0o600)
            listening.listen(CLIENTS)
        except OSError as error:
            listening.close()
            self._log.warn_with("the simulated board has no socket", "path", self.path, "reason", str(error))
            return
        listening.setblocking(False)
        self._socket = listening
        self._loop.add(listening, self._accept)
        self._board.watchers.append(self._changed)

    def close(self) -> None:
        """Hang up on everybody."""
        if self._socket is None:
            return
        self._board.watchers.remove(self._changed)
        for client in list(self.clients):
            client.close()
        self._loop.remove(self._socket)
        self._socket.close()
        self._socket = None
        try:
            os.unlink(self.path)
        except OSError:
            pass  # the state directory went first

    def _accept(self, _mask: int) -> None:
        if self._socket is None:
            return
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return  # it hung up at once
        if len(self.clients) >= CLIENTS:
            self.refused += 1
            connection.close()
            return
        self.clients.append(Client(self, connection, self._loop))

    def _changed(self, pin: SimPin) -> None:
        """A level or duty changed, on whichever thread drove it."""
        said = about(pin)
        self._loop.post(lambda: self._tell(pin.name, said))

    def _tell(self, name: str, said: dict[str, Any]) -> None:
        for client in list(self.clients):
            client.changed(name, said)

    # -- verbs --------------------------------------------------------------------------------------------------------

    def _set(self, _client: Client, pins: Any) -> dict[str, Any]:
        wanted = [(self._board.pin(name), level) for name, level in dict(pins).items()]
        for _, level in wanted:
            if level not in (0, 1, None):
                raise ValueError(f"{level!r} is no level: 0, 1 or null")
        for pin, level in wanted:
            pin.drive(level)
        return {"ok": True}

    def _get(self, _client: Client, names: Any) -> dict[str, Any]:
        if names is True:
            pins = [pin for pin in self._board.pins if pin.consumer or pin.duty is not None]
        else:
            pins = [self._board.pin(name) for name in ([names] if isinstance(names, str) else names)]
        return {"pins": {pin.name: about(pin) for pin in pins}}

    def _watch(self, client: Client, names: Any) -> dict[str, Any]:
        wanted = [names] if isinstance(names, str) else names
        client.watched = None if names is True else {self._board.pin(name).name for name in wanted}
        client.watches = True
        return {"ok": True}

    def _connect(self, _client: Client, names: Any) -> dict[str, Any]:
        one, other = names
        self._board.pin(one).connect(self._board.pin(other))
        return {"ok": True}


class Client:
    """Somebody who is connected."""

    def __init__(self, control: Control, connection: socket.socket, loop: Any) -> None:
        self.watches = False
        self.watched: set[str] | None = None  # pins by name; None: all
        self._control = control
        self._connection = connection
        self._loop = loop
        self._read = b""
        self._unsent = b""
        self._missed = 0
        connection.setblocking(False)
        loop.add(connection, self._ready)

    def changed(self, name: str, said: dict[str, Any]) -> None:
        """Tell a change if it is watched."""
        if self.watches and (self.watched is None or name in self.watched):
            if len(self._unsent) > LONGEST:
                self._missed += 1
            else:
                self.say({"pin": name, **said})

    def say(self, what: dict[str, Any]) -> None:
        """Send a line."""
        self._unsent += json_dumps(what).encode() + b"\n"
        self._flush()

    def close(self) -> None:
        """Hang up."""
        if self in self._control.clients:
            self._control.clients.remove(self)
            self._loop.remove(self._connection)
            self._connection.close()

    def _ready(self, mask: int) -> None:
        if mask & 4:
            self._flush()
        if not mask & 1 or self not in self._control.clients:
            return
        try:
            data = self._connection.recv(LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        *lines, self._read = (self._read + data).split(b"\n")
        for line in lines:
            if line.strip() and self in self._control.clients:
                self._answer(line)
        if len(self._read) > LONGEST:
            self.say({"error": f"a line is longer than {LONGEST} bytes"})
            self.close()

    def _answer(self, line: bytes) -> None:
        try:
            asked = json_loads(line)
            verb, what = next(iter(asked.items()))
            act = self._control.verbs[verb]
        except (ValueError, AttributeError, StopIteration, KeyError):
            known = ", ".join(f'{{"{verb}": …}}' for verb in self._control.verbs)
            self.say({"error": f"one JSON object a line is expected: {known}"})
            return
        try:
            self.say(act(self, what))
        except (LookupError, ValueError, TypeError) as error:
            self.say({"error": str(error.args[0] if error.args else error)})

    def _flush(self) -> None:
        if self not in self._control.clients:
            return
        try:
            if self._unsent:
                self._unsent = self._unsent[self._connection.send(self._unsent) :]
            if not self._unsent and self._missed:
                missed, self._missed = self._missed, 0
                self._unsent = json_dumps({"missed": missed}).encode() + b"\n"
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._loop.modify(self._connection, True, bool(self._unsent))


def about(pin: SimPin) -> dict[str, Any]:
    """A pin as it is told."""
    said: dict[str, Any] = {"level": pin.level}
    if pin.consumer:
        said.update(direction="out" if pin.is_output else "in", consumer=pin.consumer)
    if pin.duty is not None:
        said.update(direction="pwm", duty=pin.duty, frequency=pin.frequency)
    return said
