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


class Absent(Exception):
    """It cannot be had here, and why."""


def install() -> Path:
    """The folder that it is installed in; installs it if need be and says so. Raises Absent."""
    home = cache() / f"node-red-{VERSION}"
    if (home / "node_modules/node-red/red.js").exists():
        return home
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise Absent("node and npm are not installed (apt-get install npm)")
    note(f"installing Node-RED {VERSION} into {home} (npm; about a minute, once)")
    home.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--prefix", str(home), "--no-audit", "--no-fund", "--loglevel=error", f"node-red@{VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(home, ignore_errors=True)
        raise Absent(f"npm: {done.stderr.strip().splitlines()[-1:]}")
    return home


def start(home: Path, folder: Path, port: int) -> Subject:
    """MQTT in -> function -> MQTT out, the same decision as functions/decide.py."""
    (folder / "flows.json").write_text(json.dumps(_flow(port)))
    (folder / "settings.js").write_text(
        "module.exports = {httpAdminRoot: false, httpNodeRoot: false, flowFile: 'flows.json', disableEditor: true,"
        " telemetry: {enabled: false}, logging: {console: {level: 'error'}}}\n"
    )
    program = str(home / "node_modules/node-red/red.js")
    node = shutil.which("node") or "node"
    return Subject("node-red", [node, program, "--userDir", str(folder), "--settings", str(folder / "settings.js")], folder)


def _flow(port: int) -> list[dict[str, object]]:
    decide = (
        "return {topic: 'bench/out', payload: {heating: msg.payload.temperature < 21, sensor: msg.payload.sensor}, qos: 0,"
        " retain: false};"
    )
    return [
        {"id": "tab", "type": "tab", "label": "bench"},
        {
            "id": "broker", "type": "mqtt-broker", "broker": "127.0.0.1", "port": str(port), "clientid": "", "usetls": False,
            "protocolVersion": "4", "keepalive": "60", "cleansession": True, "autoConnect": True,
        },
        {
            "id": "in", "type": "mqtt in", "z": "tab", "topic": "bench/in", "qos": "0", "datatype": "json", "broker": "broker",
            "nl": False, "rap": True, "inputs": 0, "wires": [["decide"]],
        },
        {"id": "decide", "type": "function", "z": "tab", "func": decide, "outputs": 1, "libs": [], "wires": [["out"]]},
        {
            "id": "out", "type": "mqtt out", "z": "tab", "topic": "bench/out", "qos": "0", "retain": "false", "broker": "broker",
            "wires": [],
        },
    ]  # fmt: skip
