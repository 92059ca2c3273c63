"""What happens in a full inbox whose policy is not to block; imported when one is full for the first time."""

from . import port
from .inbox import GRACE_MS
from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from typing import Any

    from .event import Event
    from .inbox import Trigger


def make_room(trigger: "Trigger", event: "Event") -> int:
    """Shed by the policy: 1 when `event` fits now, 0 when its source shall wait a moment, -1 when it was shed."""
    policy = trigger.when_full
    if policy in ("drop-oldest", "thin"):
        now = port.ticks_ms()
        if trigger._grace < 0:
            trigger._grace = now + GRACE_MS
        if now < trigger._grace:
            return 0
        if policy == "thin" and trigger.box:
            for old in thin(trigger.box):
                trigger.drop(old, policy)
            if trigger.pending < trigger.size:
                return 1
        try:
            trigger.drop(trigger.box.popleft(), policy)
        except IndexError:
            pass  # all that is pending is being worked on
        else:
            return 1
    trigger.turn_away(event, policy)
    return -1


def thin(box: "Any") -> "list[Event]":
    """Take every second event of the busiest address out of the deque `box` and return them, oldest first.

    Workers may take from the other end meanwhile: the queue is emptied and refilled by atomic steps, so that a worker
    finds it empty at worst.
    """
    events: "list[Event]" = []
    try:
        while True:
            events.append(box.popleft())
    except IndexError:
        pass
    counts: "dict[Any, int]" = {}
    for event in events:
        counts[event.path] = counts.get(event.path, 0) + 1
    busiest = None
    most = 0
    for path in counts:
        if counts[path] > most:
            busiest, most = path, counts[path]
    gone: "list[Event]" = []
    drop = True
    for event in events:
        if event.path == busiest:
            if drop:
                gone.append(event)
            else:
                box.append(event)
            drop = not drop
        else:
            box.append(event)
    return gone
