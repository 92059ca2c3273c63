"""The coap binding and observed resources, against a device that is aiocoap's server."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import aiocoap  # type: ignore[import-untyped]
import pytest
from aiocoap import resource

from tests.rig import MEMORY, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Thermometer(resource.ObservableResource):  # type: ignore[misc]  # it is not typed
    def __init__(self) -> None:
        super().__init__()
        self.value = b"20"
        self.max_age: int | None = None
        self.observations = 0

    async def render_get(self, request: Any) -> Any:
        if request.opt.observe == 0:
            self.observations += 1
        message = aiocoap.Message(payload=self.value, content_format=0)
        message.opt.max_age = self.max_age
        return message

    async def render_put(self, request: Any) -> Any:
        said = f"{int(request.opt.content_format)} {len(request.payload)} {request.payload[:20].decode()}"
        return aiocoap.Message(code=aiocoap.CHANGED, payload=said.encode())


class Silent(resource.Resource):  # type: ignore[misc]  # as above
    async def render_get(self, request: Any) -> Any:
        await asyncio.sleep(3600)


class Device:
    """A device on a thread of its own that can be switched off and on."""

    def __init__(self) -> None:
        self.thermometer = Thermometer()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._context: Any = None

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def on(self) -> None:
        import socket

        if not self.port:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        site = resource.Site()
        site.add_resource(["t"], self.thermometer)
        site.add_resource(["silent"], Silent())
        self._context = self.call(
            aiocoap.Context.create_server_context(site, bind=("127.0.0.1", self.port), transports=["udp6"])
        )

    def off(self) -> None:
        if self._context is not None:
            self.call(self._context.shutdown())
            self._context = None

    def say(self, value: bytes) -> None:
        async def work() -> None:
            self.thermometer.value = value
            self.thermometer.updated_state()

        self.call(work())

    def close(self) -> None:
        self.off()

        async def end() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    made.on()
    try:
        yield made
    finally:
        made.close()


SOURCES = '[source.lan]\nkind = "coap"\nlisten = "127.0.0.1:0"\n' + MEMORY
ASKS = """
[function.f]
handler = "f.py"
MORE
[[function.f.trigger]]
source = "mem"
path = "/f"
"""
SYNC = """
def handler(context, event):
    return repr(context.bindings["lan"].request(EXPRESSION))
"""
WATCHES = """
[function.w]
handler = "w.py"
[[function.w.trigger]]
observe = "coap://127.0.0.1:PORT/t?unit=C"
"""
HEARS = """
heard = []
def handler(context, event):
    heard.append((event.body, event.path, event.fields, event.content_type, event.url, event.method))
