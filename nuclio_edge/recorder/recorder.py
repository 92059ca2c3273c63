"""The flight recorder: the last events of chosen triggers, byte for byte, with what came of each.

    witness.py     stands between a trigger and its runner, and sees events come and end
    recording.py   the file
    this file      what is to be written, and when

Records gather in memory and are written once a second while there are any, on a thread that ends with the write:
nothing waits for the disk, and an idle processor has neither timer nor thread for it. A disk that is full or broken is
said once, what it cost is counted, and it is tried again while events come.

An outcome is a map. Always there: `status`, `attempts`, `version` (number and code of the function's version), `at_ms`
(wall clock). Where there is one: `shed` (why it was not handled), `error` (text), `body` (of one larger than KEPT a map
of its digest and size) with `content_type` and `headers`; `stream` for an answer in parts; `worker`, `waited_us` (in
the inbox, to the first attempt), `ran_us` (of the last), `sent` (what outputs and bindings were given, see witness.py).
"""

from __future__ import annotations

import os
from _thread import allocate_lock, start_new_thread
from collections import deque

from nuclio_edge import __version__
from nuclio_edge.core import msgpack, port

from .recording import EVENT, NAME, OUTCOME, START, TRIMMED, Ring, entry_parts
from .witness import Witness, from_disk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response
    from nuclio_edge.functions.function import Function
    from nuclio_edge.processor import Processor

    from .recording import Parts
    from .witness import Seen

FLUSH_MS = 1_000
RETRY_MS = 10_000  # between two looks whether the disk can be used again
MOST_WAITING = 2 << 20  # bytes that wait for the writer: some 2,000 small events a second; of more the oldest go
RECORD_COST = 300  # bytes of a waiting record beside its own
MOST_OPEN = 20_000  # events whose end is waited for; of the oldest ones no more is known than that they came
CLOSE_S = 2.0
KEPT = 1024  # bytes of a body, or of a text, that are kept; of a longer one its digest
LONG, STRANGE = "~digest", "~repr"  # the key of what is not kept itself: its digest (and `size`), how Python shows it
LONGEST_ERROR = 2000


