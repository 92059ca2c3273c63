"""Routes, CORS and CloudEvents of the HTTP source."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.sources.http_cloudevents import instant
from nuclio_edge.sources.http_reply import _date
from nuclio_edge.sources.http_routes import Routes, allowed, choose
from nuclio_edge.url import Url
from tests.rig import Rig
from tests.unit.test_http_source import Wire, parsed

if TYPE_CHECKING:
    from pathlib import Path


def trigger(path: str, *methods: str) -> Any:
    return SimpleNamespace(address=SimpleNamespace(path=path, method=methods), name=" ".join((path, *methods)))


@pytest.mark.parametrize(
    ("path", "method", "wanted"),
    [
        ("/", "GET", "/ GET"),
        ("/a", "GET", "/a GET"),
        ("/a", "HEAD", "/a GET"),
        ("/a", "POST", "/a POST"),
        ("/a", "PUT", "/a"),
        ("/a/b", "GET", "/a/b GET"),
        ("/a/b", "POST", None),  # the path decides first
        ("/a/c", "GET", "/a/*"),
        ("/a/c/d/e", "GET", "/a/c/d/*"),
        ("/a/c/d", "GET", "/a/c/d/*"),
        ("/a/", "GET", "/a/*"),
        ("/ab", "GET", "/*"),
        ("/a//b", "GET", "/a/*"),
        ("/b/../a", "GET", "/*"),
    ],
)
def test_the_most_specific_path_decides_then_the_method(path: str, method: str, wanted: str | None) -> None:
    routes = Routes([
        trigger("/", "GET"), trigger("/a"), trigger("/a", "GET"), trigger("/a", "POST"), trigger("/a/b", "GET"),
        trigger("/a/*"), trigger("/a/c/d/*"), trigger("/*"),
    ])  # fmt: skip
    at = routes.at(path)
    assert at is not None
    found: Any = choose(at, method)
    assert (found.name if found is not None else None) == wanted


def test_a_path_that_no_trigger_has_is_none() -> None:
    routes = Routes([trigger("/a"), trigger("/b/*", "POST")])
    assert routes.at("/") is None
    assert routes.at("/a/b") is None
    assert allowed(routes.at("/b/c")) == "POST, OPTIONS"


def test_a_url_is_text_that_has_its_parts() -> None:
    url = Url("https://user@[::1]:8443/a/b?c=d#e")
    assert url == "https://user@[::1]:8443/a/b?c=d#e"
    assert (url.scheme, url.host, url.port, url.path, url.query, url.fragment) == (
        "https",
        "::1",
        8443,
        "/a/b",
        "c=d",
        "e",
    )
    assert (Url("http://h").path, Url("http://h").port, Url("http://h?x").query) == ("/", 80, "x")
    assert (Url("/a?b").path, Url("/a?b").host, Url("/a?b").port) == ("/a", "", None)


def test_dates_are_those_of_rfc_9110_whatever_the_locale() -> None:
    assert _date(784111777) == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"


MANIFEST = """
[source.api]
kind = "http"
listen = "127.0.0.1:0"
cors = {{ allow_origins = ["https://app.example"], allow_credentials = true, expose_headers = "X-Total" }}

[function.f]
handler = "f.py"
isolation = "{isolation}"

[[function.f.trigger]]
path = "/f"

[[function.f.trigger]]
path = "/open"
method = ["GET", "PUT"]
cors = {{ allow_origins = "*", allow_headers = ["X-A", "X-B"], max_age = "1m" }}
"""


def ask(rig: Rig, line: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    rig.until(lambda: rig.processor.sources["api"].state == "open")
    head = f"{line} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with Wire(rig) as wire:
        wire.send(head.encode() + b"\r\n" + body)
        wire.answers(1)
        return parsed(wire.came)[0]


def cors_of(fields: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if name.startswith("access-control-") or name == "vary"}


def test_pages_of_other_origins_may_ask_as_the_tables_say(tmp_path: Path) -> None:
    code = "def handler(context, event): return context.Response(headers={'Vary': 'Accept'}, body='x')"
    mine, other = {"Origin": "https://app.example"}, {"Origin": "https://evil.example"}
    wanted = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-token"}
    with Rig(tmp_path, MANIFEST.format(isolation="inline"), f=code) as rig:
        status, fields, _ = ask(rig, "GET /f", mine)
        assert (status, cors_of(fields)) == (
            200,
            {
                "access-control-allow-origin": "https://app.example",
                "access-control-allow-credentials": "true",
                "access-control-expose-headers": "X-Total",
                "vary": "Accept, Origin",
            },
        )
        assert cors_of(ask(rig, "GET /f", other)[1]) == {"vary": "Accept, Origin"}
        assert cors_of(ask(rig, "GET /none", mine)[1])["access-control-allow-origin"] == "https://app.example"
        status, fields, _ = ask(rig, "OPTIONS /f", mine | wanted)
        assert status == 204
        assert cors_of(fields) == {
            "access-control-allow-origin": "https://app.example",
            "access-control-allow-credentials": "true",
            "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
            "access-control-allow-headers": "x-token",
            "access-control-max-age": "600",
            "vary": "Origin, Access-Control-Request-Headers",
        }
        assert cors_of(ask(rig, "OPTIONS /f", other | wanted)[1]) == {"vary": "Origin"}
        assert cors_of(ask(rig, "OPTIONS /open", other | wanted)[1]) == {
            "access-control-allow-origin": "*",
            "access-control-allow-methods": "GET, HEAD, PUT, OPTIONS",
            "access-control-allow-headers": "X-A, X-B",
            "access-control-max-age": "60",
        }


TELL = """
def handler(context, event):
    return {
        "id": event.id, "type": event.type, "source": event.source.name, "class": event.source.klass,
        "version": event.version, "body": event.body if not isinstance(event.body, bytes) else event.body.decode(),
        "content_type": event.content_type, "time": str(event.timestamp), "fields": event.fields,
        "subject": event.get_header("ce-subject"), "wrong": event.decode_error,
    }
