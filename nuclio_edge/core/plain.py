"""What JSON cannot say, in what it can."""

import json

from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from typing import Any


MAX_DEPTH = 64  # deeper than any sane document; also what ends the walk of a value that contains itself


def plain(value: "Any", path: str = "value", depth: int = 0) -> "Any":
    """The same value in what JSON can say.

    NaN and the infinities become their names, tuples lists, and any other object what its `__log__()`, else its `repr`,
    else its `str` gives. ValueError, naming the path and the type, for what has no honest form: a key that is no
    scalar, a text that is not Unicode, nesting deeper than MAX_DEPTH or without end.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        try:
            value.encode()
        except ValueError:
            raise ValueError(path + " is a str that is not valid Unicode")  # noqa: B904 - `from` only warns on MicroPython
        return value
    if isinstance(value, float):
        if value - value == 0:
            return value
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"  # noqa: PLR0124 - NaN's own test
    if isinstance(value, int):
        try:
            str(value)
        except ValueError:
            raise ValueError(path + " is an int of too many digits")  # noqa: B904 - `from` only warns on MicroPython
        return value
    if depth >= MAX_DEPTH:
        raise ValueError(path[:60] + "... is nested more than 64 deep, or contains itself")
    depth += 1
    if isinstance(value, dict):
        said = {}
        for key, item in value.items():
            if not (key is None or isinstance(key, (str, int, float))):
                raise ValueError(path + " has a key of type " + type(key).__name__ + ": " + repr(key))
            name = plain(key, path, depth)
            if not isinstance(name, str):
                name = json.dumps(name)  # 1, 1.5, true, null: MicroPython would write them bare
            said[name] = plain(item, path + "." + name, depth)
        return said
    if isinstance(value, (list, tuple)):
        return [plain(item, path + "[" + str(at) + "]", depth) for at, item in enumerate(value)]
    told: "Any" = None
    for say in (_log, repr, str):
        try:
            told = say(value)
            break
        except Exception as error:  # noqa: BLE001 - no __log__, or the user's code
            told = "Unable to serialize object: " + type(error).__name__
    return plain(told, path, depth)


def _log(value: "Any") -> "Any":
    return value.__log__()
