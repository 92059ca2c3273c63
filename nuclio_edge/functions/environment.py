"""os.environ that answers by the running function.

Order: the process's environment < the function's `env` < our NUCLIO_*. What a function writes stays in a layer of its
own: other functions, the processor and subprocesses started from a thread see the environment of the process.
`os.environ` stays the same object, so that `from os import environ` and libraries that kept it work too; its class
is exchanged while `install` holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping

from nuclio_edge.functions import running

_process = os.environ  # the object, whatever a function puts into the module `os` in its place
_Base = _process.__class__


class Environment(MutableMapping[str, str]):
    """The environment of one function: its own layer over the process's; also `context.env`. Usable from any thread."""

    __slots__ = ("_own",)

    def __init__(self, own: Mapping[str, str]) -> None:
        self._own: dict[str, str | None] = dict(own)  # None: the function deleted it

    def __getitem__(self, key: str) -> str:
        own = self._own
        if key in own:
            value = own[key]
            if value is None:
                raise KeyError(key)
            return value
        return _Base.__getitem__(_process, key)

    def __setitem__(self, key: str, value: str) -> None:
        # The same refusals as os.environ's: str only, and nothing that a real environment could not hold.
        os.fsencode(_checked(key))
        os.fsencode(_checked(value))
        if not key or "=" in key or "\0" in key or "\0" in value:
            raise ValueError("illegal environment variable name or value")
        self._own[key] = value

    def __delitem__(self, key: str) -> None:
        self[key]  # KeyError when it is not there
        self._own[key] = None

    def __iter__(self) -> Iterator[str]:
        own = dict(self._own)
        for key in _Base.__iter__(_process):
            if key not in own:
                yield key
        for key, value in own.items():
            if value is not None:
                yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return "environ({" + ", ".join(f"{key!r}: {value!r}" for key, value in self.items()) + "})"

    def copy(self) -> dict[str, str]:
        """A plain dict of what the function sees."""
        return dict(self)


def function_environment(
    name: str, env: Mapping[str, str], *, description: str = "", version: str = "", handler: str = ""
) -> Environment:
    """The environment of a function, with the variables by which Nuclio tells a function who it is."""
    own = dict(env)
    own["NUCLIO_FUNCTION_NAME"] = name
    own["NUCLIO_FUNCTION_DESCRIPTION"] = description
    own["NUCLIO_FUNCTION_VERSION"] = version
    own["NUCLIO_FUNCTION_HANDLER"] = own["NUCLIO_HANDLER"] = handler
    return Environment(own)


def _checked(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"str expected, not {type(value).__name__}")
    return value


class Layered(_Base):  # type: ignore[misc, valid-type]
    """The class of os.environ while installed: every access goes to the running function's environment, if any."""

    def __getitem__(self, key: str) -> str:
        who = running.current()
        return _Base.__getitem__(self, key) if who is None else who.env[key]

    def __setitem__(self, key: str, value: str) -> None:
        who = running.current()
        if who is None:
            _Base.__setitem__(self, key, value)
        else:
            who.env[key] = value

    def __delitem__(self, key: str) -> None:
        who = running.current()
        if who is None:
            _Base.__delitem__(self, key)
        else:
            del who.env[key]

    def __iter__(self) -> Iterator[str]:
        who = running.current()
        return _Base.__iter__(self) if who is None else iter(who.env)

    def __len__(self) -> int:
        who = running.current()
        return _Base.__len__(self) if who is None else len(who.env)

    def __repr__(self) -> str:
        who = running.current()
        return _Base.__repr__(self) if who is None else repr(who.env)

    def copy(self) -> dict[str, str]:
        """A plain dict of what the caller sees."""
        return dict(self)


def install() -> None:
    """Make os.environ answer by the running function; a second call changes nothing."""
    _process.__class__ = Layered


def uninstall() -> None:
    """Give os.environ back to the process; what functions wrote stays theirs."""
    _process.__class__ = _Base
    os.environ = _process  # noqa: B003 - it is given back, not replaced
