"""What a handler is given beside the event: the logger, the bindings, and who it is."""

from . import port
from .port import const
from .response import Response

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from typing import Any

    from .event import Event, TriggerInfo
    from .log import Logger


class Revoked(Exception):  # noqa: N818 - it is the context that was
    """Raised by what an abandoned handler still calls: its event has failed by timeout, its effects are refused."""


class UserData:
    """An empty object for whatever init_context wants to keep."""


class Context:
    """The context of one worker of one function: Nuclio's attributes, and what the slides promised beside them.

    The SDK's constructor; the rest is set by whoever makes it. `trigger` is that of the event being handled.
    user_data belongs to this worker alone; bindings and labels are the function's.
    """

    __slots__ = port.slots(
        "Response _event _revoked _running _trigger bindings env function_name function_version labels logger"
        " platform user_data worker_id"
    )

    def __init__(
        self,
        logger: "Logger | Any" = None,
        platform: "Any" = None,
        worker_id: "str | None" = None,
        trigger: "TriggerInfo | None" = None,
        **_more: "Any",
    ) -> None:
        self.logger = logger
        self.platform = platform
        self.worker_id = worker_id
        self.user_data: Any = UserData()
        self.Response = Response
        self.function_name: str | None = None
        self.function_version: str | None = None
        self.labels: dict[str, str] = {}
        self.env: Any = {}
        self.bindings: Any = {}
        self._trigger = trigger
        self._event: Event | None = None  # the event being handled: what a log record is about
        self._revoked = False
        self._running: Any = None  # by what the process knows whose environment and output these are

    @property
    def trigger(self) -> "TriggerInfo | None":
        """Kind and name of the trigger of the event being handled, else what the constructor was given."""
        return self._trigger if self._event is None else self._event.trigger

    @property
    def trigger_name(self) -> "str | None":
        """The trigger's name (the SDK keeps it for old functions)."""
        trigger = self.trigger
        return None if trigger is None else trigger.name

    @property
    def data_binding(self) -> "Any":
        """The bindings, as Nuclio's configuration spells them."""
        return self.bindings

    DataBinding = data_binding  # as the slides spell them

    def check(self) -> None:
        """Raise `Revoked` when the handler that holds this context was abandoned; every binding calls it first."""
        if self._revoked:
            raise Revoked("the handler was abandoned at its timeout; its event has been answered without it")

    def revoke(self) -> None:
        """Refuse whatever is done through this context from now on; callable from any thread."""
        self._revoked = True
