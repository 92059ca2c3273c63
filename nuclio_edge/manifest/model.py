"""A manifest as checked objects: what the processor builds from.

Nothing here is ever changed after it was made. Objects of the same content are equal wherever they stand in the file,
so that a reload leaves unchanged tables running; defaults are shared between functions, so a function costs about a
kilobyte. `params` and `address` are Values: the keys of the kind's own tables as attributes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, TypeVar

    from nuclio_edge.manifest.problems import KeyPath, Problem
    from nuclio_edge.manifest.schema import Values

    S = TypeVar("S", bound="Spec")


def changed(spec: S, **contents: Any) -> S:
    """The same object of a manifest with other contents."""
    return type(spec)(**{**{key: getattr(spec, key) for key in spec.__slots__}, **contents})


class Spec:
    """Slots, equality over all of them, and a repr."""

    __slots__: tuple[str, ...] = ()

    def __init__(self, **contents: Any) -> None:
        for key in self.__slots__:
            setattr(self, key, contents.pop(key))
        if contents:
            raise TypeError("no such part of " + type(self).__name__ + ": " + ", ".join(contents))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(getattr(self, key) == getattr(other, key) for key in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return type(self).__name__ + "(" + ", ".join(f"{key}={getattr(self, key)!r}" for key in self.__slots__) + ")"


class Device(Spec):
    """The device itself.

    `board` is an id of boards/, `id` is 6 hex digits; sizes in bytes, `stop_timeout_ms` in milliseconds, folders
    absolute.
    """

    __slots__ = (
        "board",
        "id",
        "labels",
        "memory_budget",
        "name",
        "namespace",
        "secrets_dir",
        "state_dir",
        "stop_timeout_ms",
    )
    board: str
    id: str
    labels: Mapping[str, str]
    memory_budget: int
    name: str
    namespace: str
    secrets_dir: str
    state_dir: str
    stop_timeout_ms: int


class SourceSpec(Spec):
    """One `[source.NAME]` (also a binding of that name) or `[binding.NAME]`; `params` are the kind's PARAMS.

    Not `declared` is one that is there without a table, for whoever uses it (registry.BUILT_IN).
    """

    __slots__ = ("declared", "kind", "name", "params")
    declared: bool
    kind: str
    name: str
    params: Values


class Retry(Spec):
    """How often an event is tried in all, and how long the pause is: doubled each time, up to a limit."""

    __slots__ = ("attempts", "backoff_ms", "max_backoff_ms")
    attempts: int
    backoff_ms: int
    max_backoff_ms: int


class Batch(Spec):
    """A handler that takes a list of up to `size` events; it waits `timeout_ms` after the first for more."""

    __slots__ = ("size", "timeout_ms")
    size: int
    timeout_ms: int


MADE_UP = -1  # as the index of a trigger


class TriggerSpec(Spec):
    """One `[[function.NAME.trigger]]`, or the share that the function has in a `[[trigger]]` with `select`.

    `index` is MADE_UP for what stands in where a function has no trigger, and is counted under the function's name.
    `address` are the kind's TRIGGER keys. `when_full` is resolved: "block", "drop-oldest", "drop-newest", "thin" or
    "reject". `rate_limit` is events a second or None, `order_by` the name of an event's attribute or None.
    """

    __slots__ = (
        "address",
        "batch",
        "content_type",
        "dead_letter",
        "durable",
        "function",
        "inbox_size",
        "index",
        "kind",
        "name",
        "order_by",
        "rate_limit",
        "retry",
        "source",
        "when_full",
    )
    address: Values
    batch: Batch | None
    content_type: str | None
    dead_letter: bool
    durable: bool
    function: str
    inbox_size: int
    index: int
    kind: str
    name: str
    order_by: str | None
    rate_limit: float | None
    retry: Retry
    source: str
    when_full: str

    @property
    def ledger_id(self) -> str:
        """The name under which events are counted: `function.thermostat.trigger[0]`."""
        name = f"function.{self.function}"
        return name if self.index == MADE_UP else f"{name}.trigger[{self.index}]"


class OutputSpec(Spec):
    """Where a returned value goes: the source or binding `to`, with the kind's OUTPUT keys."""

    __slots__ = ("params", "to")
    params: Values
    to: str


class Limits(Spec):
    """What a process worker may use: `memory` in bytes, `cpu` as a share of one processor; None is no limit."""

    __slots__ = ("cpu", "memory")
    cpu: float | None
    memory: int | None


class FunctionSpec(Spec):
    """One `[function.NAME]`.

    The code is `file` (absolute), or `code` when it stands in the manifest; `module` and `callable` name what to import
    and call, `path` is the folder whose modules resolve first. `env` is resolved text, `secrets` the names in it whose
    text came from secrets; `bindings` None means all. `concurrency` None: not said.
    """

    __slots__ = (
        "bindings",
        "callable",
        "code",
        "concurrency",
        "description",
        "disabled",
        "env",
        "file",
        "isolation",
        "labels",
        "limits",
        "load",
        "module",
        "name",
        "outputs",
        "path",
        "requirements",
        "secrets",
        "timeout_ms",
        "triggers",
        "workers_max",
        "workers_min",
    )
    bindings: tuple[str, ...] | None
    callable: str
    code: str | None
    concurrency: int | None
    description: str
    disabled: bool
    env: Mapping[str, str]
    file: str | None
    isolation: str
    labels: Mapping[str, str]
    limits: Limits
    load: str
    module: str
    name: str
    outputs: Sequence[OutputSpec]
    path: str
    requirements: tuple[str, ...]
    secrets: tuple[str, ...]
    timeout_ms: int
    triggers: Sequence[TriggerSpec]
    workers_max: int
    workers_min: int


class Manifest(Spec):
    """All of it. `path` is as it was given, `folder` absolute; `sources` always holds the clock and the pins.

    `spool`, `admin`, `log`, `record` and `sync` are Values of tables.py; `sync` is None when the table is absent.
    """

    __slots__ = (
        "admin",
        "bindings",
        "device",
        "folder",
        "functions",
        "log",
        "path",
        "record",
        "sources",
        "spool",
        "sync",
        "warnings",
    )
    admin: Values
    bindings: Mapping[str, SourceSpec]
    device: Device
    folder: str
    functions: Mapping[str, FunctionSpec]
    log: Values
    path: str
    record: Values
    sources: Mapping[str, SourceSpec]
    spool: Values
    sync: Values | None
    warnings: Sequence[Problem]

    def line_of(self, *path: str | int) -> int:
        """Return the line of a key path in the file as it is now, 0 when it is gone; reads and scans the file."""
        from nuclio_edge.manifest.lines import line_of, scan

        key_path: KeyPath = path
        try:
            with open(self.path, encoding="utf-8") as file:
                return line_of(scan(file.read()), key_path)
        except (OSError, UnicodeDecodeError):
            return 0
