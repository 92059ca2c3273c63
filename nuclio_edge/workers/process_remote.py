"""The processor as a worker process sees it: the channel to it, and its bindings at the other end of that."""

from __future__ import annotations

import marshal
import os
import sys
from _thread import allocate_lock, get_ident

from .frames import ANSWER, CALL, CHANNEL, LIFELINE, Reader, frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_READ = 1 << 18


class Channel:
    """The way to the processor; calls wait for their answer, events that come meanwhile are kept."""

    def __init__(self) -> None:
        self._reader = Reader()
        self._frames: list[tuple[int, bytes]] = []
        self._lock = allocate_lock()
        self._changed: Any = None  # a Condition, once there are other threads
        self._reading = False
        self._open = True
        self._calls = 0
        os.register_at_fork(after_in_child=self._forked)

    def send(self, kind: int, *parts: bytes) -> None:
        """Write one frame; from any thread."""
        if not self._open:
            return
        data = memoryview(frame(kind, *parts))
        with self._lock:
            while data:
                data = data[os.write(CHANNEL, data) :]

    def next(self, wanted: Callable[[int, bytes], bool]) -> bytes:
        """The content of the next frame that is wanted; ends the process when the processor is gone."""
        if "threading" in sys.modules:
            return self._next_of_many(wanted)
        while True:
            content = self._kept(wanted)
            if content is not None:
                return content
            self._read()

    def call(self, content: list[Any], answered: bool) -> Any:
        """Have the processor call a binding's method; from any thread."""
        from nuclio_edge.core.msgpack import pack

        self._calls += 1
        number = self._calls if answered else 0
        self.send(CALL, pack([number, *content]))
        if not answered:
            return None
        head = marshal.dumps(number)
        answer = self.next(lambda kind, got: kind == ANSWER and got.startswith(head))
        return marshal.loads(answer[len(head) :])  # noqa: S302 - the processor's own

    def _kept(self, wanted: Callable[[int, bytes], bool]) -> bytes | None:
        for at, (kind, content) in enumerate(self._frames):
            if wanted(kind, content):
                del self._frames[at]
                return content
        return None

    def _read(self) -> None:
        data = os.read(CHANNEL, _READ)
        if not data:
            if "threading" in sys.modules and sys.modules["threading"].main_thread().ident != get_ident():
                os._exit(0)
            sys.exit(0)
        self._frames += self._reader.feed(data)

    def _next_of_many(self, wanted: Callable[[int, bytes], bool]) -> bytes:
        """The same where a handler has threads that call bindings: one of them reads for all."""
        if self._changed is None:
            self._changed = sys.modules["threading"].Condition()
        changed = self._changed
        while True:
            with changed:
                content = self._kept(wanted)
                if content is not None:
                    return content
                if self._reading:
                    changed.wait()
                    continue
                self._reading = True
            try:
                self._read()
            finally:
                with changed:
                    self._reading = False
                    changed.notify_all()

    def check(self) -> None:
        """End the process if it is a fork of a worker: it has no business here."""
        if not self._open:
            os._exit(0)

    def _forked(self) -> None:
        self._open = False
        for descriptor in (CHANNEL, LIFELINE):
            try:
                os.close(descriptor)
            except OSError:
                pass


class Remote:
    """A binding of the processor; each method is a call over there. `publish` returns at once."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self._name = name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*args: Any, **named: Any) -> Any:
            return self._call(method, args, named)

        return call

    def _call(self, method: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        try:
            answer = self._channel.call([self._name, method, list(args), named], method != "publish")
        except (TypeError, ValueError) as error:
            raise TypeError(f"{self._name}.{method}: this cannot leave a worker process: {error}") from None
        if answer is None:
            return None
        fine, value, text = answer
        if fine:
            return value
        raise exception(value)(text)


class RemoteBindings:
    """The bindings of the processor by name."""

    def __init__(self, channel: Channel, names: list[str]) -> None:
        self._names = ", ".join(sorted(names))
        self._made = {name: Remote(channel, name) for name in names}

    def __getitem__(self, name: str) -> Remote:
        if name not in self._made:
            raise KeyError(f"no binding is named '{name}'; there are: {self._names}")
        return self._made[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The binding of that name, else the default."""
        return self._made.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._made

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


def exception(name: str) -> type[Exception]:
    """The class of an exception of the processor's, by name."""
    import builtins

    from nuclio_edge import errors
    from nuclio_edge.core.context import Revoked

    found = Revoked if name == "Revoked" else getattr(errors, name, None) or getattr(builtins, name, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else RuntimeError
