"""Importing a library without what it imports and we do not use: stand-ins that become the real module when asked."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Later:
    """A module that is imported when something of it is first asked for; it works for whoever got hold of it."""

    def __init__(self, name: str, known: dict[str, Any]) -> None:
        self.__dict__.update(known, _later_name=name)

    def __getattr__(self, name: str) -> Any:
        import importlib

        wanted = self._later_name
        modules: dict[str, Any] = sys.modules
        if modules.get(wanted) is self:
            if name.startswith("__") and name != "__path__":  # the import machinery looks at __spec__ of what is there
                raise AttributeError(name)
            del modules[wanted]
        return getattr(importlib.import_module(wanted), name)


def import_lean(name: str, stand_ins: dict[str, dict[str, Any]]) -> Any:
    """Import a module while these others, unless they are loaded, are stand-ins with these attributes at hand."""
    modules: dict[str, Any] = sys.modules
    ours = {other: _Later(other, known) for other, known in stand_ins.items() if other not in modules}
    for other in list(ours):
        package, _, child = other.rpartition(".")
        if package in ours:
            ours[package].__dict__.update({child: ours[other], "__path__": []})
        elif package:
            del ours[other]  # it would stay behind as an attribute of the real package
    modules.update(ours)
    try:
        __import__(name)
        return modules[name]
    finally:
        for other, module in ours.items():
            if modules.get(other) is module:
                del modules[other]
