"""The context: Nuclio's attributes, the slides' names beside them, and the end of an abandoned handler."""

from nuclio_edge.core.context import Context, Revoked
from nuclio_edge.core.event import Event, TriggerInfo
from nuclio_edge.core.response import Response


def test_the_sdks_constructor_and_attributes():
    logger, platform = object(), object()
    context = Context(logger, platform, "3", TriggerInfo("mqtt", "readings"))
    assert context.logger is logger and context.platform is platform and context.worker_id == "3"
    assert (context.trigger.kind, context.trigger.name, context.trigger_name) == ("mqtt", "readings", "readings")
    assert context.Response is Response


def test_user_data_is_a_name_space_of_its_own():
    one, other = Context(), Context()
    one.user_data.last = 1
    assert one.user_data.last == 1 and not hasattr(other.user_data, "last")


def test_bindings_have_three_spellings():
    context = Context()
    context.bindings = {"db0": 1}
    assert context.bindings["db0"] == context.data_binding["db0"] == context.DataBinding["db0"] == 1


def test_the_trigger_is_that_of_the_event_being_handled():
    context = Context()
    assert context.trigger is None and context.trigger_name is None
    context._event = Event(trigger=TriggerInfo("http", "web"))
    assert (context.trigger.kind, context.trigger_name) == ("http", "web")


def test_a_revoked_context_refuses():
    context = Context()
    context.check()
    context.revoke()
    try:
        context.check()
    except Revoked as error:
        assert "abandoned" in str(error)
    else:
        raise AssertionError("it was let through")
