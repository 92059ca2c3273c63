"""The figures of GPIO inside the x86-64 guest: real processors, gpio-sim as the world, one line of JSON a figure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nuclio_edge import registry
from tests.bench.measure import cpu_ns, percentile, private_kib, rss_kib, wakeups
from tests.guest.sentences import until
from tests.guest.simulator import Chip, world_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LABEL = "pinctrl-bcm2835"
IN, OUT = 17, 27
ECHO = 'def handler(context, event):\n    context.bindings["pins"].set("out", event.value)\n'
NOTHING = "def handler(context, event):\n    pass\n"
PINS = f"""
[source.pins]
kind = "gpio"
chip = "{LABEL}"
[source.pins.lines]
in = {{ pin = "{IN}", edge = "EDGE" }}
out = {{ pin = "{OUT}", direction = "out" }}
"""
BOTH = PINS.replace("EDGE", "both")
FUNCTION = """
[function.f]
handler = "f.py"
isolation = "{isolation}"
[[function.f.trigger]]
line = "in"
edge = "{edge}"
"""
TIMER = '[[function.f.trigger]]\nevery = "1h"\n'
COAP = '[source.lan]\nkind = "coap"\nlisten = "127.0.0.1:5683"\n'
COAP_TRIGGER = '[[function.f.trigger]]\nsource = "lan"\npath = "/f"\n'

# The least that can echo: epoll, read, ioctl; and the same by the official binding.
BARE = """
import os, select, struct, sys
from nuclio_edge.sources.gpio_kernel import EVENT, VALUES, SET_VALUES, KernelChip
from nuclio_edge.sources.gpio_line import LineConfig
from fcntl import ioctl
chip = KernelChip(sys.argv[1])
pins = chip.request([LineConfig("in", {IN}, edge="both")], "bare")
out = chip.request([LineConfig("out", {OUT}, direction="out")], "bare")
poll = select.epoll()
poll.register(pins.fd, 1)
print('"event": "ready"', flush=True)
while poll.poll():
    for stamp, kind, offset, seqno, line_seqno in EVENT.iter_unpack(os.read(pins.fd, 48 * 64)):
        ioctl(out.fd, SET_VALUES, VALUES.pack(kind & 1, 1))
""".replace("{IN}", str(IN)).replace("{OUT}", str(OUT))
BINDING = """
import sys, gpiod
from gpiod.line import Direction, Edge, Value
pins = gpiod.request_lines(sys.argv[1], config={{IN}: gpiod.LineSettings(edge_detection=Edge.BOTH)})
out = gpiod.request_lines(sys.argv[1], config={{OUT}: gpiod.LineSettings(direction=Direction.OUTPUT)})
print('"event": "ready"', flush=True)
while pins.wait_edge_events(None):
    for event in pins.read_edge_events(64):
        rising = event.event_type is gpiod.EdgeEvent.Type.RISING_EDGE
        out.set_value({OUT}, Value.ACTIVE if rising else Value.INACTIVE)
