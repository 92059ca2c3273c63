"""How the Event makes on CPython what it is asked for: by a property for each name, not by `__getattr__`.

CPython 3.10 and 3.11 take 34 ns instead of 5 for any attribute of a class that has a `__getattr__`, and an event has
eight read on its way. So the Event is given properties in its place once it is defined. A class derived from it has
`__getattr__` again, and with it whatever its own table makes, unless it brings one or is `lean`.
"""

from __future__ import annotations

import itertools
import os
from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_RAW = ("_token", "_trigger")  # whoever makes an event sets them
_REST = (  # of event_sdk.py, which the first of them imports
    "attempt as_json compile_explicit_ack_message get_field_bytes get_field_int get_field_string get_header_bytes"
    " get_header_string to_json"
)

next_number = itertools.count(1).__next__  # atomic
boot = os.urandom(4).hex()  # 8 hex digits that tell the events of one boot from those of another
_naming = RLock()
_make: Callable[[Any, str], Any]  # Event's `__getattr__`
_behind: dict[Any, Any] = {}  # property -> the slot that it stands before
_cooperate: Callable[..., None]  # `__init_subclass__` of whatever class is behind the Event in a derived one's bases


def _name_anew() -> None:
    global _naming
    _naming = RLock()


os.register_at_fork(after_in_child=_name_anew)  # a thread that is not in the child may have held it


def new_id(event: Any) -> str:
    """The id of an event that has none yet; two threads that ask at a time get the same one.

    The collector may begin in here, and with it a finalizer that asks for an id too: of another event, or of this one.
    """
    found = type(event).id  # a property, of which the slot is asked: itself it would ask us
    stored = _behind.get(found, found).__get__
    with _naming:
        made = f"{boot}-{next_number()}"
        for _ in range(2):  # the exception may have started it; it does not start twice in a row
            try:
                return stored(event)  # type: ignore[no-any-return]  # a str
            except AttributeError:
                pass
        event.id = made
        return made


class _Aside:
    """An attribute without a slot of its own: kept in the object's `_more`, which the first of them makes."""

    __slots__ = ("_more", "_name")

    def __init__(self, more: Any, name: str) -> None:
        self._more = more  # the class's slot; asked directly, as nothing is made of it
        self._name = name

    def __get__(self, owner: Any, _class: Any = None) -> Any:
        if owner is None:
            return self
        try:
            return self._more.__get__(owner)[self._name]
        except (AttributeError, KeyError):
            pass
        return _make(owner, self._name)

    def __set__(self, owner: Any, value: Any) -> None:
        try:
            before = self._more.__get__(owner)
        except AttributeError:
            before = {}
        owner._more = {**before, self._name: value}  # another one: a copy of the object may share the old one


def aside(kind: Any, names: str) -> None:
    """Give a class that has a slot `_more` further attributes, which cost nothing before the first of them is set."""
    for name in names.split():
        setattr(kind, name, _Aside(kind._more, name))


def on_demand(event: Any) -> None:
    """Put properties in the place of the Event's `__getattr__`; once it has its slots and its table."""
    global _make, _cooperate
    _make = event.__getattr__
    _cooperate = lambda kind, **more: super(event, kind).__init_subclass__(**more)  # noqa: E731 - it needs the class
    for name in event.__slots__:
        if name in event._lazy and name not in _RAW:
            slot = vars(event)[name]
            made = _property(name, slot)
            _behind[made] = slot
            setattr(event, name, made)
    for name in _REST.split():
        setattr(event, name, _Later(name))
    event.__init_subclass__ = classmethod(_derive)
    del event.__getattr__


def lean(kind: Any) -> None:
    """Let a class of events do without `__getattr__`.

    Whoever makes one sets all of its own slots, and nobody deletes them. Of what its table makes beyond Event's names
    the attributes are to be `aside`.
    """
    del kind.__getattr__


def slot(kind: Any, name: str) -> Any:
    """The slot of that name in a class's `__slots__`; its `__get__` raises AttributeError when it is not set."""
    found = vars(kind)[name]
    return _behind.get(found, found)


def _derive(kind: Any, /, **more: Any) -> None:
    _cooperate(kind, **more)
    if not hasattr(kind, "__getattr__"):
        kind.__getattr__ = _make


def _property(name: str, slot: Any) -> property:
    get = slot.__get__

    def read(event: Any) -> Any:
        try:
            return get(event)
        except AttributeError:
            pass
        return _make(event, name)

    return property(read, slot.__set__, slot.__delete__)


class _Later:
    """An attribute that is not kept: what event_sdk.py has for it, unless the object itself has one."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, owner: Any, _class: Any = None) -> Any:
        return self if owner is None else _make(owner, self._name)
