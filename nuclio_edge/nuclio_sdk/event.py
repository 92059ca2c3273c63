"""The SDK's module of events."""

from __future__ import annotations

from enum import Enum

from nuclio_edge.core.event import Event, TriggerInfo

__all__ = ["Event", "EventDeserializerKinds", "TriggerInfo"]


class EventDeserializerKinds(Enum):
    """The wire forms that Event.deserialize reads: a map with text keys, with bytes keys, JSON text."""

    msgpack = "msgpack"
    msgpack_raw = "msgpack_raw"
    json = "json"
