"""Which kinds of source there are, as strings: nothing is imported before a manifest names it.

A kind is two addresses, "module:name": the class that runs it, and where its tables are (PARAMS, TRIGGER, OUTPUT and
the checks below), which `check` can read without the kind's library. Packages of other people add kinds by an entry
point of the group "nuclio_edge.sources" whose name is the kind and whose object is the class, tables included.

What the holder of the tables (a module or the class) may offer besides, each optional. A check that asks for a value
that was reported ends there; `known` and `separately` of manifest/schema.py let it go on with the others.

    check_params(params) -> faults       (key, message, hint or None) each, within a table dotted: "will.topic"
    warn_params(params) -> the same      told as warnings
    check_trigger(address) -> faults
    warn_triggers(params, addresses) -> (which, code, key, message, hint)   told as warnings, of all on a source
    check_output(output) -> faults
    trigger_claims(address) -> (key, claim)   what only one trigger on a source may have: 'GET /door'
    claims(params) -> (key, claim)       what only one source may have, in words: 'client id "gw" at broker:1883'
    board_ports(params) -> (key, kind, name)   what goes by the board's name: "serial", "i2c" or "spi", and which
    pins(params) -> (key, pin, chip)     the pins of the board that it takes for itself
    used_pin(params, use) -> the same    that of a trigger or output, or None
    check_board(params, board) -> faults with `pins`: what the board cannot do
    check_uses(params, triggers, outputs, same) -> ("trigger" or "output", which, key, message, hint)   with `pins`
    when_full(address) -> policy         the default of inbox.when_full; "block" unless offered
    durable(address) -> bool             the default of durable; false unless offered
    ORDER_BY = ("line",)                 further attributes of its events that order_by may name
    SHARED_WINDOW = True                 one function that holds its events back holds back all functions on the source
"""

from __future__ import annotations

from nuclio_edge.errors import UnknownKindError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Fault = tuple[str, str, str | None]


GROUP = "nuclio_edge.sources"

# kind -> (class, tables)
SOURCES = {
    "mqtt": ("nuclio_edge.sources.mqtt:MqttSource", "nuclio_edge.sources.mqtt_params"),
    "gpio": ("nuclio_edge.sources.gpio:GpioSource", "nuclio_edge.sources.gpio_params"),
    "http": ("nuclio_edge.sources.http:HttpSource", "nuclio_edge.sources.http_params"),
    "timer": ("nuclio_edge.sources.timer:TimerSource", "nuclio_edge.sources.timer:TimerSource"),
    "serial": ("nuclio_edge.sources.serial:SerialSource", "nuclio_edge.sources.serial_params"),
    "sensor": ("nuclio_edge.sources.sensor:SensorSource", "nuclio_edge.sources.sensor_params"),
    "coap": ("nuclio_edge.sources.coap:CoapSource", "nuclio_edge.sources.coap_params"),
    "memory": ("nuclio_edge.sources.memory:MemorySource", "nuclio_edge.sources.memory:MemorySource"),
}

# Known by name, not there yet.
LATER_BINDINGS = ("nosql", "object", "stream", "file")

# Sources that are there without a table, unless the manifest declares one of the kind: name -> kind.
BUILT_IN = {"clock": "timer", "pins": "gpio"}
# Those of them that handlers call as bindings: made when a handler first does.
ON_DEMAND = ("pins",)


def tables(kind: str, section: str = "source") -> Any:
    """Return where the tables of a kind are; UnknownKindError says what there is instead.

    `section` is "source" or "binding", which share names and not kinds.
    """
    if section == "binding":
        return _binding(kind)
    entry = SOURCES.get(kind)
    return _object(entry[1]) if entry else _foreign(kind)


def source_class(kind: str) -> Any:
    """Return the class that runs a kind of source; UnknownKindError says what there is instead."""
    entry = SOURCES.get(kind)
    return _object(entry[0]) if entry else _foreign(kind)


def _object(address: str) -> Any:
    import sys

    module, _, name = address.partition(":")
    __import__(module)  # returns the top-level package only
    return getattr(sys.modules[module], name) if name else sys.modules[module]


def _foreign(kind: str) -> Any:
    """Return the class of another package's kind."""
    from nuclio_edge.manifest.problems import listed, quote, suggest

    if kind in LATER_BINDINGS:
        raise UnknownKindError(f"kind {quote(kind)} is a binding's", "write [binding.NAME]")
    from importlib.metadata import entry_points  # 5 MB, only for kinds that are not ours

    found = {point.name: point for point in entry_points(group=GROUP)}
    if kind in found:
        try:
            return found[kind].load()
        except Exception as error:
            message = f"kind {quote(kind)} cannot be loaded from {found[kind].value}: {error}"
            raise UnknownKindError(message) from error
    here = [*SOURCES, *found]
    raise UnknownKindError(f"no source is of kind {quote(kind)}", suggest(kind, here) or f"there are {listed(here)}")


def _binding(kind: str) -> Any:
    from nuclio_edge.manifest.problems import listed, quote, suggest

    if kind in LATER_BINDINGS:
        raise UnknownKindError(f"kind {quote(kind)} comes with a later version", later=True)
    if kind in SOURCES:
        raise UnknownKindError(
            f"kind {quote(kind)} is a source's", "write [source.NAME]; what can send is a binding too"
        )
    hint = suggest(kind, LATER_BINDINGS) or f"there are {listed(LATER_BINDINGS)}"
    raise UnknownKindError(f"no binding is of kind {quote(kind)}", hint)
