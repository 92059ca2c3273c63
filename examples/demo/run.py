"""The demonstration behind `make run`: a broker, simulated devices, and the real processor with three functions.

make run                                  a private broker on a free port of this machine
make run BROKER=mqtt://192.168.1.10       your broker
make run ARGS=--no-devices                the functions only: your own devices do the rest
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from typing import Any
from urllib.parse import urlsplit

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OWN_BROKER = "mqtt://127.0.0.1:18830"  # what edge.toml has; any other address there is somebody's own
# Debian keeps mosquitto out of an ordinary user's PATH; the last is where `make` unpacks it if it is not installed.
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", os.path.join(ROOT, ".cache/debian/bin")])
FUNCTIONS = ["thermostat.py", "motion_light.py", "power_watch.py"]
COLOURS = {"device": "36", "function": "33", "command": "1;32", "alarm": "1;31", "dim": "2"}


class Screen:
    """Aligned lines, coloured on a terminal: time, device, what it said, function, command."""

    def __init__(self) -> None:
        terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.coloured = bool(os.environ.get("FORCE_COLOR")) or (terminal and not os.environ.get("NO_COLOR"))
        self._lock = threading.Lock()
        self._later: deque[tuple[float, str]] = deque()

    def paint(self, style: str, text: str) -> str:
        return f"\x1b[{COLOURS[style]}m{text}\x1b[0m" if self.coloured and text else text

    def line(self, text: str = "") -> None:
        with self._lock:
            print(text, flush=True)

    def flow(self, family: str, said: str, function: str, command: str, *, alarm: bool = False) -> None:
        arrow = self.paint("dim", "→")
        left = f"{self.paint('dim', time.strftime('%H:%M:%S'))}  {self.paint('device', family.ljust(13))}"
        left += said.ljust(36)
        right = f"{arrow} {self.paint('function', function.ljust(13))}"
        if command:
            right += f"{arrow} {self.paint('alarm' if alarm else 'command', command)}"
        self.line((left + right).rstrip())

    def device(self, family: str, topic: str, did: str) -> None:
        """Show what a device did, a moment later: the command's own line is on its way through the processor's log."""
        left = f"{self.paint('dim', time.strftime('%H:%M:%S'))}  {self.paint('device', family.ljust(13))}"
        text = f"{left}{did.ljust(36)}{self.paint('dim', '← ' + topic)}"
        self._later.append((time.monotonic() + 0.2, text))

    def turn(self, *, all_of_it: bool = False) -> None:
        """Show what has waited long enough."""
        while self._later and (all_of_it or self._later[0][0] <= time.monotonic()):
            self.line(self._later.popleft()[1])


def family_of(topic: str) -> str:
    """Whose devices speak under this topic."""
    first = topic.partition("/")[0]
    known = {"tele": "Tasmota", "zigbee2mqtt": "Zigbee2MQTT", "shellies": "Shelly Gen1", "sensors": "plain number"}
    return known.get(first, "Shelly Gen2" if topic.endswith("/rpc") else "")


def end_with_parent() -> None:
    """Have the kernel end this child when the demonstration is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def start(command: list[str], **options: object) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own: Ctrl-C is for us, and we end the children in order."""
    return subprocess.Popen(  # noqa: S603 - our own programs
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509 - no thread runs yet when children are started
        **options,
    )


def start_broker(folder: str) -> tuple[subprocess.Popen[bytes], str]:
    """Run a mosquitto that only this machine can reach; returns it and its address when it listens."""
    program = shutil.which("mosquitto", path=SEARCHED)
    if program is None:
        sys.exit("mosquitto is not installed: `make run` unpacks it, BROKER=mqtt://… takes another broker")
    configuration = os.path.join(folder, "mosquitto.conf")
    for wanted in (urlsplit(OWN_BROKER).port, *[0] * 5):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            port = probe.getsockname()[1]
        with open(configuration, "w") as file:
            user = "user root\n" if os.geteuid() == 0 else ""
            file.write(f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_type none\n{user}")
        process = start([program, "-c", configuration], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return process, f"mqtt://127.0.0.1:{port}"
        process.kill()
        process.wait()
    sys.exit(f"{program} does not start")


def manifest_for(broker: str, written: str, folder: str) -> str:
    """The manifest itself, or beside links to the functions a copy of it that differs in the broker's line."""
    original = os.path.join(HERE, "edge.toml")
    if broker == written:
        return original
    with open(original, encoding="utf-8") as file:
        text = file.read()
    for name in FUNCTIONS:
        os.symlink(os.path.join(HERE, name), os.path.join(folder, name))
    path = os.path.join(folder, "edge.toml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(re.sub(r'(?m)^url = "[^"]*"', lambda _match: f'url = "{broker}"', text, count=1))
    return path


def written_broker() -> str:
    """The address in edge.toml."""
    with open(os.path.join(HERE, "edge.toml"), encoding="utf-8") as file:
        found = re.search(r'(?m)^url = "([^"]*)"', file.read())
    return found[1] if found else OWN_BROKER


def show(record: dict[str, Any], screen: Screen) -> None:
    """Show one of the processor's log records."""
    values = record["with"]
    message = str(record["message"])
    if "topic" in values and "function" in record:
        command = str(values.get("command", ""))
        if command:
            payload = values["payload"]
            command += " " + (payload if isinstance(payload, str) else json.dumps(payload, separators=(",", ":")))
        alarm = record["level"] == "warning"
        screen.flow(family_of(str(values["topic"])), message, str(record["function"]), command, alarm=alarm)
    elif record.get("event") == "ready":
        screen.line(screen.paint("dim", f"{message} (pid {values.get('pid')})"))
    elif record.get("event") == "stopped":
        screen.line()
        screen.line(message)
    else:
        rest = " ".join(f"{key}={value}" for key, value in values.items())
        screen.line(f"{record['level']}: {record.get('logger', '')}: {message} {rest}".rstrip())


def read_records(process: subprocess.Popen[bytes], screen: Screen) -> None:
    """Show what the processor says until it ends."""
    with process.stderr as lines:
        for raw in lines:
            line = raw.decode(errors="replace").rstrip("\n")
            try:
                show(json.loads(line), screen)
            except (ValueError, KeyError, TypeError):  # no record: an error before the log is there
                screen.line(line)


def main() -> int:
    """Run it until Ctrl-C, or for --seconds; returns the processor's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.0, metavar="N", help="end after N seconds")
    parser.add_argument("--no-devices", action="store_true", help="without simulated devices: yours do the rest")
    parser.add_argument("--broker", default=os.environ.get("BROKER", ""), metavar="URL", help="default: $BROKER")
    options = parser.parse_args()
    screen = Screen()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="nuclio-edge-demo-") as folder:
        return demonstrate(options, screen, folder)


def demonstrate(options: argparse.Namespace, screen: Screen, folder: str) -> int:
    """Start everything, show what happens, end everything."""
    written = written_broker()
    broker = options.broker or written
    mosquitto = processor = field = None
    code = 1
    try:
        if broker == OWN_BROKER:
            mosquitto, broker = start_broker(folder)
            screen.line(f"broker     {broker}  (mosquitto, for this demonstration only)")
        else:
            screen.line(f"broker     {broker}")
        manifest = manifest_for(broker, written, folder)
        screen.line(f"functions  {', '.join(name[:-3] for name in FUNCTIONS)}  in {os.path.relpath(HERE)}")
        screen.line("           your own broker: change one line, `url`, in edge.toml, or make run BROKER=mqtt://…")
        screen.line("           Ctrl-C ends it\n")
        environment = {**os.environ, "STATE_DIRECTORY": os.path.join(folder, "state")}
        processor = start(
            [sys.executable, "-m", "nuclio_edge", "run", manifest], stderr=subprocess.PIPE, env=environment
        )
        reader = threading.Thread(target=read_records, args=(processor, screen), daemon=True)
        reader.start()
        if not options.no_devices:
            from devices import Field

            address = urlsplit(broker)
            if address.scheme == "mqtt":
                field = Field(address.hostname or "127.0.0.1", address.port or 1883, screen.device)
            else:
                screen.line("the simulated devices speak mqtt:// only: they stay away, yours do the rest")
        ends = time.monotonic() + options.seconds if options.seconds else float("inf")
        while time.monotonic() < ends and processor.poll() is None:
            if field is not None:
                field.turn()
            screen.turn()
            time.sleep(0.1)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # from here on everything ends by itself
        if field is not None:
            field.close()
        screen.turn(all_of_it=True)
        if processor is not None:
            if processor.poll() is None:
                processor.terminate()
            code = processor.wait()
            reader.join(5)
        if field is not None:
            screen.line(f"commands that reached the devices: {field.commands}")
        if mosquitto is not None:
            mosquitto.terminate()
            mosquitto.wait()
    return code


if __name__ == "__main__":
    sys.exit(main())
