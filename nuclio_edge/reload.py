"""Becoming another manifest, or taking a function's new version, while events go on.

Laws: unchanged tables keep running untouched; new code is imported, on a thread or in a worker process of its own, and
its init_context called before anything is switched; the old version of a function drains beside the new one, and stays
where the new one cannot start; a source that changed is opened again when the old one, which may hold the same client
id or descriptor, has settled what it brought in and is closed.
"""

from __future__ import annotations

from collections import deque

from .core import port
from .errors import LoadError
from .processor import origin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .functions.function import Function
    from .manifest.model import FunctionSpec, Manifest
    from .processor import Processor

LOOK_MS = 20  # how often what is being replaced is asked whether it has drained


def replace(processor: Processor, spec: FunctionSpec, done: Callable[[], Any]) -> None:
    """Put a function's new version in the place of the running one; `done()` on the loop when the route is switched."""
    new = processor.assembly.make(spec)

    def switch() -> None:
        _install(processor, new)
        processor.route()
        done()

    _start_beside(processor, [new], set(), switch)


def reload(
    processor: Processor, manifest: Manifest, changed_code: Iterable[str], done: Callable[[list[str]], Any]
) -> None:
    """Become another manifest; `done(lines)` on the loop with what was done, a line each."""
    before = processor.manifest
    wanted = processor.wanted_sources(manifest)
    fresh = {
        name for name in wanted if name not in processor.sources or before.sources.get(name) != manifest.sources[name]
    }
    code = set(changed_code)
    was_recorded = {name for name, f in processor.functions.items() if processor.assembly.recorded(f.spec)}
    processor.assembly.record(manifest.record)
    changed = []
    for spec in manifest.functions.values():
        old = processor.functions.get(spec.name)
        moved = any(t.source in fresh for t in spec.triggers) or any(o.to in fresh for o in spec.outputs)
        moved = moved or processor.assembly.recorded(spec) != (spec.name in was_recorded)
        if not spec.disabled and (old is None or old.spec != spec or spec.name in code or moved):
            changed.append(processor.assembly.make(spec))
            if old is not None:
                old.rest()

    untouched = set(wanted) - fresh
    touched = fresh | (set(processor.sources) - set(wanted))
    warm = {f.name for f in changed if _may_stay(processor, f.name, untouched) and _uses_none_of(touched, f.spec)}
    if manifest.log != processor.manifest.log:
        warm.clear()  # their contexts have the log as it is when they are made

    def switch() -> None:
        done([] if processor.stopping else _become(processor, manifest, wanted, fresh, changed))

    _start_beside(processor, changed, warm, switch)


def _become(
    processor: Processor, manifest: Manifest, wanted: list[str], fresh: set[str], changed: list[Function]
) -> list[str]:
    lines: list[str] = []
    before, processor.manifest = processor.manifest, manifest
    if before.device != manifest.device:
        lines.append("[device] changed: that needs a restart")
    if before.admin != manifest.admin and processor.admin is not None:
        processor.admin.move(manifest.admin)
        lines.append("[admin] opened again")
    old_sources = processor.sources
    processor.sources = {
        name: processor.make_source(manifest.sources[name]) if name in fresh else old_sources[name] for name in wanted
    }
    for function in changed:
        if function.load_error is not None and _may_stay(processor, function.name, set(wanted) - fresh):
            function.logger.error_with(
                "the new version could not be loaded; the old one stays", "error", function.explain(function.load_error)
            )
            lines.append(f"function {function.name} keeps its old version")
            processor.assembly.discard(function)
            continue
        lines.append(f"function {function.name} {'replaced' if function.name in processor.functions else 'added'}")
        _install(processor, function)
    for name in list(processor.functions):
        if name not in manifest.functions or manifest.functions[name].disabled:
            _retire(processor, processor.functions.pop(name))
            lines.append(f"function {name} removed")
    processor.share_budget()
    processor.route()
    for name, source in old_sources.items():
        new = processor.sources.get(name)
        if new is not source:
            source.stop_receiving()
            processor.leaving.append(source)
            _close_when_settled(processor, source)
            lines.append(f"source {name} {'closed' if new is None else 'opened again'}")
    for name in fresh:
        if name not in old_sources:
            lines.append(f"source {name} opened")
            _open_when_free(processor, name)
    return lines


def _may_stay(processor: Processor, name: str, untouched: set[str]) -> bool:
    """Whether a function's running version works on beside the sources that stay as they are."""
    old = processor.functions.get(name)
    if old is None or old.suspended is not None:
        return False
    used = {trigger.source for trigger in old.spec.triggers} | {output.to for output in old.spec.outputs}
    return used <= untouched


def _install(processor: Processor, function: Function) -> None:
    old = processor.functions.get(function.name)
    processor.assembly.equip(function)
    processor.functions[function.name] = function
    function.start()
    if old is not None:
        _retire(processor, old)


