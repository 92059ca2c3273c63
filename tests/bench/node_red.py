"""Node-RED as a peer: installed once into a cache folder by npm, run without its editor."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.bench.bench import cache, note
from tests.bench.subject import Subject

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "4.1"  # 5 wants a newer Node than Debian 12 and 13 have


class AbsentError(Exception):
    """It cannot be had here, and why."""


def install() -> Path:
    """The folder that it is installed in; installs it if need be and says so. Raises AbsentError."""
    home = cache() / f"node-red-{VERSION}"
    if (home / "node_modules/node-red/red.js").exists():
        return home
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise AbsentError("node and npm are not installed (apt-get install npm)")
    note(f"installing Node-RED {VERSION} into {home} (npm; about a minute, once)")
    home.mkdir(parents=True, exist_ok=True)
    command = [
        npm,
        "install",
        "--prefix",
        str(home),
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
        f"node-red@{VERSION}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(home, ignore_errors=True)
        raise AbsentError(f"npm: {done.stderr.strip().splitlines()[-1:]}")
    return home


def start(home: Path, folder: Path, port: int) -> Subject:
    """MQTT in -> function -> MQTT out, the same decision as tests/functions/bench/decide.py."""
    (folder / "flows.json").write_text(json.dumps(_flow(port)))
    (folder / "settings.js").write_text(
        "module.exports = {httpAdminRoot: false, httpNodeRoot: false, flowFile: 'flows.json', disableEditor: true,"
        " telemetry: {enabled: false}, logging: {console: {level: 'error'}}}\n"
    )
    program = str(home / "node_modules/node-red/red.js")
    node = shutil.which("node") or "node"
    return Subject(
        "node-red", [node, program, "--userDir", str(folder), "--settings", str(folder / "settings.js")], folder
    )


def _flow(port: int) -> list[dict[str, object]]:
    decide = "{heating: msg.payload.temperature < 21, sensor: msg.payload.sensor}"
    function = f"return {{topic: 'bench/out', payload: {decide}, qos: 0, retain: false}};"
    connection: dict[str, object] = {
        "type": "mqtt-broker",
        "broker": "127.0.0.1",
        "port": str(port),
        "protocolVersion": "4",
    }
    connection |= {"clientid": "", "usetls": False, "keepalive": "60", "cleansession": True, "autoConnect": True}
    taken = {"type": "mqtt in", "topic": "bench/in", "qos": "0", "datatype": "json", "broker": "broker", "inputs": 0}
    given = {"type": "mqtt out", "topic": "bench/out", "qos": "0", "retain": "false", "broker": "broker"}
    return [
        {"id": "tab", "type": "tab", "label": "bench"},
        {"id": "broker", **connection},
        {"id": "in", "z": "tab", **taken, "nl": False, "rap": True, "wires": [["decide"]]},
        {
            "id": "decide",
            "z": "tab",
            "type": "function",
            "func": function,
            "outputs": 1,
            "libs": [],
            "wires": [["out"]],
        },
        {"id": "out", "z": "tab", **given, "wires": []},
    ]
