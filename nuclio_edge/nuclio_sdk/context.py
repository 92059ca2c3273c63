"""The SDK's Context, for functions' own tests."""

from __future__ import annotations

from nuclio_edge.core.context import Context as _Context
from nuclio_edge.nuclio_sdk.platform import Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.event import TriggerInfo


class Context(_Context):
    """A context made by hand: as the runtime's, with a platform of kind "test" unless one is given."""

    def __init__(
        self,
        logger: Any = None,
        platform: Any = None,
        worker_id: str | None = None,
        trigger: TriggerInfo | None = None,
        logger_per_async_task: bool = False,
    ) -> None:
        super().__init__(logger, platform or Platform("test"), worker_id, trigger)

    @property
    def trigger(self) -> TriggerInfo | None:
        """What was given, or set since."""
        return self._trigger

    @trigger.setter
    def trigger(self, trigger: TriggerInfo | None) -> None:
        self._trigger = trigger
