"""How a function's code imports: its own folder first, apart from every other function, nothing on sys.path.

The code of one version of one function is a package (`nuclio_edge_functions.NAME_N`) whose modules are loaded with a
`__builtins__` of their own; the `__import__` in there is how `import helper`, at any time and in any thread, becomes
that package's helper. Order: modules built into the interpreter, nuclio_sdk (ours), the folder, then whatever Python
finds; a folder without `__init__.py` hides nothing. One `__builtins__` serves all functions: the importing module's
name tells whose it is.
"""

from __future__ import annotations

import builtins
import importlib
import os
import sys
import time
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from types import ModuleType

from nuclio_edge.functions.running import ROOT, forget, space_of, space_of_stack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import CodeType
    from typing import Any

_SDK = "nuclio_sdk"
_SETTLED_S = 2  # a source file younger than this is compiled, not cached: its next edit may fall into the same second

_CODES = 4  # files whose code is kept at hand: functions that share a file then share its code, 2 KB each

on_read: Callable[[str, int], Any] | None = None  # told of each file as it is read, with its stamp; in worker processes

_import_module = importlib.import_module
_codes: dict[str, tuple[tuple[int, int, int], CodeType | None]] = {}
_spaces: dict[str, Space] = {}
_count = 0


class Space:
    """The package of one version of one function: what it has imported, until `close`."""

    __slots__ = ("_finders", "_init", "folder", "package")

    def __init__(self, name: str, folder: str) -> None:
        global _count  # noqa: PLW0603 - package names are unique in the process
        _count += 1
        self.package = f"{ROOT}.{''.join(c if c.isalnum() else '_' for c in name)}_{_count}"
        self.folder = folder
        self._finders: dict[str, FileFinder] = {}
        self._init = True
        _install()
        _spaces[self.package] = self  # the package itself is made, 0.8 KB, when something else is imported from it

    def finder(self, folder: str) -> FileFinder:
        """The finder of one folder; kept here and not in sys.path_importer_cache, so that it goes with the function."""
        finder = self._finders.get(folder)
        if finder is None:
            finder = self._finders[folder] = FileFinder(
                folder, (ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceLoader, SOURCE_SUFFIXES)
            )
        return finder

    def prefix(self, name: str) -> str:
        """What an absolute import of this name is really called, as a prefix; empty when it is not the function's."""
        top = name.partition(".")[0]
        if top == _SDK:
            return "nuclio_edge."
        if self.package + "." + top in sys.modules:
            return self.package + "."
        if top in sys.builtin_module_names:
            return ""
        spec = self.finder(self.folder).find_spec(self.package + "." + top)
        if spec is None or (spec.loader is None and _found_elsewhere(top)):
            return ""
        return self.package + "."

    def add(self, name: str, loader: SourceLoader) -> ModuleType:
        """Run the code of a loader as module `name` of this package and return it; raises what the code raises."""
        full = self.package + "." + name
        module = ModuleType(full)
        module.__spec__ = ModuleSpec(full, loader, origin=loader.path)
        module.__spec__.has_location = True
        module.__loader__ = loader
        module.__package__ = self.package
        module.__file__ = loader.path
        sys.modules[full] = module
        _forget_lines(loader.path)
        try:
            loader.exec_module(module)
        except BaseException:
            sys.modules.pop(full, None)
            raise
        if self.package in sys.modules:
            setattr(sys.modules[self.package], name, module)
        return module

    def run_init(self) -> None:
        """Run the folder's `__init__.py` in the package, once; only a relative import asks for it."""
        path = os.path.join(self.folder, "__init__.py")
        if self._init and os.path.isfile(path):
            self._init = False
            builtins.__import__(self.package)
            package = sys.modules[self.package]
            package.__loader__ = loader = SourceLoader(self.package, path)
            package.__file__ = path
            loader.exec_module(package)
        self._init = False

    def close(self) -> None:
        """Forget the package and all its modules, so that they can be freed; idempotent."""
        if _spaces.pop(self.package, None) is None:
            return
        forget(self.package)
        prefix = self.package + "."
        names = [name for name in list(sys.modules) if name == self.package or name.startswith(prefix)]
        for name in names:
            sys.modules.pop(name, None)
        root = sys.modules.get(ROOT)
        if root is not None:
            root.__dict__.pop(self.package.rpartition(".")[2], None)
        _forget_lines(os.path.join(self.folder, ""))
        if "logging" in sys.modules:
            # A logger of the module's name would stay for ever, one for each version that was loaded.
            loggers = sys.modules["logging"].root.manager.loggerDict
            for name in [name for name in list(loggers) if name == self.package or name.startswith(prefix)]:
                loggers.pop(name, None)


