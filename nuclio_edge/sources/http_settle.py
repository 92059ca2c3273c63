"""Answers that are more than status, type and body: log records, CORS, CloudEvents, parts; imported when needed."""

from __future__ import annotations

from nuclio_edge.core import port
from nuclio_edge.core.log import LEVELS
from nuclio_edge.core.response import Response
from nuclio_edge.logs import TAPS
from nuclio_edge.sources import http_cors
from nuclio_edge.sources.http_reply import fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.sources.http_exchange import Exchange

MAX_LOGS = 4096  # bytes of X-Nuclio-Logs, as in Nuclio; what does not fit is counted in its last record
_NAMES = {number: name for name, number in LEVELS.items() if name != "warn"}


class Note:
    """What is to be thought of when an event's answer is there: who may read it, and the records that are wanted."""

    __slots__ = ("cors", "id", "level", "masked", "own", "records")

    def __init__(self, event: Event, cors: Any, logs: bool, log: Any) -> None:
        self.cors = cors
        self.id: str | None = None
        self.records: list[Any] = []
        if logs:
            said = event.get_header("X-Nuclio-Log-Level").strip().lower()
            self.level = LEVELS.get(said, LEVELS["info"])
            self.own = getattr(log, "level", 0)  # what the processor's log takes anyhow
            trigger: Any = event._trigger
            self.masked = getattr(trigger.function, "masked", str)  # as the log shows no secret, the answer shows none
            self.id = event.id
            TAPS[self.id] = self

    def take(self, record: Any) -> bool:
        """Keep a record of the event's handler; whether it is for nobody else. Any thread."""
        level = record[1]
        if level >= self.level and len(self.records) < MAX_LOGS // 16:  # a record is longer than that
            self.records.append(record)
        return bool(level < self.own)

    def headers(self, raw: bytes) -> dict[str, str]:
        """What the answer gets beside its own headers."""
        found = http_cors.of_answer(self.cors, raw) if self.cors is not None else {}
        if self.id is not None:
            TAPS.pop(self.id, None)
            found["X-Nuclio-Logs"] = _as_json(self.records, self.masked)
        return found


def settle(event: Event, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
    """Answer, or end an answer in parts; ValueError when it cannot be sent."""
    pipe: Any = event._reply
    if pipe is not None:
        stream(event, exchange)
        while pipe.parts and pipe.begun:  # it has ended: whether there is room or not
            exchange.write(pipe.take())
        if pipe.begun:
            if error is None and not pipe.broken:
                exchange.end()
            else:
                exchange.abort()
            pipe.leave()
            return
        pipe.leave()
    if response is None:
        response = Response(body=b"")
        content_type = None
    else:
        content_type = response.content_type
        if response.headers or content_type.startswith("application/cloudevents"):
            from nuclio_edge.sources.http_cloudevents import complete

            complete(response, event)
    headers: dict[str, str] = dict(response.headers)
    if exchange.note is not None:
        _add(headers, exchange.note.headers(exchange.head.raw))
        exchange.note = None
    status = response.status_code
    if status < 200:
        raise ValueError(f"status {status} is no answer")
    if status == 503 and not any(name.lower() == "retry-after" for name in headers):
        headers["Retry-After"] = "1"
    if type(response.body) is not bytes:
        fields(headers, content_type)
        from nuclio_edge.functions.streams import pull_on_loop

        pull_on_loop(event, response, headers, lambda: stream(event, exchange))
        return
    exchange.answer(status, content_type, response.body, headers)


def stream(event: Event, exchange: Exchange) -> None:
    """Send what there is of an answer in parts, as long as the client takes it."""
    pipe: Any = event._reply
    if exchange.connection is None:
        pipe.leave()
        return
    if not pipe.begun:
        if not pipe.parts and not pipe.whole:
            return
        pipe.begun = True
        response: Response = pipe.response
        headers: dict[str, str] = dict(response.headers)
        if exchange.note is not None:
            _add(headers, exchange.note.headers(exchange.head.raw))
            exchange.note = None
        try:
            exchange.begin(response.status_code, response.content_type, headers)
        except ValueError as wrong:
            pipe.begun = False
            pipe.fail(wrong)
            return
        exchange.on_room = lambda: stream(event, exchange)
    room = True
    while pipe.parts and room and exchange.connection is not None:
        room = exchange.write(pipe.take())
    if exchange.connection is None:
        pipe.leave()
    elif room:
        pipe.more()


def options(exchange: Exchange, allow: str, cors: Any, status: int = 204, why: str = "") -> None:
    """Answer without a function: which methods there are, to a browser also who may use them."""
    raw = exchange.head.raw
    headers: dict[str, str] = {"Allow": allow} if allow else {}
    if cors is not None:
        if status == 204 and http_cors.is_preflight(raw):
            headers.update(http_cors.of_preflight(cors, raw, allow))
        else:
            headers.update(http_cors.of_answer(cors, raw))
    exchange.answer(status, "text/plain" if why else None, why.encode(), headers)


def _add(headers: dict[str, str], more: Mapping[str, str]) -> None:
    """Add headers to a handler's own, which win; Vary is joined."""
    have = {name.lower(): name for name in headers}
    for name, value in more.items():
        own = have.get(name.lower())
        if own is None:
            headers[name] = value
        elif name == "Vary" and value not in headers[own]:
            headers[own] += ", " + value


def _as_json(records: list[Any], masked: Callable[[str], str]) -> str:
    """Records as Nuclio's: a JSON array of flat objects, in ASCII, with *** in the place of secrets."""
    import json

    made: list[str] = []
    size = 2
    for at, (ms, level, name, message, pairs, _, _) in enumerate(records):
        flat = {"time": ms, "level": _NAMES.get(level, str(level)), "name": name, "message": message}
        for key, value in zip(pairs[::2], pairs[1::2], strict=False):
            flat.setdefault(str(key), value)
        for key, value in flat.items():
            if isinstance(value, str):
                flat[key] = masked(value)
        try:
            text = json.dumps(flat)
        except (TypeError, ValueError, RecursionError):
            text = json.dumps(port.json_loads(port.json_dumps({key: repr(value) for key, value in flat.items()})))
        text = masked(text)  # what stands deeper in it
        if size + len(text) > MAX_LOGS - 80:
            left = len(records) - at
            made.append(json.dumps({"time": ms, "level": "warning", "message": f"{left} more records left out"}))
            break
        made.append(text)
        size += len(text) + 1
    return "[" + ",".join(made) + "]"
