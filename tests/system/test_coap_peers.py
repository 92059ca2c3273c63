"""A processor's CoAP server and the clients of others: libcoap's, aiocoap's, over a good network and a bad one."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import aiocoap  # type: ignore[import-untyped]
import pytest

from tests.cli import Running
from tests.lossy import LossyNetwork
from tests.mosquitto import program

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

MANIFEST = """
[device]
name = "t"
[source.lan]
kind = "coap"
listen = "[::]:PORT"
[function.store]
handler = "store.py"
description = "Keeps what it is sent"
[[function.store.trigger]]
path = "/store/*"
[function.slow]
handler = "slow.py"
[[function.slow.trigger]]
path = "/slow"
"""
STORE = """
kept = {}
runs = {}
def handler(context, event):
    if event.path == "/store/runs":
        return runs
    if event.method == "GET":
        if event.path not in kept:
            return context.Response(status_code=404, body="nothing there")
        body, kind = kept[event.path]
        return context.Response(body=body, content_type=kind)
    runs[event.path] = runs.get(event.path, 0) + 1
    kept[event.path] = (event.raw_body, event.content_type or "application/octet-stream")
    return str(len(event.raw_body))
"""
SLOW = """
import time
def handler(context, event):
    time.sleep(1.3)
    return "slow"
"""
LONG = bytes(number % 251 for number in range(20_000))


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::", 0))
        number: int = probe.getsockname()[1]
    (tmp_path / "edge.toml").write_text(MANIFEST.replace("PORT", str(number)))
    (tmp_path / "store.py").write_text(STORE)
    (tmp_path / "slow.py").write_text(SLOW)
    with Running(tmp_path) as run:
        run.ready()
        yield number
        assert run.stop() == 0


def client(*arguments: str, body: bytes = b"") -> tuple[bytes, str]:
    """Run libcoap's client: what it prints of the response, and what it says of errors."""
    done = subprocess.run(
        [program("coap-client-notls"), "-B", "25", *arguments], input=body, capture_output=True, check=False, timeout=50
    )
    return done.stdout.removesuffix(b"\n"), done.stderr.decode().strip()


def test_libcoaps_client_asks_and_is_answered(port: int, tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(LONG)
    for host in ("[::1]", "127.0.0.1"):
        uri = f"coap://{host}:{port}/store"
        assert client("-m", "put", "-t", "50", "-e", '{"a":1}', f"{uri}/a") == (b"7", "")
        assert client("-m", "get", f"{uri}/a") == (b'{"a":1}', "")
        assert client("-m", "get", "-N", f"{uri}/a") == (b'{"a":1}', "")
        assert client("-m", "get", "-A", "60", f"{uri}/a")[1].startswith("4.06")
        assert client("-m", "get", f"{uri}/b") == (b"", "4.04 nothing there")
        assert client("-m", "get", f"coap://{host}:{port}/nowhere")[1].startswith("4.04")
        assert client("-m", "put", "-f", str(tmp_path / "long"), f"{uri}/long") == (b"20000", "")
        assert client("-m", "get", f"{uri}/long")[0] == LONG.removesuffix(b"\n")
        assert client("-m", "get", "-b", "64", f"{uri}/long")[0] == LONG
        assert client("-m", "get", f"coap://{host}:{port}/slow") == (b"slow", "")


def test_libcoaps_client_discovers_the_functions(port: int) -> None:
    listed, _ = client("-m", "get", f"coap://[::1]:{port}/.well-known/core")
    assert listed == b'</slow>;rt="slow";obs,</store/>;rt="store";title="Keeps what it is sent";obs'
    assert client("-m", "get", f"coap://[::1]:{port}/.well-known/core?rt=slow")[0] == b'</slow>;rt="slow";obs'


def test_libcoaps_client_observes(port: int) -> None:
    uri = f"coap://127.0.0.1:{port}/store/o"
    client("-m", "put", "-e", "first", uri)
    watching = subprocess.Popen(
        [program("coap-client-notls"), "-m", "get", "-s", "25", "-w", uri], stdout=subprocess.PIPE
    )
    assert watching.stdout is not None
    with watching:
        try:
            assert watching.stdout.readline() == b"first\n"
            for value in ("second", "third"):
                client("-m", "put", "-e", value, uri)
                assert watching.stdout.readline() == f"{value}\n".encode()
        finally:
            watching.kill()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run with an aiocoap that gives up later than it would, not sooner: the machine may be slow."""
    return asyncio.run(work)


async def ask(context: Any, method: str, uri: str, body: bytes = b"") -> Any:
    return await context.request(aiocoap.Message(code=getattr(aiocoap, method), uri=uri, payload=body)).response


def test_aiocoaps_client_sends_and_fetches_in_blocks_and_observes(port: int) -> None:
    async def work() -> None:
        context = await aiocoap.Context.create_client_context()
        uri = f"coap://[::1]:{port}/store/x"
        assert (await ask(context, "PUT", uri, LONG)).payload == b"20000"
        assert (await ask(context, "GET", uri)).payload == LONG
        assert (await ask(context, "GET", f"coap://[::1]:{port}/slow")).payload == b"slow"
        request = context.request(aiocoap.Message(code=aiocoap.GET, uri=uri, observe=0))
        news = request.observation.__aiter__()
        assert (await request.response).payload == LONG
        for value in (b"1", b"2" * 3000):
            await ask(context, "PUT", uri, value)
            assert (await asyncio.wait_for(news.__anext__(), 30)).payload == value
        request.observation.cancel()
        await context.shutdown()

    run(work())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_over_a_bad_network_every_request_is_answered_and_handled_once(port: int, seed: int) -> None:
    with LossyNetwork(port, seed) as network:
        tuning = aiocoap.TransportTuning()
        tuning.ACK_TIMEOUT = 0.1
        tuning.MAX_RETRANSMIT = 10

        async def put(context: Any, at: int) -> bytes:
            message = aiocoap.Message(
                code=aiocoap.PUT, uri=f"coap://127.0.0.1:{network.port}/store/{at}", payload=LONG[: 500 * at],
                transport_tuning=tuning,
            )  # fmt: skip
            answer = await asyncio.wait_for(context.request(message).response, 120)
            return bytes(answer.payload)

        async def work() -> None:
            context = await aiocoap.Context.create_client_context()
            answers = await asyncio.gather(*(put(context, at) for at in range(20)))
            assert answers == [b"%d" % (500 * at) for at in range(20)]
            runs = await ask(context, "GET", f"coap://127.0.0.1:{port}/store/runs")
            assert json.loads(runs.payload) == {f"/store/{at}": 1 for at in range(20)}
            await context.shutdown()

        run(work())
        assert network.dropped
        assert network.doubled
        assert network.reordered
