"""A handler called as a function, with a context that notes what it does."""

from __future__ import annotations

from nuclio_edge.core import port
from nuclio_edge.core.context import Context
from nuclio_edge.core.encode import to_response
from nuclio_edge.core.event import Event
from nuclio_edge.core.failure import error_response
from nuclio_edge.core.log import LEVELS, Logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from nuclio_edge.core.response import Response


class Recorder:
    """A context for one handler under test, and everything that the handler did with it.

    `context` is what the handler gets. `calls` are the calls of its bindings in order, `logs` its records as (level,
    message, values). What a call of a binding returns is said beforehand: `recorder.returns["pins", "get"] = 1`, where
    something callable is called with the call's arguments, so that it can raise as well; None unless said.
    """

    def __init__(self, *, name: str = "function", env: dict[str, str] | None = None, level: str = "debug") -> None:
        self.calls: list[Call] = []
        self.logs: list[tuple[str, str, dict[str, Any]]] = []
        self.returns: dict[tuple[str, str], Any] = {}
        self.context = context = Context(worker_id="0")
        context.logger = Logger(level, name, self._note, context)
        context.function_name = name
        context.function_version = "1"
        context.env = env or {}
        context.bindings = _Bindings(self)

    def sent(self, binding: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of a binding, whatever its method; named ones follow by their order."""
        return [(*call.args, *call.named.values()) for call in self.calls if call.binding == binding]

    def _note(self, record: Any) -> None:
        _, level, _, message, pairs, _, _ = record
        self.logs.append((_LEVEL_NAMES[level], message, dict(zip(pairs[::2], pairs[1::2], strict=True))))


class Call:
    """One call of a method of a binding; equal to a tuple (binding, method, args, named) of the same."""

    __slots__ = ("args", "binding", "method", "named")

    def __init__(self, binding: str, method: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.binding = binding
        self.method = method
        self.args = args
        self.named = named

    def __eq__(self, other: object) -> bool:
        mine = (self.binding, self.method, self.args, self.named)
        return other == mine if isinstance(other, tuple) else isinstance(other, Call) and repr(self) == repr(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        given = [repr(one) for one in self.args] + [f"{key}={value!r}" for key, value in self.named.items()]
        return f"{self.binding}.{self.method}({', '.join(given)})"


def run_handler(
    handler: Any,
    event: Event | bytes | str | dict[str, Any] | None = None,
    *,
    recorder: Recorder | None = None,
    **about: Any,
) -> Response:
    """Call `handler(context, event)` as a worker does (no `init_context` before it) and return its Response.

    `event` may be a body: bytes and text are it, a dict becomes JSON; `about` are the Event's other arguments (path,
    headers, method, topic …). An exception becomes the response that a requester would get (500 and its text); it is
    raised when no `recorder` is given, as there is nothing else to look at then. An async handler is run to its end.
    """
    context = (recorder or Recorder()).context
    context._event = event = event if isinstance(event, Event) else make_event(event, **about)
    try:
        result = handler(context, event)
        if hasattr(type(result), "__await__"):
            import asyncio

            result = asyncio.run(_await(result))
    except Exception as error:
        if recorder is None:
            raise
        return error_response(error)
    finally:
        context._event = None
    return to_response(result)


def make_event(body: bytes | str | dict[str, Any] | None = None, **about: Any) -> Event:
    """An event as a source would make it: attributes that are not given come from the body, lazily."""
    event = Event.__new__(Event)
    if isinstance(body, dict):
        body = port.json_dumps(body)
        about.setdefault("content_type", "application/json")
    event.raw_body = body.encode() if isinstance(body, str) else body or b""
    event._trigger = event._token = None
    if "trigger" not in about:
        from nuclio_edge.core.event import TriggerInfo

        event.trigger = TriggerInfo("test", "test")
    for name, value in about.items():
        setattr(event, name, value)
    return event


async def _await(result: Any) -> Any:
    return await result


_LEVEL_NAMES = {number: name for name, number in LEVELS.items() if name != "warn"}


class _Bindings:
    """A binding of every name."""

    __slots__ = ("_recorder",)

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __getitem__(self, name: str) -> _Binding:
        return _Binding(self._recorder, name)

    def get(self, name: str, _default: Any = None) -> _Binding:
        return self[name]

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter({call.binding: None for call in self._recorder.calls})


class _Binding:
    """A binding with every method."""

    __slots__ = ("_name", "_recorder")

    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder = recorder
        self._name = name

    def __getattr__(self, method: str) -> Any:
        if method.startswith("__"):
            raise AttributeError(method)
        recorder, name = self._recorder, self._name

        def call(*args: Any, **named: Any) -> Any:
            recorder.calls.append(Call(name, method, args, named))
            value = recorder.returns.get((name, method))
            return value(*args, **named) if callable(value) else value

        return call
