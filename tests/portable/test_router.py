"""The router: MQTT filters to triggers, by the rules of MQTT 5, section 4.7."""

from nuclio_edge.core.router import TopicRouter, inner_filter


class Target:
    def __init__(self, name, function=None):
        self.name = name
        self.function = function or name


def _match(filters, topic):
    router = TopicRouter()
    for one in filters:
        router.add(one, Target(one))
    return [target.name for target in router.match(topic)]


def test_plus_stands_for_one_level_and_hash_for_any_number_with_none():
    assert _match(["a/+/c"], b"a/b/c") == ["a/+/c"]
    assert _match(["a/+/c"], b"a/b/d/c") == []
    assert _match(["a/#"], b"a") == ["a/#"]
    assert _match(["a/#"], b"a/b/c") == ["a/#"]
    assert _match(["a/#"], b"ab") == []
    assert _match(["#"], b"a/b") == ["#"]
    assert _match(["+"], b"a") == ["+"]
    assert _match(["+/+"], b"/a") == ["+/+"]
    assert _match(["/+"], b"/a") == ["/+"]
    assert _match(["+"], b"/a") == []
    assert _match(["a/+"], b"a/") == ["a/+"]


def test_wildcards_at_the_start_do_not_match_topics_of_the_broker_itself():
    assert _match(["#", "+/x", "$SYS/#", "$SYS/+"], b"$SYS/x") == ["$SYS/#", "$SYS/+"]
    assert _match(["a/#"], b"a/$x") == ["a/#"]


def test_triggers_come_in_the_order_in_which_they_were_added():
    assert _match(["#", "a/+", "a/b", "+/b"], b"a/b") == ["#", "a/+", "a/b", "+/b"]


def test_a_function_is_there_once_with_its_first_matching_trigger():
    router = TopicRouter()
    router.add("a/#", Target("first", "f"))
    router.add("a/b", Target("second", "f"))
    router.add("+/b", Target("other", "g"))
    assert [target.name for target in router.match(b"a/b")] == ["first", "other"]


def test_a_shared_subscription_routes_by_its_inner_filter():
    assert inner_filter("$share/group/a/+") == b"a/+"
    assert _match(["$share/g/a/+"], b"a/b") == ["$share/g/a/+"]


def test_a_filter_added_later_is_seen_by_topics_that_were_matched_before():
    router = TopicRouter()
    assert router.match(b"a") == ()
    router.add("a", Target("a"))
    assert [target.name for target in router.match(b"a")] == ["a"]


def test_what_is_kept_of_answers_is_bounded():
    router = TopicRouter(16)
    router.add("#", Target("all"))
    for number in range(100):
        router.match(b"t/%d" % number)
    assert len(router.known) <= 16


def test_a_topic_that_holds_a_wildcard_character_matches_it_as_text():
    assert _match(["+", "a"], b"+") == ["+"]
