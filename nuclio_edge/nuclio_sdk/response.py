"""The SDK's module of responses, with the wire form that Nuclio's own wrapper builds from a returned value."""

from __future__ import annotations

import json
from base64 import b64encode
from types import AsyncGeneratorType, GeneratorType

from nuclio_edge.core.response import Response
from nuclio_edge.nuclio_sdk import GENERATOR_RESPONSE, RESPONSE_WITH_GENERATOR_BODY, SINGLE_RESPONSE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["GENERATOR_RESPONSE", "RESPONSE_WITH_GENERATOR_BODY", "SINGLE_RESPONSE", "Response"]


def empty_response() -> dict[str, Any]:
    """The wire form of an empty answer."""
    return {"body": "", "content_type": "text/plain", "headers": {}, "status_code": 200, "body_encoding": "text"}


def from_entrypoint_output(json_encoder: Callable[[Any], str], handler_output: Any) -> dict[str, Any]:
    """The wire form of a returned value, by the SDK's rules (ours, which differ for None, are `to_response`)."""
    wire = empty_response()
    body = handler_output
    content_type = "text/plain"
    if isinstance(body, tuple) and len(body) == 2:
        wire["status_code"], body = body
        if not isinstance(body, str):
            body = json_encoder(body)
            content_type = "application/json"
    elif isinstance(body, (dict, list)):
        body = json_encoder(body)
        content_type = "application/json"
    elif isinstance(body, Response):
        wire["headers"] = body.headers
        wire["status_code"] = body.status_code
        if body.event_id:
            wire["event_id"] = body.event_id
        content_type = body.content_type
        body = body.body
        if isinstance(body, dict):
            body = json.dumps(body)
            content_type = "application/json"
    if isinstance(body, bytes):
        body = b64encode(body).decode()
        wire["body_encoding"] = "base64"
    wire["body"] = str(body)
    wire["content_type"] = content_type
    return wire


def get_handler_output_type(handler_output: Any) -> str:
    """Which of the three kinds of answer a returned value is."""
    generators = (AsyncGeneratorType, GeneratorType)
    if isinstance(handler_output, generators):
        return GENERATOR_RESPONSE
    if isinstance(handler_output, Response) and isinstance(handler_output.body, generators):
        return RESPONSE_WITH_GENERATOR_BODY
    return SINGLE_RESPONSE


for _method in (empty_response, from_entrypoint_output, get_handler_output_type):
    setattr(Response, _method.__name__, staticmethod(_method))
