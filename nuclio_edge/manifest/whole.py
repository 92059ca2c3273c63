"""What only shows over the whole manifest: names that must exist elsewhere, shared sources, what is not there yet."""

from __future__ import annotations

from nuclio_edge.manifest.convert import BAD, shape_of
from nuclio_edge.manifest.problems import listed, quote, suggest
from nuclio_edge.manifest.schema import Field, values
from nuclio_edge.manifest.tables import SINKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nuclio_edge.manifest.convert import Converter
    from nuclio_edge.manifest.model import FunctionSpec, TriggerSpec
    from nuclio_edge.manifest.problems import Report
    from nuclio_edge.manifest.schema import Values
    from nuclio_edge.manifest.sources import Sources

# Tables whose names are checked and which nothing reads yet.
_LATER = {
    "sync": "the sync agent comes with a later version",
}
_LATER_SINKS = ("file", "stream", "http")
_LONG_RETRY_MS = 10_000
_KIND = {"kind": Field("string", required=True)}


def not_yet(raw: Mapping[str, Any], report: Report) -> None:
    """Say of each table that nothing reads yet that it has no effect."""
    for name, message in _LATER.items():
        if name in raw:
            report.warning((name,), "W502", f"has no effect: {message}")


def read_sinks(raw: Any, converter: Converter) -> tuple[Values, ...]:
    """Return the sinks of [log], each with its kind's keys; the console where none is given."""
    report = converter.report
    if not isinstance(raw, list):
        if raw is not None:
            report.error(("log", "sinks"), "E111", f"a list is expected, found {shape_of(raw)}")
        raw = [{"kind": "console"}]
    sinks = []
    for index, table in enumerate(raw):
        path = ("log", "sinks", index)
        kind = table.get("kind") if isinstance(table, dict) else None
        if not isinstance(kind, str):
            report.error(path, "E111", '{ kind = "console" } is expected')
        elif kind not in SINKS:
            known = listed(map(quote, SINKS))
            report.error((*path, "kind"), "E115", f"{quote(kind)} is none of {known}", suggest(kind, SINKS))
        else:
            sink = converter.table(SINKS[kind], table, path, extra=_KIND)
            keys = (*sink.__slots__, "kind")
            sinks.append(values(keys, {"kind": kind, **{key: getattr(sink, key) for key in sink.__slots__}}))
            if kind in _LATER_SINKS:
                report.warning(path, "W502", f"has no effect: {kind} sinks come with a later version")
    return tuple(sinks)


def check_admin(admin: Values, report: Report) -> None:
    """admin.listen is an address; one that others can reach is said."""
    if admin is BAD or admin.listen in (None, BAD):
        return
    from nuclio_edge.sources.http_listen import parse

    path = ("admin", "listen")
    try:
        address = parse(admin.listen)
    except ValueError as error:
        report.error(path, "E304", str(error))
        return
    if address.path:
        report.error(path, "E304", "a unix socket is socket = …", 'listen is address:port, e.g. "127.0.0.1:8090"')
    elif not (address.host.startswith("127.") or address.host == "::1"):
        message = "whoever reaches this address reads metrics, ledger and functions; nothing asks who they are"
        report.warning(path, "W507", message, f'"127.0.0.1:{address.port}" is this device alone')


def check_hint(sync: Values | None, sources: Sources, report: Report) -> None:
    """sync.hint names an MQTT source."""
    hint = sync.hint if sync not in (None, BAD) else None
    if hint in (None, BAD):
        return
    brokers = [name for name, spec in sources.specs.items() if spec.kind == "mqtt"]
    if hint not in brokers:
        message = f"no MQTT source is named {quote(hint)}"
        report.error(("sync", "hint"), "E301", message, suggest(hint, brokers))


def check_shared(functions: Mapping[str, FunctionSpec], sources: Sources, report: Report) -> None:
    """Warn of each source where one slow function would hold back the others: a broker's window is per connection."""
    users: dict[str, set[str]] = {}
    holding: dict[str, list[TriggerSpec]] = {}
    for function in functions.values():
        for trigger in function.triggers if not function.disabled else ():
            if sources.shared_window(trigger.source):
                users.setdefault(trigger.source, set()).add(function.name)
                if _holds(trigger):
                    holding.setdefault(trigger.source, []).append(trigger)
    for source, triggers in holding.items():
        if len(users[source]) > 1:
            shown = listed([trigger.ledger_id for trigger in triggers[:3]] + ["others"] * (len(triggers) > 3))
            message = f"{len(users[source])} functions share its window, and {shown} may hold it when slow or in retry"
            hint = "durable = true acknowledges them once they are on disk; or give the slow ones a second source"
            report.warning(("source", source), "W503", message, hint)


def check_triggers(functions: Mapping[str, FunctionSpec], sources: Sources, report: Report) -> None:
    """Warn of what the kinds of the sources say of all triggers on one of them."""
    for name, source in sources.specs.items():
        check = getattr(sources.tables(name), "warn_triggers", None)
        if check is None:
            continue
        active = [function for function in functions.values() if not function.disabled]
        triggers = [one for function in active for one in function.triggers if one.source == name]
        for at, code, key, message, hint in check(source.params, [trigger.address for trigger in triggers]):
            trigger = triggers[at]
            report.warning(("function", trigger.function, "trigger", trigger.index, key), code, message, hint)


def _holds(trigger: TriggerSpec) -> bool:
    """Whether unacknowledged events of this trigger may stay for long."""
    if trigger.durable or not getattr(trigger.address, "qos", 1):
        return False
    pause, longest = trigger.retry.backoff_ms, trigger.retry.max_backoff_ms
    total = 0
    for _ in range(min(trigger.retry.attempts - 1, 32)):
        total += min(pause, longest)
        pause *= 2
    return trigger.when_full == "block" or total >= _LONG_RETRY_MS


def check_idle(functions: Mapping[str, FunctionSpec], report: Report) -> None:
    """Warn of functions that no event of a source will ever reach."""
    for function in functions.values():
        if not function.triggers and not function.disabled:
            report.warning(
                ("function", function.name), "W504", "has no trigger: only invoke runs it, or a function that calls it"
            )
