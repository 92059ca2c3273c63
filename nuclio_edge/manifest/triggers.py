"""[[function.NAME.trigger]], [[trigger]] with select and [[function.NAME.output]] -> TriggerSpec, OutputSpec."""

from __future__ import annotations

from nuclio_edge.manifest.convert import BAD, has_bad
from nuclio_edge.manifest.model import Batch, OutputSpec, Retry, TriggerSpec
from nuclio_edge.manifest.problems import LINE, listed, quote, suggest
from nuclio_edge.manifest.tables import OUTPUT, SELECT, TRIGGER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from nuclio_edge.manifest.convert import Converter
    from nuclio_edge.manifest.model import FunctionSpec
    from nuclio_edge.manifest.problems import KeyPath
    from nuclio_edge.manifest.schema import Fields, Values
    from nuclio_edge.manifest.sources import Sources

# Attributes that every event has and by which events can be told apart; a kind names its own by ORDER_BY.
_KEYS = ("topic", "path", "method", "url", "content_type", "source_address", "source_identity", "type", "shard_id")


class Triggers:
    """Reads triggers and outputs against the sources of one manifest."""

    __slots__ = ("_claims", "_convert", "_retries", "_sources")

    def __init__(self, converter: Converter, sources: Sources) -> None:
        self._convert = converter
        self._sources = sources
        self._claims: dict[tuple[str, str], KeyPath] = {}  # (source, what only one trigger of it may have)
        self._retries: dict[tuple[Any, ...], Any] = {}  # equal ones are one object

    def read(self, raw: Any, path: KeyPath, *, select: bool = False) -> dict[str, Any] | None:
        """Return the parts of a TriggerSpec that do not depend on the function, or None after a report."""
        if not isinstance(raw, dict):
            self._convert.report.error(path, "E111", "a table is expected: [[" + ".".join(map(str, path[:-1])) + "]]")
            return None
        common = {**TRIGGER, **SELECT} if select else TRIGGER
        source, kind, tables = self._source(raw, common, path, "TRIGGER")
        if tables is None:
            # Still said: what is wrong with the keys that every trigger has.
            self._convert.table(common, {key: raw[key] for key in raw if key in common and key != "source"}, path)
            return None
        fields = tables.TRIGGER
        strange = self._strange(raw, common, kind, path, "TRIGGER", fields)
        told = {"source"} if source is None else ()
        rest = {key: raw[key] for key in raw if key not in fields and key not in strange and key not in told}
        own = self._convert.table(common, rest, path, extra=fields)
        address = self._convert.table(fields, {key: raw[key] for key in raw if key in fields}, path)
        self._sources.apply(tables, "check_trigger", address, path, "E304")
        if own.order_by is not BAD:
            self._check_order(own.order_by, tables, path)
        self._check_retry(own.retry, raw, path)
        if source is not None and not has_bad(address):
            self._claim(source, tables, address, path)
        if source is None:
            return None
        if has_bad(own) or has_bad(address):
            self._sources.unusable.append((source, "trigger", path, address))
            return None
        when_full = own.inbox.when_full
        durable = own.durable
        if durable is None:
            default = getattr(tables, "durable", None)
            durable = default is not None and default(address)
        if when_full is None:
            default = getattr(tables, "when_full", None)
            when_full = default(address) if default is not None else "block"
            if durable and when_full != "reject":
                when_full = "block"  # on the disk alone until there is room: nothing is shed, and nobody has to wait
        return {
            "address": address,
            "batch": own.batch and Batch(size=own.batch.size, timeout_ms=own.batch.timeout),
            "content_type": own.content_type,
            "dead_letter": own.dead_letter,
            "durable": durable,
            "inbox_size": own.inbox.size,
            "kind": kind,
            "name": own.name or source,
            "order_by": own.order_by,
            "rate_limit": own.rate_limit,
            "retry": self._retry(own.retry),
            "source": source,
            "when_full": when_full,
        }

    def _source(self, raw: Mapping[str, Any], known: Fields, path: KeyPath, part: str) -> tuple[str | None, str, Any]:
        """Return the source that is meant, its kind and tables; after a report None, and the kind that the keys say."""
        source = self._sources.find(raw, known, path, part)
        if source is None:
            return None, *self._sources.meant(raw, known, part)
        return source, self._sources.kind(source), self._sources.tables(source)

    def _strange(
        self, raw: Mapping[str, Any], known: Fields, kind: str, path: KeyPath, part: str, fields: Fields
    ) -> list[str]:
        """Report the keys that only other kinds have, and return them."""
        found = []
        thing = "a trigger" if part == "TRIGGER" else "an output"
        ours = next((key for key in raw if key in fields), None)
        for key in raw:
            kinds = self._sources.kinds_with(key, part) if key not in known and key not in fields else []
            if kinds:
                found.append(key)
                other = f"{ours} is for kind {kind}" if ours is not None else f"its source is of kind {kind}"
                hint = f"{thing} has one address: write two of them" if ours is not None else None
                message = f"is for kind {listed(kinds, 'or')}, and {other}"
                self._convert.report.error((*path, key), "E110", message, hint)
        return found

    def _claim(self, source: str, tables: Any, address: Values, path: KeyPath) -> None:
        """Report what another trigger of the source has already."""
        claims = getattr(tables, "trigger_claims", None)
        for key, claim in claims(address) if claims is not None else ():
            see = self._claims.setdefault((source, claim), (*path, key))
            if see != (*path, key):
                other = ".".join(map(str, see[:-2])) + f"[{see[-2]}]"
                message = f"{claim} is already that of {other} (line {LINE})"
                self._convert.report.error((*path, key), "E311", message, see=see)
                break

    def _check_order(self, order_by: str | None, tables: Any, path: KeyPath) -> None:
        """Report what is no attribute that tells this kind's events apart."""
        known = (*_KEYS, *getattr(tables, "ORDER_BY", ()))
        if order_by is not None and order_by not in known:
            message = f"{quote(order_by)} is no attribute that keeps events apart"
            hint = suggest(order_by, known) or "there are " + listed(known)
            self._convert.report.error((*path, "order_by"), "E312", message, hint)

    def _check_retry(self, retry: Any, raw: Mapping[str, Any], path: KeyPath) -> None:
        """Report a longest pause below the first one, where the manifest says it."""
        path = (*path, "retry")
        retry = self._convert.parts.get(path, retry)
        if retry is BAD or BAD in (retry.backoff, retry.max_backoff):
            return
        if retry.max_backoff < retry.backoff and "max_backoff" in raw.get("retry", {}):
            self._convert.report.error((*path, "max_backoff"), "E124", "is shorter than backoff")

    def _retry(self, retry: Values) -> Retry:
        longest = max(retry.max_backoff, retry.backoff)
        key = (retry.attempts, retry.backoff, longest)
        if key not in self._retries:
            self._retries[key] = Retry(attempts=retry.attempts, backoff_ms=retry.backoff, max_backoff_ms=longest)
        made: Retry = self._retries[key]
        return made

    def own(self, function: str, raw: Any) -> list[TriggerSpec]:
        """Return the triggers that stand below a function."""
        specs = []
        for index, table in enumerate(self._tables(raw, ("function", function, "trigger"))):
            parts = self.read(table, ("function", function, "trigger", index))
            if parts is not None:
                specs.append(TriggerSpec(function=function, index=index, **parts))
        return specs

    def shared(self, raw: Any, functions: Mapping[str, FunctionSpec]) -> None:
        """Give the functions that a [[trigger]] selects their share of it, after their own triggers."""
        for index, table in enumerate(self._tables(raw, ("trigger",))):
            path: KeyPath = ("trigger", index)
            parts = self.read(table, path, select=True)
            select = table.get("select") if isinstance(table, dict) else None
            terms = isinstance(select, str) and self._terms(select, (*path, "select"))
            if not terms:
                continue
            chosen = [function for function in functions.values() if _matches(terms, function.labels)]
            if not chosen:
                message = f"{quote(str(select))} selects no function"
                self._convert.report.error((*path, "select"), "E307", message, _labels_hint(functions))
            if len(chosen) > 1 and parts is not None and any(name == parts["source"] for name, _ in self._claims):
                message = f"{quote(str(select))} selects {len(chosen)} functions, and a request goes to one"
                self._convert.report.error((*path, "select"), "E311", message)
            for function in chosen if parts is not None else ():
                triggers = function.triggers
                spec = TriggerSpec(function=function.name, index=len(triggers), **parts)  # type: ignore[arg-type]
                function.triggers = (*triggers, spec)

    def _terms(self, select: str, path: KeyPath) -> list[tuple[str, str, str]]:
        terms = []
        for term in select.split(","):
            key, operator, value = term.strip(), "", ""
            for operator in ("!=", "="):
                if operator in key:
                    key, _, value = (part.strip() for part in key.partition(operator))
                    break
            else:
                operator = ""
            if not key or any(c in "=! " for c in key) or "=" in value:
                message = f"{quote(term.strip())} is not a condition"
                self._convert.report.error(path, "E308", message, "write k=v, k!=v or k; a comma means and")
                return []
            terms.append((key, operator, value))
        return terms

    def outputs(self, function: str, raw: Any) -> tuple[OutputSpec, ...]:
        """Return where the values that a function returns go."""
        specs = []
        for index, table in enumerate(self._tables(raw, ("function", function, "output"))):
            path: KeyPath = ("function", function, "output", index)
            if not isinstance(table, dict):
                self._convert.report.error(path, "E111", f"a table is expected: [[function.{function}.output]]")
                continue
            table = self._misnamed(table, path)  # noqa: PLW2901 - the same table, read as it was meant
            to, kind, tables = self._source(table, OUTPUT, path, "OUTPUT")
            if tables is None:
                continue
            strange = self._strange(table, OUTPUT, kind, path, "OUTPUT", tables.OUTPUT)
            own = {key: table[key] for key in table if key not in strange}
            params = self._convert.table(tables.OUTPUT, own, path, extra=OUTPUT)
            self._sources.apply(tables, "check_output", params, path, "E305")
            if to is None:
                continue
            specs.append(OutputSpec(to=to, params=params))
        return tuple(specs)

    def _misnamed(self, table: dict[str, Any], path: KeyPath) -> dict[str, Any]:
        """Report a `source` of an output, which is a trigger's word, and read it as `to`."""
        if "source" not in table:
            return table
        self._convert.report.error((*path, "source"), "E110", "unknown key", 'did you mean "to"?')
        rest = {key: value for key, value in table.items() if key != "source"}
        named = table["source"]
        known = isinstance(named, str) and self._sources.writable(named)
        return {"to": named, **rest} if known else rest

    def _tables(self, raw: Any, path: KeyPath) -> Sequence[Any]:
        if raw is None:
            return ()
        if not isinstance(raw, list):
            hint = "with two brackets, for there may be several: [[" + ".".join(map(str, path)) + "]]"
            self._convert.report.error(path, "E111", "a list of tables is expected", hint)
            return ()
        return raw


def _matches(terms: list[tuple[str, str, str]], labels: Mapping[str, str]) -> bool:
    """Whether all terms hold; `k!=v` also holds where there is no label k."""
    if labels is BAD:
        return True
    for key, operator, value in terms:
        if operator == "!=":
            if labels.get(key) == value:
                return False
        elif key not in labels or (operator and labels[key] != value):
            return False
    return True


def _labels_hint(functions: Mapping[str, FunctionSpec]) -> str:
    known = [function.labels for function in functions.values() if function.labels is not BAD]
    found = sorted({f"{key}={value}" for labels in known for key, value in labels.items()})
    if not found:
        return "no function has labels"
    return "labels of functions: " + ", ".join(found[:10]) + (", …" if len(found) > 10 else "")
