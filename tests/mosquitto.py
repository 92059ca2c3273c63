"""A real mosquitto for one test, on free loopback ports, that can be stopped, killed and frozen."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from tests.certificates import Certificates

ROOT = Path(__file__).parent.parent
# Debian keeps mosquitto out of an ordinary user's PATH; the last is where the set-up unpacks it if it is not installed.
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", str(ROOT / ".cache/debian/bin")])
HOST = "127.0.0.1"


def program(name: str = "mosquitto") -> str:
    """Return the path of `mosquitto`, `mosquitto_pub` or `mosquitto_sub`; fail with what to do if it is not there."""
    found = shutil.which(name, path=SEARCHED)
    assert found, f"{name} is not installed: call `make test`, which unpacks it privately, or apt-get install mosquitto"
    return found


class Mosquitto:
    """One broker process.

    Use it as a context manager, or by `start` and `stop`. Its ports stay the same over restarts.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tls: Certificates | None = None,
        client_certificates: bool = False,
        tls_version: str = "",
        websockets: bool = False,
        users: Mapping[str, str] | None = None,
        persistence: bool = False,
        max_inflight: int | None = None,
        max_queued: int | None = None,
        log_type: str = "all",
        lines: Sequence[str] = (),
    ) -> None:
        """Prepare a broker in `folder` (made if absent); nothing runs yet.

        `tls` adds a TLS listener, which asks for a client certificate if `client_certificates`, and may be bound to one
        `tls_version` (tlsv1.2, tlsv1.3); `websockets` adds one, too, and a TLS one beside it if there is `tls`. `users`
        maps names to passwords; without it everybody may connect. `persistence` keeps sessions over stop and restart,
        and within a second over a kill. `max_inflight` 0 means no limit. `lines` are added to the configuration.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.tls = tls
        self.log_file = folder / "mosquitto.log"
        self.port = self.tls_port = self.ws_port = self.wss_port = 0
        self._client_certificates = client_certificates
        self._tls_version = tls_version
        self._websockets = websockets
        self._users = users
        self._settings = [
            f"log_type {log_type}",
            "log_dest stderr",
            "log_timestamp_format %H:%M:%S",
            "set_tcp_nodelay true",
        ]
        self._settings.append(f"allow_anonymous {'false' if users else 'true'}")
        if os.geteuid() == 0:
            self._settings.append("user root")  # else it becomes the user mosquitto and cannot read the folder
        if users:
            self._settings.append(f"password_file {folder / 'passwords'}")
        if persistence:
            self._settings += [
                "persistence true",
                f"persistence_location {folder}/",
                "autosave_on_changes true",
                "autosave_interval 1",
            ]
        if max_inflight is not None:
            self._settings.append(f"max_inflight_messages {max_inflight}")
        if max_queued is not None:
            self._settings.append(f"max_queued_messages {max_queued}")
        self._settings += lines
        self._process: subprocess.Popen[bytes] | None = None

    # What a client needs.

    @property
    def url(self) -> str:
        """The plain listener's URL."""
        return f"mqtt://{HOST}:{self.port}"

    @property
    def tls_url(self) -> str:
        """The TLS listener's URL; by name, as the certificate has it."""
        return f"mqtts://localhost:{self.tls_port}"

    @property
    def ws_url(self) -> str:
        """The websocket listener's URL."""
        return f"ws://{HOST}:{self.ws_port}/mqtt"

    @property
    def wss_url(self) -> str:
        """The websocket listener's URL, with TLS."""
        return f"wss://localhost:{self.wss_port}/mqtt"

    @property
    def pid(self) -> int:
        """The broker's process id; it must be running."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """All that the broker wrote so far, over restarts too."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    # Its life.

    def start(self) -> Mosquitto:
        """Run the broker and return when it listens."""
        assert not self.running, "the broker is running already"
        chosen = self.port == 0
        for _ in range(10):
            if chosen:
                self._choose_ports()
            self._write_configuration()
            if self._launch():
                return self
            if not chosen:  # a restart: the old port may take a moment to be free again
                wait_until(self._port_is_free, f"port {self.port} is taken by somebody else")
        raise AssertionError("mosquitto does not start:\n" + self.log)

    def stop(self) -> None:
        """End it as an operator would (SIGTERM: it says DISCONNECT to v5 clients and saves its sessions)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it on the same ports."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Make it a black hole: its ports still accept, and nothing ever answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def wait_for_log(self, text: str, times: int = 1) -> None:
        """Return when the log has `text`, `times` times."""
        wait_until(
            lambda: self.log.count(text) >= times,
            lambda: f"{text!r} ({times}x) in the broker's log:\n{self.log[-3000:]}",
        )

    def __enter__(self) -> Mosquitto:
        """Start it, unless that was done."""
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it, whatever state it is in."""
        self.stop()

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)  # it may be frozen
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _launch(self) -> bool:
        before = len(self.log)
        with self.log_file.open("ab") as sink:
            self._process = subprocess.Popen(
                [program(), "-c", str(self.folder / "mosquitto.conf")],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )
        process = self._process
        # Not by connecting: another test's broker may have got the port.
        wait_until(
            lambda: process.poll() is not None or " running" in self.log[before:],
            lambda: "mosquitto does not say that it is running:\n" + self.log,
        )
        if process.poll() is None:
            return True
        self._process = None
        if "in use" in self.log[before:]:
            return False
        raise AssertionError("mosquitto does not start:\n" + self.log[before:])

    def _choose_ports(self) -> None:
        with contextlib.ExitStack() as held:
            ports = []
            for _ in range(4):
                probe = held.enter_context(socket.socket())
                probe.bind((HOST, 0))
                ports.append(probe.getsockname()[1])
        self.port, self.tls_port, self.ws_port, self.wss_port = ports

    def _port_is_free(self) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.port))
            except OSError:
                return False
        return True

    def _write_configuration(self) -> None:
        text = [*self._settings, f"listener {self.port} {HOST}"]
        if self.tls:
            text += [f"listener {self.tls_port} {HOST}", *self._tls_settings(self.tls)]
        if self._websockets:
            text += [f"listener {self.ws_port} {HOST}", "protocol websockets"]
            if self.tls:
                text += [f"listener {self.wss_port} {HOST}", "protocol websockets", *self._tls_settings(self.tls)]
        (self.folder / "mosquitto.conf").write_text("\n".join(text) + "\n")
        if self._users:
            passwords = self.folder / "passwords"
            passwords.write_text("".join(f"{name}:{_hashed(password)}\n" for name, password in self._users.items()))
            passwords.chmod(0o600)

    def _tls_settings(self, tls: Certificates) -> list[str]:
        settings = [f"cafile {tls.ca}", f"certfile {tls.server}", f"keyfile {tls.server_key}"]
        if self._tls_version:
            settings.append(f"tls_version {self._tls_version}")
        return [*settings, "require_certificate true"] if self._client_certificates else settings


def _hashed(password: str) -> str:
    """Return `password` as mosquitto_passwd writes it: PBKDF2 with SHA-512."""
    salt, rounds = os.urandom(12), 101
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)
    return f"$7${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
