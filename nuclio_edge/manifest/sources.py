"""[source.*] and [binding.*] -> SourceSpec, and which of them a trigger or an output means."""

from __future__ import annotations

from nuclio_edge import registry
from nuclio_edge.errors import UnknownKindError
from nuclio_edge.manifest.convert import shape_of
from nuclio_edge.manifest.model import SourceSpec
from nuclio_edge.manifest.problems import LINE, listed, nearest, quote
from nuclio_edge.manifest.schema import Field, ReportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from nuclio_edge.manifest.convert import Converter
    from nuclio_edge.manifest.model import FunctionSpec
    from nuclio_edge.manifest.problems import KeyPath
    from nuclio_edge.manifest.schema import Fields, Values

_KIND = {"kind": Field("string", required=True)}
_NAME_MORE = "_-."
_NAME_LIMIT = 63


def good_name(name: str, path: KeyPath, converter: Converter) -> bool:
    """Report a name that could not stand in a client id, an environment variable or a file name."""
    short = 0 < len(name) <= _NAME_LIMIT and name.isascii()
    if short and name[0].isalnum() and all(c.isalnum() or c in _NAME_MORE for c in name):
        return True
    hint = f"up to {_NAME_LIMIT} letters, digits, hyphens, underscores and dots, the first a letter or digit"
    converter.report.error(path, "E118", f"{quote(name)} cannot be a name", hint)
    return False


