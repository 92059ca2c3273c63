"""The SDK's Logger and formatters, over Python's logging (imported only by functions that ask for them)."""

from __future__ import annotations

import logging

from nuclio_edge.logs import FunctionLogger
from nuclio_edge.nuclio_sdk.json_encoder import Encoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.log import Record


class JSONFormatter(logging.Formatter):
    """Formats a record as the JSON object {datetime, level, message, with}."""

    def __init__(self) -> None:
        super().__init__()
        self._json_encoder = Encoder()

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        return self._json_encoder.encode(self._fields(record))

    def format_to_log_control_message(self, record: logging.LogRecord) -> str:
        """The record as the platform's control message of kind "log"."""
        return self._json_encoder.encode({"kind": "log", "attributes": self._fields(record)})

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        return {
            "datetime": self.formatTime(record, self.datefmt),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "with": getattr(record, "with", {}),
        }


class HumanReadableFormatter(logging.Formatter):
    """Formats a record as `Python> time [level] message: {with}`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        pairs = getattr(record, "with", {})
        more = f": {pairs}" if pairs else ""
        when = self.formatTime(record, self.datefmt)
        return f"Python> {when} [{record.levelname.lower()}] {record.getMessage()}{more}"


class Tee:
    """An `emit` that also writes to the files of `set_handler`."""

    def __init__(self, emit: Any) -> None:
        self.emit = emit
        self.handlers: dict[str, tuple[Any, Any]] = {}

    def __call__(self, record: Record) -> None:
        """Pass a record on, and write it; a file that fails is the function's own business and stops nothing."""
        if self.emit is not None:
            self.emit(record)
        ms, level, name, message, pairs, _function, _event_id = record
        for file, formatter in self.handlers.values():
            made = logging.LogRecord(name, level, "", 0, message, (), None)
            made.created = ms / 1000
            made.msecs = ms % 1000
            if pairs:
                setattr(made, "with", {pairs[at]: pairs[at + 1] for at in range(0, len(pairs) - 1, 2)})
            try:
                file.write(formatter.format(made) + "\n")
                file.flush()
            except Exception:  # noqa: BLE001, S112 - as logging.StreamHandler does without raiseExceptions
                continue

    def flush(self) -> None:
        """Flush what is behind."""
        flush = getattr(self.emit, "flush", None)
        if flush is not None:
            flush()


class Logger(FunctionLogger):
    """The SDK's Logger made by hand: it writes where `set_handler` says."""

    def __init__(self, level: int | str, name: str = "nuclio_sdk", emit: Any = None, context: Any = None) -> None:
        super().__init__(level, name, emit, context)
