"""A manifest's path -> a Manifest, or everything that is wrong with it: the order in which its tables are read.

A name may hold the device's id, everything else the device's name: the device comes first. Triggers are read against
the sources, functions against bindings. No step stops at a problem; only a file that is no TOML ends it at once.
"""

from __future__ import annotations

import os
import os.path

from nuclio_edge import device as host
from nuclio_edge.board_detect import GENERIC, detect
from nuclio_edge.errors import ManifestError, UnknownBoardError
from nuclio_edge.manifest import whole
from nuclio_edge.manifest.convert import BAD, Converter, shape_of
from nuclio_edge.manifest.functions import Functions
from nuclio_edge.manifest.model import Device, Manifest
from nuclio_edge.manifest.ports import check_ports
from nuclio_edge.manifest.problems import Report
from nuclio_edge.manifest.read import read
from nuclio_edge.manifest.secrets import read_secret
from nuclio_edge.manifest.sources import Sources, named
from nuclio_edge.manifest.substitute import Words
from nuclio_edge.manifest.tables import DEVICE, NAMED, ROOT, SCHEMA_VERSION, SHARED_TRIGGERS
from nuclio_edge.manifest.triggers import Triggers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nuclio_edge.manifest.model import FunctionSpec
    from nuclio_edge.manifest.problems import Problem
    from nuclio_edge.manifest.schema import Values


def load(path: str, *, root: str = "/") -> Manifest:
    """Return the manifest at `path`; ManifestError with all its problems when it cannot be used.

    Its warnings are in `manifest.warnings`. `root` stands for / where the device is identified.
    """
    text, raw, problem = read(path)
    if raw is None:
        raise ManifestError([problem] if problem is not None else [], path)
    report = Report(text)
    manifest = _Reading(path, raw, report, root).manifest()
    if report.errors:
        raise ManifestError(report.problems(), path, report.files)
    manifest.warnings = report.problems()
    return manifest


def check(path: str, *, root: str = "/") -> tuple[Manifest | None, list[Problem]]:
    """Return the manifest, None when it has an error, and its problems and warnings sorted by line."""
    try:
        manifest = load(path, root=root)
    except ManifestError as error:
        return None, list(error.problems)
    return manifest, list(manifest.warnings)


def admin_socket(path: str) -> str:
    """Return where the processor of the manifest at `path` is asked; ManifestError when that cannot be told.

    Only [device] and [admin] are read: who asks may lack the secrets that the rest needs, or be in the middle of
    writing it.
    """
    text, raw, problem = read(path)
    if raw is None:
        raise ManifestError([problem] if problem is not None else [], path)
    report = Report(text)
    device, admin = _Reading(path, raw, report, "/").place()
    if report.errors:
        raise ManifestError(report.problems(), path)
    return str(admin.socket or os.path.join(device.state_dir, "admin.sock"))


