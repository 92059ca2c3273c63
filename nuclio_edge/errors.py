"""Every error that nuclio-edge raises for its users to catch or to read.

Each says whose fault it is: ManifestError (what you wrote), HandlerError and LoadError (the function), SourceError and
SecretError (the world around the device). `str(error)` is one plain sentence; `hint`, where there is one, is the next
step. The command line prints both and no traceback; any other exception is a defect of nuclio-edge.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nuclio_edge.manifest.problems import Problem


class EdgeError(Exception):
    """The root of them all: a message that says what was found, and a hint that says what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class ManifestError(EdgeError, ValueError):
    """A manifest that cannot be used; `problems` holds everything that is wrong with it, sorted by line.

    `files` are those of code, there or not, that they are about. `str(error)` is the complete text for a terminal,
    ending in "nothing was started."
    """

    def __init__(self, problems: Sequence[Problem], path: str, files: Iterable[str] = ()) -> None:
        super().__init__(f"{path} cannot be used")
        self.problems = problems
        self.path = path
        self.files = files

    def __str__(self) -> str:
        from nuclio_edge.manifest.problems import render

        return render(self.problems, self.path)


class LoadError(EdgeError):
    """A function whose code could not be imported, or whose init_context raised."""


class HandlerError(EdgeError):
    """A handler that failed: it raised, ran out of time, or returned what cannot be encoded."""


class SourceError(EdgeError, OSError):
    """A source or a binding that cannot reach, or was refused by, what it stands for."""


class SecretError(EdgeError, LookupError):
    """A secret that is nowhere, or cannot be read; never says anything of its content."""


class UnknownKindError(EdgeError, LookupError):
    """A kind of source or binding that no file here and no installed package offers; `later`: not yet."""

    def __init__(self, message: str, hint: str | None = None, *, later: bool = False) -> None:
        super().__init__(message, hint)
        self.later = later


class UnknownBoardError(EdgeError, LookupError):
    """A board of which there is no file; the hint names the one that was probably meant."""


class StateError(EdgeError, OSError):
    """A state directory that is held by another processor, or cannot be written."""