class Recorder:
    """One processor's; loop thread only, but for `ran` and `note`, which workers call."""

    def __init__(self, processor: Processor) -> None:
        self.loop = processor.loop
        self.logger = processor.logger.get_child("recorder")
        self.path = os.path.join(processor.manifest.device.state_dir, NAME)
        self.recorded = 0  # events
        self.dropped = 0  # events that could not be
        self.trouble = ""
        self.open: dict[str | None, Seen] = {}
        self._patterns: tuple[str, ...] = ()
        self._size = 0
        self._waiting: deque[tuple[int, int, Parts, int]] = deque()
        self._bytes = 0
        self._timer: Any = None
        self._ring: Ring | None = None
        self._writing = allocate_lock()
        self._unsaid = 0
        self._flooded = False
        self._key = 0
        self._closed = False
        self._put(START, 0, (msgpack.pack(_about(processor)),), 0)

    # -- what is to be recorded ---------------------------------------------------------------------------------------

    def configure(self, table: Any) -> None:
        """What `[record]` says from now on, for functions that are imported after this; a file of another size."""
        if self._size != table.max_size:
            self._size = table.max_size
            self._close_ring()
        self._patterns = table.triggers

    def wants(self, spec: Any) -> bool:
        """Whether a trigger is to be recorded."""
        from nuclio_edge.manifest.record import matches

        return any(matches(pattern, spec) for pattern in self._patterns)

    def watch(self, function: Function) -> None:
        """Have those triggers of a function recorded that are to be; when all else is in its place."""
        chosen = [trigger for trigger in function.triggers if self.wants(trigger.spec)]
        if not chosen:
            return
        version = _version(function)
        for trigger in chosen:
            Witness(self, trigger, version)
        function.outputs = tuple(
            self._output(spec, send) for spec, send in zip(function.spec.outputs, function.outputs, strict=True)
        )

    def heard(self, makers: dict[str, Any]) -> dict[str, Any]:
        """The makers of bindings, of which it is noted what is asked of them."""
        from .witness import Heard, stand_in

        return {
            name: lambda context, name=name, make=make: stand_in(Heard, make(context), name, context, self)
            for name, make in makers.items()
        }

    def _output(self, spec: Any, send: Any) -> Any:
        given = [(key, getattr(spec.params, key)) for key in spec.params.__slots__]
        about = {key: value for key, value in given if value not in (None, False)}

        def noted(response: Response, event: Event) -> Any:
            seen = self.seen(event)
            if seen is not None:
                seen.note(spec.to, "", (response.body,), about)
            return send(response, event)

        return noted

    # -- what is recorded ---------------------------------------------------------------------------------------------

    def came(self, trigger: Trigger, seen: Seen) -> None:
        """An event was taken."""
        if seen.key:
            return
        self._key += 1
        seen.key = bytes.fromhex(port.boot) + (self._key & 0xFFFFFFFF).to_bytes(4, "little")
        spec: Any = trigger.spec
        before, body = seen.parts
        flags = 0
        if len(before) + len(body) > self._size // 8 - 1024:
            flags, body = TRIMMED, b""
        parts = entry_parts(seen.key, spec.ledger_id, spec.name, seen.came_ms, (before, body))
        seen.parts = (b"", b"")
        if len(before) > self._size // 8 - 1024:
            self.dropped += 1
            return
        seen.kept = True
        self.recorded += 1
        self._put(EVENT, flags, parts, len(before) + len(body))

    def ended(self, seen: Seen, outcome: dict[str, Any]) -> None:
        """An event has come to its end."""
        if seen.kept:
            packed = msgpack.pack(outcome)
            self._put(OUTCOME, 0, (seen.key, packed), len(packed))

    def remember(self, event_id: str | None, seen: Seen) -> None:
        """Wait for the end of an event."""
        open_ = self.open
        if len(open_) >= MOST_OPEN:
            del open_[next(iter(open_))]
        open_[event_id] = seen

    def seen(self, event: Any) -> Seen | None:
        """What is known of an event that has come to no end; None for one that is not recorded. From any thread.

        One that did not come by its trigger's `submit` is from the disk, where an earlier process had put it perhaps.
        """
        found = self.open.get(event.id)
        trigger = getattr(event, "_trigger", None)
        if found is None and trigger is not None and type(trigger.source) is Witness:
            found = from_disk(event)
            self.remember(event.id, found)
        return found

    # -- on the workers' threads --------------------------------------------------------------------------------------

    def ran(self, context: Context, event: Any, began: int) -> None:
        """A handler was called with an event, or a list of them."""
        ended = port.clock()
        for one in getattr(event, "claimed", (event,)):
            seen = self.open.get(one.id)  # an event that has been given up by now, after its timeout, is not
            if seen is not None:
                seen.ran(context.worker_id, began, ended)

    # -- writing ------------------------------------------------------------------------------------------------------

    def _put(self, kind: int, flags: int, parts: Parts, size: int) -> None:
        waiting = self._waiting
        size += RECORD_COST
        waiting.append((kind, flags, parts, size))
        self._bytes += size
        while self._bytes > MOST_WAITING:
            kind_of_oldest, _, _, size = waiting.popleft()
            self._bytes -= size
            if kind_of_oldest == EVENT:
                self._lost(1)
                if not self._flooded:
                    self._flooded = True
                    self.logger.warn_with("more events come than are recorded; of each second the last ones are")
        if self._timer is None and kind != START:
            self._timer = self.loop.call_later(RETRY_MS if self.trouble else FLUSH_MS, self._flush)

    def _lost(self, count: int) -> None:
        self.recorded -= count
        self.dropped += count
        self._unsaid += count

    def _flush(self) -> None:
        self._timer = None
        if not self._waiting or not self._writing.acquire(False):
            return  # who writes looks again when it is done
        batch = self._take()
        try:
            start_new_thread(self._write, (batch, self._size))
        except RuntimeError as error:  # no thread to be had
            self._writing.release()
            self._written(str(error), batch)

    def _take(self) -> list[tuple[int, int, Parts]]:
        waiting, self._waiting = self._waiting, deque()
        self._bytes = 0
        return [record[:3] for record in waiting]

    def _write(self, batch: list[tuple[int, int, Parts]], size: int) -> None:
        """The thread."""
        trouble = ""
        try:
            if self._ring is None:
                self._ring = Ring(self.path, size)
            self._ring.append(batch)
        except OSError as error:
            trouble = f"{error.strerror or error}"
            self._close_ring(waited=True)
        finally:
            if self._closed:  # nobody waits any more
                self._close_ring(waited=True)
            self._writing.release()
        if not self._closed:
            self.loop.post(lambda: self._written(trouble, batch))

    def _written(self, trouble: str, batch: list[tuple[int, int, Parts]]) -> None:
        if trouble:
            self._lost(sum(kind == EVENT for kind, _, _ in batch))
            if not self.trouble:
                self.logger.error_with("events cannot be recorded", "file", self.path, "error", trouble)
        elif self.trouble or self._unsaid:
            self.logger.info_with("events are recorded again", "not_recorded", self._unsaid)
            self._unsaid = 0
            self._flooded = False
        self.trouble = trouble
        if self._waiting and self._timer is None:
            self._timer = self.loop.call_later(RETRY_MS if trouble else FLUSH_MS, self._flush)

    def _close_ring(self, *, waited: bool = False) -> None:
        """Let go of the file, to be opened anew."""
        if waited or self._writing.acquire(timeout=CLOSE_S):
            ring, self._ring = self._ring, None
            if ring is not None:
                ring.close()
            if not waited:
                self._writing.release()

    def close(self) -> None:
        """Write what waits, for as long as the disk may reasonably take; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._closed = True
        if not self._writing.acquire(timeout=CLOSE_S):
            return  # the disk hangs
        batch = self._take()
        if any(kind != START for kind, _, _ in batch):
            start_new_thread(self._write, (batch, self._size))
            if not self._writing.acquire(timeout=CLOSE_S):
                return
        self._close_ring(waited=True)
        self._writing.release()


def kept(value: Any) -> Any:
    """A value of what was sent or answered, as an outcome has it: a copy, or what stands for a long or strange one."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value)
    if isinstance(value, (bytes, str)) and len(value) > KEPT:
        raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        return {LONG: digest(raw), "size": len(raw)}
    try:
        packed = msgpack.pack(value)
        if len(packed) > KEPT + 5:
            return {LONG: digest(packed), "size": len(packed)}
        return msgpack.unpack(packed) if isinstance(value, (list, tuple, dict)) else value
    except (ValueError, TypeError, RecursionError):
        return {STRANGE: repr(value)[:KEPT]}


def digest(raw: bytes) -> str:
    """16 hex digits that tell contents apart."""
    from nuclio_edge.device import sha256_of

    return sha256_of(raw)[:16]


def _version(function: Function) -> str:
    """Number and code of a function's version: "2 3f5a0c1e"."""
    spec = function.spec
    code = (spec.code or "").encode()
    if spec.code is None:
        try:
            with open(spec.file or "", "rb") as file:
                code = file.read()
        except OSError:
            return function.version
    return f"{function.version} {digest(code)[:8]}"


def _about(processor: Processor) -> dict[str, Any]:
    device = processor.manifest.device
    return {"program": __version__, "device": device.name, "device_id": device.id, "at_ms": port.now_ms()}
