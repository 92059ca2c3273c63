"""TOML -> tables, by a child process while a processor starts: what parsing takes is not memory of the processor.

The parser brings regular expressions, dates and, where it is compiled, a library of its own: 1.5 MB on top of the
interpreter's 8.5 that nothing needs once the tables are there, and that an interpreter cannot give back.
"""

from __future__ import annotations

import os
from _thread import _count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")

_LENGTH = 8  # bytes before each text and each answer; a length of 0 is no answer
_children: list[Child] = []  # the one of this start, or none


def parse(text: str) -> dict[str, Any]:
    """Return the tables of a text; tomli.TOMLDecodeError, RecursionError or ValueError when it is none."""
    if _children:
        tables = _children[0].parse(text)
        if tables is not None:
            return tables
    import tomli

    return tomli.loads(text)


def apart(work: Callable[[], T]) -> T:
    """Do `work` with a child to parse for it, where this process can have one: not when it has threads, as it forks."""
    if _children or _count():
        return work()
    try:
        _children.append(Child())
    except OSError:  # a limit on processes or descriptors
        return work()
    try:
        return work()
    finally:
        _children.pop().close()


class Child:
    """A fork of this process that answers each text with its tables until it is closed."""

    def __init__(self) -> None:
        theirs, self._texts = os.pipe()
        try:
            self._answers, answers = os.pipe()
        except OSError:
            os.close(theirs)
            os.close(self._texts)
            raise
        try:
            self._pid = os.fork()
        except OSError:
            for descriptor in (theirs, self._texts, self._answers, answers):
                os.close(descriptor)
            raise
        if self._pid == 0:
            os.close(self._texts)
            os.close(self._answers)
            _serve(theirs, answers)
        os.close(theirs)
        os.close(answers)

    def parse(self, text: str) -> dict[str, Any] | None:
        """Return the tables of a text; None when the child has none.

        Whatever the reason is (a mistake in the text, a date, for which marshal has no form, a child that was killed):
        the parser in this process finds it again, and can tell it.
        """
        import marshal

        try:
            _send(self._texts, text.encode())
            answer = _receive(self._answers)
        except OSError:
            return None
        return marshal.loads(answer) if answer else None  # noqa: S302 - by the same interpreter, from our own memory

    def close(self) -> None:
        """End it."""
        os.close(self._texts)
        os.close(self._answers)
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:
            pass  # we were started with SIGCHLD ignored: the kernel has done it


def _serve(texts: int, answers: int) -> None:
    """Be the child; never returns."""
    try:
        import marshal

        import tomli

        while text := _receive(texts):
            try:
                answer = marshal.dumps(tomli.loads(text.decode()))
            except (ValueError, RecursionError):
                answer = b""
            _send(answers, answer)
    finally:
        os._exit(0)  # without what the parent has to do at its end, and without a word: the parent has it all


def _send(descriptor: int, content: bytes) -> None:
    rest = memoryview(len(content).to_bytes(_LENGTH, "little") + content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _receive(descriptor: int) -> bytes:
    """Return what the other side has sent; nothing when it has closed."""
    return _exactly(descriptor, int.from_bytes(_exactly(descriptor, _LENGTH), "little"))


def _exactly(descriptor: int, size: int) -> bytes:
    content = b""
    while len(content) < size:
        piece = os.read(descriptor, size - len(content))
        if not piece:
            return b""
        content += piece
    return content
