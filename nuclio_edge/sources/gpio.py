"""GPIO: edges of pins as events, outputs for handlers, through the kernel's character device or simulated pins.

The lines of one table are one request to a chip, so that their events come in the kernel's order; a pin that only a
trigger or a handler names is a request of its own, so that a reload disturbs no other pin. A chip that is not there, or
that goes (a USB adapter), and a line that somebody else holds are tried again with growing pauses; each is said once.
"""

from __future__ import annotations

import os
from _thread import RLock

from nuclio_edge.manifest.problems import suggest
from nuclio_edge.sources import gpio_params
from nuclio_edge.sources.gpio_binding import Pins, level_of
from nuclio_edge.sources.gpio_intake import Intake
from nuclio_edge.sources.gpio_kernel import ATTRIBUTES, LINES, KernelChips
from nuclio_edge.sources.gpio_line import AwayError, BusyError, share
from nuclio_edge.sources.gpio_place import Place, place
from nuclio_edge.sources.gpio_request import Line, PwmRequest, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.schema import Values

FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 500, 60_000
FREQUENCY = 1000  # of pwm that says none


class GpioSource:
    """The pins of a board: as `pins` without a table, or those of a table."""

    kind = "gpio"
    replies = False
    acks = False
    PARAMS, TRIGGER, OUTPUT = gpio_params.PARAMS, gpio_params.TRIGGER, gpio_params.OUTPUT

    def __init__(self, name: str, params: Values, host: Any) -> None:
        self.name = name
        self.params = params
        self.host = host
        self.loop = host.loop
        self.state = "closed"
        self.attempts = 0
        self.unsendable = 0  # returned values that were no level
        self.board: Any = None
        self.chips: Any = None  # set by a test, else found by open()
        self.intake = Intake(host.loop, host.log, self._lost, realtime=params.clock == "realtime")
        self._opened = False
        self._declared: list[Any] = []  # requests of the table's lines
        self._alone: dict[Any, Any] = {}  # identity of a pin -> the request that has it alone
        self._lines: dict[str, Line] = {}  # by every name that was used for it
        self._triggers: list[Trigger] = []
        self._making = RLock()  # handlers on threads make requests, too
        self._timer: Any = None
        self._said: set[str] = set()
        self._pulses: dict[str, Any] = {}  # name -> the timer that ends it

    @property
    def received(self) -> int:
        """Edges, by the kernel's numbers."""
        return self.intake.received

    @property
    def routed(self) -> int:
        """Those that became events, or were counted, or belong to a button."""
        return self.intake.routed

    @property
    def unrouted(self) -> int:
        """Those that nobody wants."""
        return self.intake.unrouted

    @property
    def rejected(self) -> dict[str, int]:
        """Those that the kernel dropped, or that came too late."""
        return self.intake.rejected

    # -- the contract -------------------------------------------------------------------------------------------------

    def routes(self, triggers: list[Trigger]) -> None:
        """Wait for the edges that these triggers want; pins whose trigger stays the same are left alone."""
        self._triggers = triggers
        self.intake.reroute(self._requests(), triggers)
        if self._opened:
            with self._making:
                self._route()

    def open(self) -> None:
        """Take the lines; those that are not to be had yet are tried again."""
        if self._opened:
            return
        self._opened = self.intake.receiving = True
        if self.chips is None:
            self._find_board()
        with self._making:
            self._declare()
            self._route()

    def settle(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """Nobody waits for the outcome of an edge."""

    def binding(self, context: Context) -> Pins:
        """What a handler gets as `context.bindings[name]`."""
        return Pins(self, context)

    def send(self, output: Values, response: Response, event: Event) -> None:
        """A returned value drives a pin; one that is no level is counted, and said once."""
        name = output.line if output.line is not None else output.pin
        try:
            body = response.body
            self.set(name, body if isinstance(body, (bytes, str)) else b"".join(body))
        except (LookupError, ValueError, TypeError, OSError) as error:
            self.unsendable += 1
            self._say_once(f"output {name}", "an output could not be driven", "output", name, "reason", str(error))

    def stop_receiving(self) -> None:
        """Take no more edges; handlers still drive outputs."""
        self._cancel_timer()
        self.intake.stop(self._requests())

    def close(self) -> None:
        """Give every line back, outputs with their `shutdown` value."""
        self.stop_receiving()
        for name, timer in list(self._pulses.items()):
            timer.cancel()
            self._end_pulse(name)
        self._opened = False
        with self._making:
            for request in self._requests():
                request.away = "is closed"
                request.close()
            self._declared, self._alone, self._lines = [], {}, {}
        if self.chips is not None and self.board is not None:
            self._leave_board()
        self._set_state("closed")

    # -- lines --------------------------------------------------------------------------------------------------------

    def _find_board(self) -> None:
        from nuclio_edge import board

        name = self.host.device.board
        if name == "sim":
            from nuclio_edge import sim

            self.chips = sim.attach(self.host)
            self.board = self.chips.facts
        else:
            self.board = board.load(name)
            self.chips = KernelChips()

    def _leave_board(self) -> None:
        if self.board.id == "sim":
            from nuclio_edge import sim

            sim.detach(self.host)
        self.board = self.chips = None

    def _place(self, pin: str) -> Place:
        return place(pin, self.board, self.params.chip)

    def _declare(self) -> None:
        """Make the requests of the table: one for the inputs of a chip, one for its outputs."""
        groups: dict[Any, list[Line]] = {}
        for name, about in self.params.lines.items():
            where = self._place(about.pin)
            line = _declared_line(name, where, about)
            self._lines[name] = self._lines.setdefault(about.pin, line)
            if about.direction == "pwm":
                self._declared.append(PwmRequest(line, self._pwm_facts(where)))
                continue
            # Which chip has a line that only the kernel knows is found out for each by itself.
            alone = line if where.key is None else None
            groups.setdefault((where.key, about.direction, alone), []).append(line)
        for lines in groups.values():
            configs = [line.config(realtime=False) for line in lines]
            for positions in share(configs, ATTRIBUTES, LINES):
                self._declared.append(Request([lines[at] for at in positions]))

    def _pwm_facts(self, where: Place) -> Any:
        pin = self.board.find_pin(where.pin) if self.board is not None else None
        return self.board.pwm.get(pin.name) if pin is not None else None

    def _route(self) -> None:
        """Give every line its triggers; make requests for pins that triggers name; end those of no trigger."""
        wanted: dict[Line, list[Trigger]] = {line: [] for request in self._requests() for line in request.lines}
        by_identity = {line.place.identity(): line for line in wanted}
        fresh = []
        for trigger in self._triggers:
            address: Any = trigger.address
            if address.line is not None:
                line = self._lines[address.line]
            else:
                where = self._place(address.pin)
                found = by_identity.get(where.identity())
                if found is None:
                    found = by_identity[where.identity()] = Line(where.pin, where, "in", {})
                    fresh.append(found)
                line = found
            wanted.setdefault(line, []).append(trigger)
        for line in fresh:
            line.about = _about(wanted[line])
        for identity, request in list(self._alone.items()):
            line = request.lines[0]
            here = wanted[line]
            if not here and not (line.rising or line.falling or line.derived):
                continue  # an output, or an input that handlers look at
            if not here or not request.reads or line.about != _about(here):
                self._end_request(identity, request)
                del wanted[line]
                if here:  # what it is asked for has changed
                    line = Line(line.place.pin, line.place, "in", _about(here))
                    wanted[line] = here
                    fresh.append(line)
        for line in fresh:
            self._alone[line.place.identity()] = Request([line])
            self._lines[line.name] = line
        for line, triggers in wanted.items():
            self.intake.route(line, triggers)
        self._try()

    def _end_request(self, identity: Any, request: Any) -> None:
        self.intake.deaf(request)
        for derived in request.lines[0].derived:
            derived.stop()
        self.intake.discard(request)
        request.away = "is no trigger's any more"
        request.close()
        del self._alone[identity]
        for name in [name for name, line in self._lines.items() if line.request is request]:
            del self._lines[name]

    def _requests(self) -> list[Any]:
        return [*self._declared, *self._alone.values()]

    # -- opening, and opening again -----------------------------------------------------------------------------------

    def _try(self) -> None:
        """Open every request that is not open; come again for those that cannot be."""
        self._cancel_timer()
        with self._making:
            missing = [error for request in self._requests() if (error := self._open_one(request)) is not None]
        if not missing:
            self.attempts = 0
            self._said.clear()
            self._set_state("open")
            return
        self.attempts += 1
        for error in missing:
            if "lost" not in self._said or isinstance(error, BusyError):
                self._say_once(str(error), "a GPIO line is not to be had, trying again", "reason", str(error))
        self._set_state("connecting")
        longest = min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS << min(self.attempts - 1, 16))
        pause = longest // 2 + int.from_bytes(os.urandom(2), "big") * longest // (2 << 16)  # `random` costs 300 KiB
        self._timer = self.loop.call_later(pause, self._try)

    def _open_one(self, request: Any) -> OSError | None:
        """Open a request unless it is; what stands in the way."""
        if request.handle is None:
            try:
                request.open(self.chips, f"nuclio-edge {self.name}", self.params.clock == "realtime")
            except OSError as error:
                request.away = str(error)
                return error
        if hasattr(request.handle, "fd") and not request.kept:
            self.intake.listen(request)
        return None

    def _lost(self, request: Any, why: str) -> None:
        """A chip went while it was used: its lines are tried for again."""
        self.intake.lost(request)
        request.close(leave=True)
        request.away = why
        if not self._opened or not self.intake.receiving:
            return
        names = ", ".join(line.name for line in request.lines)
        self._say_once("lost", "GPIO lines are gone, trying again", "lines", names, "reason", why)
        self._set_state("connecting")
        if self._timer is None:
            self._timer = self.loop.call_later(FIRST_PAUSE_MS, self._try)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _say_once(self, key: str, message: str, *pairs: Any) -> None:
        if key not in self._said and len(self._said) < 64:
            self._said.add(key)
            self.host.log.warn_with(message, *pairs)

    def _set_state(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.host.state_changed(self)

    # -- for handlers, on any thread ----------------------------------------------------------------------------------

    def set(self, name: str, value: Any) -> None:
        """Drive a line; see gpio_binding.Pins."""
        level = level_of(value)
        line = self._output(name)
        if line.direction == "out" and level not in (0, 1):
            raise ValueError(f'{level:g} is no level of {name}: 0 or 1; direction = "pwm" takes what is between')
        line.request.set(line, level)

    def toggle(self, name: str) -> int:
        """Turn an output over."""
        line = self._output(name)
        with self._making:  # of two handlers at a time each has its turn
            level = 0 if line.request.get(line) else 1
            line.request.set(line, level)
        return level

    def get(self, name: str) -> float:
        """A line's value."""
        line = self._lines.get(name) or self._line(name, "in")
        value: float = line.request.get(line)
        return value

    def pulse(self, name: str, ms: int) -> None:
        """Set a line, and clear it later, on the loop; another pulse meanwhile begins the time anew."""
        self.set(name, 1)
        self.loop.post(lambda: self._time_pulse(name, ms))

    def _time_pulse(self, name: str, ms: int) -> None:
        if name in self._pulses:
            self._pulses[name].cancel()
        if self._opened:
            self._pulses[name] = self.loop.call_later(ms, lambda: self._end_pulse(name))

    def _end_pulse(self, name: str) -> None:
        del self._pulses[name]
        try:
            self.set(name, 0)
        except OSError as error:
            self._say_once(f"pulse {name}", "a pulse could not be ended", "line", name, "reason", str(error))

    def _output(self, name: str) -> Line:
        line = self._lines.get(name) or self._line(name, "out")
        if line.direction == "in":
            with self._making:
                request = line.request
                if request in self._declared or line.rising or line.falling or line.derived:
                    raise ValueError(f"{name} is an input")
                # Only looked at by handlers up to now. Unregistered on this thread: epoll takes that.
                self._end_request(line.place.identity(), request)
                line = self._line(name, "out")
        return line

    def _line(self, name: str, direction: str) -> Line:
        """The line of a pin by a spelling not used before; one that the manifest does not declare is taken now."""
        with self._making:
            if not self._opened:
                raise AwayError(f"{name}: source {self.name} is closed")
            try:
                where = self._place(name)
            except LookupError as error:
                raise KeyError(str(error)) from None
            for request in self._requests():
                for line in request.lines:
                    if line.place.identity() == where.identity():
                        self._lines[name] = line
                        found: Line = line
                        return found
            line = Line(name, where, direction, {"edge": None} if direction == "in" else {})
            request = Request([line])
            try:
                request.open(self.chips, f"nuclio-edge {self.name}", False)
            except AwayError as error:
                hint = suggest(name, self.params.lines)
                raise AwayError(f"{error}; {hint}" if hint else str(error)) from None
            self._alone[where.identity()] = request
            self._lines[name] = line
        self.loop.post(lambda: self.intake.listen(request))  # to be told when its chip goes
        return line


def _declared_line(name: str, where: Place, about: Any) -> Line:
    config: dict[str, Any] = {"active_low": bool(about.active_low), "bias": about.bias}
    if about.direction == "in":
        config.update(edge=about.edge or "both", debounce_us=(about.debounce or 0) * 1000)
    else:
        config["drive"] = about.drive
    return Line(
        name, where, about.direction, config,
        value=about.initial or 0, shutdown=about.shutdown, frequency=about.frequency or FREQUENCY,
    )  # fmt: skip


def _about(triggers: list[Trigger]) -> dict[str, Any]:
    """How a pin is requested for its triggers: the edges of them all."""
    edges = set()
    about: dict[str, Any] = {"active_low": False, "bias": None, "edge": None, "debounce_us": 0}
    for trigger in triggers:
        address: Any = trigger.address
        if address.press is not None:
            edges.add("both")
        else:
            edges.add(address.edge or ("rising" if address.count is not None else "both"))
        about["active_low"] = about["active_low"] or bool(address.active_low)
        about["bias"] = about["bias"] or address.bias
        debounce = address.debounce
        if debounce is None:
            debounce = gpio_params.PRESS_DEBOUNCE_MS if address.press is not None else 0
        about["debounce_us"] = max(about["debounce_us"], debounce * 1000)
    if edges:
        about["edge"] = edges.pop() if len(edges) == 1 else "both"
    return about
