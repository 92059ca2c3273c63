"""A broker that costs nothing beside the client: it sends prepared bytes and counts what comes back.

It runs in the benchmark's own process, has one client, and knows only what a benchmark needs.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from typing import TYPE_CHECKING

from tests.bench.measure import cpu_ns
from tests.mqtt_packets import packet, parse, publish

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.subject import Subject
    from tests.mqtt_packets import Packet

CHUNK = 1 << 18  # bytes a send
LIMIT = 120.0  # seconds for one flood
_PUBACKS = b"\x40" * (1 << 16)


class LostError(Exception):
    """The client went away, or did not do what it had to."""


class Packets:
    """Prepared PUBLISH packets of one length, sent over and over.

    At QoS 1 the packet ids go from 1 to 65535 and round again, so that no id is used twice within a window.
    """

    def __init__(self, topics: Sequence[str], size: int, qos: int, version: int) -> None:
        many = 65535 if qos else max(1, 4096 // len(topics)) * len(topics)
        body = bytes(97 + index % 26 for index in range(size))
        made = [publish(topics[i % len(topics)], body, qos, i + 1, version=version) for i in range(many)]
        self.each = len(made[0])
        if any(len(one) != self.each for one in made):
            raise ValueError("the topics must have one length")
        self.bytes = memoryview(b"".join(made))
        self.position = 0  # the next packet's place in `bytes`: a second flood goes on with the next id

    def next(self, limit: int) -> memoryview:
        """The next bytes, at most `limit`."""
        return self.bytes[self.position : self.position + limit]

    def sent(self, size: int) -> None:
        """So many bytes of them have gone."""
        self.position = (self.position + size) % len(self.bytes)


class Broker:
    """Listens on a port of its own; `accept()` then talks to the one client."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.version = 4
        self._sock: socket.socket | None = None
        self._rest = b""
        self.done: bytes | None = None  # payload of the last PUBLISH that came

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()
        self._listener.close()

    def drop(self) -> None:
        """End the connection, if there is one."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        self._rest = b""

    def accept(self, subject: Subject, subscriptions: int = 1) -> None:
        """Wait for the subject to connect and to subscribe to so many filters, in however many packets."""
        self.drop()
        while not select.select([self._listener], [], [], 0.1)[0]:
            if not subject.running:
                raise LostError(f"{subject.name} has ended: {subject.output.strip().splitlines()[-1:]}")
            if time.perf_counter() - subject.started > LIMIT:
                raise LostError(f"{subject.name} does not connect")
        self._sock, _ = self._listener.accept()
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.settimeout(LIMIT)
        have = 0
        while have < subscriptions:
            for found in self._packets():
                have += self._answer(found)

    def _answer(self, found: Packet) -> int:
        """Say what a broker says; the number of filters now subscribed to."""
        assert self._sock is not None
        if found.kind == "CONNECT":
            self.version = found.version
            self._sock.sendall(packet(0x20, b"\x00\x00", b"\x00" if found.version == 5 else b""))
        elif found.kind == "SUBSCRIBE":
            granted = bytes(options & 3 for _, options in found.filters)
            head = struct.pack("!H", found.mid) + (b"\x00" if self.version == 5 else b"")
            self._sock.sendall(packet(0x90, head, granted))
            return len(found.filters)
        elif found.kind == "PINGREQ":
            self._sock.sendall(b"\xd0\x00")
        elif found.kind == "PUBLISH":
            self.done = found.payload
            if found.qos:
                self._sock.sendall(packet(0x40, struct.pack("!H", found.mid)))
        return 0

    def _packets(self) -> list[Packet]:
        """What one recv() brings, whole packets only."""
        assert self._sock is not None
        data = self._sock.recv(CHUNK)
        if not data:
            raise LostError("the client closed the connection")
        return self._split(data)

    def _split(self, data: bytes) -> list[Packet]:
        data = self._rest + data
        found = []
        at = 0
        while at + 2 <= len(data):
            length = shift = 0
            start = at + 1
            while start < len(data):
                byte = data[start]
                start += 1
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            else:
                break
            if start + length > len(data):
                break
            found.append(parse(data[at], data[start : start + length], self.version))
            at = start + length
        self._rest = data[at:]
        return found

    def settle(self, quiet: float = 0.3) -> None:
        """Answer until the client has said nothing for a while."""
        assert self._sock is not None
        while select.select([self._sock], [], [], quiet)[0]:
            for found in self._packets():
                self._answer(found)

    def flood(
        self, pid: int, packets: Packets, count: int, expect: int, *, qos: int = 0, window: int = 65535
    ) -> dict[str, float]:
        """Send `count` packets as fast as they are taken, until the handler says that it has seen `expect` in all.

        At QoS 1 at most `window` are unacknowledged, and all must be acknowledged in the end. Returns CPU and wall
        microseconds per event, of the time from the first byte to the handler's word (and the last acknowledgement).
        """
        assert self._sock is not None
        sock = self._sock
        poller = select.poll()
        sock.setblocking(False)
        to_send = count * packets.each
        sent = acked = 0
        self.done = None
        began, cpu = time.perf_counter_ns(), cpu_ns(pid)
        limit = began + int(LIMIT * 1e9)
        while self.done is None or (qos and acked < count):
            allowed = min(to_send, (acked + window) * packets.each if qos else to_send)
            poller.register(sock, select.POLLIN | (select.POLLOUT if sent < allowed else 0))
            if not poller.poll(1000) and time.perf_counter_ns() > limit:
                raise LostError(
                    f"sent {sent // packets.each} of {count}, acknowledged {acked}, handler said {self.done!r}"
                )
            try:
                while sent < allowed:
                    size = sock.send(packets.next(min(CHUNK, allowed - sent)))
                    packets.sent(size)
                    sent += size
            except BlockingIOError:
                pass
            with contextlib.suppress(BlockingIOError):
                acked += self._acknowledged(sock.recv(CHUNK))
        used, took = cpu_ns(pid) - cpu, time.perf_counter_ns() - began
        sock.settimeout(LIMIT)
        if int(self.done) != expect:
            raise LostError(f"the handler has seen {self.done!r} events instead of {expect}")
        return {"cpu": used / count / 1e3, "wall": took / count / 1e3}

    def _acknowledged(self, data: bytes) -> int:
        """The number of PUBACKs in what came; a PUBLISH is kept in `done`."""
        if not data:
            raise LostError("the client closed the connection")
        size = len(data) >> 2
        if not self._rest and len(data) == size << 2 and data[::4] == _PUBACKS[:size]:
            return size  # nothing but PUBACKs without a reason
        acked = 0
        for found in self._split(data):
            if found.kind == "PUBACK":
                acked += 1
            else:
                self._answer(found)
        return acked

    def one_by_one(self, pid: int, packets: Packets, count: int) -> dict[str, float]:
        """Send the next (QoS 1) only when the last is acknowledged: one event a wake-up. CPU and wall µs per event."""
        assert self._sock is not None
        began, cpu = time.perf_counter_ns(), cpu_ns(pid)
        for _ in range(count):
            self._sock.sendall(packets.next(packets.each))
            packets.sent(packets.each)
            while not self._acknowledged(self._sock.recv(4096)):
                pass
        return {"cpu": (cpu_ns(pid) - cpu) / count / 1e3, "wall": (time.perf_counter_ns() - began) / count / 1e3}

    def offer(self, packets: Packets, limit: int, wait: float = 0.05) -> int:
        """Send at most `limit` bytes, as many as are taken within `wait` seconds; how many that were."""
        assert self._sock is not None
        if not select.select([], [self._sock], [], wait)[1]:
            return 0
        size = self._sock.send(packets.next(limit), socket.MSG_DONTWAIT)
        packets.sent(size)
        return size

    def flood_until_acknowledged(self, pid: int, packets: Packets, count: int) -> dict[str, float]:
        """Send `count` events at QoS 0 and the last of them once more at QoS 1; until that is acknowledged."""
        assert self._sock is not None
        topic_end = 4 + packets.bytes[3]
        topic = bytes(packets.bytes[4:topic_end]).decode()
        began, cpu = time.perf_counter_ns(), cpu_ns(pid)
        left = count * packets.each
        while left:
            size = self._sock.send(packets.next(min(CHUNK, left)))
            packets.sent(size)
            left -= size
        self._sock.sendall(publish(topic, b"", 1, 1, version=self.version))
        self.acknowledged(1)
        return {"cpu": (cpu_ns(pid) - cpu) / count / 1e3, "wall": (time.perf_counter_ns() - began) / count / 1e3}

    def acknowledged(self, count: int) -> None:
        """Wait for so many acknowledgements."""
        assert self._sock is not None
        while count > 0:
            count -= self._acknowledged(self._sock.recv(CHUNK))

    def round_trips(self, topic: str, rate: float, count: int) -> list[float]:
        """Send `count` events at `rate` a second; milliseconds until each reply, which carries its payload back."""
        assert self._sock is not None
        return round_trips(self._sock, topic, rate, count, self.version)

    def send(self, data: bytes) -> None:
        """Any bytes."""
        assert self._sock is not None
        self._sock.sendall(data)


def round_trips(sock: socket.socket, topic: str, rate: float, count: int, version: int) -> list[float]:
    """Milliseconds from sending each event to the PUBLISH that has its payload; the sender never waits for a reply.

    The payload is 64 bytes, the first 8 the number; each is sent when it is due.
    """
    due = [0.0] * count
    took = [-1.0] * count
    left, sent = count, 0
    rest = b""
    begin = time.perf_counter() + 0.01
    end = begin + count / rate + 30
    sock.setblocking(False)
    while left:
        now = time.perf_counter()
        if sent < count and now >= begin + sent / rate:
            due[sent] = now
            sock.send(publish(topic, b"%08d" % sent + b"." * 56, version=version))
            sent += 1
            continue
        wait = begin + sent / rate - now if sent < count else 1.0
        if now > end:
            raise LostError(f"{left} of {count} replies did not come")
        if not select.select([sock], [], [], wait)[0]:  # poll() would count in milliseconds
            continue
        data = rest + sock.recv(CHUNK)
        now = time.perf_counter()
        while len(data) > 2 and len(data) >= data[1] + 2:  # all packets here are shorter than 128 bytes
            body = data[: data[1] + 2]
            data = data[len(body) :]
            if body[0] >> 4 == 3:
                number = int(body[-64:-56])
                if took[number] < 0:
                    took[number] = (now - due[number]) * 1000
                    left -= 1
        rest = data
    sock.settimeout(LIMIT)
    return took
