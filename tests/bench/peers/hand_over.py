"""The least that a hand-over to a thread can cost here: epoll, a lock, a deque, an eventfd; nothing else in the way.

`python -m tests.bench.peers.hand_over inline|thread COUNT` prints CPU and wall µs an event; a child sends byte by byte.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections import deque


def main(way: str, count: int) -> None:
    sys.setswitchinterval(0.0001)
    theirs, ours = socket.socketpair()
    child = os.fork()
    if child == 0:
        for _ in range(count):
            theirs.send(b"x")
            theirs.recv(1)
        os._exit(0)
    poll, event = select.epoll(), os.eventfd(0, os.EFD_NONBLOCK)
    poll.register(ours.fileno(), 1)
    poll.register(event, 1)
    go = threading.Lock()
    go.acquire()
    queue: deque[bytes] = deque()
    done: deque[bytes] = deque()

    def work() -> None:
        while True:
            go.acquire()
            while queue:
                done.append(queue.popleft())
            os.eventfd_write(event, 1)

    if way == "thread":
        threading.Thread(target=work, daemon=True).start()
    handled, cpu, wall = 0, time.process_time_ns(), time.perf_counter_ns()
    while handled < count:
        for descriptor, _ in poll.poll():
            if descriptor == event:
                os.eventfd_read(event)
                while done:
                    ours.send(done.popleft())
                    handled += 1
            elif way == "thread":
                queue.append(ours.recv(100))
                go.release()
            else:
                ours.send(ours.recv(100))
                handled += 1
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    os.waitpid(child, 0)
    print(cpu / count / 1000, wall / count / 1000, flush=True)
    os._exit(0)  # its thread waits for ever


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
