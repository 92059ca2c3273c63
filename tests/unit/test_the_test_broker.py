"""The broker that the tests use, and the leak check, keep their own promises."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.leaks import Held, left_behind
from tests.mosquitto import HOST, Mosquitto, program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.certificates import Certificates
    from tests.conftest import StartBroker

CONNECT_V4 = bytes.fromhex("100c00044d5154540402003c0000")  # MQTT 3.1.1, clean session, keepalive 60, empty client id
CONNACK_V4 = bytes.fromhex("20020000")


def connack(port: int) -> bytes:
    with socket.create_connection((HOST, port), 20) as client:
        client.sendall(CONNECT_V4)
        return client.recv(4)


def test_a_broker_accepts_a_client_and_comes_back_on_its_port(mosquitto: Mosquitto) -> None:
    assert connack(mosquitto.port) == CONNACK_V4
    mosquitto.restart()
    assert connack(mosquitto.port) == CONNACK_V4
    mosquitto.kill()
    with pytest.raises(ConnectionRefusedError):
        connack(mosquitto.port)
    mosquitto.start()
    assert connack(mosquitto.port) == CONNACK_V4
    mosquitto.wait_for_log("New client connected", times=3)


def test_a_frozen_broker_accepts_and_says_nothing(mosquitto: Mosquitto) -> None:
    mosquitto.freeze()
    with socket.create_connection((HOST, mosquitto.port), 20) as client:
        client.sendall(CONNECT_V4)
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        mosquitto.thaw()
        client.settimeout(20)
        assert client.recv(4) == CONNACK_V4


def test_a_broker_with_tls_websockets_and_users_has_them(
    start_mosquitto: StartBroker, certificates: Certificates
) -> None:
    broker = start_mosquitto(
        tls=certificates, websockets=True, users={"edge": "secret"}, max_inflight=0, persistence=True
    )
    assert connack(broker.port)[3] == 5  # not authorised
    trust = ssl.create_default_context(cafile=str(certificates.ca))
    with (
        socket.create_connection((HOST, broker.tls_port), 20) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(CONNECT_V4)
        assert secure.recv(4)[3] == 5
    publish = [
        program("mosquitto_pub"),
        "-h",
        HOST,
        "-p",
        str(broker.port),
        *"-u edge -P secret -t a -m b -q 1".split(),
    ]
    done = subprocess.run(publish, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    with socket.create_connection((HOST, broker.ws_port), 20) as web:
        web.sendall(
            b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        )
        assert web.recv(64).startswith(b"HTTP/1.1 101")


def test_a_tls_broker_may_ask_for_a_client_certificate(
    start_mosquitto: StartBroker, certificates: Certificates
) -> None:
    broker = start_mosquitto(tls=certificates, client_certificates=True)
    trust = ssl.create_default_context(cafile=str(certificates.ca))
    trust.load_cert_chain(certificates.client, certificates.client_key)
    with (
        socket.create_connection((HOST, broker.tls_port), 20) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(CONNECT_V4)
        assert secure.recv(4) == CONNACK_V4


def test_what_a_test_leaves_behind_is_named(tmp_path: Path) -> None:
    before = Held()
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="straggler")
    thread.start()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    descriptor = os.open(tmp_path / "left-open", os.O_CREAT | os.O_RDWR)
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        left = "\n".join(left_behind(before, grace=0))
        assert str(listener.getsockname()[1]) in left
    os.close(descriptor)
    release.set()
    child.communicate(b"\n")
    thread.join()
    assert "thread 'straggler'" in left
    assert "left-open" in left
    assert f"process {child.pid}" in left
    assert left_behind(before) == []
