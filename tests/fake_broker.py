"""A broker for tests that does exactly what it is told, well or badly.

Every connection is a `Peer`: a blocking socket that records what it receives. A test drives it in one of two ways:

    broker = FakeBroker()                      # the test itself plays the broker
    peer = broker.accept()
    peer.connack(peer.expect("CONNECT"))
    peer.suback(peer.expect("SUBSCRIBE"))
    peer.publish("a/b", b"x", qos=1, mid=7)
    peer.expect("PUBACK", mid=7)

    def dies_mid_packet(peer):                 # or each connection runs a script, on a thread of its own
        peer.handshake()
        peer.send(publish("a/b", b"x" * 100)[:20])
        peer.close()
    broker = FakeBroker(dies_mid_packet, serve)   # the first connection, then every later one

What goes wrong in a script is raised by `close()`, which leaves no thread and no descriptor; a script whose client may
leave ends with `serve()` or `expect_closed()`. MQTT 3.1.1 and 5, as the client's CONNECT says.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

from tests.mqtt_packets import KINDS, Packet, packet, parse, properties, publish

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 30.0  # seconds to wait for anything: generous, tests run side by side on a busy machine


class Peer:
    """One connection. `received` is every packet so far, in order; `version` is 4 (3.1.1) or 5 after the CONNECT."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received: list[Packet] = []
        self.version = 4
        self.answers_pings = True  # PINGREQ is answered and not given to expect()
        self.ended = False  # the client closed the connection, or we did
        self._writing = threading.Lock()

    # -- what arrives --

    def read(self, limit: float = LIMIT) -> Packet | None:
        """The next packet, recorded, pings included; None where the client closed. Raises TimeoutError."""
        try:
            self.sock.settimeout(limit)
            head = self._exactly(1)
            if not head:
                self.ended = True
                return None
            length = shift = 0
            while True:
                byte = self._exactly(1)[0]
                length |= (byte & 127) << shift
                if byte < 128:
                    break
                shift += 7
            found = parse(head[0], self._exactly(length), self.version)
        except TimeoutError:
            raise TimeoutError(f"nothing from the client within {limit} s") from None
        except (OSError, IndexError):  # reset, cut inside a packet, or closed by us
            self.ended = True
            return None
        if found.kind == "CONNECT":
            self.version = found.version
        self.received.append(found)
        return found

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                if data:
                    raise ConnectionError("closed inside a packet")
                return b""
            data += more
        return bytes(data)

    def expect(self, kind: str, limit: float = LIMIT, **fields: Any) -> Packet:
        """The next packet, which must be a `kind` with these fields; pings are answered on the way."""
        while True:
            found = self.read(limit)
            assert found is not None, f"the client closed the connection instead of sending {kind}"
            if found.kind == "PINGREQ" and kind != "PINGREQ" and self.answers_pings:
                self.pingresp()
                continue
            wrong = [name for name, value in fields.items() if getattr(found, name, None) != value]
            assert found.kind == kind and not wrong, f"expected {kind} {fields or ''}, got {found!r}"
            return found

    def expect_closed(self, limit: float = LIMIT) -> list[Packet]:
        """Reads until the client closes; the packets that came before."""
        before = []
        while (found := self.read(limit)) is not None:
            before.append(found)
        return before

    def acks(self, *mids: int, kind: str = "PUBACK", limit: float = LIMIT) -> None:
        """Waits for acknowledgements of exactly these ids, in any order."""
        left = sorted(mids)
        while left:
            left.remove(self.expect(kind, limit).mid or 0)

    # -- what is answered --

    def send(self, data: bytes) -> None:
        """Any bytes. A client that has gone is no error."""
        with self._writing:
            try:
                self.sock.settimeout(LIMIT)
                self.sock.sendall(data)
            except OSError:
                self.ended = True

    def connack(self, _connect: Packet | None = None, code: int = 0, session: bool = False, **props: Any) -> None:
        """CONNACK; `code` is a return code of 3.1.1 or a reason code of 5."""
        self.send(packet(0x20, bytes((session, code)), self._props(props)))

    def suback(self, subscribe: Packet, codes: list[int] | None = None, **props: Any) -> None:
        """Grants what was asked for, or answers `codes`."""
        granted = bytes(codes if codes is not None else [options & 3 for _, options in subscribe.filters])
        self.send(packet(0x90, struct.pack("!H", subscribe.mid), self._props(props), granted))

    def unsuback(self, unsubscribe: Packet, codes: list[int] | None = None) -> None:
        given = bytes(codes if codes is not None else [0] * len(unsubscribe.filters)) if self.version == 5 else b""
        self.send(packet(0xB0, struct.pack("!H", unsubscribe.mid), self._props({}), given))

    def publish(self, topic: str | bytes, payload: bytes = b"", qos: int = 0, mid: int = 0, **more: Any) -> None:
        """PUBLISH in the client's version; retain=, dup= and properties by name."""
        self.send(publish(topic, payload, qos, mid, version=self.version, **more))

    def ack(self, kind: str, mid: int, code: int = 0) -> None:
        """PUBACK, PUBREC, PUBREL or PUBCOMP."""
        first = KINDS.index(kind) << 4 | (2 if kind == "PUBREL" else 0)
        self.send(packet(first, struct.pack("!H", mid), bytes((code,)) if code and self.version == 5 else b""))

    def pingresp(self) -> None:
        self.send(b"\xd0\x00")

    def disconnect(self, code: int = 0, **props: Any) -> None:
        """The server's DISCONNECT (MQTT 5) and the end of the connection."""
        self.send(packet(0xE0, bytes((code,)), properties(props)))
        self.close()

    def _props(self, values: dict[str, Any]) -> bytes:
        return properties(values) if self.version == 5 else b""

    # -- whole behaviours --

    def handshake(self, session: bool = False, subscribes: bool = True, **props: Any) -> Packet:
        """CONNECT, CONNACK and (unless told not to) one SUBSCRIBE, SUBACK; the CONNECT."""
        connect = self.expect("CONNECT")
        self.connack(session=session, **props)
        if subscribes:
            self.suback(self.expect("SUBSCRIBE"))
        return connect

    def serve(self) -> None:
        """A well-behaved broker for one client, until it leaves; the test may publish() meanwhile."""
        while (found := self.read(limit=3600)) is not None:
            self.answer(found)

    def answer(self, found: Packet) -> None:
        """What a good broker says to this packet."""
        kind = found.kind
        if kind == "CONNECT":
            self.connack()
        elif kind == "SUBSCRIBE":
            self.suback(found)
        elif kind == "UNSUBSCRIBE":
            self.unsuback(found)
        elif kind == "PINGREQ":
            self.pingresp()
        elif kind == "PUBLISH" and found.qos:
            self.ack("PUBACK" if found.qos == 1 else "PUBREC", found.mid or 0)
        elif kind == "PUBREC":
            self.ack("PUBREL", found.mid or 0)
        elif kind == "PUBREL":
            self.ack("PUBCOMP", found.mid or 0)
        elif kind == "DISCONNECT":
            self.close()

    def hold(self) -> None:
        """Reads nothing, sends nothing, until the broker is closed: a black hole behind an open connection."""
        while not self.ended:
            time.sleep(0.02)

    def reset(self) -> None:
        """Ends with a TCP reset, so that the client's next call fails."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.ended = True
        self.sock.close()

    def close(self) -> None:
        """Ends the connection at once; harmless twice."""
        self.ended = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # wakes a thread of ours that reads
        self.sock.close()


def serve(peer: Peer) -> None:
    """The script of a well-behaved broker."""
    peer.serve()


def black_hole(peer: Peer) -> None:
    """The script of a broker that accepts and never says a word."""
    peer.hold()


class FakeBroker:
    """Listens on 127.0.0.1. Connection i runs `scripts[i]`, later ones the last; without scripts accept() has them.

    `tls`: an `ssl.SSLContext` for the server's side.
    """

    def __init__(self, *scripts: Callable[[Peer], None], port: int = 0, tls: Any = None) -> None:
        self.scripts = list(scripts)
        self.peers: list[Peer] = []
        self.errors: list[BaseException] = []
        self._tls = tls
        self._queue: queue.Queue[Peer] = queue.Queue()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._closing = False
        self.port = port
        self.listen()

    def __enter__(self) -> FakeBroker:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close(quiet=kind is not None)

    @property
    def url(self) -> str:
        return f"mqtt{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    @property
    def received(self) -> list[Packet]:
        """Every packet of every connection, in the order of arrival."""
        return sorted((one for peer in self.peers for one in peer.received), key=lambda one: one.at)

    def listen(self) -> None:
        """Begins to accept, on the port it had before if any."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept_all, self._listener)

    def refuse(self) -> None:
        """Stops listening: the next connection is refused. Those that are open stay; listen() begins again."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._listener.close()
            self._listener = None

    def accept(self, limit: float = LIMIT) -> Peer:
        """The next connection. Only without scripts."""
        try:
            return self._queue.get(timeout=limit)
        except queue.Empty:
            raise TimeoutError("no client connected") from None

    def wait(self, condition: Callable[[], Any], limit: float = LIMIT) -> Any:
        """Waits until `condition()` is true; its value."""
        end = time.monotonic() + limit
        while not (value := condition()):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {limit} s; received so far: {self.received!r}")
            time.sleep(0.005)
        return value

    def count(self, kind: str) -> int:
        """How many packets of a kind have come."""
        return sum(one.kind == kind for peer in self.peers for one in list(peer.received))

    def close(self, quiet: bool = False) -> None:
        """Ends everything and raises the first error of a script."""
        self._closing = True
        self.refuse()
        for peer in list(self.peers):
            peer.close()
        for thread in self._threads:
            thread.join(LIMIT)
        if self.errors and not quiet:
            raise self.errors[0]

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="fake-broker", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept_all(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            if self._closing:
                sock.close()
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                try:
                    sock = self._tls.wrap_socket(sock, server_side=True)
                except OSError:  # the client did not like our certificate, or we not its
                    sock.close()
                    continue
            peer = Peer(sock)
            self.peers.append(peer)
            if self.scripts:
                self._start(self._play, peer, self.scripts[min(len(self.peers), len(self.scripts)) - 1])
            else:
                self._queue.put(peer)

    def _play(self, peer: Peer, script: Callable[[Peer], None]) -> None:
        try:
            script(peer)
        except BaseException as error:  # noqa: BLE001 - raised by close()
            if not self._closing:  # a step that fails because close() came is no fault of the client
                self.errors.append(error)
        finally:
            peer.close()


class FullBacklog:
    """A port that answers no SYN: a host behind a firewall that drops, for a client that must not hang in connect()."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port = self._listener.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._fillers = []
        for _ in range(4):  # the kernel takes one or two more than it was told
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    def __enter__(self) -> FullBacklog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for one in (*self._fillers, self._listener):
            one.close()
