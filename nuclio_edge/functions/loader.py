"""Finds and imports the code of a function, and says in the author's own terms what is wrong with it."""

from __future__ import annotations

import os
import sys
from types import FunctionType, ModuleType

from nuclio_edge.errors import LoadError
from nuclio_edge.functions.imports import InlineLoader, SourceLoader, Space

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

_COROUTINE = 0x80 | 0x200  # CO_COROUTINE, CO_ASYNC_GENERATOR of a code object; inspect is not worth its memory
_LONGEST = 8192  # characters of a traceback that are kept


class CodeError(LoadError):
    """Code that is not there, is not Python, or lacks the callable: nothing that another try could cure."""


class Loaded:
    """The imported code of one version of one function, until `unload`.

    `handler` is the callable, `is_async` whether it must be awaited; `init_context` is None where the module has none.
    `package` is the name below which its modules stand in sys.modules.
    """

    __slots__ = ("handler", "init_context", "init_is_async", "is_async", "module", "package", "space")

    def __init__(self, space: Space, module: ModuleType, handler: Callable[..., Any]) -> None:
        init = getattr(module, "init_context", None)
        self.space: Space = space
        self.package = space.package
        self.module: ModuleType | None = module
        self.handler = handler
        self.is_async = is_async(handler)
        self.init_context: Callable[..., Any] | None = init if callable(init) else None
        self.init_is_async = is_async(init)

    def unload(self) -> None:
        """Let go of the code and of every module that it imported from its folder; idempotent."""
        self.space.close()
        self.module = self.init_context = None
        self.handler = _unloaded


def load(
    name: str,
    *,
    module: str,
    callable: str = "handler",  # noqa: A002 - the manifest's word
    folder: str,
    file: str | None = None,
    code: str | None = None,
) -> Loaded:
    """Import a function's code and return it, ready to be called.

    `file` is the path of the handler's file, `code` its text in the place of one; with neither, `module` (dotted) is
    found in `folder`, whose modules resolve first in any case. A file that lies where a dotted module, or a package,
    would is imported as that: relative imports start from its own package. Runs the user's code, so it belongs on a
    thread that may block, bound to the function (`running.bind`) so that its environment and output are the function's.

    Raises CodeError for a missing file, bad syntax and a missing callable, LoadError for whatever the code raises,
    sys.exit included. Nothing stays behind of a failed attempt.
    """
    if file is not None and not os.path.isfile(file):
        raise CodeError(f"{file}: there is no such file", _other_files(file))
    space = Space(name, folder)
    where = file or module
    try:
        if code is not None:
            where = f"function.{name}.code"
            loaded = space.add(module, InlineLoader(f"{space.package}.{module}", where, code))
        elif file is not None and not _in_package(file, folder, module):
            stem = os.path.splitext(os.path.basename(file))[0].replace(".", "_")
            loaded = space.add(stem, SourceLoader(f"{space.package}.{stem}", file))
        else:
            full = f"{space.package}.{module}"
            __import__(full)
            loaded = sys.modules[full]
        return Loaded(space, loaded, find_callable(loaded, callable, where))
    except KeyboardInterrupt:
        space.close()
        raise
    except BaseException as error:
        space.close()
        if isinstance(error, LoadError):
            raise
        raise _explain(error, space, module, where) from None


def _in_package(file: str, folder: str, module: str) -> bool:
    inner = os.path.join(folder, *module.split("."))
    return file == os.path.join(inner, "__init__.py") or ("." in module and file == inner + ".py")


