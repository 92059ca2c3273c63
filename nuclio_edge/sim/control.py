"""A simulated board driven from outside: JSON lines over the unix socket <state_dir>/sim.sock.

{"set": {"GPIO17": 1, "climate": 21.5}}  drive pins, null lets go; what sensors say, null takes one away
                                         -> {"ok": true}
{"get": ["GPIO17", "gps"]}               by name, or true: what is in use
                                         -> {"pins": {"GPIO17": {"level": 1, …}}, "sensors": {}, "ports": {"gps": {…}}}
{"watch": ["GPIO27", "gps"]}             pins and ports, or true: all
                                         -> {"ok": true}, then {"pin": "GPIO27", …}, {"port": "gps", "wrote": "…"}
{"send": {"gps": "…"}}                   what comes in by a port: a character is the byte of its number -> {"ok": true}
{"unplug": ["gps"]}, {"plug": ["gps"]}   pull a port's adapter out, bring it back -> {"ok": true}
{"connect": ["GPIO27", "GPIO17"]}        a wire between two pins -> {"ok": true}

What cannot be done is answered by {"error": "why"}. Everything here runs on the processor's loop. Clients, lines and
what waits for a slow reader are bounded; a watcher that lost changes is told {"missed": count}.
"""

from __future__ import annotations

import os
import socket

from nuclio_edge.core.port import json_dumps, json_loads
from nuclio_edge.sim.sensors import watched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.sim.pins import SimBoard, SimPin
    from nuclio_edge.sim.ports import SimPort

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
            "send": self._send, "unplug": self._unplug, "plug": self._plug,
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
        self._board.port_watchers.append(self._wrote)

    def close(self) -> None:
        """Hang up on everybody."""
        if self._socket is None:
            return
        self._board.watchers.remove(self._changed)
        self._board.port_watchers.remove(self._wrote)
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
        said = {"pin": pin.name, **about(pin)}
        self._loop.post(lambda: self._tell(pin.name, said))

    def _wrote(self, port: SimPort, data: bytes) -> None:
        """A handler has written to a port."""
        self._tell(port.name, {"port": port.name, "wrote": data.decode("latin-1")})

    def _tell(self, name: str, said: dict[str, Any]) -> None:
        for client in list(self.clients):
            client.changed(name, said)

    # -- verbs --------------------------------------------------------------------------------------------------------

    def _set(self, _client: Client, wanted: Any) -> dict[str, Any]:
        pins, sensors = [], []
        for name, value in dict(wanted).items():
            if self._is_sensor(name):
                sensors.append((self._board.sensor(name), value))
                continue
            if value not in (0, 1, None):
                raise ValueError(f"{value!r} is no level of {self._board.pin(name).name}: 0, 1 or null")
            pins.append((self._board.pin(name), value))
        for sensor, value in sensors:
            sensor.set(value)
        for pin, value in pins:
            pin.drive(value)
        return {"ok": True}

    def _get(self, _client: Client, names: Any) -> dict[str, Any]:
        board = self._board
        if names is True:
            pins = [pin for pin in board.pins if pin.consumer or pin.duty is not None]
            ports = list(board.ports.values())
            sensors = board.set_sensors()
        else:
            words = [names] if isinstance(names, str) else list(names)
            ports = [board.ports[name] for name in words if name in board.ports]
            sensors = [name for name in words if name not in board.ports and self._is_sensor(name)]
            pins = [board.pin(name) for name in words if name not in board.ports and name not in sensors]
        return {
            "pins": {pin.name: about(pin) for pin in pins},
            "sensors": {name: {"text": board.sensor(name).text} for name in sensors},
            "ports": {
                port.name: {"path": port.path or None, "written": port.written, "tail": port.tail.decode("latin-1")}
                for port in ports
            },
        }

    def _watch(self, client: Client, names: Any) -> dict[str, Any]:
        wanted = [names] if isinstance(names, str) else names
        client.watched = (
            None if names is True
            else {name if name in self._board.ports else self._board.pin(name).name for name in wanted}
        )  # fmt: skip
        client.watches = True
        return {"ok": True}

    def _send(self, _client: Client, texts: Any) -> dict[str, Any]:
        parts = [(self._port(name), text.encode("latin-1")) for name, text in dict(texts).items()]
        for port, data in parts:
            port.send(data)
        return {"ok": True}

    def _unplug(self, _client: Client, names: Any) -> dict[str, Any]:
        for port in [self._port(name) for name in names]:
            port.unplug()
        return {"ok": True}

    def _plug(self, _client: Client, names: Any) -> dict[str, Any]:
        for port in [self._port(name) for name in names]:
            port.plug()
        return {"ok": True}

    def _port(self, name: str) -> SimPort:
        if name not in self._board.ports:
            there = ", ".join(self._board.ports) or "none"
            raise LookupError(f"the simulated board has no port {name!r}; by name there is {there}")
        return self._board.ports[name]

    def _is_sensor(self, name: str) -> bool:
        """Whether it means what a source reads; a pin's name is a pin, whatever patterns sources have."""
        return self._board.facts.find_pin(name) is None and watched(self._board.sensors, name)

    def _connect(self, _client: Client, names: Any) -> dict[str, Any]:
        one, other = names
        self._board.pin(one).connect(self._board.pin(other))
        return {"ok": True}


class Client:
    """Somebody who is connected."""

    def __init__(self, control: Control, connection: socket.socket, loop: Any) -> None:
        self.watches = False
        self.watched: set[str] | None = None  # pins and ports by name; None: all
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
                self.say(said)

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
        except (LookupError, ValueError, TypeError, AttributeError, OSError) as error:
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