class SourceLoader(SourceFileLoader):
    """Loads a source file into the function's package, with the private `__builtins__`."""

    stamp: int | None = None  # of what was read

    def exec_module(self, module: ModuleType) -> None:
        """Run the code with the private `__builtins__`."""
        module.__dict__["__builtins__"] = _builtins
        super().exec_module(module)

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code, from __pycache__ only when the source has been at rest."""
        path = self.get_filename(fullname)
        status = os.stat(path)
        self.stamp = stamp_of(status)
        if on_read is not None:
            on_read(path, self.stamp)
        if time.time() - status.st_mtime < _SETTLED_S:
            return self.source_to_code(self.get_data(path), path)
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = _codes.pop(path, None)
        code = known[1] if known is not None and known[0] == stamp else super().get_code(fullname)
        while len(_codes) >= _CODES:
            _codes.pop(next(iter(_codes)), None)
        _codes[path] = (stamp, code)
        return code


class InlineLoader(SourceLoader):
    """Loads the text of a manifest's `code`; tracebacks show its lines under the key path it stands at."""

    def __init__(self, fullname: str, path: str, code: str) -> None:
        super().__init__(fullname, path)
        self.code = code

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code, compiled from the text."""
        return self.source_to_code(self.code.encode(), self.path)

    def get_source(self, fullname: str) -> str:
        """Return the text, for tracebacks."""
        return self.code


class _Finder:
    """The entry on sys.meta_path: finds what lies below our root, and says a plain name when it does not."""

    @staticmethod
    def find_spec(fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:  # noqa: ARG004 - the protocol's
        package = space_of(fullname)
        if not package:
            return None
        space = _spaces.get(package)
        portions: list[str] = []
        if space is not None and fullname == package:
            portions = [space.folder]
        elif space is not None and path is not None:
            for folder in path:
                spec = space.finder(folder).find_spec(fullname)
                if spec is not None and spec.loader is not None:
                    return spec
                if spec is not None:
                    portions += spec.submodule_search_locations or ()
        if portions:
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = portions
            return spec
        name = fullname[len(package) + 1 :]
        # `name` stays whole: `from package import missing` asks for it before it says what is missing.
        raise ModuleNotFoundError(f"No module named {name!r}", name=fullname)

    @staticmethod
    def invalidate_caches() -> None:
        for space in list(_spaces.values()):
            for finder in list(space._finders.values()):
                finder.invalidate_caches()


def _import(
    name: str,
    globals: Mapping[str, Any] | None = None,  # noqa: A002 - __import__'s own names, which callers may write
    locals: Mapping[str, Any] | None = None,  # noqa: A002 - as above
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """The `__import__` of function code; the interpreter calls it for each import statement."""
    if globals is None:
        globals = sys._getframe(1).f_globals  # noqa: A001 - as above
    package = space_of(globals.get("__package__") or globals.get("__name__")) or space_of_stack()
    space = _spaces.get(package)
    if space is None:
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    try:
        if level:
            if space._init and globals.get("__package__") == package:
                space.run_init()
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        prefix = space.prefix(name)
        if not prefix:
            return builtins.__import__(name, globals, locals, fromlist or (), 0)
        if fromlist:
            return builtins.__import__(prefix + name, None, None, fromlist, 0)
        builtins.__import__(prefix + name, None, None, (), 0)
        return sys.modules[prefix + name.partition(".")[0]]
    except ImportError as error:
        _say_plainly(error, package + ".")
        raise


def _route(name: str, package: str | None = None) -> ModuleType:
    """importlib.import_module while functions are loaded: by the caller's function, else as ever."""
    if not name.startswith("."):
        caller = space_of(sys._getframe(1).f_globals.get("__name__")) or space_of_stack()
        space = _spaces.get(caller)
        if space is not None:
            try:
                return _import_module(space.prefix(name) + name)
            except ImportError as error:
                _say_plainly(error, caller + ".")
                raise
    return _import_module(name, package)


def _say_plainly(error: ImportError, prefix: str) -> None:
    """Take our package's name out of a message: the function's author never wrote it."""
    error.args = tuple(arg.replace(prefix, "") if isinstance(arg, str) else arg for arg in error.args)
    if error.msg:
        error.msg = error.msg.replace(prefix, "")
    if error.name:
        error.name = error.name.removeprefix(prefix)


def stamp_of(status: os.stat_result) -> int:
    """A number that is another one when a file has other content; the same in every process."""
    return hash((status.st_mtime_ns, status.st_size))


def _found_elsewhere(name: str) -> bool:
    if name in sys.modules:
        return True
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find is not None and find(name, None) is not None:
            return True
    return False


def _forget_lines(start: str) -> None:
    """Drop the source lines kept for tracebacks: another version may have the same names."""
    if "linecache" in sys.modules:
        cache = sys.modules["linecache"].cache
        for file in [file for file in list(cache) if file.startswith(start)]:
            cache.pop(file, None)


_builtins: dict[str, Any] = {}


def _install() -> None:
    if ROOT in sys.modules:
        return
    root = ModuleType(ROOT, "The functions of this processor, each version a package of its own.")
    root.__path__ = []
    sys.modules[ROOT] = root
    _builtins.update(builtins.__dict__)
    _builtins["__import__"] = _import
    sys.meta_path.insert(0, _Finder)
    importlib.import_module = _route


def uninstall() -> None:
    """Close every space and give import back to Python alone (for tests)."""
    for space in list(_spaces.values()):
        space.close()
    sys.modules.pop(ROOT, None)
    if _Finder in sys.meta_path:
        sys.meta_path.remove(_Finder)
    importlib.import_module = _import_module
