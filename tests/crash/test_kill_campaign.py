"""A processor that is killed again and again beside a real broker: nothing that the broker took is lost.

Each campaign has a seed and kills one processor KILLS times (environment; `make crash` asks for more), at random
moments of its start, of its work and of its waiting. Counted is at both ends: by the handlers, who append to a file
with one write each, and by a subscriber at the outputs' topic.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.cli import Running, call, write
from tests.mosquitto import Mosquitto, program
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

KILLS = int(os.environ.get("KILLS", "50"))  # of each of four campaigns
BURST = 12  # messages to each function between two kills

MANIFEST = """
[device]
name = "campaign"

[source.broker]
kind = "mqtt"
url = "{url}"
client_id = "gw"
version = {version}
"""
# A kill from outside is nobody's fault: enough attempts that none of them ends as a dead letter.
FUNCTION = """
[function.{name}]
handler = "{name}.py"
isolation = "{isolation}"
[[function.{name}.trigger]]
topic = "{name}"
qos = {qos}
inbox = {{ size = 16 }}
retry = {{ attempts = 1000, backoff = "1ms" }}
dead_letter = true
[[function.{name}.output]]
topic = "out/{name}"
qos = 1
"""
CODE = """
import os, time
FD = os.open("handled-{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def handler(context, event):
    time.sleep({pause})
    os.write(FD, event.raw_body + (b" again\\n" if event.duplicate else b" first\\n"))
    return event.raw_body
"""
FUNCTIONS = {"quick": 0.0, "slow": 0.02}


class Publisher:
    """A client that publishes lines to a topic with QoS 1, for as long as the campaign lasts."""

    def __init__(self, broker: Mosquitto, topic: str, qos: int) -> None:
        command = [program("mosquitto_pub"), "-p", str(broker.port), "-q", str(qos), "-t", topic, "-l"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.count = 0

    def send(self, count: int) -> None:
        """The next numbers."""
        assert self._process.stdin is not None
        lines = "".join(f"{number}\n" for number in range(self.count, self.count + count))
        self._process.stdin.write(lines.encode())
        self._process.stdin.flush()
        self.count += count

    def finish(self) -> None:
        """Return when the broker has all of them."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(60) == 0

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def counted(path: Path) -> tuple[collections.Counter[int], collections.Counter[int]]:
    """How often each number stands in a file of lines, and how often without the mark of a repetition."""
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    all_of = collections.Counter(int(words[0]) for words in lines)
    return all_of, collections.Counter(int(words[0]) for words in lines if words[-1] == "first")


@pytest.mark.timeout(60 + 12 * KILLS)
@pytest.mark.parametrize(
    ("seed", "version", "qos", "isolation"),
    [(1, 5, 1, "thread"), (2, 3, 1, "thread"), (3, 5, 2, "thread"), (4, 5, 1, "inline")],
)
def test_nothing_is_lost_however_often_the_process_is_killed(
    tmp_path: Path, seed: int, version: int, qos: int, isolation: str
) -> None:
    chance = random.Random(seed)
    heard = tmp_path / "heard"
    codes = {name: CODE.format(name=name, pause=pause) for name, pause in FUNCTIONS.items()}
    with Mosquitto(tmp_path / "broker", max_queued=0) as broker, heard.open("wb") as out:
        text = MANIFEST.format(url=broker.url, version=version)
        text += "".join(FUNCTION.format(name=name, isolation=isolation, qos=qos) for name in FUNCTIONS)
        write(tmp_path, text, **codes)
        command = [program("mosquitto_sub"), "-p", str(broker.port), "-q", "2", "-t", "out/#", "-F", "%t %p"]
        listener = subprocess.Popen(command, stdout=out)
        try:
            broker.wait_for_log("out/#")
            with Running(tmp_path) as running:  # the session and its subscriptions exist from here on
                running.ready()
                assert running.stop() == 0
            with Publisher(broker, "quick", qos) as quick, Publisher(broker, "slow", qos) as slow:
                for _ in range(KILLS):
                    _one_life(tmp_path, chance, (quick, slow))
                quick.finish()
                slow.finish()
                _forget_suspects(tmp_path)
                with Running(tmp_path) as running:
                    running.ready()
                    _wait_for_all(tmp_path, heard, "quick", quick.count)
                    _wait_for_all(tmp_path, heard, "slow", slow.count)
                    wait_until(lambda: _pending(tmp_path) == 0, "the repetitions", limit=120)
                    assert running.stop() == 0, running.log
                    said = running.wait_for(event="stopped")["with"]
                assert said["pending"] == 0
            assert call("dead-letters", "--json", cwd=tmp_path).stdout == ""
            twice = 0
            for name in FUNCTIONS:
                handled, unmarked = counted(tmp_path / f"handled-{name}")
                assert [number for number, times in unmarked.items() if times > 1] == [], "repeated without a mark"
                twice += sum(times - 1 for times in handled.values())
            print(  # noqa: T201 - the figure, which `make crash` shows
                f"{KILLS} kills, {quick.count + slow.count} messages, 0 lost, {twice} handled again and marked"
            )
        finally:
            listener.kill()
            listener.wait()


def _one_life(folder: Path, chance: random.Random, publishers: tuple[Publisher, ...]) -> None:
    """Start a processor, publish, kill it some time between its first instruction and well after its work is done."""
    _forget_suspects(folder)
    with Running(folder) as running:
        if chance.random() < 0.3:
            running.ready()
        for publisher in publishers:
            publisher.send(chance.randrange(BURST * 2))
        time.sleep(chance.uniform(0, 0.7))
        running.send(signal.SIGKILL)
        running.wait()


def _wait_for_all(folder: Path, heard: Path, name: str, count: int) -> None:
    """Every message has been handled, and its output has come."""
    wanted = set(range(count))
    path = folder / f"handled-{name}"
    wait_until(lambda: wanted <= set(counted(path)[0]), lambda: _missing(wanted, path), limit=120)
    mine = f"out/{name} "
    wait_until(
        lambda: wanted <= _outputs(heard, mine), lambda: f"{wanted - _outputs(heard, mine)} at {mine}", limit=120
    )


def _pending(folder: Path) -> int:
    """How many events the processor still has."""
    ledger = json.loads(call("ledger", "--json", cwd=folder).stdout)
    return sum(row["pending"] for row in ledger["triggers"].values())


def _forget_suspects(folder: Path) -> None:
    """A function that was running at three kills in a row is suspended, longer each time: not what is tried here."""
    for path in (folder / "state").glob("suspects.json"):
        path.unlink()


def _outputs(heard: Path, prefix: str) -> set[int]:
    return {int(line[len(prefix) :]) for line in heard.read_text().splitlines() if line.startswith(prefix)}


def _missing(wanted: set[int], path: Path) -> str:
    missing = sorted(wanted - set(counted(path)[0]))
    return f"{len(missing)} of {len(wanted)} are not handled: {missing[:20]}"
