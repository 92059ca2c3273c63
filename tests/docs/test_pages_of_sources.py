"""Every kind has a page, and what stands on it runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from nuclio_edge import registry
from tests.cli import Running, call, environment
from tests.docs.pages import DOCS, files, write_out
from tests.mosquitto import program
from tests.serial_line import SerialLine
from tests.unit.test_serial_framing import sentence
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mosquitto import Mosquitto


@pytest.mark.parametrize("kind", registry.SOURCES)
def test_every_kind_has_a_page_that_the_index_names_and_a_manifest_that_is_right(kind: str, tmp_path: Path) -> None:
    page = f"sources/{kind}.md"
    assert f"({kind}.md)" in (DOCS / "sources" / "index.md").read_text()
    assert f"({page})" in (DOCS / "index.md").read_text()
    assert f"`{kind}`" in (DOCS.parent / "README.md").read_text()
    write_out(page, tmp_path)
    checked = call("check", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr


def test_every_kinds_page_is_run_by_a_test() -> None:
    """Each kind has a test here, or beside its clients, that writes the files of its page out and runs them."""
    tests = "".join(path.read_text() for path in (DOCS.parent / "tests").glob("*/test_*.py"))
    for kind in registry.SOURCES:
        assert f'write_out("sources/{kind}.md"' in tests, kind


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links to them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


def test_no_link_leads_nowhere() -> None:
    for page in DOCS.rglob("*.md"):
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
            there = page.parent / target if target else page
            assert there.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(there), f"{page.name} links to {target}#{anchor}"


def test_the_mqtt_page(tmp_path: Path, mosquitto: Mosquitto) -> None:
    write_out("sources/mqtt.md", tmp_path)
    manifest = tmp_path / "edge.toml"
    manifest.write_text(manifest.read_text().replace("mqtt://192.168.1.10", mosquitto.url))
    at = ("-h", "127.0.0.1", "-p", str(mosquitto.port))
    with (
        subprocess.Popen(
            [program("mosquitto_sub"), *at, "-i", "page", "-t", "heating/#", "-C", "2", "-v"], stdout=subprocess.PIPE
        ) as heard,
        Running(tmp_path) as run,
    ):
        mosquitto.wait_for_log("Sending SUBACK to page")
        run.ready()
        run.wait_for(message="connected")
        subprocess.run(
            [program("mosquitto_pub"), *at, "-t", "sensors/hall/temperature", "-m", '{"temperature": 19.5}', "-q", "1"],
            check=True,
        )
        said = heard.communicate(timeout=30)[0].decode().splitlines()
        assert sorted(said) == [
            'heating/command {"room":"hall","heating":true}',
            'heating/hall/last {"t":19.5}',
        ]
        assert run.stop() == 0


def test_the_coap_page(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::", 0))
        port = probe.getsockname()[1]
    write_out("sources/coap.md", tmp_path)
    manifest = tmp_path / "edge.toml"
    text = manifest.read_text().replace(":5683", f":{port}").replace("coap://127.0.0.1/", f"coap://127.0.0.1:{port}/")
    manifest.write_text(text)
    with Running(tmp_path) as run:
        run.ready()

        def ask(*arguments: str) -> str:
            command = [
                program("coap-client-notls"),
                "-B",
                "25",
                *arguments[:-1],
                f"coap://localhost:{port}{arguments[-1]}",
            ]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=50).stdout.strip()

        assert ask("-m", "put", "-e", '{"target": 19.5}', "-t", "50", "/heating") == '{"target":19.5}'
        promised = re.search(r"^</heating>.*$", (DOCS / "sources" / "coap.md").read_text(), re.MULTILINE)
        assert promised is not None
        assert ask("-m", "get", "/.well-known/core") == promised[0]
        assert ask("-m", "get", "/heating/last") == '{"target":19.5}'
        heard = run.wait_for(message="target")["with"]
        assert (heard["value"], heard["from"]) == (19.5, f"coap://127.0.0.1:{port}/heating/last")
        assert run.stop() == 0


def test_the_timer_page(tmp_path: Path) -> None:
    write_out("sources/timer.md", tmp_path)
    with Running(tmp_path) as run:
        first, second = (run.wait_for(count, message="tick")["with"] for count in (1, 2))
        assert (first["name"], first["what"]) == ("often", "pulse")
        assert (second["due"] - first["due"]) % 500 <= 2 or (second["due"] - first["due"]) % 500 >= 498
        assert run.stop() == 0


def test_the_serial_page(tmp_path: Path) -> None:
    write_out("sources/serial.md", tmp_path)
    line = SerialLine(tmp_path)
    manifest = tmp_path / "edge.toml"
    manifest.write_text(manifest.read_text().replace("/dev/serial/by-id/usb-u-blox_7-if00", line.path))
    heard = bytearray()

    def answered() -> bool:
        heard.extend(line.heard())
        return heard.endswith(b"$PUBX,00*33\r\n")

    with Running(tmp_path) as run:
        run.ready()
        line.send(sentence("GPRMC,081836,A,3751.65,S,14507.36,E,000.0,360.0,130998,011.3,E") + sentence("GPGSV,3"))
        said = run.wait_for(message="position")["with"]
        assert said == {"latitude": "3751.65S", "longitude": "14507.36E"}
        line.send(sentence("GNRMC,081837,V,,,,,,,130998,,"))
        wait_until(answered, "the question")
        assert heard == b"$PTHANKS,081836\r\n$PUBX,00*33\r\n"
        assert run.stop() == 0
    line.unplug()


def on_the_simulated_board(page: str, folder: Path, real: str, simulated: str) -> list[list[str]]:
    """Write a page's files out for the simulated board; the words of its `nuclio-edge sim` lines."""
    write_out(page, folder)
    manifest = folder / "edge.toml"
    text = manifest.read_text()
    assert real in text
    manifest.write_text('[device]\nboard = "sim"\nstate_dir = "state"\n' + text.replace(real, simulated))
    lines = re.findall(r"^nuclio-edge (sim .*)$", (DOCS / page).read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_the_serial_page_without_hardware(tmp_path: Path) -> None:
    real = "/dev/serial/by-id/usb-u-blox_7-if00"
    send, watch, unplug = on_the_simulated_board("sources/serial.md", tmp_path, real, "header")
    assert (send[:3], watch[:3]) == (["sim", "send", "header"], ["sim", "watch", "header"])
    with Running(tmp_path) as run:
        run.ready()
        assert call(*send, cwd=tmp_path).returncode == 0
        assert run.wait_for(message="position")["with"] == {"latitude": "3751.65S", "longitude": "14507.36E"}
        assert call(*unplug, cwd=tmp_path).returncode == 0
        assert "header is gone" in run.wait_for(message="no port, trying again")["with"]["error"]
        assert run.stop() == 0


def test_the_sensor_page_without_hardware(tmp_path: Path) -> None:
    real = "/sys/bus/w1/devices/28-*/temperature"
    put, take = on_the_simulated_board("sources/sensor.md", tmp_path, real, "sim:28-*")
    manifest = tmp_path / "edge.toml"
    manifest.write_text(manifest.read_text().replace('"10s"', '"20ms"'))
    with Running(tmp_path) as run:
        run.ready()
        assert call(*put, cwd=tmp_path).returncode == 0
        assert run.wait_for(message="measured")["with"] == {"sensor": "28-0316a2794aff", "celsius": 21.562}
        assert call(*take, cwd=tmp_path).returncode == 0
        wait_until(lambda: "it is gone" in run.log, "its end to be said")
        assert run.stop() == 0


def test_the_other_manifests_of_the_serial_page_are_right(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / "sources/serial.md").read_text(), re.DOTALL)
    (tmp_path / "edge.toml").write_text(blocks[1])
    assert call("check", cwd=tmp_path).returncode == 0


