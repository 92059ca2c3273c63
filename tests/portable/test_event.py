"""What an event says of what it has not, and what its accessors make of its fields."""

from nuclio_edge.core.event import Event


def _error_of(call):
    try:
        call()
    except (AttributeError, ValueError) as error:
        return error
    raise AssertionError("nothing was raised")


class _Kind(Event):
    _lazy = Event._lazy


def test_an_attribute_that_an_event_has_not_is_named_and_nothing_else_is_told():
    for event in (Event(), _Kind()):
        error = _error_of(lambda event=event: event.retain)
        assert isinstance(error, AttributeError)
        assert "no attribute 'retain'" in str(error)
        assert getattr(error, "__context__", None) is None  # "During handling of the above exception …"
