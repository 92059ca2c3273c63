"""A position in a stream, to be acknowledged by hand."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.event import Event


class QualifiedOffset:
    """Topic, partition and offset of one event of a stream."""

    def __init__(self, topic: Any, partition: Any, offset: Any) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset

    @staticmethod
    def from_event(event: Event) -> QualifiedOffset:
        """The position of this event; the path stands in for a topic."""
        return QualifiedOffset(event.topic or event.path, event.shard_id, event.offset)

    def compile_explicit_ack_message(self) -> dict[str, Any]:
        """The message that acknowledges it."""
        attributes = {"topic": self.topic, "partition": self.partition, "offset": self.offset}
        return {"kind": "streamMessageAck", "attributes": attributes}