def test_the_sensor_page(tmp_path: Path) -> None:
    write_out("sources/sensor.md", tmp_path)
    sensor = tmp_path / "w1/28-0316a2794aff/temperature"
    sensor.parent.mkdir(parents=True)
    sensor.write_text("21562\n")
    manifest = tmp_path / "edge.toml"
    manifest.write_text(manifest.read_text().replace("/sys/bus/w1/devices", f"{tmp_path}/w1").replace("10s", "20ms"))
    with Running(tmp_path) as run:
        first = run.wait_for(message="measured")["with"]
        assert first == {"sensor": "28-0316a2794aff", "celsius": 21.562}
        sensor.write_text("21700\n")  # within the dead band
        sensor.write_text("21800\n")
        assert run.wait_for(2, message="measured")["with"]["celsius"] == 21.8
        assert run.wait_for(message="no reading")["with"]["source"] == "air"  # there is no such bus here
        assert run.stop() == 0


def test_the_gpio_page(tmp_path: Path) -> None:
    write_out("sources/gpio.md", tmp_path)
    with Running(tmp_path) as run:
        run.ready()
        for level in ("1", "0"):
            assert call("sim", "set", "GPIO17", level, "GPIO4", level, cwd=tmp_path).returncode == 0
        assert run.wait_for(message="light")["with"] == {"line": "door", "what": "rising", "relay": 1}
        assert call("sim", "get", "GPIO27", cwd=tmp_path).stdout.startswith("GPIO27 1  out")
        assert run.wait_for(message="water")["with"] == {"pulses": 1, "total": 1}
        assert run.stop() == 0


