"""HTTP: a kept-alive GET into an inline function, ours beside uvicorn; and the run that the slides show.

wrk makes the load, on the other core. CPU is that of the process under test alone. 20 connections, as in the slides:
each wake-up finds several that are ready, at all three servers. The bare server shows what the system calls cost.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from tests.bench.subject import processor, python
from tests.mosquitto import SEARCHED, program
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.bench import Bench
    from tests.bench.subject import Subject

MANIFEST = """
[device]
name = "bench"
state_dir = "state"

[source.api]
kind = "http"
listen = "127.0.0.1:{port}"
reuse_port = true

[function.f]
handler = "{{functions}}/{handler}"
isolation = "{isolation}"

[[function.f.trigger]]
path = "/"
inbox = {{ when_full = "block" }}
"""
CONNECTIONS = 20
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


def run(bench: Bench) -> None:
    """CPU beside the peer, then the slides' run."""
    if shutil.which("wrk", path=SEARCHED) is None:
        bench.report.missing("all", "wrk is not there (.ci/setup/debian-programs wrk:wrk)")
        return
    seconds = 1 if bench.quick else 4
    found = bench.interleave({
        "uvicorn, uvloop, httptools": lambda: measure(peer(bench), seconds),
        "ours, inline": lambda: measure(ours(bench, "inline"), seconds),
        "bare system calls in Python": lambda: measure(peer(bench, "bare_http"), seconds),
        "ours, thread": lambda: measure(ours(bench, "thread"), seconds),
    })  # fmt: skip
    for name, measures in found.items():
        # An idle core does 1e6 / CPU a second: 40,000/s are 25 us.
        bar = 25.0 if name == "ours, inline" else None
        bench.report.value(f"{name}: CPU", measures["cpu"], "µs/request", bar=bar)
        bench.report.value(f"{name}: rate", measures["rate"], "requests/s", note=f"best {max(measures['rate']):,.0f}/s")
    bench.ratio("inline to uvicorn, CPU", found, "ours, inline", "uvicorn, uvloop, httptools", bar=1 / 3)
    for count in dict.fromkeys((1, os.cpu_count() or 1)):
        as_in_the_slides(bench, count, 10 if bench.quick else 60)


def ours(bench: Bench, isolation: str, *, port: int = 0, handler: str = "hello.py") -> tuple[Subject, int]:
    """A processor with one function, and its port."""
    port = port or free_port()
    return processor(bench.folder(), MANIFEST.format(port=port, handler=handler, isolation=isolation)), port


def peer(bench: Bench, script: str = "uvicorn_hello") -> tuple[Subject, int]:
    """A peer of this script, and its port."""
    port = free_port()
    return python(script, bench.folder(), str(port)), port


def measure(started: tuple[Subject, int], seconds: int) -> dict[str, float]:
    """Warm up, then measure."""
    subject, port = started
    with subject:
        listening([subject], port)
        wrk(port, CONNECTIONS, 1)
        before = subject.cpu_ns()
        said = wrk(port, CONNECTIONS, seconds)
        cpu = subject.cpu_ns() - before
        assert not said["errors"], f"{said['errors']:.0f} errors"
        return {"cpu": cpu / 1e3 / said["requests"], "rate": said["rate"]}


def as_in_the_slides(bench: Bench, count: int, seconds: int) -> None:
    """GET of an empty function, 20 connections; `count` processors on one port."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        subjects = [
            stack.enter_context(ours(bench, "inline", port=port, handler="nothing.py")[0]) for _ in range(count)
        ]
        listening(subjects, port)
        wrk(port, CONNECTIONS, 1)
        said = wrk(port, CONNECTIONS, seconds)
    bench.report.say(
        f"  as in the slides, {count} processor{'s' * (count > 1)}, 20 connections, {seconds} s: "
        f"{said['requests']:,.0f} requests, {said['rate']:,.0f}/s, average {said['average']:.3f} ms, "
        f"maximum {said['maximum']:.1f} ms, {said['errors']:.0f} errors"
    )
    name = f"as in the slides, {count} processor{'s' * (count > 1)}"
    bench.report.value(f"{name}: rate", [said["rate"]], "requests/s")
    bench.report.value(f"{name}: average", [said["average"]], "ms")
    bench.report.value(f"{name}: maximum", [said["maximum"]], "ms")
    bench.report.value(f"{name}: errors", [said["errors"]], "", bar=0)


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def listening(subjects: Sequence[Subject], port: int) -> None:
    """Wait until somebody answers, and every subject had time to begin."""

    def answers() -> bool:
        assert all(subject.running for subject in subjects), subjects[0].output[-300:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    wait_until(answers, "the server")
    if len(subjects) > 1:
        time.sleep(2.0)


def wrk(port: int, connections: int, seconds: int) -> dict[str, float]:
    """What wrk says: requests, rate, average and maximum in ms, errors of any kind."""
    command = [program("wrk"), "-t", "1", "-c", str(connections), "-d", str(seconds), f"http://127.0.0.1:{port}/"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    latency = re.search(r"Latency\s+([\d.]+)([a-z]+)\s+\S+\s+([\d.]+)([a-z]+)", text)
    requests = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert latency and requests and rate, text
    wrong = [
        int(number)
        for line in re.findall(r"(?:Socket errors|Non-2xx).*", text)
        for number in re.findall(r" (\d+)", line)
    ]
    return {
        "requests": float(requests[1]), "rate": float(rate[1]), "errors": float(sum(wrong)),
        "average": float(latency[1]) * _UNITS[latency[2]], "maximum": float(latency[3]) * _UNITS[latency[4]],
    }  # fmt: skip
