"""What stands on the recorder's page, run as it stands there: a broker, a window that opens, a new version."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from tests.cli import Running, call
from tests.docs.pages import DOCS, write_out
from tests.mosquitto import program
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mosquitto import Mosquitto

_VARIES = (
    (r"\b[0-9a-f]{8}-\d+\b", "ID"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", "TIME"),
    (r"\d+\.\d ms", "N ms"),
    (r"version 1 [0-9a-f]{8}", "version 1 CODE"),
)


def same(text: str) -> list[str]:
    """The lines without what differs from run to run."""
    for pattern, word in _VARIES:
        text = re.sub(pattern, word, text)
    return [line.rstrip() for line in text.strip().splitlines()]


def shown(command: str) -> list[str]:
    """What the page shows below a command."""
    text = (DOCS / "recorder.md").read_text()
    after = text.split(f"    $ {command}", 1)[1].split("\n", 1)[1]
    lines = []
    for line in after.splitlines():
        if not line.startswith("    "):
            break
        lines.append(line[4:])
    return same("\n".join(lines))


def test_the_page_shows_what_comes_of_what_is_on_it(tmp_path: Path, mosquitto: Mosquitto) -> None:
    write_out("recorder.md", tmp_path)
    manifest = tmp_path / "edge.toml"
    manifest.write_text(manifest.read_text().replace("mqtt://192.168.1.10", mosquitto.url))
    at = ("-h", "127.0.0.1", "-p", str(mosquitto.port))

    def publish(body: str) -> None:
        topic = "sensors/hall/temperature"
        subprocess.run([program("mosquitto_pub"), *at, "-t", topic, "-m", body, "-q", "1"], check=True)

    def recorded() -> int:
        return call("explain", cwd=tmp_path).stdout.count("  200 ")

    with Running(tmp_path) as run:
        run.ready()
        run.wait_for(message="connected")
        publish('{"temperature": 21.5}')
        wait_until(lambda: recorded() == 1, "the first reading")
        assert call("sim", "set", "GPIO17", "1", cwd=tmp_path).returncode == 0
        wait_until(lambda: recorded() == 2, "the window")
        publish('{"temperature": 19.5}')
        wait_until(lambda: recorded() == 3, "the second reading")
        assert run.stop() == 0

    old = call("replay", cwd=tmp_path)
    assert (old.returncode, old.stdout) == (0, "3 replayed: 0 changed, 3 the same\n"), old.stderr
    new = call("replay", "--path", "warmer.py", cwd=tmp_path)
    assert (new.returncode, same(new.stdout)) == (1, shown("nuclio-edge replay --path warmer.py")), new.stderr
    event = new.stdout.split()[0]
    told = call("explain", event, cwd=tmp_path)
    assert (told.returncode, same(told.stdout)) == (0, shown("nuclio-edge explain")), told.stderr
