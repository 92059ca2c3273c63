"""What a returned value becomes: Nuclio's table, with the design's answers for None, lists, headers and exceptions."""

from nuclio_edge.core.encode import Unencodable, to_response
from nuclio_edge.core.failure import error_response
from nuclio_edge.core.port import json_loads
from nuclio_edge.core.response import ExceptionWithResponse, Response


def _said(value):
    answer = to_response(value)
    return answer.body, answer.content_type, answer.status_code


class Told:
    def __log__(self):
        return {"told": [1]}


class Shown:
    def __repr__(self):
        return "<shown>"


class Spoken:
    def __repr__(self):
        raise KeyError("no")

    def __str__(self):
        return "spoken"


class Hidden:
    def __repr__(self):
        raise KeyError("no")


def test_text_and_bytes_go_as_they_are():
    assert _said("é") == ("é".encode(), "text/plain", 200)
    assert _said(b"\xff") == (b"\xff", "text/plain", 200)
    assert _said("") == (b"", "text/plain", 200)


def test_none_is_an_empty_body():
    assert _said(None) == (b"", "text/plain", 200)
    assert _said((204, None)) == (b"", "text/plain", 204)
    assert _said(Response(status_code=202)) == (b"", "text/plain", 202)


def test_a_pair_is_status_and_body():
    assert _said((201, "made")) == (b"made", "text/plain", 201)
    assert _said((201, {"a": 1})) == (b'{"a":1}', "application/json", 201)
    assert _said((200, [1, None, True])) == (b"[1,null,true]", "application/json", 200)
    assert _said(("201", "x")) == (b"x", "text/plain", 201)
    assert _said((200, b"abc")) == (b"\"b'abc'\"", "application/json", 200)  # the SDK's own answer


def test_a_dict_and_a_list_are_one_json_text():
    assert _said({"a": [1, "é"]}) == ('{"a":[1,"é"]}'.encode(), "application/json", 200)
    assert _said([]) == (b"[]", "application/json", 200)
    assert _said([Response(body="x"), 1])[1] == "application/json"


def test_everything_else_is_its_text():
    assert _said(3) == (b"3", "text/plain", 200)
    assert _said(True) == (b"True", "text/plain", 200)
    assert _said(2.5) == (b"2.5", "text/plain", 200)
    assert _said((1, 2, 3)) == (b"(1, 2, 3)", "text/plain", 200)
    assert _said(bytearray(b"x")) == (b"bytearray(b'x')", "text/plain", 200)
    assert _said({7}) == (b"{7}", "text/plain", 200)


def test_what_json_has_no_number_for_becomes_a_string():
    inf = float("inf")
    assert json_loads(_said({"a": float("nan"), "b": [inf, -inf]})[0]) == {"a": "NaN", "b": ["Infinity", "-Infinity"]}


def test_what_json_does_not_know_becomes_what_it_says_of_itself():
    said = json_loads(_said({"a": Told(), "b": Shown(), "c": b"x", "d": [Hidden()], "e": Spoken()})[0])
    assert said["a"] == {"told": [1]} and said["b"] == "<shown>" and said["c"] == "b'x'" and said["e"] == "spoken"
    assert said["d"][0].startswith("Unable to serialize object: ")


def test_keys_that_are_scalars_become_text():
    assert json_loads(_said({1: "a", None: "b", 1.5: "c", float("nan"): "d"})[0]) == {
        "1": "a",
        "null": "b",
        "1.5": "c",
        "NaN": "d",
    }


def test_a_response_keeps_status_type_and_event_id():
    answer = to_response(Response(body="x", content_type="text/html", status_code=404, event_id="e"))
    assert (answer.body, answer.content_type, answer.status_code, answer.event_id) == (b"x", "text/html", 404, "e")


def test_a_response_with_a_dict_is_json_whatever_type_it_names():
    assert _said(Response(body={"a": 1}, content_type="text/html")) == (b'{"a":1}', "application/json", 200)
    assert _said(Response(body=["a"], content_type="application/json")) == (b'["a"]', "application/json", 200)
    assert _said(Response(body=["a"])) == (b"['a']", "text/plain", 200)
    assert _said(Response(body=memoryview(b"x"))) == (b"x", "text/plain", 200)


def test_headers_of_any_scalar_are_kept_as_text_and_none_is_left_out():
    headers = to_response(Response(headers={"n": 1, "t": True, "f": False, "s": "x", "no": None})).headers
    assert headers == {"n": "1", "t": "true", "f": "false", "s": "x"}


def test_a_header_cannot_smuggle_another_one_in():
    for headers in ({"a": "x\r\nb: y"}, {"a\n": "x"}, {"a": "\0"}):
        assert _said(Response(headers=headers))[2] == 500


def test_the_handlers_own_response_is_not_changed():
    own = Response(headers={"n": 1}, body={"a": 1})
    assert to_response(own).body == to_response(own).body == b'{"a":1}'
    assert own.headers == {"n": 1} and own.body == {"a": 1} and own.content_type == "text/plain"


def test_no_ack_is_a_header():
    own = Response()
    own.ensure_no_ack()
    assert to_response(own).headers == {"x-nuclio-stream-no-ack": "true"}


def test_an_exception_with_response_answers_what_it_brings():
    try:
        raise ExceptionWithResponse(409, {"why": "busy"})
    except OSError as error:
        assert _said(error) == (b'{"why":"busy"}', "application/json", 409)
    assert _said(ExceptionWithResponse(404, "none", "text/html")) == (b"none", "text/html", 404)
    assert _said(ExceptionWithResponse(410)) == (b"", "text/plain", 410)


def test_a_generator_stays_one():
    def pieces():
        yield b"a"

    made = pieces()
    assert to_response(made).body is made
    made = pieces()
    answer = to_response(Response(body=made, content_type="text/event-stream"))
    assert answer.body is made and answer.content_type == "text/event-stream"


def test_what_cannot_be_encoded_is_a_500_that_names_the_place():
    cycle = {}
    cycle["a"] = [cycle]
    for value, words in (
        ({"a": [{(1, 2): 3}]}, b"value.a[0] has a key of type tuple"),
        (cycle, b""),  # "contains itself", unless a small stack ended first
        ((99, "x"), b"status 99"),
        ((600, "x"), b"status 600"),
        ((None, "x"), b"status of type NoneType"),
        (("no", "x"), b"status of type str"),
        (Response(status_code="no"), b"status of type str"),
        (Response(headers=[1]), b""),
    ):
        answer = to_response(value)
        assert isinstance(answer, Unencodable) and answer.status_code == 500, value
        assert words in answer.body, answer.body


def test_an_object_that_cannot_show_itself_does_not_raise():
    assert _said(Hidden())[2] == 500
    assert _said((Hidden(), "x"))[2] == 500


class Leaves:
    def __str__(self):
        raise SystemExit(3)

    __repr__ = __str__


def test_not_even_an_object_that_wants_to_exit_ends_more_than_its_answer():
    for value in (Leaves(), {"a": Leaves()}, Response(body=Leaves()), Response(body=b"x", content_type=5)):
        assert to_response(value).status_code == 500
    for made in (Exception(Leaves()), SystemExit(Leaves())):
        assert error_response(made).status_code == 500
