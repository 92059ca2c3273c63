"""A bad network: a UDP proxy between one server and its clients that drops, doubles and reorders by a seed."""

from __future__ import annotations

import collections
import random
import select
import socket
import threading


class LossyNetwork:
    """Use as a context manager; clients send to `port`. What happens depends on the seed and the order of datagrams.

    No datagram is lost more than twice, however often it is sent: four retransmissions of a request suffice, two
    losses of the request and two of its answer. Without that bound a retransmission that doubles its wait needs
    minutes once in a few hundred runs.
    """

    def __init__(self, server: int, seed: int, *, drop: float = 0.25, double: float = 0.2, hold: float = 0.2) -> None:
        self._server = ("127.0.0.1", server)
        self._chance = random.Random(seed)
        self._drop, self._double, self._hold = drop, double, hold
        self._front = self._socket()
        self.port: int = self._front.getsockname()[1]
        self._backs: dict[socket.socket, tuple[str, int]] = {}
        self._by_client: dict[tuple[str, int], socket.socket] = {}
        self._held: list[tuple[socket.socket, bytes, tuple[str, int]]] = []
        self._ends = socket.socketpair()
        self._lost: collections.Counter[tuple[int, bytes]] = collections.Counter()
        self.dropped = self.doubled = self.reordered = 0
        self._thread = threading.Thread(target=self._run, name="lossy-network", daemon=True)

    @staticmethod
    def _socket() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.1", 0))
        return made

    def __enter__(self) -> LossyNetwork:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends[1].send(b"x")
        self._thread.join()
        for one in (self._front, *self._backs, *self._ends):
            one.close()

    def _run(self) -> None:
        while True:
            ready = select.select([self._front, self._ends[0], *self._backs], [], [], 0.02)[0]
            if self._ends[0] in ready:
                return
            for one in ready:
                if one is self._front:
                    data, client = one.recvfrom(65535)
                    if client not in self._by_client:
                        self._by_client[client] = back = self._socket()
                        self._backs[back] = client
                    self._pass(0, self._by_client[client], data, self._server)
                else:
                    self._pass(1, self._front, one.recvfrom(65535)[0], self._backs[one])
            if not ready:
                self._release()

    def _pass(self, way: int, via: socket.socket, data: bytes, to: tuple[str, int]) -> None:
        if self._lost[way, data] < 2 and self._chance.random() < self._drop:
            self._lost[way, data] += 1
            self.dropped += 1
            return
        if self._chance.random() < self._hold:
            self.reordered += 1
            self._held.append((via, data, to))
            return
        via.sendto(data, to)
        if self._chance.random() < self._double:
            self.doubled += 1
            via.sendto(data, to)
        self._release()

    def _release(self) -> None:
        """What was held back comes after what came after it."""
        held, self._held = self._held, []
        for via, data, to in held:
            via.sendto(data, to)
