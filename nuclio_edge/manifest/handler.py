"""What a handler's code says of itself, without running a line of it.

The syntax tree comes from the interpreter itself (compile), not from the `ast` module: this is on the start path. Where
a name's signature cannot be known (imported, decorated, assigned), it is taken on trust.
"""

from __future__ import annotations

import gc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ONLY_AST = 0x400  # ast.PyCF_ONLY_AST
# Expressions that are plainly no function; what a constant is depends on its value.
_VALUES = {
    "Dict": "a dict",
    "DictComp": "a dict",
    "GeneratorExp": "a generator",
    "JoinedStr": "a string",
    "List": "a list",
    "ListComp": "a list",
    "Set": "a set",
    "SetComp": "a set",
    "Tuple": "a tuple",
}
# By these a name may be bound where no statement at the top level shows it.
_HIDDEN = ("exec", "globals", "locals", "modules", "setattr", "vars")


class Signature:
    """The parameters of a function, as far as a call with positional arguments cares."""

    __slots__ = ("least", "most", "names", "needs_keywords", "runs_async", "written")

    def __init__(self, arguments: Any, *, runs_async: bool) -> None:
        positional = [*arguments.posonlyargs, *arguments.args]
        self.names = [argument.arg for argument in positional]
        star = ["*" + arguments.vararg.arg] if arguments.vararg else ["*"] if arguments.kwonlyargs else []
        keywords = [argument.arg for argument in arguments.kwonlyargs]
        self.written = f"({', '.join(self.names + star + keywords)})"
        self.least = len(positional) - len(arguments.defaults)
        self.most = None if arguments.vararg else len(positional)
        self.needs_keywords = any(default is None for default in arguments.kw_defaults)
        self.runs_async = runs_async

    def takes(self, count: int) -> bool:
        """Whether a call with `count` positional arguments fits."""
        return self.least <= count and (self.most is None or count <= self.most) and not self.needs_keywords


class Names:
    """The names that a module binds at its top level: a Signature each, or None where it cannot be known.

    `values` says of those that were last bound to what is plainly no function what that is: "a number".
    """

    __slots__ = ("bound", "unknowable", "values")

    def __init__(self, tree: Any) -> None:
        self.bound: dict[str, Signature | None] = {}
        self.values: dict[str, str] = {}
        self.unknowable = False  # a star import or a module __getattr__: any name may be there
        self._read(tree.body, top=True)

    def callables(self) -> list[str]:
        """Return the functions defined here that could be a handler."""
        return [
            name
            for name, signature in self.bound.items()
            if signature is not None and not name.startswith("_") and name != "init_context"
        ]

    def _read(self, body: list[Any], *, top: bool = False) -> None:
        for node in body:
            kind = type(node).__name__
            if kind in ("FunctionDef", "AsyncFunctionDef"):
                plain = Signature(node.args, runs_async=kind == "AsyncFunctionDef")
                self._name(node.name, None if node.decorator_list else plain)
                self.unknowable |= node.name == "__getattr__"
            elif kind == "ClassDef":
                self._name(node.name, None)
            elif kind in ("Import", "ImportFrom"):
                for alias in node.names:
                    self._name(alias.asname or alias.name.partition(".")[0], None)
                    self.unknowable |= alias.name == "*"
            elif kind in ("Assign", "AnnAssign", "AugAssign"):
                known = None
                if type(node.value).__name__ == "Lambda":
                    known = Signature(node.value.args, runs_async=False)
                # In a branch it may be that the other one was taken.
                value = _value(node.value) if top and kind != "AugAssign" else None
                for target in node.targets if kind == "Assign" else [node.target]:
                    self._bind(target, known, value)
            else:
                self._inside(node, kind)

    def _inside(self, node: Any, kind: str) -> None:
        """Names bound inside if, for, while, with, try and match at the top level are the module's too."""
        if kind in ("For", "AsyncFor"):
            self._bind(node.target, None)
        for item in getattr(node, "items", ()):
            if item.optional_vars is not None:
                self._bind(item.optional_vars, None)
        for part in ("body", "orelse", "finalbody"):
            inner = getattr(node, part, None)
            if isinstance(inner, list):
                self._read(inner)
        for part in ("handlers", "cases"):
            for branch in getattr(node, part, ()):
                self._read(branch.body)

    def _name(self, name: str, known: Signature | None, value: str | None = None) -> None:
        self.bound[name] = known
        if value is None:
            self.values.pop(name, None)
        else:
            self.values[name] = value

    def _bind(self, target: Any, known: Signature | None, value: str | None = None) -> None:
        kind = type(target).__name__
        if kind == "Name":
            self._name(target.id, known, value)
        elif kind in ("Tuple", "List"):
            for item in target.elts:
                self._bind(item, None)
        elif kind == "Starred":
            self._bind(target.value, None)


def _value(node: Any) -> str | None:
    """What an expression is that is plainly no function, None where it may be one."""
    kind = type(node).__name__
    if kind != "Constant":
        return _VALUES.get(kind)
    value = node.value
    if value is None or isinstance(value, bool):
        return repr(value)
    return "a string" if isinstance(value, str) else "bytes" if isinstance(value, bytes) else "a number"


def bound_elsewhere(code: bytes | str, name: str) -> bool:
    """Whether code may bind a name of its module otherwise than by a statement at the top level.

    Only asked before a problem is told: it looks through the whole tree, with the ast module.
    """
    import ast

    for node in ast.walk(_tree(code)):
        if isinstance(node, ast.Global) and name in node.names:
            return True
        if isinstance(node, ast.NamedExpr) and node.target.id == name:
            return True
        if (isinstance(node, ast.Name) and node.id in _HIDDEN) or (
            isinstance(node, ast.Attribute) and node.attr in _HIDDEN
        ):
            return True
    return False


def _tree(code: bytes | str, file: str = "") -> Any:
    """The syntax tree of code; SyntaxError, ValueError, RecursionError, MemoryError.

    Nothing is collected meanwhile: garbage whose finalizer formats a traceback, as that of asyncio's tasks, makes a
    tree of its own, and CPython 3.11 ends ours with a SystemError then.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return compile(code, file, "exec", _ONLY_AST, dont_inherit=True)
    finally:
        if collecting:
            gc.enable()


def names_of(code: bytes | str, file: str) -> Names:
    """Return what the code binds; SyntaxError also for bytes that are no source and for what is nested too deeply."""
    try:
        return Names(_tree(code, file))
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error) or "nested too deeply") from None
