"""nuclio_sdk as functions find it: the public names of 0.6.3, and the real one's answers where that is installed."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import json
import math
from typing import Any

import pytest

import nuclio_edge.nuclio_sdk as ours
import nuclio_edge.nuclio_sdk.json_encoder
import nuclio_edge.nuclio_sdk.logger
import nuclio_edge.nuclio_sdk.response
from nuclio_edge.core.response import Response

try:
    import nuclio_sdk as theirs  # type: ignore[import-untyped]
    import nuclio_sdk.json_encoder  # type: ignore[import-untyped]
    import nuclio_sdk.logger  # type: ignore[import-untyped]  # noqa: F401 - used as theirs.logger
except ImportError:
    theirs = None

beside_the_real_one = pytest.mark.skipif(theirs is None, reason="nuclio-sdk is not installed")

NAMES = (
    "Logger Context Event TriggerInfo EventDeserializerKinds Platform Response ExceptionWithResponse QualifiedOffset"
)
WIRE = {
    "content_type": "text/plain",
    "trigger": {"kind": "http", "name": "web"},
    "fields": {"a": "1"},
    "headers": {"X-Y": "z"},
    "id": "i",
    "method": "POST",
    "path": "/p",
    "size": 4,
    "timestamp": 1_700_000_000,
    "url": "u",
    "shard_id": 1,
    "num_shards": 2,
    "type": "t",
    "type_version": "tv",
    "version": "v",
    "body": b"body",
}


@pytest.mark.parametrize("name", NAMES.split())
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(ours, name).__name__ == name
    assert name in ours.__all__


def test_a_name_that_the_sdk_has_not_is_no_name_here() -> None:
    with pytest.raises(AttributeError, match="nuclio_sdk"):
        ours.Contxt  # noqa: B018


def test_a_context_made_by_hand_has_a_platform_and_can_be_changed() -> None:
    context = ours.Context(trigger=ours.TriggerInfo("http", "web"), worker_id="0")
    assert (context.platform.kind, context.trigger_name, context.worker_id) == ("test", "web", "0")
    context.user_data.anything = 1
    context.trigger = ours.TriggerInfo("mqtt", "m")
    assert context.trigger.kind == "mqtt" and context.Response is Response


def test_an_exception_with_response_is_an_io_error() -> None:
    error = ours.ExceptionWithResponse(404, "nope", "text/html")
    assert isinstance(error, IOError)
    assert (error.status_code, error.body, error.content_type) == (404, "nope", "text/html")


def test_call_function_goes_to_the_runtime_and_parses_json() -> None:
    asked: list[Any] = []

    def invoke(name: str, event: Any, timeout: float | None) -> Response:
        asked.append((name, event.body, timeout))
        return Response({"X-One": "1"}, b'{"a":1}', "application/json", 201)

    answer = ours.Platform(invoke=invoke).call_function("other", ours.Event(body=b"x"), timeout=3)
    assert asked == [("other", b"x", 3)]
    assert (answer.body, answer.status_code, answer.headers) == ({"a": 1}, 201, {"x-one": "1"})


class Connection:
    """What call_function asks of an HTTP connection."""

    def __init__(self, host: str, timeout: float | None = None) -> None:
        self.said: list[Any] = [host, timeout]

    def request(self, method: str, path: str, body: Any = None, headers: Any = None) -> None:
        self.said += [method, path, body, dict(headers)]

    def getresponse(self) -> Connection:
        self.status = 200
        return self

    def getheaders(self) -> list[tuple[str, str]]:
        return [("Content-Type", "application/json"), ("X-Y", "z")]

    def read(self) -> bytes:
        return b'{"got": 1}'

    def close(self) -> None:
        self.said.append("closed")


def called(sdk: Any, kind: str, **event: Any) -> Any:
    made: list[Connection] = []

    def connect(host: str, timeout: float | None = None) -> Connection:
        made.append(Connection(host, timeout))
        return made[0]

    platform = sdk.Platform(kind, "ns", connection_provider=connect)
    answer = platform.call_function("other", sdk.Event(**event), timeout=2)
    return made[0].said, answer.body, answer.content_type, answer.headers, answer.status_code


EVENTS: list[dict[str, Any]] = [
    {"body": {"a": 1}, "method": "POST", "path": "/x", "headers": {"Content-Length": "3"}},
    {"body": "text", "content_type": "text/html", "headers": {"X-Nuclio-Target": "elsewhere"}},
    {"body": b"raw"},
]


@pytest.mark.parametrize("kind", ["local", "kube"])
@pytest.mark.parametrize("event", EVENTS)
@beside_the_real_one
def test_call_function_over_http_says_what_the_real_one_says(kind: str, event: dict[str, Any]) -> None:
    def fresh() -> dict[str, Any]:
        return {**event, "headers": dict(event.get("headers", {}))}

    assert called(ours, kind, **fresh()) == called(theirs, kind, **fresh())


def test_call_function_leaves_the_callers_headers_alone() -> None:
    headers = {"Content-Length": "3"}
    called(ours, "local", body=b"x", headers=headers)
    assert headers == {"Content-Length": "3"}


def test_callbacks_are_the_newest_and_called_without_arguments() -> None:
    platform = ours.Platform("local")
    assert platform._on_signal("termination") is None
    platform.set_termination_callback(lambda: "old")
    platform.set_termination_callback(lambda: "new")
    platform.set_drain_callback(lambda: "drained")
    assert (platform._on_signal("termination"), platform._on_signal("drain")) == ("new", "drained")


def test_an_explicit_acknowledgement_goes_to_the_control_callback() -> None:
    sent: list[Any] = []

    async def control(message: Any) -> None:
        sent.append(message)

    offset = ours.QualifiedOffset.from_event(ours.Event(path="/stream", shard_id=3, offset=7))
    asyncio.run(ours.Platform("local", on_control_callback=control).explicit_ack(offset))
    assert sent == [
        {"kind": "streamMessageAck", "attributes": {"topic": "/stream", "partition": 3, "offset": 7}},
    ]
    with pytest.raises(RuntimeError, match="explicit acknowledgement"):
        asyncio.run(ours.Platform("local").explicit_ack(offset))


def logged(sdk: Any, formatter: str, work: Any) -> list[str]:
    out = io.StringIO()
    # Loggers of Python's logging are for ever: a fresh name for each.
    logger = sdk.Logger(10, f"{sdk.__name__}.{formatter}.{id(out)}")
    logger.set_handler("default", io.StringIO(), getattr(sdk.logger, formatter)())
    logger.set_handler("default", out, getattr(sdk.logger, formatter)())
    work(logger)
    return out.getvalue().splitlines()


def log_everything(logger: Any) -> None:
    for level in ("debug", "info", "warn", "error"):
        getattr(logger, level)("plain %s %d", "a", 1)
        getattr(logger, level + "_with")("structured", value=1, other="x")
    logger.bind(worker_id=0)
    logger.info("bound")


def log_beside_what_is_bound(logger: Any) -> None:
    logger.bind(worker_id=0)
    logger.info_with("more", value=math.nan)


@beside_the_real_one
def test_records_are_those_of_the_real_one() -> None:
    def parsed(sdk: Any) -> list[Any]:
        said = logged(sdk, "JSONFormatter", log_everything) + logged(sdk, "JSONFormatter", log_beside_what_is_bound)
        lines = [json.loads(line) for line in said]
        for line in lines:
            dt.datetime.strptime(line.pop("datetime"), "%Y-%m-%d %H:%M:%S,%f")  # noqa: DTZ007 - local, as theirs
        return lines

    assert parsed(ours) == parsed(theirs)
    cut = len("Python> 2026-11-22 21:46:56,785")
    mine, real = (logged(sdk, "HumanReadableFormatter", log_everything) for sdk in (ours, theirs))
    assert [line[cut:] for line in mine] == [line[cut:] for line in real]


def test_a_handler_file_that_fails_does_not_raise_into_the_function() -> None:
    logger = ours.Logger(20)
    closed = io.StringIO()
    closed.close()
    logger.set_handler("default", closed, nuclio_edge.nuclio_sdk.logger.JSONFormatter())
    logger.info("x")


class Told:
    def __repr__(self) -> str:
        return "<told>"

    def __log__(self) -> Any:
        return {"told": 1}


class Silent:
    def __repr__(self) -> str:
        return "<silent>"


VALUES: list[Any] = [
    "text",
    (201, "text"),
    (201, {"a": 1}),
    (200, b"abc"),
    {"a": [1, None, True]},
    [1, "a"],
    b"bytes",
    None,
    3,
    2.5,
    dt.datetime(2026, 1, 1),  # noqa: DTZ001
    bytearray(b"x"),
    {1},
    (1, 2, 3),
    {"n": math.nan, "i": math.inf, "m": [-math.inf]},
    {"o": Told(), "s": Silent(), "b": b"x"},
]


@beside_the_real_one
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_the_wire_form_of_a_returned_value_is_that_of_the_real_one(value: Any) -> None:
    mine = Response.from_entrypoint_output(nuclio_edge.nuclio_sdk.json_encoder.Encoder().encode, value)  # type: ignore[attr-defined]
    real = theirs.Response.from_entrypoint_output(theirs.json_encoder.Encoder().encode, value)
    assert mine == real


@beside_the_real_one
@pytest.mark.parametrize("body", ["x", b"x", {"a": 1}, [1], None, 3])
def test_the_wire_form_of_a_response_is_that_of_the_real_one(body: Any) -> None:
    def wire(sdk: Any) -> Any:
        response = sdk.Response(headers={"a": "b"}, body=body, content_type="text/html", status_code=201, event_id="e")
        response.ensure_no_ack()
        return sdk.Response.from_entrypoint_output(json.dumps, response)

    assert wire(ours) == wire(theirs)


def sdk_of(module: Any) -> Any:
    return module


def read(sdk: Any, kind: str, wire: Any) -> dict[str, Any]:
    event = sdk.Event.deserialize(wire, kind=sdk.EventDeserializerKinds[kind])
    return described(event)


def described(event: Any) -> dict[str, Any]:
    names = "body content_type fields headers id method path size timestamp url shard_id num_shards type type_version"
    names += " version last_in_batch offset topic"
    return {
        **{name: getattr(event, name) for name in names.split()},
        "trigger": (event.trigger.kind, event.trigger.name),
    }


def raw(value: Any) -> Any:
    if isinstance(value, dict):
        return {raw(key): raw(item) for key, item in value.items()}
    return value.encode() if isinstance(value, str) else value


@beside_the_real_one
@pytest.mark.parametrize(
    "changes",
    [{}, {"content_type": "application/json", "body": b'{"a": 1}'}, {"offset": 3, "topic": "t"}],
    ids=["plain", "json", "stream"],
)
def test_an_event_of_the_wire_is_that_of_the_real_one(changes: dict[str, Any]) -> None:
    wire = {**WIRE, **changes}
    assert read(ours, "msgpack", wire) == read(theirs, "msgpack", wire)
    text = json.dumps({**wire, "body": {"a": 1}})
    assert read(ours, "json", text) == read(theirs, "json", text)
    mine, real = (
        sdk_of(ours).Event.deserialize([wire], "msgpack"),
        theirs.Event.deserialize([wire], theirs.EventDeserializerKinds.msgpack),
    )
    assert [described(event) for event in mine] == [described(event) for event in real]


@beside_the_real_one
def test_a_wire_map_that_lacks_a_key_is_refused_as_the_real_one_does() -> None:
    for name in WIRE:
        for sdk in (ours, theirs):
            with pytest.raises(KeyError):
                read(sdk, "msgpack", {key: value for key, value in WIRE.items() if key != name})


@beside_the_real_one
@pytest.mark.parametrize("event", [{}, {"body": b"x", "headers": {"A": "b"}}, {"body": "t", "_id": "1", "path": ""}])
def test_an_event_made_by_hand_is_that_of_the_real_one(event: dict[str, Any]) -> None:
    mine, real = ours.Event(**event), theirs.Event(**event)
    assert described(mine) == described(real)
    assert json.loads(mine.to_json()) == json.loads(real.to_json())
    assert mine.compile_explicit_ack_message() == real.compile_explicit_ack_message()
    assert mine.get_header("a") == real.get_header("a")
