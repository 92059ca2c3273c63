"""A real mosquitto for the figures that go through one, and the client that feeds it and takes what comes out."""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING

from tests.bench.broker import CHUNK, LIMIT, LostError, Packets
from tests.bench.measure import cpu_ns
from tests.mosquitto import Mosquitto
from tests.mqtt_packets import binary, packet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.bench.subject import Subject


def mosquitto(folder: Path) -> Mosquitto:
    """A broker at its defaults, but that it keeps what a slow client has not fetched yet, and says who subscribes.

    Raises AssertionError, with what to do, where mosquitto is not installed.
    """
    return Mosquitto(folder, log_type="information", max_queued=0, lines=["log_type subscribe"])


def subscribed(broker: Mosquitto, subject: Subject, before: int) -> None:
    """Wait until the subject has subscribed to bench/in; `before`: how often the broker's log had that before."""
    end = time.monotonic() + LIMIT
    while broker.log.count(" bench/in") <= before:
        if not subject.running:
            raise LostError(f"{subject.name} has ended: {subject.output.strip().splitlines()[-1:]}")
        if time.monotonic() > end:
            raise LostError(f"{subject.name} does not subscribe")
        time.sleep(0.02)
    time.sleep(0.3)  # what it does after that


class Driver:
    """Publishes into mosquitto and receives bench/out and bench/done, over one plain MQTT 3.1.1 connection."""

    def __init__(self, port: int, name: str = "driver") -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(LIMIT)
        self.sock.sendall(packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x00", binary(name)))
        self.sock.sendall(packet(0x82, b"\x00\x01", binary("bench/out"), b"\x00", binary("bench/done"), b"\x00"))
        data = b""
        while len(data) < 4 + 6:
            data += self.sock.recv(64)
        self._rest = b""
        self.out = self.acked = 0
        self.done: bytes | None = None

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def pass_through(self, pid: int, packets: Packets, count: int, window: int) -> dict[str, float]:
        """Publish `count` events, at most `window` ahead of what has come out; until all have. CPU and wall µs each."""
        self.out = 0
        return self._publish(pid, packets, count, lambda: self.out + window, lambda: self.out >= count)

    def ingest(self, pid: int, packets: Packets, count: int, expect: int) -> dict[str, float]:
        """Publish `count` events at QoS 1 until the handler says that it has seen `expect` in all."""
        self.acked, self.done = 0, None
        found = self._publish(pid, packets, count, lambda: self.acked + 1000, lambda: self.done is not None)
        if int(self.done or 0) != expect:
            raise LostError(f"the handler has seen {self.done!r} events instead of {expect}")
        return found

    def _publish(
        self, pid: int, packets: Packets, count: int, may: Callable[[], int], finished: Callable[[], bool]
    ) -> dict[str, float]:
        sock = self.sock
        sock.setblocking(False)
        sent = 0
        began, cpu = time.perf_counter_ns(), cpu_ns(pid)
        limit = began + int(LIMIT * 1e9)
        while not finished():
            allowed = min(count, may()) * packets.each
            ready = select.select([sock], [sock] if sent < allowed else [], [], 1.0)
            if ready[1]:
                size = sock.send(packets.next(min(CHUNK, allowed - sent)))
                packets.sent(size)
                sent += size
            if ready[0]:
                self._take(sock.recv(CHUNK))
            if time.perf_counter_ns() > limit:
                raise LostError(
                    f"sent {sent // packets.each} of {count}, {self.out} came out, handler said {self.done!r}"
                )
        used, took = cpu_ns(pid) - cpu, time.perf_counter_ns() - began
        sock.settimeout(LIMIT)
        return {"cpu": used / count / 1e3, "wall": took / count / 1e3}

    def _take(self, data: bytes) -> None:
        if not data:
            raise LostError("mosquitto closed the connection")
        data = self._rest + data
        at, size = 0, len(data)
        while at + 2 <= size and at + 2 + data[at + 1] <= size:  # every packet here is shorter than 128 bytes
            kind = data[at] >> 4
            end = at + 2 + data[at + 1]
            if kind == 4:
                self.acked += 1
            elif kind == 3:
                if data[at + 4 : at + 13] == b"bench/out":
                    self.out += 1
                else:
                    self.done = data[at + 14 : end]
            at = end
        self._rest = data[at:]
