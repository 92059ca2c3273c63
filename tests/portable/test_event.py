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


def test_a_field_is_an_int_when_nothing_of_it_would_be_lost():
    event = Event(fields={"int": 3, "whole": 1.0, "text": "12", "true": True})
    assert [event.get_field_int(name) for name in ("int", "whole", "text", "true")] == [3, 1, 12, 1]
    assert [type(event.get_field_int(name)) for name in ("int", "whole", "text")] == [int, int, int]


def test_a_field_that_is_no_int_is_shown_and_nothing_else_is_told():
    inf = float("inf")
    event = Event(fields={"part": 1.5, "inf": inf, "nan": inf - inf, "text": "1.5", "list": [1], "none": None})
    for name in ("part", "inf", "nan", "text", "list", "none", "absent"):
        error = _error_of(lambda name=name: event.get_field_int(name))
        assert isinstance(error, ValueError)
        assert str(error) == "field '" + name + "' is not an integer: " + repr(event.fields.get(name))
        assert getattr(error, "__context__", None) is None