class _Reading:
    """One pass over one manifest."""

    def __init__(self, path: str, raw: dict[str, Any], report: Report, root: str) -> None:
        self.path = path
        self.raw = raw
        self.report = report
        self.root = root
        self.folder = os.path.dirname(os.path.abspath(path))
        self.secrets_dir = ""
        self.convert = Converter(report, self.folder, Words({"device.id": host.device_id(root)}), self._secret)

    def _secret(self, name: str) -> bytes:
        return read_secret(name, self.secrets_dir)

    def manifest(self) -> Manifest:
        """Return the whole, with holes where something was reported."""
        self._root()
        device = self._device()
        tables = {name: self._table(name) for name in ("spool", "admin", "record", "sync")}
        log = self._log()
        sources = Sources(self.convert, self.raw)
        functions = self._functions(sources)
        whole.not_yet(self.raw, self.report)
        whole.check_admin(tables["admin"], self.report)
        if "record" in self.raw:
            from nuclio_edge.manifest.record import check_record

            check_record(tables["record"], functions, self.report)
        check_ports(sources, device.board, self.report)
        whole.check_hint(tables["sync"], sources, self.report)
        if sources.use_pins(functions):
            from nuclio_edge.manifest.pins import check_pins

            check_pins(sources, functions, device.board, self.report)
        if not self.report.errors:
            whole.check_shared(functions, sources, self.report)
            whole.check_triggers(functions, sources, self.report)
            whole.check_idle(functions, self.report)
        return Manifest(
            device=device,
            path=self.path,
            folder=self.folder,
            log=log,
            sources=sources.specs,
            bindings=sources.bindings,
            functions=functions,
            warnings=(),
            **tables,
        )

    def place(self) -> tuple[Device, Any]:
        """Return [device] and [admin] alone."""
        return self._device(), self._table("admin")

    def _root(self) -> None:
        for key in self.raw:
            if key not in ROOT and key not in NAMED and key != SHARED_TRIGGERS:
                self.convert.unknown(key, [*ROOT, *NAMED, SHARED_TRIGGERS], ())
        version = self.convert.value(ROOT["schema"], self.raw.get("schema", SCHEMA_VERSION), ("schema",))
        if version not in (SCHEMA_VERSION, BAD):
            message = f"version {version} is not known; this version of nuclio-edge reads {SCHEMA_VERSION}"
            self.report.error(("schema",), "E119", message)

    def _table(self, name: str) -> Any:
        field = ROOT[name]
        if name not in self.raw:
            return self.convert.default(field, ())
        value = self.convert.value(field, self.raw[name], (name,))
        return self.convert.parts.get((name,), value)

    def _log(self) -> Any:
        raw = self.raw.get("log", {})
        if not isinstance(raw, dict):
            self.report.error(("log",), "E111", f"a table is expected: [log], found {shape_of(raw)}")
            return BAD
        log: Any = self.convert.table(ROOT["log"].fields or {}, {k: raw[k] for k in raw if k != "sinks"}, ("log",))
        log.sinks = whole.read_sinks(raw.get("sinks"), self.convert)
        return log

    def _device(self) -> Device:
        raw = self.raw.get("device", {})
        if not isinstance(raw, dict):
            self.report.error(("device",), "E111", f"a table is expected: [device], found {shape_of(raw)}")
            raw = {}
        words = self.convert.words.known
        name = self._early("name", raw) or host.host_name()
        words["device.name"] = str(name)
        words["device.namespace"] = str(self._early("namespace", raw))
        labels = self._early("labels", raw)
        for key, value in labels.items() if labels is not BAD else ():
            words[f"device.labels.{key}"] = value
        rest = {key: raw[key] for key in raw if key not in ("name", "namespace", "labels")}
        own: Values = self.convert.table(DEVICE, rest, ("device",))
        self.secrets_dir = str(own.secrets_dir)
        return Device(
            board=self._board(own.board),
            id=words["device.id"],
            labels=labels,
            memory_budget=own.memory_budget,
            name=words["device.name"],
            namespace=words["device.namespace"],
            secrets_dir=own.secrets_dir,
            state_dir=own.state_dir or os.path.abspath(host.state_dir()),
            stop_timeout_ms=own.stop_timeout,
        )

    def _board(self, given: str | None) -> str:
        """Return the id of the board, the detected one unless the manifest says it; an unknown one is a problem."""
        if given is None:
            return detect(self.root) or GENERIC
        if given is not BAD:
            from nuclio_edge import board

            try:
                board.load(given)
            except UnknownBoardError as error:
                self.report.error(("device", "board"), "E301", error.message, error.hint)
        return given

    def _early(self, key: str, raw: Mapping[str, Any]) -> Any:
        """Return one of the values that placeholders are made of, so that the next ones may hold it."""
        field = DEVICE[key]
        return self.convert.value(field, raw[key], ("device", key)) if key in raw else field.default

    def _functions(self, sources: Sources) -> dict[str, FunctionSpec]:
        reader, triggers = Functions(self.convert, sources), Triggers(self.convert, sources)
        functions = {}
        tables = named(self.convert, self.raw, "function")
        # Each table is let go as soon as it was read, and what is made of the next ones takes its place in memory. Were
        # all kept to the end, the specs would lie between them, and 2 KB a function would never go back to the system.
        self.raw.pop("function", None)
        tables.reverse()
        while tables:
            name, raw = tables.pop()
            spec = functions[name] = reader.read(name, raw)
            spec.triggers = tuple(triggers.own(name, raw.get("trigger")))
            spec.outputs = triggers.outputs(name, raw.get("output"))
        triggers.shared(self.raw.get(SHARED_TRIGGERS), functions)
        return functions
