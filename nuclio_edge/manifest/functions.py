"""[function.*] -> FunctionSpec: its own keys, and whether its code is there and can be called."""

from __future__ import annotations

import os.path
from sys import intern

from nuclio_edge.manifest.convert import BAD
from nuclio_edge.manifest.handler import bound_elsewhere, names_of
from nuclio_edge.manifest.model import FunctionSpec, Limits
from nuclio_edge.manifest.problems import excerpt, listed, quote, suggest
from nuclio_edge.manifest.schema import Secret
from nuclio_edge.manifest.sources import good_name
from nuclio_edge.manifest.tables import FUNCTION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nuclio_edge.manifest.convert import Converter
    from nuclio_edge.manifest.handler import Names, Signature
    from nuclio_edge.manifest.problems import KeyPath
    from nuclio_edge.manifest.schema import Values
    from nuclio_edge.manifest.sources import Sources

_LISTS = {"trigger": None, "output": None}
_INLINE = ("PASSWORD", "PASSWD", "SECRET", "TOKEN", "_KEY", "PASSPHRASE")
_PARAMETERS = 2  # handler(context, event)


class Functions:
    """Reads the functions of one manifest; a file that several of them use is read once."""

    __slots__ = ("_convert", "_files", "_none", "_set_up", "_sources")

    def __init__(self, converter: Converter, sources: Sources) -> None:
        self._convert = converter
        self._sources = sources
        self._files: dict[str, Names | SyntaxError | OSError] = {}
        self._set_up: set[str] = set()  # files whose init_context was reported
        self._none = Limits(memory=None, cpu=None)

    def read(self, name: str, raw: Mapping[str, Any]) -> FunctionSpec:
        """Return a function without its triggers and outputs; parts that were reported are BAD or empty."""
        path: KeyPath = ("function", name)
        good_name(name, path, self._convert)
        own = self._convert.table(FUNCTION, raw, path, extra=_LISTS)  # type: ignore[arg-type]
        file, module, attribute, folder = self._code(name, own, raw, path)
        workers_min, workers_max = self._workers(own, path)
        limits = self._limits_of(own, path)
        self._bindings(own, path)
        if own.requirements and own.requirements is not BAD:
            message = "are not installed by this version; they must be there when the function is loaded"
            self._convert.report.warning((*path, "requirements"), "W502", message)
        return FunctionSpec(
            bindings=own.bindings,
            callable=attribute,
            code=own.code,
            concurrency=own.concurrency,
            description=own.description,
            disabled=own.disabled,
            env=self._env(own.env, path),
            file=file,
            isolation=own.isolation,
            labels=own.labels,
            limits=limits,
            load=own.load if workers_min else "first-event",
            module=module,
            name=name,
            outputs=(),
            path=folder,
            requirements=own.requirements,
            secrets=_secret_names(own.env),
            timeout_ms=own.timeout,
            triggers=(),
            workers_max=workers_max,
            workers_min=workers_min,
        )

    def _workers(self, own: Values, path: KeyPath) -> tuple[int, int]:
        report, workers = self._convert.report, own.workers
        if workers is BAD:
            return 1, 1
        low, high = (workers, workers) if isinstance(workers, int) else (workers.min, workers.max)
        if low > high:
            report.error((*path, "workers"), "E124", f"min = {low} is more than max = {high}")
        if own.isolation == "inline" and high > 1:
            message = 'isolation = "inline" runs on the loop, which is one worker'
            report.error((*path, "workers"), "E124", message)
        return low, high

    def _limits_of(self, own: Values, path: KeyPath) -> Limits:
        limits = own.limits
        if limits is BAD or (limits.memory is None and limits.cpu is None):
            return self._none
        if own.isolation not in ("process", BAD):
            message = 'needs isolation = "process": a thread cannot be limited'
            self._convert.report.error((*path, "limits"), "E408", message)
        return Limits(memory=limits.memory, cpu=limits.cpu)

    def _bindings(self, own: Values, path: KeyPath) -> None:
        known = [*self._sources.specs, *self._sources.bindings]
        for index, name in enumerate(own.bindings if own.bindings not in (None, BAD) else ()):
            if name not in known:
                message = f"no source or binding is named {quote(name)}"
                self._convert.report.error((*path, "bindings", index), "E301", message, suggest(name, known))

    def _env(self, env: Any, path: KeyPath) -> Mapping[str, str]:
        env = self._convert.parts.get((*path, "env"), env)
        if not env or env is BAD:
            return env if env is not BAD else {}
        report, resolved = self._convert.report, {}
        for name, value in env.items():
            at = (*path, "env", name)
            if value is BAD:
                continue
            if not name or "=" in name or "\0" in name:
                report.error(at, "E118", f"{quote(name)} cannot be an environment variable")
                continue
            if isinstance(value, Secret):
                try:
                    value = value.text  # noqa: PLW2901 - the same value, resolved
                except UnicodeDecodeError:
                    report.error(at, "E122", f"the secret {quote(value.name)} is not UTF-8 text")
                    continue
            elif value and any(name.upper().endswith(word) for word in _INLINE):
                hint = f'write {name} = {{ secret = "name" }}'
                report.warning(at, "W505", "looks like a secret that stands in the manifest", hint)
            if "\0" in value:
                report.error(at, "E116", "an environment variable cannot hold a NUL")
            resolved[name] = value
        return resolved

    def _code(self, name: str, own: Values, raw: Mapping[str, Any], path: KeyPath) -> tuple[str | None, str, str, str]:
        """Return (file, module, callable, folder) after checking that they are there."""
        report, folder = self._convert.report, own.path or self._convert.folder
        nothing = (None, "", "", "")
        for key in ("url", "digest"):
            if key in raw:
                report.error((*path, key), "E202", "releases come with a later version", "name a file in handler")
                return nothing
        if BAD in (own.handler, own.code):
            return nothing
        if own.handler is None and own.code is None:
            hint = "e.g. handler = \"door.py:handler\", or code = '''…'''"
            report.error((*path, "handler"), "E117", "is missing", hint)
            return nothing
        where, colon, attribute = (own.handler or "").rpartition(":")
        if not colon:
            where, attribute = attribute, "handler"
        at = (*path, "handler")
        nameless = not where.endswith(".py") and "" in where.split(".") and (where or own.code is None)
        if "\0" in where or not attribute.isidentifier() or nameless:
            hint = 'write "file.py:callable" or "module:callable"; the callable defaults to "handler"'
            report.error(at, "E405", f"{quote(own.handler)} does not say a file and a callable", hint)
            return nothing
        if own.code is not None:
            if where.endswith(".py"):
                report.error(at, "E124", "names a file beside code", "give one of the two")
            elif not own.disabled:
                self._callable(own.code, f"function.{name}.code", attribute, own, path, "code")
            return None, where if where and not where.endswith(".py") else "handler", attribute, folder
        if own.path is BAD:
            return nothing
        file, module, folder = self._locate(where, own.path, folder)
        if not own.disabled:
            before = report.errors
            self._callable(None, file, attribute, own, path, "handler")
            if report.errors > before:
                report.files += (file,)
        return file, module, attribute, folder

    def _locate(self, where: str, given: str | None, folder: str) -> tuple[str, str, str]:
        """Return (file, module, folder) of "sub/door.py" or "package.door"."""
        if where.endswith(".py"):
            file = os.path.normpath(os.path.join(folder, where))
            if given is None:
                folder = os.path.dirname(file)
            module = os.path.relpath(file, folder)[:-3].replace(os.sep, ".")
            return intern(file), intern(module), intern(folder)  # often shared: a file of many functions
        base = os.path.join(folder, *where.split("."))
        package = os.path.join(base, "__init__.py")
        return package if os.path.isfile(package) else base + ".py", where, folder

    def _callable(self, code: str | None, file: str, attribute: str, own: Values, path: KeyPath, key: str) -> None:
        report, at = self._convert.report, (*path, key)
        names = self._names(code, file)
        shown = quote(os.path.relpath(file, self._convert.folder), 200)
        if isinstance(names, OSError):
            absent = isinstance(names, FileNotFoundError)
            reason = "there is no file" if absent else f"{names.strerror}:"
            report.error(at, "E401", f"{reason} {shown}", _near_file(file) if absent else None)
            return
        subject, place = ("", "") if code is not None else (f"{shown} ", f" in {shown}")
        if isinstance(names, SyntaxError):
            line = f"line {names.lineno}: " if names.lineno else ""
            report.error(at, "E402", f"{subject}is not Python: {line}{names.msg}", _excerpt(names))
            return
        if attribute not in names.bound:
            if names.unknowable:
                return
            report.error(at, "E403", f"{subject}has no {quote(attribute)}", _defined(names))
            return
        value = names.values.get(attribute)
        if value is not None and not names.unknowable and not bound_elsewhere(code or _read(file), attribute):
            report.error(at, "E403", f"{attribute}{place} is {value} and no function", _defined(names))
            return
        signature = names.bound[attribute]
        if signature is not None:
            self._signature(signature, attribute, place, own, path, key)
        setup = names.bound.get("init_context")
        if setup is not None and not setup.takes(1) and file not in self._set_up:
            self._set_up.add(file)
            report.error(at, "E404", f"init_context{setup.written}{place} must take (context)")

    def _signature(
        self, signature: Signature, attribute: str, shown: str, own: Values, path: KeyPath, key: str
    ) -> None:
        report, at, names = self._convert.report, (*path, key), signature.names
        written = attribute + signature.written
        if not signature.takes(_PARAMETERS):
            report.error(at, "E404", f"{written}{shown} must take (context, event)")
        elif names[:1] == ["event"] or names[1:2] == ["context"]:
            hint = "as in Lambda; here the context comes first: (context, event)"
            report.warning(at, "W501", f"{written}{shown} takes the event first", hint)
        if signature.runs_async and own.isolation == "inline":
            message = f'{attribute} is async and cannot run with isolation = "inline"'
            report.error((*path, "isolation"), "E406", message, "leave isolation out: it has a loop of its own")
        if signature.runs_async and own.isolation == "process":
            message = f"{attribute} is async; a worker process runs one call of it at a time"
            where = "concurrency" if own.concurrency not in (None, BAD) else "isolation"
            hint = 'workers = 4 is four at a time; without isolation = "process", concurrency is'
            report.warning((*path, where), "W506", message, hint)
        if own.concurrency not in (None, BAD) and not signature.runs_async:
            report.error(
                (*path, "concurrency"), "E407", f"is for an async handler, and {attribute} is not", "see workers"
            )

    def _names(self, code: str | None, file: str) -> Names | SyntaxError | OSError:
        if code is not None:
            try:
                return names_of(code, file)
            except SyntaxError as error:
                return error
        if file not in self._files:
            try:
                self._files[file] = names_of(_read(file), file)
            except (OSError, SyntaxError) as error:
                self._files[file] = error
        return self._files[file]


def _secret_names(env: Any) -> tuple[str, ...]:
    return tuple(name for name, value in env.items() if isinstance(value, Secret)) if env and env is not BAD else ()


def _read(file: str) -> bytes:
    """The content of a file, no pipe or device that would keep a check waiting for ever."""
    import stat

    with open(file, "rb", opener=_open_without_waiting) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(None, "not a file")
        return stream.read()


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _defined(names: Names) -> str:
    found = names.callables()
    return f"it defines {listed(found)}" if found else "it defines no function"


def _near_file(file: str) -> str | None:
    try:
        beside = [name for name in os.listdir(os.path.dirname(file)) if name.endswith(".py")]
    except OSError:
        return None
    return suggest(os.path.basename(file), beside)


def _excerpt(error: SyntaxError) -> str | None:
    if not error.text or not error.offset:
        return None
    return excerpt(error.text.rstrip(), error.offset)