"""


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_cloudevent_in_either_mode_is_its_data(tmp_path: Path, isolation: str) -> None:
    cloud = {"specversion": "1.0", "id": "A-1", "source": "/sensors/1", "type": "reading", "subject": "größe %"}
    binary = {f"ce-{name}": value for name, value in cloud.items()} | {"ce-subject": '"gr%C3%B6%C3%9Fe %25"'}
    binary |= {"ce-time": "2020-01-02T03:04:05.678+01:00", "Content-Type": "application/json"}
    structured = {**cloud, "time": "2020-01-02T02:04:05.678Z", "data": {"t": 21}}
    with Rig(tmp_path, MANIFEST.format(isolation=isolation), f=TELL) as rig:
        said = json.loads(ask(rig, "POST /f?q=1", binary, b'{"t": 21}')[2])
        assert said == {
            "id": "A-1", "type": "reading", "source": "/sensors/1", "class": "cloudevents", "version": "1.0",
            "body": {"t": 21}, "content_type": "application/json", "time": "2020-01-02 02:04:05.678000",
            "fields": {"t": 21, "q": "1"}, "subject": "größe %", "wrong": None,
        }  # fmt: skip
        kind = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
        assert json.loads(ask(rig, "POST /f?q=1", kind, json.dumps(structured).encode())[2]) == said
        raw = {**cloud, "data_base64": base64.b64encode(b"raw").decode(), "datacontenttype": "text/plain"}
        said = json.loads(ask(rig, "POST /f", kind, json.dumps(raw).encode())[2])
        assert (said["body"], said["content_type"]) == ("raw", "text/plain")


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (b"{", "the body is not the JSON of a CloudEvent"),
        (b"[]", "the body is not the JSON object of a CloudEvent"),
        (b'{"specversion": "1.0", "id": "", "source": "s", "type": "t"}', "the CloudEvent has no id"),
        (b'{"specversion": "0.1", "id": "i", "source": "s", "type": "t"}', "of version 0.1"),
        (b'{"specversion": "1.0", "id": "i", "source": "s", "type": "t", "data_base64": "?"}', "is not base64"),
    ],
)
def test_what_is_no_whole_cloudevent_is_a_plain_request(tmp_path: Path, body: bytes, wrong: str) -> None:
    code = "def handler(context, event): return [event.type, event.source.klass, event.decode_error]"
    with Rig(tmp_path, MANIFEST.format(isolation="inline"), f=code) as rig:
        said = json.loads(ask(rig, "POST /f", {"Content-Type": "application/cloudevents+json"}, body)[2])
        assert said[:2] == ["", "edge"]
        assert wrong in said[2]


def test_an_answer_can_be_a_cloudevent_and_is_completed(tmp_path: Path) -> None:
    code = """
def handler(context, event):
    if event.get_field("mode") == "binary":
        return context.Response(headers={"ce-type": "answer", "ce-subject": "größe"}, body={"a": 1})
    return context.Response(body={"type": "answer", "data": {"a": 1}}, content_type="application/cloudevents+json")
"""
    with Rig(tmp_path, MANIFEST.format(isolation="inline"), f=code) as rig:
        _, fields, body = ask(rig, "GET /f", {})
        assert fields["content-type"] == "application/cloudevents+json"
        said = json.loads(body)
        assert (said["type"], said["data"], said["specversion"], said["source"]) == (
            "answer",
            {"a": 1},
            "1.0",
            "/functions/f",
        )
        assert said["id"] != json.loads(ask(rig, "GET /f", {})[2])["id"]
        assert instant(said["time"]) is not None
        _, fields, body = ask(rig, "GET /f?mode=binary", {})
        assert (fields["ce-type"], fields["ce-subject"], fields["ce-specversion"]) == (
            "answer",
            "gr%C3%B6%C3%9Fe",
            "1.0",
        )
        assert (fields["content-type"], body) == ("application/json", b'{"a":1}')


def test_times_are_read_as_rfc_3339_writes_them() -> None:
    assert instant("1970-01-01T00:00:01Z") == 1000
    assert instant("1970-01-01T01:00:00.5+01:00") == 500
    assert instant("1970-01-01T00:00:00.123456789Z") == 123
    assert instant("yesterday") is None
    assert instant("") is None


@pytest.mark.parametrize("isolation", ["inline", "thread", "process"])
def test_parts_with_a_status_beside_them_have_that_status_and_the_type_of_the_first(
    tmp_path: Path, isolation: str
) -> None:
    code = """
def parts():
    yield {"a": 1}
    yield "\\n"
def handler(context, event):
    return 202, parts()
"""
    with Rig(tmp_path, MANIFEST.format(isolation=isolation), f=code) as rig:
        status, fields, body = ask(rig, "GET /f", {})
        assert (status, fields["content-type"]) == (202, "application/json")
        assert b'{"a":1}' in body
        assert rig.trigger("f").handled == 1