""".replace("{IN}", str(IN)).replace("{OUT}", str(OUT))


class Running:
    """A process that says when it is ready; ended at the end."""

    def __init__(self, arguments: list[str], files: Mapping[str, str]) -> None:
        self.folder = Path(os.environ["TMPDIR"]) / f"bench-{time.monotonic_ns()}"
        self.folder.mkdir()
        for name, text in files.items():
            (self.folder / name).write_text(text)
        self.log = self.folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], cwd=self.folder, stdout=log, stderr=log,
                env={**os.environ, "PYTHONPATH": os.getcwd()},
            )  # fmt: skip

    def __enter__(self) -> Running:
        until(lambda: '"event": "ready"' in self.text().replace('"event":"', '"event": "'), "ready")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def text(self) -> str:
        if self.process.poll() not in (None, 0):
            raise AssertionError(self.log.read_text())
        return self.log.read_text()


def processor(manifest: str, handler: str) -> Running:
    """`nuclio-edge run` on a manifest."""
    device = '[device]\nname = "bench"\nboard = "generic/linux"\nstate_dir = "state"\n'
    return Running(["-m", "nuclio_edge", "run"], {"edge.toml": device + manifest, "f.py": handler})


def echo_latency(chip: Chip, rounds: int) -> dict[str, float]:
    """An edge in until the level is out, in µs; a pause before each so that the other side is asleep."""
    path = f"{chip._lines}{OUT}/value"
    value = os.open(path, os.O_RDONLY)
    took = []
    for number in range(rounds + 20):
        level = 1 - number % 2
        wanted = b"%d\n" % level
        time.sleep(0.002)
        begun = time.perf_counter_ns()
        chip.pull(IN, level)
        while os.pread(value, 4, 0) != wanted:
            if time.perf_counter_ns() - begun > 10**10:
                raise AssertionError(f"no echo of edge {number}")
        took.append((time.perf_counter_ns() - begun) / 1000)
    os.close(value)
    took = took[20:]
    return {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99), "max": max(took)}


def latency(chip: Chip, rounds: int) -> None:
    """Ours inline and on a thread, the least that can echo, and the official binding."""
    chip_path = chip.path
    echoes: dict[str, Callable[[], Running]] = {
        "epoll, read, ioctl": lambda: Running(["-c", BARE, chip_path], {}),
        "official binding": lambda: Running(["-c", BINDING, chip_path], {}),
        "inline": lambda: processor(BOTH + FUNCTION.format(isolation="inline", edge="both"), ECHO),
        "thread": lambda: processor(BOTH + FUNCTION.format(isolation="thread", edge="both"), ECHO),
    }
    for name, make in echoes.items():
        with make():
            say(f"echo: {name}", echo_latency(chip, rounds))


def flood(chip: Chip, rate: int, seconds: int) -> None:
    """Edges at a rate through a real processor: its summing-up must equal what the kernel was given."""
    function = FUNCTION + "inbox = {{ size = 65536 }}\n"
    for isolation in ("inline", "thread"):
        edges = rate * seconds
        running = processor(
            PINS.replace("EDGE", "rising") + function.format(isolation=isolation, edge="rising"), NOTHING
        )
        with running:
            with world_at(chip, IN, rate, edges) as finished:
                took = finished()
            spent = [0, 1]
            while spent[-1] != spent[-2]:  # until it has nothing more to do
                time.sleep(0.5)
                spent.append(cpu_ns(running.process.pid) // 1_000_000)
        books = json.loads(running.text().splitlines()[-1])["with"]
        figures = {"edges": edges, "rate": edges / took, "received": books["received"], "handled": books["handled"]}
        say(f"flood: {isolation}", figures)


def idle(chip: Chip, quiet_s: float) -> None:
    """Memory and wake-ups of a processor that has nothing to do, and of the bare interpreter."""
    coap = "coap" in registry.SOURCES
    manifest = BOTH + (COAP if coap else "") + FUNCTION.format(isolation="thread", edge="both") + TIMER
    with Running(["-I", "-c", 'print(\'"event": "ready"\', flush=True); import time; time.sleep(600)'], {}) as bare:
        time.sleep(1)
        pid = bare.process.pid
        say("idle: bare interpreter", {"rss": rss_kib(pid) / 1024, "private": private_kib(pid) / 1024})
    with processor(manifest + (COAP_TRIGGER if coap else ""), NOTHING) as ours:
        time.sleep(3)
        pid = ours.process.pid
        before, begun = wakeups(pid), time.monotonic()
        time.sleep(quiet_s)
        rate = (wakeups(pid) - before) / (time.monotonic() - begun)
        about = "CoAP + GPIO + timer" if coap else "GPIO + timer"
        say(f"idle: {about}", {"rss": rss_kib(pid) / 1024, "private": private_kib(pid) / 1024, "wakeups": rate})


def say(name: str, figures: dict[str, float]) -> None:
    print(json.dumps({"figure": name, **figures}), flush=True)


def main() -> None:
    """`quick` as an argument: few rounds, to see that it works."""
    quick = "quick" in sys.argv
    with Chip(LABEL, 54) as chip:
        idle(chip, 5 if quick else 30)
        latency(chip, 100 if quick else 500)
        flood(chip, 5000, 1 if quick else 5)


if __name__ == "__main__":
    main()
