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
    """Topics (bytes, as on the wire) to tuples of triggers; a filter is text or bytes, a filter's share is left out.

    Filters of one shape (how many levels, which of them `+`, whether `#` follows) share a table by their other levels,
    so a topic costs a look-up a shape, and a filter half the memory of its levels in a trie (measured: 250 B, 520 B).
    """

    def __init__(self, cache: int = 4096) -> None:
        self._shapes: "dict[Any, dict[bytes, Any]]" = {}  # (levels, places of +, with #) -> rest -> (order, trigger)s
        self._sequence = 0
        self._cache_size = cache
        self.known: "dict[bytes, tuple[Trigger, ...]]" = {}  # for a source's inner loop: `known.get(topic)` first

    def add(self, topic_filter: "str | bytes", trigger: "Trigger") -> None:
        """Send what matches the filter to the trigger too."""
        levels = inner_filter(topic_filter).split(b"/")
        many = levels[-1] == b"#"
        if many:
            levels.pop()
        wild = tuple([at for at in range(len(levels)) if levels[at] == b"+"])
        table = self._shapes.setdefault((len(levels), wild, many), {})
        key = _rest(levels, len(levels), wild)
        self._sequence += 1
        table[key] = table.get(key, ()) + ((self._sequence, trigger),)  # noqa: RUF005 - a syntax error for MicroPython
        self.known.clear()

    def match(self, topic: bytes) -> "tuple[Trigger, ...]":
        """The triggers of a topic, possibly none; kept for the next time (at most `cache` topics, then begun anew)."""
        found = self.known.get(topic)
        if found is None:
            hits: "list[tuple[int, Trigger]]" = []
            levels = topic.split(b"/")
            for count, wild, many in self._shapes:
                if topic[:1] == b"$" and (0 in wild or not count):
                    continue
                if len(levels) == count or (many and len(levels) > count):
                    hits.extend(self._shapes[count, wild, many].get(_rest(levels, count, wild), ()))
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


def _rest(levels: "list[bytes]", count: int, wild: "tuple[int, ...]") -> bytes:
    """The levels that a filter spells out, of the first `count`."""
    return b"/".join([levels[at] for at in range(count) if at not in wild])
