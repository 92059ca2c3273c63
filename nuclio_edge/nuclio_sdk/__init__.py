"""Nuclio's Python SDK as functions see it: `import nuclio_sdk` in a function's code is this package.

The public names of nuclio_sdk 0.6.3. Event, TriggerInfo, Response and ExceptionWithResponse are the runtime's own
classes, so what a function makes by hand is what the runtime takes.
"""

from __future__ import annotations

import nuclio_edge.core.event_sdk  # noqa: F401 - completes the class Event
from nuclio_edge.core.event import Event, TriggerInfo
from nuclio_edge.core.response import ExceptionWithResponse, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.nuclio_sdk.context import Context
    from nuclio_edge.nuclio_sdk.event import EventDeserializerKinds
    from nuclio_edge.nuclio_sdk.logger import Logger
    from nuclio_edge.nuclio_sdk.platform import Platform
    from nuclio_edge.nuclio_sdk.qualified_offset import QualifiedOffset

__all__ = [
    "GENERATOR_RESPONSE",
    "RESPONSE_WITH_GENERATOR_BODY",
    "SINGLE_RESPONSE",
    "Context",
    "Event",
    "EventDeserializerKinds",
    "ExceptionWithResponse",
    "Logger",
    "Platform",
    "QualifiedOffset",
    "Response",
    "TriggerInfo",
]

SINGLE_RESPONSE = "single"
GENERATOR_RESPONSE = "generator"
RESPONSE_WITH_GENERATOR_BODY = "response_with_generator_body"

# What most functions never name is imported when they do: logging and json's encoder are half a megabyte.
_LATER = {
    "Context": "context",
    "EventDeserializerKinds": "event",
    "Logger": "logger",
    "Platform": "platform",
    "QualifiedOffset": "qualified_offset",
}


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module 'nuclio_sdk' has no attribute {name!r}")
    found = getattr(__import__(f"{__name__}.{module}", None, None, [name]), name)
    globals()[name] = found
    return found
