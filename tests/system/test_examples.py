"""The examples for the Raspberry Pi run on the simulated board, and what comes out is what their READMEs say."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import urllib.request
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli import Running, call
from tests.mosquitto import program
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mosquitto import Mosquitto

EXAMPLES = Path(__file__).parents[2] / "examples" / "raspberrypi"


class Example:
    """A copy of an example, with addresses that are free here, running."""

    def __init__(self, name: str, folder: Path, **changed: str) -> None:
        self.folder = folder / name
        shutil.copytree(EXAMPLES / name, self.folder)
        self.readme = (self.folder / "README.md").read_text()
        manifest = self.folder / "edge.toml"
        text = manifest.read_text()
        for old, new in changed.items():
            assert old in text
            text = text.replace(old, new)
        manifest.write_text(text)

    def sim(self, *words: str) -> None:
        done = call("sim", *words, cwd=self.folder)
        assert done.returncode == 0, done.stderr

    def promised(self, pattern: str) -> str:
        """The line of the README that begins so, after its four spaces."""
        found = re.search(rf"^    ({pattern}.*)$", self.readme, re.MULTILINE)
        assert found is not None, pattern
        return found[1]


def heard(mosquitto: Mosquitto, topic: str) -> str:
    """The retained message of a topic, as mosquitto_sub shows it."""
    command = [program("mosquitto_sub"), "-h", "127.0.0.1", "-p", str(mosquitto.port), "-t", topic, "-v", "-C", "1"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def port(family: socket.AddressFamily, kind: socket.SocketKind, host: str) -> int:
    with socket.socket(family, kind) as probe:
        probe.bind((host, 0))
        number: int = probe.getsockname()[1]
        return number


def button_relay(folder: Path, _mosquitto: Mosquitto) -> None:
    example = Example("button_relay", folder)
    with Running(example.folder) as run:
        run.ready()
        example.sim("script", "press.txt")
        for count, press in enumerate(("click", "hold"), 1):
            said = run.wait_for(count, message="light")["with"]
            assert f"light  press={press} on={said['on']}" == example.promised(f"light  press={press}")
        assert run.stop() == 0


def gps_mqtt(folder: Path, mosquitto: Mosquitto) -> None:
    example = Example("gps_mqtt", folder, **{"mqtt://192.168.1.10": mosquitto.url})
    with Running(example.folder) as run:
        run.ready()
        run.wait_for(message="connected")
        sentence = re.search(r"sim send header '(.*)'", example.readme)
        assert sentence is not None
        example.sim("send", "header", sentence[1].replace("*47", "*48"))  # noise on the line
        example.sim("send", "header", sentence[1])
        assert heard(mosquitto, "fleet/#") == example.promised("fleet/")
        assert run.stop() == 0


def heating(folder: Path, _mosquitto: Mosquitto) -> None:
    number = port(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1")
    example = Example("heating", folder, **{"127.0.0.1:8080": f"127.0.0.1:{number}"})

    def status() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{number}/status", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    with Running(example.folder) as run:
        run.ready()
        assert status() == '{"celsius":null,"heating":false}'
        example.sim("set", "28-0316a2794aff", "18500")
        wait_until(lambda: status() == example.promised('{"celsius"'), status)
        for said in ("20000", "20100", "21000"):  # the second one is within the dead band
            example.sim("set", "28-0316a2794aff", said)
            if said != "20100":
                wanted = f'{{"celsius":{int(said) / 1000},"heating":{str(said == "20000").lower()}}}'
                wait_until(partial(lambda text: status() == text, wanted), status)
        assert [r["with"]["celsius"] for r in run.records if r["message"] == "measured"] == [18.5, 20.0, 21.0]
        assert run.stop() == 0


def door_coap(folder: Path, mosquitto: Mosquitto) -> None:
    number = port(socket.AF_INET6, socket.SOCK_DGRAM, "::")
    example = Example(
        "door_coap", folder, **{"mqtt://192.168.1.10": mosquitto.url, "[::]:5683": f"[::]:{number}"}
    )  # fmt: skip
    with Running(example.folder) as run:
        run.ready()
        run.wait_for(message="connected")
        words = example.promised("coap-client-notls").replace("coap://localhost/", f"coap://localhost:{number}/")
        command = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", words)]
        subprocess.run([program(command[0]), "-B", "20", *command[1:]], check=True, timeout=30)
        assert heard(mosquitto, "doors/#") == example.promised("doors/front")
        assert run.stop() == 0


@pytest.mark.parametrize("example", [button_relay, gps_mqtt, heating, door_coap])
def test_an_example_does_what_its_readme_says(
    example: Callable[[Path, Mosquitto], None], tmp_path: Path, mosquitto: Mosquitto
) -> None:
    example(tmp_path, mosquitto)


def test_every_example_has_what_it_should_and_is_driven_here() -> None:
    folders = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
    assert folders == sorted(example.__name__ for example in (button_relay, gps_mqtt, heating, door_coap))
    index = (EXAMPLES / "README.md").read_text()
    for name in folders:
        assert (EXAMPLES / name / "README.md").exists()
        assert f"]({name}/README.md)" in index
