"""CloudEvents 1.0 over HTTP, in and out (cloudevents/spec: http-protocol-binding.md, json-format.md).

Structured: the body is a JSON object with the attributes, content type application/cloudevents+json. Binary: the
attributes are headers that begin with ce-, the body is the data. Batches are JSON like any other.
"""

from __future__ import annotations

from nuclio_edge.core import port
from nuclio_edge.core.decode_text import unquoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.core.response import Response

STRUCTURED = "application/cloudevents"
JSON = "application/cloudevents+json"
_REQUIRED = ("specversion", "id", "source", "type")


def read(headers: Mapping[str, str], body: bytes) -> tuple[dict[str, Any] | None, str | None]:
    """The attributes (with `data`, in structured mode) or None when it is no CloudEvent, and what is wrong with it."""
    kind = ""
    binary: dict[str, Any] = {}
    for name, value in headers.items():
        low = name.lower()
        if low == "content-type":
            kind = value.partition(";")[0].strip().lower()
        elif low.startswith("ce-"):
            binary[low[3:]] = _decoded(value)
    if kind in (JSON, STRUCTURED):
        try:
            found = port.json_loads(body)
        except (ValueError, RecursionError):
            return None, "the body is not the JSON of a CloudEvent"
        if not isinstance(found, dict):
            return None, "the body is not the JSON object of a CloudEvent"
        return _structured(found)
    if not kind.startswith(STRUCTURED) and "specversion" in binary:
        return _checked(binary)
    return None, None


def _structured(found: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    made = {name: value for name, value in found.items() if value is not None and name != "data_base64"}
    if "data_base64" in found:
        from base64 import b64decode

        try:
            made["data"] = b64decode(found["data_base64"], validate=True)
        except (TypeError, ValueError):
            return None, "data_base64 of the CloudEvent is not base64"
    elif "data" not in made:
        made["data"] = b""
    made.setdefault("datacontenttype", "application/json")
    return _checked(made)


def _checked(made: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    for name in _REQUIRED:
        if not isinstance(made.get(name), str) or not made[name]:
            return None, f"the CloudEvent has no {name}"
    if not made["specversion"].startswith("1."):
        return None, f"the CloudEvent is of version {made['specversion']}, not 1.0"
    return made, None


def as_headers(headers: dict[str, Any], cloud: Mapping[str, Any]) -> dict[str, Any]:
    """The headers with all attributes of a CloudEvent among them, as binary mode has them, decoded."""
    have = {name.lower(): name for name in headers}
    for name, value in cloud.items():
        if name not in ("data", "datacontenttype"):
            headers[have.get("ce-" + name, "ce-" + name)] = value if isinstance(value, str) else port.json_dumps(value)
    return headers


def complete(response: Response, event: Event) -> None:
    """Add what a CloudEvent that a handler answers with must have and it left out: version, id, source, time.

    Structured: a JSON object of the structured content type. Binary: headers with a ce-type among them.
    """
    if response.content_type.partition(";")[0].strip().lower() == JSON:
        try:
            made = port.json_loads(response.body)
        except (ValueError, RecursionError):
            return
        if isinstance(made, dict) and "type" in made:
            missing = {name: value for name, value in _defaults(event).items() if name not in made}
            if missing:
                response.body = port.json_dumps({**missing, **made}).encode()
        return
    have = {name.lower(): name for name in response.headers}
    if "ce-type" not in have:
        return
    response.headers = {
        name: _encoded(value) if name.lower().startswith("ce-") else value for name, value in response.headers.items()
    }
    for name, value in _defaults(event).items():
        if "ce-" + name not in have:
            response.headers["ce-" + name] = value


def _defaults(event: Event) -> dict[str, str]:
    trigger = event._trigger
    function = trigger.function.name if trigger is not None else ""
    at = port.now_ms()
    return {
        "specversion": "1.0",
        "id": f"{port.boot}-{port.next_number()}",
        "source": f"/functions/{function}",
        "time": port.utc(at).isoformat(timespec="milliseconds") + "Z",
    }


def instant(text: str) -> int | None:
    """A time of RFC 3339 as milliseconds since 1970, None when it is none."""
    from datetime import datetime, timezone

    if text[-1:] in ("z", "Z"):
        text = text[:-1] + "+00:00"
    whole, dot, rest = text.partition(".")
    if dot:  # Python before 3.11 takes a fraction of six digits, no more and no less
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        text = f"{whole}.{digits[:6]:0<6}{rest[len(digits) :]}"
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)
    return int(at.timestamp() * 1000)


def _decoded(value: str) -> str:
    """A header's value as the attribute that it stands for (3.1.3.2 of the binding): quotes, then percent signs."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if "%" in value:
        try:
            return unquoted(value.encode(), False)
        except ValueError:
            pass
    return value


def _encoded(value: str) -> str:
    """An attribute as a header's value: what is not printable ASCII, and space, quote and percent, as percent signs."""
    return "".join(
        char if "!" <= char <= "~" and char not in '"%' else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in value
    )