class Sources:
    """The sources and bindings of one manifest, with the tables of their kinds."""

    __slots__ = ("_convert", "_tables", "bindings", "clean", "specs", "unusable")

    def __init__(self, converter: Converter, raw: Mapping[str, Any]) -> None:
        self._convert = converter
        self.specs: dict[str, SourceSpec] = {}
        self.bindings: dict[str, SourceSpec] = {}
        self._tables: dict[str, Any] = {}  # name -> tables of its kind, None where that was reported
        self.clean: list[str] = []  # the sources of whose params nothing was reported
        # What triggers that were reported want of their source: (source, "trigger", path, address)
        self.unusable: list[tuple[str, str, KeyPath, Values]] = []
        for name, table in named(converter, raw, "source"):
            self._add("source", name, table, self.specs)
        for name, table in named(converter, raw, "binding"):
            if name in self.specs:
                message = f"{quote(name)} is already the name of a source (line {LINE})"
                hint = "sources and bindings share one name space: a source is a binding too"
                converter.report.error(("binding", name), "E203", message, hint, see=("source", name))
            else:
                self._add("binding", name, table, self.bindings)
        for name, kind in registry.BUILT_IN.items():
            self._built_in(name, kind)
        self._claims()

    def _built_in(self, name: str, kind: str) -> None:
        if any(spec.kind == kind for spec in self.specs.values()):
            return
        if name in self._tables:
            where: KeyPath = ("source" if name in self.specs else "binding", name)
            self._convert.report.error(where, "E203", f"{quote(name)} is the built-in {kind}'s name", "choose another")
            return
        tables = self._tables[name] = registry.tables(kind)
        params = self._convert.table(tables.PARAMS, {}, ())
        self.specs[name] = SourceSpec(declared=False, name=name, kind=kind, params=params)

    def _add(self, section: str, name: str, raw: Mapping[str, Any], specs: dict[str, SourceSpec]) -> None:
        path: KeyPath = (section, name)
        report = self._convert.report
        good_name(name, path, self._convert)
        self._tables[name] = None
        kind = raw.get("kind")
        params: Any = None
        if kind is None:
            report.error((*path, "kind"), "E117", "is missing", 'which kind it is, e.g. kind = "mqtt"')
        elif not isinstance(kind, str):
            report.error((*path, "kind"), "E111", f"a string is expected, found {shape_of(kind)}")
        else:
            try:
                self._tables[name] = tables = registry.tables(kind, section)
            except UnknownKindError as error:
                report.error((*path, "kind"), "E202" if error.later else "E201", error.message, error.hint)
            else:
                before = report.errors
                self._convert.source = name
                params = self._convert.table(getattr(tables, "PARAMS", {}), raw, path, extra=_KIND)
                self.apply(tables, "check_params", params, path, "E205")
                self.apply(tables, "warn_params", params, path, "W508")
                if report.errors == before:
                    self.clean.append(name)
        specs[name] = SourceSpec(declared=True, name=name, kind=kind if isinstance(kind, str) else "", params=params)

    def apply(self, tables: Any, check: str, values: Values, path: KeyPath, code: str) -> None:
        """Run one of the kind's own checks over the values; a code with W makes warnings of what it finds."""
        report = self._convert.report
        say = report.warning if code.startswith("W") else report.error
        function = getattr(tables, check, None)
        if function is None:
            return
        try:
            for key, message, hint in function(self._convert.known(values, path)):
                inside = [int(part) if part.isdigit() else part for part in key.split(".")]
                say((*path, *inside), code, message, hint)
        except ReportedError:
            pass

    def _claims(self) -> None:
        taken: dict[str, tuple[str, KeyPath]] = {}
        for name in self.clean:
            claims = getattr(self._tables[name], "claims", None)
            spec = self.specs.get(name) or self.bindings[name]
            for key, claim in claims(spec.params) if claims else ():
                path = ("source", name, key)
                if claim in taken:
                    other, see = taken[claim]
                    message = f"{claim} is already used by source.{other} (line {LINE})"
                    self._convert.report.error(path, "E204", message, see=see)
                else:
                    taken[claim] = (name, path)

    def known(self, values: Values, path: KeyPath) -> Any:
        """Return the values of a table as its checks may see them."""
        return self._convert.known(values, path)

    def tables(self, name: str) -> Any:
        """Return the tables of a source's or binding's kind, None when its kind was reported."""
        return self._tables[name]

    def kind(self, name: str) -> str:
        """Return the kind of a source or binding."""
        return (self.specs.get(name) or self.bindings[name]).kind

    def writable(self, name: str) -> bool:
        """Whether an output may go to what has this name."""
        return name in self._tables and self._fields(name, "OUTPUT") is not None

    def shared_window(self, name: str) -> bool:
        """Whether one function that holds events back holds back every function on this source."""
        return bool(getattr(self._tables[name], "SHARED_WINDOW", False))

    def with_pins(self) -> list[str]:
        """Return the sources whose kinds use a board's pins."""
        return [name for name in self.specs if hasattr(self._tables[name], "pins")]

    def use_pins(self, functions: Mapping[str, FunctionSpec]) -> bool:
        """Whether anything wants a pin: a source's own table, a trigger or an output."""
        wanted = {name for name, spec in self.specs.items() if spec.declared} | {use[0] for use in self.unusable}
        for function in functions.values():
            wanted.update([trigger.source for trigger in function.triggers])
            wanted.update([output.to for output in function.outputs])
        return not wanted.isdisjoint(self.with_pins())

    def board_ports(self, name: str) -> list[tuple[str, str, str]]:
        """Return what goes by the board's name in a source's table: (key, kind, name)."""
        ports = getattr(self._tables[name], "board_ports", None)
        spec = self.specs.get(name) or self.bindings[name]
        found: list[tuple[str, str, str]] = []
        try:
            found += ports(self.known(spec.params, ("source", name))) if ports is not None else ()
        except ReportedError:
            pass
        return found

    def find(self, raw: Mapping[str, Any], known: Iterable[str], path: KeyPath, part: str) -> str | None:
        """Return the name of the source that a trigger means (part "TRIGGER"), or an output (part "OUTPUT").

        None after a report. `known` are the keys that say nothing of a kind.
        """
        word = "source" if part == "TRIGGER" else "to"
        name = raw.get(word)
        if name is None:
            return self._fit([key for key in raw if key not in known], path, part)
        path = (*path, word)
        report = self._convert.report
        if not isinstance(name, str):
            report.error(path, "E111", f"a string is expected, found {shape_of(name)}")
            return None
        if name in self.specs or (part == "OUTPUT" and name in self.bindings):
            if self._tables[name] is not None and self._fields(name, part) is None:
                report.error(path, "E306", f"kind {self.kind(name)} cannot be written to by an output")
                return None
            return name
        if name in self.bindings:
            report.error(path, "E301", f"{quote(name)} is a binding, which brings no events")
            return None
        near = nearest(name, [*self.specs, *(self.bindings if part == "OUTPUT" else ())])
        hint, see = None, None
        if near is not None:
            hint, see = self._declared(f"did you mean {quote(near)}?", near)
        elif len(self.specs) > 1:
            hint = f"declared are {listed(self.specs)}"
        what = "source" if part == "TRIGGER" else "source or binding"
        report.error(path, "E301", f"no {what} is named {quote(name)}", hint, see=see)
        return None

    def meant(self, raw: Mapping[str, Any], known: Iterable[str], part: str) -> tuple[str, Any]:
        """Return the kind that the keys of a trigger or output say plainly, and its tables, else None for these.

        For one whose source was reported: what is wrong with its other keys is told as well.
        """
        if None in self._tables.values():
            return "", None  # it may be of a kind that was reported, and nothing is known of that one's keys
        kinds = {kind: registry.tables(kind) for kind in registry.SOURCES}
        kinds.update((spec.kind, self._tables[name]) for name, spec in self.specs.items())
        near: dict[int, list[str]] = {}
        for kind, tables in kinds.items():
            fields = getattr(tables, part, None) or ()
            near.setdefault(sum(key in fields for key in raw if key not in known), []).append(kind)
        most = max(near)
        plain = near[most][0] if most and len(near[most]) == 1 else ""
        return plain, kinds.get(plain)

    def kinds_with(self, key: str, part: str) -> list[str]:
        """Return the kinds whose triggers, or outputs, have a key."""
        return [kind for kind in registry.SOURCES if key in (getattr(registry.tables(kind), part, None) or ())]

    def _declared(self, hint: str, name: str) -> tuple[str, KeyPath | None]:
        if name in registry.BUILT_IN:
            return hint, None
        return f"{hint} (declared at line {LINE})", ("source" if name in self.specs else "binding", name)

    def _fields(self, name: str, part: str) -> Fields | None:
        fields: Fields | None = getattr(self._tables[name], part, None)
        return fields

    def _fit(self, keys: list[str], path: KeyPath, part: str) -> str | None:
        """Return the one source whose kind takes these keys."""
        report = self._convert.report
        word = "source" if part == "TRIGGER" else "to"
        if not keys:
            report.error(path, "E302", f"says neither {word} nor an address", 'e.g. topic = "…" or every = "30s"')
            return None
        names = [*self.specs, *(self.bindings if part == "OUTPUT" else ())]
        later = [name for name in names if self._tables[name] is None]
        fields: dict[str, Fields] = {name: found for name in names if (found := self._fields(name, part)) is not None}
        fits: list[str] = [name for name, known in fields.items() if all(key in known for key in keys)]
        if len(fits) > 1:
            whole = [name for name in fits if all(key in keys for key, field in fields[name].items() if field.required)]
            fits = whole or fits
        if len(fits) == 1:
            return fits[0]
        if fits:
            message = f"{listed(map(quote, fits))} fit {listed(keys)}"
            report.error(path, "E303", message, f'say which: {word} = "{fits[0]}"')
            return None
        return self._no_fit(keys, fields, later, path, part)

    def _no_fit(
        self, keys: list[str], fields: Mapping[str, Fields], reported: list[str], path: KeyPath, part: str
    ) -> str | None:
        report = self._convert.report
        if reported:
            return None  # probably one of those, and their kind is reported already
        near = {name: sum(key in known for key in keys) for name, known in fields.items()}
        best = max(near, key=lambda name: near[name], default=None)
        if best is not None and near[best]:
            return best  # reading its table reports what does not belong
        for key in keys:
            kinds = self.kinds_with(key, part)
            if kinds:
                message = f"no source is declared that takes {key}"
                report.error(path, "E302", message, f'[source.NAME] with kind = "{kinds[0]}"')
                return None
        for key in keys:
            self._convert.unknown(key, sorted({known for table in fields.values() for known in table}), path)
        return None


def named(converter: Converter, raw: Mapping[str, Any], section: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the tables of a section by name; what is no table is reported."""
    tables = raw.get(section, {})
    if not isinstance(tables, dict):
        converter.report.error((section,), "E111", f"tables with names are expected: [{section}.NAME]")
        return []
    good = []
    for name, table in tables.items():
        if isinstance(table, dict):
            good.append((name, table))
        else:
            message = f"a table is expected: [{section}.NAME], found {shape_of(table)}"
            converter.report.error((section, name), "E111", message)
    return good