def find_callable(module: ModuleType, name: str, where: str) -> Callable[..., Any]:
    """The handler of a module; CodeError names what the module has instead."""
    found = getattr(module, name, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    if hasattr(module, name):
        raise CodeError(f"{where}: {name} is a {type(found).__name__}, not a function")
    others = [
        key
        for key, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__ and key != "init_context"
    ]
    said = ", ".join(others) if others else "no function"
    hint = (
        f'write handler = "{os.path.basename(where)}:{others[0]}"' if len(others) == 1 and where[-3:] == ".py" else None
    )
    raise CodeError(f"{where}: expected a function named {name}; found {said}", hint)


def is_async(function: object) -> bool:
    """Whether calling this gives something to await: `async def`, a partial of one, an object whose __call__ is one."""
    for _ in range(8):  # partials of partials
        inner = getattr(function, "func", None) or getattr(function, "__func__", None)
        if inner is None:
            break
        function = inner
    code: CodeType | None = getattr(function, "__code__", None)
    if code is None:
        code = getattr(getattr(type(function), "__call__", None), "__code__", None)  # noqa: B004 - its code, not whether
    return code is not None and bool(code.co_flags & _COROUTINE)


def format_user_error(error: BaseException, folder: str = "") -> str:
    """The traceback of an exception with only the frames of function code; one line per problem when there are none.

    `folder` is taken off the front of file names. Never raises; at most 8192 characters, cut in the middle.
    """
    shown = getattr(error, "user_text", None)
    if isinstance(shown, str):
        return shown  # raised, and shown by this function, in a worker process
    if isinstance(error, LoadError):
        return f"{error}\n{error.hint}" if error.hint else str(error)  # made by `_explain`, frames included
    from traceback import TracebackException

    try:
        trace: Any = TracebackException(type(error), error, error.__traceback__)
        todo = [(trace, error)]
        while todo:
            said, raised = todo.pop()
            kept = _user_lines(raised)
            said.stack[:] = [frame for frame in said.stack if (frame.filename, frame.lineno) in kept]
            for link in ("__cause__", "__context__"):
                after = getattr(raised, link)
                if getattr(said, link) is not None and after is not None:
                    todo.append((getattr(said, link), after))
            for at, inner in enumerate(getattr(said, "exceptions", None) or ()):
                todo.append((inner, raised.exceptions[at]))  # type: ignore[attr-defined]  # an ExceptionGroup
        text = "".join(trace.format()).rstrip("\n")
    except BaseException:  # noqa: BLE001 - an exception whose own __str__ raises, SystemExit perhaps
        text = type.__dict__["__name__"].__get__(type(error))  # a metaclass of the user's may stand before it
    text = text.replace("Traceback (most recent call last):\n", "", 1) if not _has_frames(text) else text
    if error.__traceback__ is not None or "nuclio_edge_functions" in text:
        text = _without_packages(text)
    if folder:
        text = text.replace(os.path.join(folder, ""), "")
    if len(text) > _LONGEST:
        text = (
            text[: _LONGEST // 2] + f"\n... {len(text) - _LONGEST} characters left out ...\n" + text[-_LONGEST // 2 :]
        )
    return text


def _user_lines(error: BaseException) -> set[tuple[str, int]]:
    from nuclio_edge.functions.running import space_of

    lines = set()
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        file = frame.f_code.co_filename
        if space_of(frame.f_globals.get("__name__")) and "site-packages" not in file:
            lines.add((file, trace.tb_lineno))
        trace = trace.tb_next
    return lines


def _has_frames(text: str) -> bool:
    return '  File "' in text


def _without_packages(text: str) -> str:
    from nuclio_edge.functions.running import ROOT

    parts = text.split(ROOT + ".")
    return parts[0] + "".join(part.partition(".")[2] if "." in part else part for part in parts[1:])


def _explain(error: BaseException, space: Space, module: str, where: str) -> LoadError:
    if isinstance(error, SystemExit):
        return LoadError(
            f"{where}: calls sys.exit({'' if error.code is None else repr(error.code)}) while it is imported",
            'a function is imported, not run: put that under if __name__ == "__main__":',
        )
    if isinstance(error, SyntaxError):
        return CodeError(_syntax(error, where))
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").removeprefix(space.package + ".")
        if (module + ".").startswith(missing + ".") and not _user_lines(error):
            return CodeError(f"{module}: there is no such module in {space.folder}", _other_files(space.folder + "/"))
        text = format_user_error(error, space.folder)
        return LoadError(
            f"{where}: cannot be imported\n{text}",
            f"is {missing.partition('.')[0]} installed, or listed in requirements?",
        )
    if isinstance(error, ValueError) and not _user_lines(error):
        return CodeError(f"{where}: {error}")  # NUL bytes, before Python 3.12
    return LoadError(f"{where}: cannot be imported\n{format_user_error(error, space.folder)}")


def _syntax(error: SyntaxError, where: str) -> str:
    said = f"{error.filename or where}{f':{error.lineno}' if error.lineno else ''}: {error.msg}"
    line = (error.text or "").rstrip("\n")
    if line.strip():
        text = line.lstrip()
        said += "\n    " + text
        if error.offset and error.offset > 0:
            at = max(error.offset - 1 - (len(line) - len(text)), 0)
            end = error.end_offset or 0
            wide = max(end - error.offset, 1) if error.end_lineno == error.lineno else 1
            said += (
                "\n    "
                + "".join("\t" if c == "\t" else " " for c in text[:at]).ljust(at)
                + "^" * min(wide, max(len(text) - at, 1))
            )
    return said


def _other_files(path: str) -> str | None:
    folder = os.path.dirname(path) or "."
    try:
        found = sorted(entry for entry in os.listdir(folder) if entry.endswith(".py"))
    except OSError:
        return f"there is no folder {folder} either"
    return f"in {folder}: {', '.join(found[:8])}" if found else f"there is no .py file in {folder}"


def _unloaded(*_: object) -> Any:
    raise LoadError("this version of the function was unloaded")
