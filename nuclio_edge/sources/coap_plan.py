"""What is to be done with a request, by its code and options: worked out once, then looked up by their raw bytes.

A device asks the same thing again and again: the options of one kind of request are the same bytes each time. A Plan
is therefore kept by them (1,024 at most, then begun anew), and an ordinary request costs one look-up.
"""

from __future__ import annotations

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.core.coap_compose import pack_options
from nuclio_edge.sources import coap_formats as formats
from nuclio_edge.sources.coap_event import path_of, query_of
from nuclio_edge.sources.coap_params import WELL_KNOWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.inbox import Trigger

KEPT = 1024
LONGEST = 256  # bytes of options; longer ones are not kept

# Options that a request may have: number -> (least, most bytes, whether it may come twice); RFC 7252 5.10, 7959, 7641.
_KNOWN = {
    coap.IF_MATCH: (0, 8, True),
    coap.URI_HOST: (1, 255, False),
    coap.ETAG: (1, 8, True),
    coap.IF_NONE_MATCH: (0, 0, False),
    coap.OBSERVE: (0, 3, False),
    coap.URI_PORT: (0, 2, False),
    coap.URI_PATH: (0, 255, True),
    coap.CONTENT_FORMAT: (0, 2, False),
    coap.URI_QUERY: (0, 255, True),
    coap.ACCEPT: (0, 2, False),
    coap.BLOCK2: (0, 3, False),
    coap.BLOCK1: (0, 3, False),
    coap.SIZE2: (0, 4, False),
    coap.PROXY_URI: (1, 1034, False),
    coap.PROXY_SCHEME: (1, 255, False),
    coap.SIZE1: (0, 4, False),
    coap.NO_RESPONSE: (0, 1, False),
}
# Not part of what is asked for: they say how it is to be carried (RFC 7959 2.4, RFC 7641 2).
_CARRIAGE = (coap.BLOCK1, coap.BLOCK2, coap.SIZE1, coap.SIZE2, coap.OBSERVE, coap.ETAG, coap.NO_RESPONSE)


class Plan:
    """What one combination of code and options asks for.

    `error` is (code, text) for what cannot be done; `trigger` the function's, `others` those of further functions.
    `special`: it takes more than to run a function; `simple`: the reply needs nothing but status, type and body.
    `asked` are the options without those of the carriage: what is the same for all blocks of one exchange.
    """

    __slots__ = (
        "accept", "asked", "block1", "block2", "code", "error", "etags", "observe", "options", "others", "path",
        "query", "quiet", "simple", "special", "trigger",
    )  # fmt: skip

    def __init__(self, code: int, options: bytes) -> None:
        self.code = code
        self.options = options
        self.asked = options
        self.path = ""
        self.query: list[str] = []
        self.error: tuple[int, str] | None = None
        self.trigger: Trigger | None = None
        self.others: tuple[Trigger, ...] = ()
        self.accept: int | None = None
        self.block1: tuple[int, bool, int] | None = None
        self.block2: tuple[int, bool, int] | None = None
        self.observe: int | None = None
        self.etags: tuple[bytes, ...] = ()
        self.quiet = 0
        self.special = True
        self.simple = False


