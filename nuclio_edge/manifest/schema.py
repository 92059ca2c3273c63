"""The words in which a table of the manifest is described: one Field a key.

A table is a plain `dict` of key -> Field; tables.py holds those of the manifest itself, and every source kind declares
its own (PARAMS, TRIGGER, OUTPUT). The same tables check a manifest (convert.py), complete it in an editor
(json_schema.py) and document it.

type        in TOML                                   value
string      "text", placeholders are replaced         str
integer     1                                         int
number      0.5                                       float
boolean     true                                      bool
duration    "250ms", "1h30m"                          int, milliseconds; at most LONGEST_MS without a maximum
size        "64MiB"                                   int, bytes
rate        "100/s"                                   float, events a second
secret      { secret = "name" }                       Secret; text is refused: secrets are never inline
path        "tls/gw.crt"                              str, absolute: relative to the manifest's folder
list        [ … ] of `of`; with `single`, also one    tuple
table       { … } with the keys `fields`              Values
map         { any = … } of `of`                       dict
either      one of the shapes in `either`             that of the first whose TOML type fits

`secret=True` on a string or path takes `{ secret = … }` as well. `template=True` replaces placeholders in the default,
and `{source}` (the source's name) there too. `raw=True` keeps braces as they are. `wildcards` are characters that
mean more than themselves: they may be written, but no placeholder may bring them.
"""

from __future__ import annotations

# The longest duration where its field says nothing else: waits of the interpreter's overflow at 292 years, on 32 bits
# in the year 2038.
LONGEST_MS = 365 * 86_400_000

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    Fields = Mapping[str, "Field"]


class Field:
    """What one key may hold."""

    __slots__ = (
        "choices",
        "default",
        "doc",
        "either",
        "fields",
        "maximum",
        "minimum",
        "of",
        "raw",
        "required",
        "secret",
        "single",
        "template",
        "type",
        "wildcards",
    )

    def __init__(
        self,
        type: str,  # noqa: A002 - reads as what it is in a table of fields
        default: Any = None,
        *,
        required: bool = False,
        doc: str = "",
        choices: Sequence[object] | None = None,
        minimum: float | None = None,
        maximum: float | None = None,
        of: Field | None = None,
        fields: Fields | None = None,
        either: Sequence[Field] = (),
        single: bool = False,
        secret: bool = False,
        template: bool = False,
        raw: bool = False,
        wildcards: str = "",
    ) -> None:
        self.type = type
        self.default = default
        self.required = required
        self.doc = doc
        self.choices = choices
        self.minimum = minimum
        self.maximum = LONGEST_MS if maximum is None and type == "duration" else maximum
        self.of = of
        self.fields = fields
        self.either = either
        self.single = single
        self.secret = secret
        self.template = template
        self.raw = raw
        self.wildcards = wildcards


class Values:
    """The checked values of one table, as attributes; equal when all of them are."""

    __slots__: tuple[str, ...] = ()

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(getattr(self, key) == getattr(other, key) for key in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Values(" + ", ".join(f"{key}={getattr(self, key)!r}" for key in self.__slots__) + ")"


class Secret:
    """The content of a secret, which shows itself nowhere by accident: str() and repr() give the name only."""

    __slots__ = ("content", "name")

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self.content = content

    @property
    def text(self) -> str:
        """The content as text; UnicodeDecodeError when it is none."""
        return self.content.decode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.name == other.name and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"


_classes: dict[tuple[str, ...], type[Values]] = {}


def values(keys: tuple[str, ...], contents: Mapping[str, object]) -> Values:
    """Return the contents as Values with exactly these keys; tables with the same keys share one small class."""
    kind = _classes.get(keys)
    if kind is None:
        kind = _classes[keys] = type("Values", (Values,), {"__slots__": keys})
    made = kind()
    for key in keys:
        setattr(made, key, contents[key])
    return made


class ReportedError(Exception):
    """A check has asked for a value that was reported: it cannot say more, and is over."""


def known(of: Any, *keys: str) -> Iterator[tuple[str, Any]]:
    """These keys of a table with their values, without those that were reported."""
    for key in keys:
        try:
            value = getattr(of, key)
        except ReportedError:
            continue
        yield key, value


def separately(of: Any, *checks: Callable[[Any], Iterator[Any]]) -> Iterator[Any]:
    """What several checks find in a table, each for itself: one that asks for what was reported ends no other."""
    for check in checks:
        try:
            yield from check(of)
        except ReportedError:
            pass
