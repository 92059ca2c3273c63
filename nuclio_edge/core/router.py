"""(address) -> triggers: MQTT topic filters in a trie, with the answers for topics already seen kept at hand.

Laws: the triggers of a topic come in the order in which they were added; a function is there once, with its first
matching trigger; a filter that starts with a wildcard does not match a topic that starts with `$` (MQTT 5, 4.7.2).
"""

from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from typing import Any

    from .inbox import Trigger


class TopicRouter:
    """Topics (bytes, as on the wire) to tuples of triggers; a filter's `$share/<group>/` is left out."""

    def __init__(self, cache: int = 4096) -> None:
        # A level of filters is a list: the levels below (a dict, or None), and the (order, trigger) of those that end
        # here. A class of its own would cost a board 300 bytes, a dict a level 230.
        self._root: "list[Any]" = [None, ()]
        self._sequence = 0
        self._cache_size = cache
        self.known: "dict[bytes, tuple[Trigger, ...]]" = {}  # for a source's inner loop: `known.get(topic)` first

    def add(self, topic_filter: "str | bytes", trigger: "Trigger") -> None:
        """Send what matches the filter to the trigger too."""
        node = self._root
        for level in inner_filter(topic_filter).split(b"/"):
            if node[0] is None:
                node[0] = {}
            if level not in node[0]:
                node[0][level] = [None, ()]
            node = node[0][level]
        self._sequence += 1
        node[1] += ((self._sequence, trigger),)
        self.known.clear()

    def match(self, topic: bytes) -> "tuple[Trigger, ...]":
        """The triggers of a topic, possibly none; kept for the next time (at most `cache` topics, then begun anew)."""
        found = self.known.get(topic)
        if found is None:
            hits: "list[tuple[int, Trigger]]" = []
            _walk(self._root, topic.split(b"/"), 0, hits, topic[:1] == b"$")
            hits.sort(key=lambda hit: hit[0])
            first: "list[Trigger]" = []
            for _, trigger in hits:
                for other in first:
                    if other.function is trigger.function:
                        break
                else:
                    first.append(trigger)
            found = tuple(first)
            if len(self.known) >= self._cache_size:
                self.known.clear()
            self.known[topic] = found
        return found


def inner_filter(topic_filter: "str | bytes") -> bytes:
    """The filter as bytes, without the `$share/<group>/` of a shared subscription (MQTT 5, 4.8.2)."""
    raw = topic_filter.encode() if isinstance(topic_filter, str) else topic_filter
    if raw.startswith(b"$share/"):
        raw = raw.split(b"/", 2)[2]
    return raw


def _walk(node: "list[Any]", levels: "list[bytes]", at: int, hits: "list[Any]", reserved: bool) -> None:
    wild = at > 0 or not reserved
    below = node[0] or {}
    if wild and b"#" in below:
        hits.extend(below[b"#"][1])
    if at == len(levels):
        hits.extend(node[1])
        return
    level = levels[at]
    if level in below and level not in (b"+", b"#"):
        _walk(below[level], levels, at + 1, hits, reserved)
    if wild and b"+" in below:
        _walk(below[b"+"], levels, at + 1, hits, reserved)
