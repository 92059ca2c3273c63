"""What a function would send while it is only tried: calls of bindings, and outputs, noted instead of made."""

from __future__ import annotations

import inspect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.model import OutputSpec

MOST = 1000  # notes of one event
TEXT = "text"  # the encoding of bytes that are UTF-8


class Sent:
    """One thing that was, or would be, sent: `broker.publish("t", "ON")`, or an output."""

    def __init__(self, binding: str, call: str, arguments: dict[str, Any], *, output: bool = False) -> None:
        self.binding = binding
        self.call = call
        self.arguments = arguments
        self.output = output

    def line(self) -> str:
        """As it would stand in a handler."""
        shown = ", ".join(
            _shown(value) if at < 2 else f"{key}={_shown(value)}"
            for at, (key, value) in enumerate(self.arguments.items())
        )
        return f"{self.binding}.{self.call}({shown})"

    def as_dict(self) -> dict[str, Any]:
        """For --json; bytes that are no text are in base64, which NAME_encoding beside them says."""
        arguments: dict[str, Any] = {}
        for key, value in self.arguments.items():
            if isinstance(value, (bytes, bytearray, memoryview)):
                arguments[key], encoding = encoded(bytes(value))
                if encoding != TEXT:
                    arguments[f"{key}_encoding"] = encoding
            else:
                arguments[key] = value
        return {"to": self.binding, "call": self.call, "arguments": arguments, "output": self.output}


class Noted:
    """A binding whose calls are noted, and made only with `really`; `like`, if not `real`, has their arguments."""

    def __init__(
        self, real: Any, name: str, context: Context, notes: list[Sent], *, really: bool, like: Any = None
    ) -> None:
        self._real = real
        self._like = real if like is None else like
        self._name = name
        self._context = context
        self._notes = notes
        self._really = really

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if not callable(real):
            return real

        def noted(*arguments: Any, **named: Any) -> Any:
            self._context.check()
            bound = inspect.signature(getattr(self._like, name)).bind(*arguments, **named)
            given: dict[str, Any] = {}
            for key, value in bound.arguments.items():
                kind = bound.signature.parameters[key].kind
                given.update(value if kind is inspect.Parameter.VAR_KEYWORD else {key: value})
            result = real(*arguments, **named) if self._really else None
            if len(self._notes) < MOST:
                self._notes.append(Sent(self._name, name, given))
            return result

        return noted


def note_output(output: OutputSpec, response: Response) -> Sent:
    """What an output would send of a response."""
    given = {key: value for key in output.params.__slots__ if (value := getattr(output.params, key)) is not None}
    first = next(iter(given), None)
    ordered = {first: given.pop(first), "payload": response.body} if first is not None else {"payload": response.body}
    return Sent(output.to, "publish" if "topic" in ordered else "send", {**ordered, **given}, output=True)


def encoded(body: bytes) -> tuple[str, str]:
    """Bytes in JSON and how to read them: their "text" where they are UTF-8, else "base64"."""
    try:
        return body.decode(), TEXT
    except UnicodeDecodeError:
        from binascii import b2a_base64

        return b2a_base64(body, newline=False).decode(), "base64"


def _shown(value: Any) -> str:
    return repr(value.decode()) if isinstance(value, bytes) and value.isascii() else repr(value)
