"""The logger: levels, printf, ordered pairs, bound values, children, flush."""

from nuclio_edge.core.context import Context
from nuclio_edge.core.event import Event
from nuclio_edge.core.log import WARNING, Logger, level_number


def _logger(level="debug", context=None):
    records = []
    return Logger(level, "f", records.append, context), records


def _pairs(record):
    flat = record[4]
    return [(flat[at], flat[at + 1]) for at in range(0, len(flat), 2)]


def test_a_level_is_enforced_before_anything_is_built():
    class Costly:
        def __str__(self):
            raise AssertionError("built")

    logger, records = _logger("error")
    logger.debug(Costly())
    logger.info_with(Costly(), "a", Costly())
    logger.warn("%s", Costly())
    assert records == []
    logger.error("x")
    assert len(records) == 1


def test_every_level_has_a_plain_and_a_structured_method():
    logger, records = _logger()
    for name in ("debug", "info", "warn", "warning", "error"):
        getattr(logger, name)("m")
        getattr(logger, name + "_with")("m", "k", 1)
    assert [record[1] for record in records] == [10, 10, 20, 20, 30, 30, 30, 30, 40, 40]
    assert [record[1] for record in records][4:8] == [WARNING] * 4


def test_levels_are_named_or_numbered():
    assert [level_number(level) for level in ("debug", "INFO", "warn", "Warning", "error", 35)] == [
        10,
        20,
        30,
        30,
        40,
        35,
    ]


def test_plain_methods_take_printf_arguments():
    logger, records = _logger()
    logger.info("%s is %d", "a", 1)
    logger.info("100%")
    logger.info("%d", "no number")
    logger.info(3)
    logger.info("%(a)s", {"a": "named"})
    assert [record[3] for record in records][:2] == ["a is 1", "100%"]
    assert "no number" in records[2][3] and records[3][3] == "3" and records[4][3] == "named"


def test_pairs_keep_their_order_and_come_by_position_or_by_name():
    logger, records = _logger()
    logger.info_with("m", "z", 1, "a", 2, "m", 3)
    logger.info_with("m", "z", 1, a=2)
    assert _pairs(records[0]) == [("z", 1), ("a", 2), ("m", 3)]
    assert _pairs(records[1]) == [("z", 1), ("a", 2)]


def test_printf_arguments_of_a_structured_call_are_the_sdks():
    logger, records = _logger()
    logger.info_with("%s of %d", "a", 2, k=3)
    logger.info_with("50% done", "key", "value")
    assert records[0][3] == "a of 2" and _pairs(records[0]) == [("k", 3)]
    assert records[1][3] == "50% done" and _pairs(records[1]) == [("key", "value")]


def test_a_key_without_a_value_is_not_lost():
    logger, records = _logger()
    logger.info_with("m", "k", 1, "alone")
    assert _pairs(records[0]) == [("k", 1), ("args", "alone")]


def test_bound_values_are_in_every_record_and_a_calls_own_wins():
    logger, records = _logger()
    logger.bind(worker=1)
    logger.info("m")
    logger.info_with("m", "worker", 2)
    logger.info_with("m", worker=3)
    logger.info_with("m", "k", 4)
    assert [_pairs(record) for record in records] == [
        [("worker", 1)],
        [("worker", 2)],
        [("worker", 3)],
        [("worker", 1), ("k", 4)],
    ]


def test_a_child_has_its_parents_name_and_values_and_gives_none_back():
    logger, records = _logger("info")
    logger.bind(a=1)
    child = logger.get_child("part")
    child.bind(b=2)
    child.debug("below the level")
    child.get_child("of").info("m")
    logger.info("m")
    assert [record[2] for record in records] == ["f.part.of", "f"]
    assert sorted(_pairs(records[0])) == [("a", 1), ("b", 2)] and _pairs(records[1]) == [("a", 1)]


def test_a_record_says_which_function_and_event_it_is_about():
    context = Context()
    context.function_name = "door"
    logger, records = _logger(context=context)
    logger.info("before")
    context._event = Event(_id="e-1")
    logger.get_child("c").info("during")
    assert [record[5:] for record in records] == [("door", None), ("door", "e-1")]
    assert records[0][0] > 1_600_000_000_000


def test_an_exception_brings_its_trace():
    logger, records = _logger()
    try:
        {}["missing"]
    except KeyError as error:
        logger.exception("failed %d", 1, exc=error)
    named = dict(_pairs(records[0]))
    assert records[0][1] == 40 and records[0][3] == "failed 1"
    assert "KeyError" in named["exc"] and "KeyError" in named["traceback"]


def test_an_exception_that_is_none_is_an_error():
    logger, records = _logger()
    logger.exception("no exception")
    assert (records[0][1], records[0][3]) == (40, "no exception")


def test_flush_reaches_where_records_go():
    class Sink:
        def __init__(self):
            self.flushed = 0

        def __call__(self, record):
            pass

        def flush(self):
            self.flushed += 1

    sink = Sink()
    Logger("info", "f", sink).flush()
    assert sink.flushed == 1
    Logger("info", "f", lambda record: None).flush()
    Logger("info").flush()


def test_a_logger_without_an_emit_is_silent():
    Logger("info").info_with("m", "k", 1)
