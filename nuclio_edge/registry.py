"""Which kinds of source there are, as strings: nothing is imported before a manifest names it.

A kind is two addresses, "module:name": the class that runs it, and where its tables are (PARAMS, TRIGGER, OUTPUT and the
checks below), which `check` can read without the kind's library. Packages of other people add kinds by an entry point of
the group "nuclio_edge.sources" whose name is the kind and whose object is the class, tables included.

What the holder of the tables (a module or the class) may offer besides, each optional:

    check_params(params) -> faults       faults: (key, message, hint) each; params are checked values, never BAD
    check_trigger(address) -> faults
    check_output(output) -> faults
    claims(params) -> (key, claim)       what only one source may have, in words: 'client id "gw" at broker:1883'
    when_full(address) -> policy         the default of inbox.when_full; "block" unless offered
    SHARED_WINDOW = True                 one function that holds its events back holds back all functions on the source
"""

from __future__ import annotations

from nuclio_edge.errors import UnknownKindError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Protocol

    from nuclio_edge.manifest.schema import Fields, Values

    Fault = tuple[str, str, str | None]

    class Tables(Protocol):
        """What every kind declares; see the module's docstring for the optional rest."""

        PARAMS: Fields
        TRIGGER: Fields
        OUTPUT: Fields

    class Checks(Protocol):
        """One of the optional checks."""

        def __call__(self, values: Values, /) -> Iterable[Fault]: ...


GROUP = "nuclio_edge.sources"

# kind -> (class, tables)
SOURCES = {
    "mqtt": ("nuclio_edge.sources.mqtt:MqttSource", "nuclio_edge.sources.mqtt_params"),
    "timer": ("nuclio_edge.sources.timer:TimerSource", "nuclio_edge.sources.timer:TimerSource"),
    "memory": ("nuclio_edge.sources.memory:MemorySource", "nuclio_edge.sources.memory:MemorySource"),
}

# Known by name, not there yet: kind -> the keys of its triggers, so that a trigger without a source can be explained.
LATER_SOURCES: dict[str, tuple[str, ...]] = {
    "coap": ("path", "method"),
    "http": ("path", "method"),
    "gpio": ("pin", "line", "edge", "bias", "debounce"),
    "serial": (),
    "sensor": (),
}
LATER_BINDINGS = ("nosql", "object", "stream", "file")

# Sources that are there without a table, unless the manifest declares one of the kind: name -> kind.
BUILT_IN = {"clock": "timer"}


def tables(kind: str) -> Tables:
    """Return where the tables of a kind are; UnknownKindError says what there is instead."""
    entry = SOURCES.get(kind)
    return _object(entry[1]) if entry else _foreign(kind)  # type: ignore[no-any-return]


def source_class(kind: str) -> Any:
    """Return the class that runs a kind; UnknownKindError says what there is instead."""
    entry = SOURCES.get(kind)
    return _object(entry[0]) if entry else _foreign(kind)


def _object(address: str) -> Any:
    import sys

    module, _, name = address.partition(":")
    __import__(module)
    return getattr(sys.modules[module], name) if name else sys.modules[module]


def _foreign(kind: str) -> Any:
    """Return the class of another package's kind."""
    if kind in LATER_SOURCES or kind in LATER_BINDINGS:
        raise UnknownKindError(f'kind "{kind}" comes with a later version')
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group=GROUP)}
    if kind in found:
        return found[kind].load()
    from nuclio_edge.manifest.problems import listed, quote, suggest

    here = [*SOURCES, *LATER_SOURCES, *found]
    message = f"no source is of kind {quote(kind)}; there are {listed(here)}"
    raise UnknownKindError(message, suggest(kind, here))