def _uses_none_of(touched: set[str], spec: FunctionSpec) -> bool:
    """Whether nothing that a function's workers are made with is among these sources."""
    if spec.bindings is None and touched:
        return False
    used = {trigger.source for trigger in spec.triggers} | {output.to for output in spec.outputs}
    return touched.isdisjoint(used.union(spec.bindings or ()))


def _start_beside(processor: Processor, functions: list[Function], warm: set[str], then: Callable[[], Any]) -> None:
    """Import while the loop goes on, call the init_context of those that are to be `warm`, then `then()` on the loop.

    An import or an init_context that takes longer than its function's timeout has failed, and the other functions go on
    without it; where there is no earlier version to stay, the new one waits for its import as for an init_context.
    """
    assembly = processor.assembly
    here = [function for function in functions if function.spec.isolation != "process"]
    children = [f for f in functions if f.spec.isolation == "process" and f.spec.load == "start"]
    waiting = {"", *(function.name for function in children)}  # no function has an empty name: that is the thread

    def arrived(who: str) -> None:
        waiting.remove(who)
        if not waiting:
            then()

    def start(function: Function) -> None:
        def told(error: BaseException | None) -> None:
            if function.name in waiting:
                function.load_error = error
                arrived(function.name)

        assembly.start_beside(function, told, warm=function.name in warm)

    todo = deque(here)

    def begin() -> None:
        timer: Any = None

        def over() -> None:
            if begun:  # else the others went on without this one
                begun.clear()
                timer.cancel()
                imported()

        def look() -> None:
            nonlocal timer
            left = begun[0] + patience - port.ticks_ms()  # of the import that goes on now
            if left > 0:
                timer = processor.loop.call_later(left, look)
                return
            begun.clear()
            if todo:
                begin()
            else:
                imported()

        timer = processor.loop.call_later(patience, look)
        begun = assembly.import_on_thread(todo, over)

    def imported() -> None:
        for function in here:
            if function.name in warm and function.load_error is None and function.handler is None:
                said = f"its import has not ended after {patience / 1000:g} s"
                function.load_error = LoadError(said) if function.spec.load == "start" else None
        ready = [f for f in here if f.name in warm and f.init_context is not None and f.load_error is None]
        waiting.update(function.name for function in ready)
        for function in ready:
            start(function)
        arrived("")

    patience = max((function.timeout_ms for function in here), default=0)
    if here:
        begin()
    else:
        processor.loop.call_soon(imported)
    for function in children:
        start(function)


def _retire(processor: Processor, function: Function) -> None:
    processor.retired.append(function)
    function.hasten()
    if processor.delivery is not None:
        processor.delivery.retire(function)
    processor.loop.call_later(0, lambda: let_go(processor, function))  # after the turn that still holds its events


def let_go(processor: Processor, function: Function) -> None:
    """Close a retired function as soon as it has drained; what it counted is kept."""
    if function not in processor.retired:
        return
    drained = function.runner.drain() and not any(trigger.pending for trigger in function.triggers)
    drained = drained and (processor.delivery is None or not processor.delivery.unsafe(function))
    if drained and processor.assembly.farewell(function, function.timeout_ms).over:
        processor.assembly.farewells.pop(function)
        processor.retired.remove(function)
        processor.gone.take((), function.triggers)
        if processor.delivery is not None:
            for trigger in function.triggers:
                processor.delivery.ledger.leave(trigger)
        function.close()
    else:
        processor.loop.call_later(LOOK_MS, lambda: let_go(processor, function))


def _close_when_settled(processor: Processor, source: Any, deadline: int = 0) -> None:
    if source not in processor.leaving:
        return
    busy = any(t.pending for f in processor.all_functions() for t in f.triggers if origin(t) is source)
    if not busy and not deadline:
        deadline = processor.loop.now + processor.manifest.device.stop_timeout_ms
    if busy or (not getattr(source, "sent", _yes)() and processor.loop.now < deadline):
        processor.loop.call_later(LOOK_MS, lambda: _close_when_settled(processor, source, deadline))
        return
    new = processor.sources.get(source.name)
    if new is not None and type(new) is type(source) and hasattr(source, "hand_over"):
        source.hand_over(new)  # what is still to be published
    processor.leaving.remove(source)
    source.close()
    processor.gone.take((source,))
    _open_when_free(processor, source.name)


def _open_when_free(processor: Processor, name: str) -> None:
    """Open the source that has the name now, unless an earlier one still settles: the last of those calls again."""
    new = processor.sources.get(name)
    if new is None or processor.stopping or any(source.name == name for source in processor.leaving):
        return
    if new.state == "closed":
        new.open()


def _yes() -> bool:
    return True
