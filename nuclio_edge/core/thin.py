"""What the policy `thin` takes out of a full inbox: every second event of the busiest address, order kept."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .event import Event


def thin(box: "Any") -> "list[Event]":
    """Take the events out of the deque `box` and return them, oldest first.

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
