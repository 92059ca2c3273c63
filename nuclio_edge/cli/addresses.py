"""Addresses of triggers, as the command line needs them: filters to look through, and topics that fit a filter."""

from __future__ import annotations

from nuclio_edge.manifest.model import MADE_UP, Retry, TriggerSpec
from nuclio_edge.manifest.schema import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nuclio_edge.manifest.schema import Values

WATCHER = "events"  # the name under which the triggers of who looks on are counted


def without_share(topic_filter: str) -> str:
    """The filter of a shared subscription: who looks on must not take messages from the group."""
    return topic_filter.split("/", 2)[2] if topic_filter.startswith("$share/") else topic_filter


def a_topic(topic_filter: str) -> str:
    """A topic that matches the filter: every wildcard becomes an x."""
    return without_share(topic_filter).replace("+", "x").replace("#", "x")


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a topic name matches a filter (MQTT 5, 4.7)."""
    from nuclio_edge.core.router import TopicRouter

    router = TopicRouter(1)
    router.add(without_share(topic_filter), _Route())  # type: ignore[arg-type]  # it only has to be found again
    return bool(router.match(topic.encode()))


def mqtt_trigger(source: str, topic: str, index: int = 0, like: TriggerSpec | None = None) -> TriggerSpec:
    """A trigger on a topic, with the content type that a trigger of a function has."""
    address = values(("topic", "qos", "no_local"), {"topic": topic, "qos": 1, "no_local": False})
    return _trigger(WATCHER, "mqtt", source, index, address, like.content_type if like is not None else None)


def clock_trigger(function: str) -> TriggerSpec:
    """A trigger for a function that has none."""
    address = values(("every", "cron", "body", "headers"), {"every": 1000, "cron": None, "body": "", "headers": {}})
    return _trigger(function, "timer", "clock", MADE_UP, address, None)


def _trigger(
    function: str, kind: str, source: str, index: int, address: Values, content_type: str | None
) -> TriggerSpec:
    return TriggerSpec(
        address=address,
        batch=None,
        content_type=content_type,
        dead_letter=False,
        durable=False,
        function=function,
        inbox_size=1024,
        index=index,
        kind=kind,
        name=source,
        order_by=None,
        rate_limit=None,
        retry=Retry(attempts=1, backoff_ms=1000, max_backoff_ms=1000),
        source=source,
        when_full="block",
    )


class _Route:
    """What a router keeps."""

    function = None