"""


def asked(tmp_path: Path, device: Device, expression: str, handler: str = SYNC, more: str = "") -> tuple[int, str]:
    text = handler.replace("EXPRESSION", expression).replace("PORT", str(device.port))
    with Rig(tmp_path, SOURCES + ASKS.replace("MORE", more), f=text) as rig:
        status, body = rig.ask("/f")
        return status, body.decode()


@pytest.mark.parametrize(
    ("expression", "reply"),
    [
        ("'GET', 'coap://127.0.0.1:PORT/t'", "Reply(2.05, 'text/plain', b'20')"),
        ("'get', 'coap://127.0.0.1:PORT/t', confirmable=False", "Reply(2.05, 'text/plain', b'20')"),
        ("'GET', 'coap://127.0.0.1:PORT/nowhere'", "Reply(4.04, '', b'')"),
        ("'PUT', 'coap://127.0.0.1:PORT/t', {'a': 1}", "Reply(2.04, '', b'50 7 {\"a\":1}')"),
        ("'PUT', 'coap://127.0.0.1:PORT/t', b'x' * 5000, content_format=42", "b'42 5000 xxxxxxxxxxxxxxxxxxxx')"),
        ("'PUT', 'coap://127.0.0.1:PORT/t', 'x', content_format='application/cbor'", "b'60 1 x')"),
    ],
)
def test_a_handler_asks_another_device(tmp_path: Path, device: Device, expression: str, reply: str) -> None:
    status, body = asked(tmp_path, device, expression)
    assert (status, body[-len(reply) :]) == (200, reply)


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("'GET', 'coap://127.0.0.1:PORT/silent', timeout=0.1", "TimeoutError: no answer from coap://"),
        ("'GET', 'coap://no.such.host.invalid/'", "OSError: coap://no.such.host.invalid/: "),
        ("'GET', 'coaps://127.0.0.1/t'", "ValueError: coaps (DTLS) comes with a later version"),
        ("'GET', 'http://127.0.0.1/t'", "ValueError: it begins with coap://"),
        ("'HOLD', 'coap://127.0.0.1/t'", "ValueError: 'HOLD' is none of GET, POST"),
        ("'GET', 'coap://127.0.0.1/t', accept='video/mp4'", "ValueError: 'video/mp4' has no Content-Format"),
    ],
)
def test_what_goes_wrong_is_an_exception_of_the_handlers(
    tmp_path: Path, device: Device, expression: str, error: str
) -> None:
    status, body = asked(tmp_path, device, expression)
    assert status == 500
    assert error in body


def test_an_async_handler_awaits_its_answer(tmp_path: Path, device: Device) -> None:
    handler = SYNC.replace("def", "async def").replace(
        'repr(context.bindings["lan"]', 'repr(await context.bindings["lan"]'
    )
    expression = "'GET', 'coap://127.0.0.1:PORT/t'"
    assert asked(tmp_path, device, expression, handler) == (200, "Reply(2.05, 'text/plain', b'20')")


def test_an_inline_handler_is_told_what_to_do(tmp_path: Path, device: Device) -> None:
    status, body = asked(tmp_path, device, "'GET', 'coap://127.0.0.1:PORT/t'", more='isolation = "inline"')
    assert status == 500
    assert 'give the function isolation = "thread"' in body


def heard(rig: Rig) -> list[Any]:
    handler = rig.processor.functions["w"].handler
    assert handler is not None
    found: list[Any] = handler.__globals__["heard"]
    return found


def watching(tmp_path: Path, device: Device) -> Rig:
    return Rig(tmp_path, SOURCES + WATCHES.replace("PORT", str(device.port)), w=HEARS)


def test_each_new_value_of_an_observed_resource_is_an_event(tmp_path: Path, device: Device) -> None:
    with watching(tmp_path, device) as rig:
        rig.until(lambda: len(heard(rig)) == 1)
        url = f"coap://127.0.0.1:{device.port}/t?unit=C"
        assert heard(rig) == [(b"20", "/t", {"value": 20, "unit": "C"}, "text/plain", url, "GET")]
        for value in (b"21", b"22"):
            device.say(value)
            rig.until(lambda value=value: heard(rig)[-1][0] == value)  # type: ignore[misc]  # bound at once
        assert len(heard(rig)) == 3
        source = rig.processor.sources["lan"]
        rig.until(lambda: source.received == source.routed == 3)


def test_a_device_that_comes_back_is_observed_again(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclio_edge.sources.coap_watch.FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr("nuclio_edge.sources.coap_watch.LONGEST_PAUSE_S", 0.1)
    device.off()
    with watching(tmp_path, device) as rig:
        rig.until(lambda: "cannot observe, trying again" in rig.records.text())
        device.on()
        rig.until(lambda: len(heard(rig)) == 1)
        rig.until(lambda: "observing again" in rig.records.text())
        assert rig.records.text().count("cannot observe") == 1


def test_a_value_past_its_max_age_is_asked_for_again_and_told_only_when_it_changed(
    tmp_path: Path, device: Device
) -> None:
    device.thermometer.max_age = 1
    with watching(tmp_path, device) as rig:
        rig.until(lambda: device.thermometer.observations >= 3)  # what the second brought has arrived
        assert len(heard(rig)) == 1
        device.thermometer.value = b"changed, and the notification was lost"
        rig.until(lambda: len(heard(rig)) == 2)


def test_an_observed_value_that_finds_no_room_gives_way_to_the_newest(tmp_path: Path, device: Device) -> None:
    gate = HEARS.replace("heard = []", "import threading\nheard = []\ngate = threading.Event()").replace(
        "    heard.", "    gate.wait(30)\n    heard."
    )
    manifest = SOURCES + WATCHES.replace("PORT", str(device.port)) + 'inbox = { size = 1, when_full = "block" }\n'
    with Rig(tmp_path, manifest, w=gate) as rig:
        source = rig.processor.sources["lan"]
        rig.until(lambda: source.received == 1)
        for value in range(5):
            device.say(b"%d" % value)
            rig.until(lambda value=value: source.watcher._watches["function.w.trigger[0]"]._kept is not None)  # type: ignore[misc]
            rig.turn_for(20)
        rig.until(lambda: source.rejected.get("collapsed", 0) >= 4)
        handler = rig.processor.functions["w"].handler
        assert handler is not None
        handler.__globals__["gate"].set()
        rig.until(lambda: len(heard(rig)) == 2)
        assert [one[0] for one in heard(rig)] == [b"20", b"4"]
        assert rig.balanced()


def test_nothing_of_aiocoap_is_loaded_before_it_is_needed(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = """
import sys
from nuclio_edge.manifest import load
from nuclio_edge.processor import Processor
from nuclio_edge.logs import Log
class Sink:
    level = 0
    def put(self, *_): pass
    write = finish = put
processor = Processor(load("edge.toml"), Log(Sink()))
processor.open()
processor.loop.turn(0)
print(*sys.modules)
processor.close()
"""
    (tmp_path / "edge.toml").write_text(
        f'[device]\nstate_dir = "{tmp_path}/state"\n' + SOURCES + ASKS.replace("MORE", "").replace('"mem"', '"lan"')
    )
    (tmp_path / "f.py").write_text("def handler(context, event): pass")
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {"aiocoap", "asyncio", "ssl", "hashlib", "urllib.parse", "random"} & set(run.stdout.split())