def test_the_memory_page(tmp_path: Path) -> None:
    write_out("sources/memory.md", tmp_path)
    done = subprocess.run(
        [sys.executable, "embed.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    promised = re.search(r"```text\n(.*?)```", (DOCS / "sources" / "memory.md").read_text(), re.DOTALL)
    assert promised is not None
    assert done.stdout == promised[1], done.stderr


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The page's source as an installed package: the file, and what pip writes of its entry point."""
    site = tmp_path / "site"
    info = site / "udp_source-1.0.dist-info"
    info.mkdir(parents=True)
    page = files("writing-a-source.md")
    (site / "udp_source.py").write_text(page["udp_source.py"])
    point = re.search(r"\[project.entry-points.\"(.*?)\"\]\n(\w+) = \"(.*?)\"", page["pyproject.toml"])
    assert point is not None
    (info / "entry_points.txt").write_text(f"[{point[1]}]\n{point[2]} = {point[3]}\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: udp-source\nVersion: 1.0\n")
    return site


def test_the_source_of_another_package_holds_every_sentence_of_the_contract(package: Path) -> None:
    (package / "check_udp.py").write_text(files("writing-a-source.md")["check_udp.py"])
    done = subprocess.run(
        [sys.executable, "-W", "error", "check_udp.py"], cwd=package, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok: ") == 11
    assert "pytest" not in done.stderr


def test_the_source_of_another_package_works_in_a_manifest(package: Path, tmp_path: Path) -> None:
    import socket

    page = files("writing-a-source.md")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "edge.toml").write_text(page["edge.toml"].replace("9999", str(port)))
    (tmp_path / "shout.py").write_text(page["shout.py"])
    paths = {"PYTHONPATH": os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])}
    assert environment(tmp_path, paths)["PYTHONPATH"] == paths["PYTHONPATH"]
    with Running(tmp_path, env=paths) as run, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as world:
        run.ready()
        world.settimeout(30)
        world.sendto(b"nothing", ("127.0.0.1", port))
        world.sendto(b"say hello", ("127.0.0.1", port))
        assert world.recv(100) == b"SAY HELLO"
        assert run.stop() == 0
        [stopped] = [record for record in run.records if record.get("event") == "stopped"]
        assert "received 2" in stopped["message"]
        assert "unrouted 1" in stopped["message"]
