"""A trial inside the running processor: one event, a worker of its own, and nothing of what it sends leaves the device.

The function is a second one beside the real one: the same code as it is loaded (a worker process loads its own), a
fresh context, so that `init_context` runs again and what it keeps of the bindings is of the trial, too. It is drained
and closed like a version that was replaced.
"""

from __future__ import annotations

from nuclio_edge.bindings.named import Bindings
from nuclio_edge.functions import running
from nuclio_edge.functions.function import Function
from nuclio_edge.manifest.model import changed
from nuclio_edge.trial import MOST, Noted, note_output

from .invoke import NAME, make_trigger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.assembly import Assembly
    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.model import OutputSpec
    from nuclio_edge.trial import Sent

    from .invoke import Call


def begin(call: Call) -> tuple[Function, Trigger]:
    """The function of a trial, which counts as draining from the beginning, and its trigger."""
    real = call.function
    processor = call.processor
    spec = changed(real.spec, triggers=(call.spec,), workers_min=0, workers_max=1, load="first-event")
    made = Function(spec, real.version, Bench(processor.assembly, call.sent))  # type: ignore[arg-type]  # it has what a function asks of one
    made.is_async = real.is_async
    if spec.isolation != "process" and real.handler is not None:
        made.handler, made.init_context, made.package = real.handler, real.init_context, real.package
    made.runner = processor.assembly.make_runner(made)
    made.outputs = tuple(_output(output, call.sent) for output in spec.outputs)
    trigger = make_trigger(call, made, f"{call.spec.ledger_id}.{NAME}")
    made.triggers = (trigger,)
    if call.spec.batch is None:
        made.runner.attach(trigger)
    else:  # its handler takes lists
        from nuclio_edge.workers import batch

        batch.attach(made.runner, trigger, 1, 0)
    processor.retired.append(made)
    return made, trigger


def _output(spec: OutputSpec, notes: list[Sent]) -> Callable[[Response, Event], Any]:
    def note(response: Response, _event: Event) -> None:
        if len(notes) < MOST:
            notes.append(note_output(spec, response))

    return note


class Bench:
    """The processor's assembly, but for contexts, whose bindings only note."""

    def __init__(self, assembly: Assembly, notes: list[Sent]) -> None:
        self._assembly = assembly
        self._notes = notes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._assembly, name)

    def context(self, function: Function, worker: int) -> Context:
        """The context of the trial's worker."""
        context = self._assembly.context(function, worker)
        makers = self._assembly.binding_makers(function.spec)
        context.bindings = Bindings(context, {name: self._noting(name, make) for name, make in makers.items()})
        return context

    def bind(self, function: Function, context: Context) -> None:
        """Make the present thread run for the trial; threads that the code starts stay those of the real one."""
        if context._running is None:
            context._running = running.Running(function.name, context.env, context, function.package)
        running.bind(context._running)

    def _noting(self, name: str, make: Callable[[Context], Any]) -> Callable[[Context], Noted]:
        return lambda context: Noted(make(context), name, context, self._notes, really=False)