class Planner:
    """Makes plans by the present routes, and keeps them: `plans[code].get(options)` first."""

    def __init__(self) -> None:
        self.plans: list[dict[bytes, Plan]] = [{} for _ in range(32)]
        self._kept = 0
        self._stopped = False
        self._exact: dict[str, dict[int, list[Trigger]]] = {}
        self._below: list[tuple[str, dict[int, list[Trigger]]]] = []
        self.resources: dict[str, Any] = {}  # what outputs have published, by path

    def follow(self, triggers: list[Trigger]) -> None:
        """Plan by these triggers from now on."""
        exact: dict[str, dict[int, list[Trigger]]] = {}
        below: dict[str, dict[int, list[Trigger]]] = {}
        numbers = {name: number for number, name in formats.METHODS.items()}
        for trigger in triggers:
            address: Any = trigger.address
            if address.path is None:
                continue
            prefix = address.path.endswith("/*")
            table = below.setdefault(address.path[:-1], {}) if prefix else exact.setdefault(address.path, {})
            for method in address.method or formats.METHODS.values():
                at = table.setdefault(numbers[method], [])
                if all(other.function is not trigger.function for other in at):
                    at.append(trigger)
        self._exact = exact
        self._below = sorted(below.items(), key=lambda entry: -len(entry[0]))  # the most specific first
        self.forget()

    def forget(self) -> None:
        """Work everything out anew."""
        for plans in self.plans:
            plans.clear()
        self._kept = 0

    def stop(self) -> None:
        """From now on every request is out of the ordinary: it is refused."""
        self._stopped = True
        self.forget()

    def make(self, code: int, data: bytes, start: int) -> tuple[Plan, bytes]:
        """The plan of a request whose options begin at `start`, and its payload; MessageError when it is broken."""
        pairs, after = coap.walk(data, start)
        body = data[after:]
        options = data[start : after - 1] if body else data[start:]
        plan = self.plans[code].get(options)
        if plan is None:
            plan = Plan(code, options)
            plan.error = self._read(plan, pairs)
            later = plan.block2 is not None and plan.block2[0] > 0
            if len(options) <= LONGEST and plan.block1 is None and not later and plan.error is None:
                if self._kept >= KEPT:
                    self.forget()
                self._kept += 1
                self.plans[code][options] = plan
        return plan, body

    def _read(self, plan: Plan, pairs: list[tuple[int, bytes]]) -> tuple[int, str] | None:
        last = -1
        etags = []
        for number, value in pairs:
            known = _KNOWN.get(number)
            if known is None or not known[0] <= len(value) <= known[1] or (number == last and not known[2]):
                if coap.is_critical(number):  # a known one of another length counts as unknown (5.4.3)
                    return formats.BAD_OPTION, f"option {number} is not understood here"
                continue
            last = number
            if number in (coap.PROXY_URI, coap.PROXY_SCHEME):
                return formats.NO_PROXY, "this is no proxy"
            if number == coap.ACCEPT:
                plan.accept = coap.number(value)
            elif number == coap.OBSERVE:
                plan.observe = coap.number(value)
            elif number == coap.ETAG:
                etags.append(value)
            elif number == coap.NO_RESPONSE:
                plan.quiet = coap.number(value)
            elif number == coap.CONTENT_FORMAT:
                said = coap.number(value)
                if said not in formats.FORMATS and said not in formats.PRIVATE:
                    return formats.UNSUPPORTED, f"Content-Format {said} is not known here"
            elif number in (coap.BLOCK1, coap.BLOCK2):
                try:
                    block = coap.block(value)
                except coap.MessageError:
                    return formats.BAD_REQUEST, "a block of a reserved size"
                if number == coap.BLOCK1:
                    plan.block1 = block
                else:
                    plan.block2 = block
        plan.etags = tuple(etags)
        if plan.code not in (formats.GET, formats.FETCH):
            plan.observe = None
        if plan.accept is not None and plan.accept not in formats.FORMATS and plan.accept not in formats.PRIVATE:
            return formats.NOT_ACCEPTABLE, f"Content-Format {plan.accept} is not known here"
        try:
            plan.path = path_of(pairs)
        except ValueError:
            return formats.BAD_REQUEST, "the path is not UTF-8"
        if any(number == coap.URI_PATH and value in (b".", b"..") for number, value in pairs):
            return formats.BAD_REQUEST, "no . and no .. may stand in a path"
        plan.query = query_of(pairs)
        if any(number in _CARRIAGE for number, _ in pairs):
            plan.asked = pack_options([pair for pair in pairs if pair[0] not in _CARRIAGE])
        return self._route(plan)

    def _route(self, plan: Plan) -> tuple[int, str] | None:
        carried = plan.block1 is not None or plan.block2 is not None or plan.observe is not None
        if plan.code not in formats.METHODS:
            return formats.NOT_ALLOWED, "an unknown method"
        if plan.path == WELL_KNOWN:
            return None if plan.code == formats.GET else (formats.NOT_ALLOWED, "only GET lists what is here")
        table = self._exact.get(plan.path)
        if table is None:
            table = next((found for prefix, found in self._below if plan.path.startswith(prefix)), None)
        found = table.get(plan.code) if table else None
        if found:
            plan.trigger, plan.others = found[0], tuple(found[1:])
            plan.special = carried or bool(plan.others) or self._stopped
            plan.simple = not (carried or plan.accept is not None or plan.etags or plan.quiet)
            return None
        if plan.path in self.resources:
            return None if plan.code == formats.GET else (formats.NOT_ALLOWED, "only GET is possible here")
        if table:
            there = ", ".join(formats.METHODS[method] for method in sorted(table))
            return formats.NOT_ALLOWED, f"possible here: {there}"
        return formats.NOT_FOUND, "nothing has this path"

    def paths(self) -> list[tuple[str, dict[int, list[Trigger]]]]:
        """The paths that triggers have, with the triggers of each method; those that end in / stand for all below."""
        return [*self._exact.items(), *self._below]
