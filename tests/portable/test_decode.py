"""Fields by content type, and by looks where there is none; the same on every interpreter."""

from nuclio_edge.core import msgpack
from nuclio_edge.core.decode import MAX_BYTES, fields
from nuclio_edge.core.decode_text import MAX_FIELDS

FORM = "application/x-www-form-urlencoded"


def _refused(content_type, raw):
    try:
        found = fields(content_type, raw)
    except ValueError as error:
        return str(error)
    raise AssertionError("it was taken for %r" % (found,))


def test_an_object_is_its_fields():
    for kind in (
        "application/json",
        "APPLICATION/JSON; charset=utf-8",
        "text/json",
        "application/senml+json",
        "",
        None,
    ):
        assert fields(kind, b' {"a": 1, "b": [true, null]}') == {"a": 1, "b": [True, None]}, kind


def test_any_other_json_is_the_field_value():
    assert fields("application/json", b"[1,2]") == {"value": [1, 2]}
    assert fields("application/json", b"3.5") == {"value": 3.5}
    assert fields("application/json", b'"on"') == {"value": "on"}
    assert fields("application/json", b"null") == {"value": None}


def test_the_charset_counts():
    assert fields("application/json; charset=ISO-8859-1", b'{"a":"\xe9"}') == {"a": "é"}
    assert fields('application/json; charset="utf-8"', b'{"a":"\xc3\xa9"}') == {"a": "é"}
    assert fields("application/json", b'\xef\xbb\xbf{"a":1}') == {"a": 1}


def test_json_that_is_none_is_refused():
    assert "application/json" in _refused("application/json", b"nope")
    _refused("application/json", b"\xff\xfe")
    assert "looks like" in _refused(
        None, b"{nope}"
    )  # how strict commas are is the interpreter's: MicroPython lets {"a":} pass


def test_an_empty_body_has_no_fields():
    for kind in (None, "application/json", "application/msgpack", FORM, "text/csv", "image/png"):
        assert fields(kind, b"") == {}


def test_without_a_type_numbers_objects_and_arrays_are_known_by_their_looks():
    assert fields(None, b"21.5") == {"value": 21.5}
    assert fields("text/plain", b" -3\r\n") == {"value": -3}
    assert fields("application/octet-stream", b"1e3") == {"value": 1000.0}
    assert fields("", b"[1]") == {"value": [1]}


def test_other_text_says_nothing():
    for raw in (
        b"ON",
        b"on fire",
        b"1_000",
        b"0x10",
        b"--1",
        b"1.2.3",
        b"nan",
        b"inf",
        b"1e999",
        b"-",
        b"\xff\x00",
        b"   ",
    ):
        assert fields(None, raw) == {}, raw


def test_a_type_that_is_not_listed_says_nothing():
    assert fields("image/png", b'{"a":1}') == {} and fields("application/xml", b"<a/>") == {}


def test_a_form_has_its_last_values():
    assert fields(FORM, b"a=1&b=x+y%20z&a=2&c=%E2%82%AC&e&=x&d=%zz%") == {
        "a": "2",
        "b": "x y z",
        "c": "€",
        "e": "",
        "d": "%zz%",
    }
    assert fields(FORM + "; charset=utf-8", b"k=a%3Db%26c") == {"k": "a=b&c"}


def test_a_form_that_is_json_is_what_curl_sends():
    assert fields(FORM, b'{"a": "b=c"}') == {"a": "b=c"}


def test_a_form_that_is_no_text_is_refused():
    _refused(FORM, b"a=%ff")


def test_a_csv_line_has_numbered_fields():
    assert fields("text/csv", b"21.5, on ,\r\nsecond") == {"0": "21.5", "1": "on", "2": ""}
    assert fields("text/csv", b'"a ""q"" b","x,y","1\n2"') == {"0": 'a "q" b', "1": "x,y", "2": "1\n2"}


def test_a_csv_header_names_the_next_line():
    assert fields("text/csv; header=present", b"t,h\r\n21,40\r\n") == {"t": "21", "h": "40"}
    assert fields("text/csv; header=present", b"t,h\n21") == {"t": "21", "h": ""}


def test_broken_csv_is_refused():
    _refused("text/csv", b'"open')
    _refused("text/csv", b'"a"b,c')
    _refused("text/csv", b"," * (MAX_FIELDS + 1))


def test_a_body_that_is_too_long_is_refused():
    class Pretends:  # a real one would not fit the heap of the test
        def __len__(self):
            return MAX_BYTES + 1

    assert "too long" in _refused("application/json", Pretends())


def _each_way(test):
    """Run with the library, where there is one, and with our own."""
    kept = msgpack._library
    try:
        for library in (kept, None):
            msgpack._library = library
            test()
    finally:
        msgpack._library = kept


VALUES: "list[object]" = [
    None,
    True,
    False,
    0,
    1,
    -1,
    -32,
    -33,
    127,
    128,
    255,
    256,
    65535,
    65536,
    -128,
    -129,
    -32768,
    -32769,
]
VALUES += [4294967295, 4294967296, -2147483648, -2147483649, 18446744073709551615, -9223372036854775808, 1.5]
VALUES += ["", "é", "x" * 31, "x" * 32, "x" * 300, b"", b"z" * 300, [], [1] * 15, [1] * 16, {}, {"a": [{"b": None}]}]


def test_msgpack_goes_there_and_back():
    def test():
        for value in VALUES:
            assert msgpack.unpack(msgpack.pack(value)) == value, value
        many = {str(at): at for at in range(20)}
        assert msgpack.unpack(msgpack.pack(many)) == many

    _each_way(test)


def test_msgpack_of_both_kinds_is_the_same():
    packed = []
    _each_way(lambda: packed.append([msgpack.pack(value) for value in VALUES]))
    assert packed[0] == packed[1]


def test_msgpack_is_fields():
    def test():
        for kind in ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack"):
            assert fields(kind, b"\x82\xa1a\x01\x02\xc0") == {"a": 1, "2": None}
        assert fields("application/msgpack", b"\x93\x01\x02\x03") == {"value": [1, 2, 3]}
        assert fields("application/msgpack", b"\x81\xc4\x01k\x01") == {"k": 1}

    _each_way(test)


def test_msgpack_extensions_are_bytes_and_its_times_nanoseconds():
    def test():
        assert msgpack.unpack(b"\xd4\x05x") == b"x"
        assert msgpack.unpack(b"\xc7\x02\x05xy") == b"xy"
        assert msgpack.unpack(b"\xd6\xff\x00\x00\x00\x01") == 1_000_000_000
        assert msgpack.unpack(b"\xd7\xff\x00\x00\x00\x04\x00\x00\x00\x02") == 2_000_000_001
        assert msgpack.unpack(b"\xc7\x0c\xff\x00\x00\x00\x05" + b"\xff" * 8) == -999_999_995

    _each_way(test)


def test_msgpack_that_is_none_is_refused():
    def test():
        for raw in (
            b"\xc1",
            b"\xd7\xff" + b"\xff" * 8,  # more than a second of nanoseconds
            b"\xc7\x0c\xff\x3b\x9a\xca\x00" + b"\0" * 8,
            b"\x81",
            b"\x81\xa1a",
            b"\xa5abc",
            b"\xdd\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
            b"\x01\x02",
        ):
            assert "msgpack" in _refused("application/msgpack", raw), raw
        _refused("application/msgpack", b"\xa1\xff")
        _refused("application/msgpack", b"\x81\x90\x01")  # a list as a key
        _refused("application/msgpack", b"\x91" * 2000)

    _each_way(test)


def test_what_msgpack_has_no_form_for_is_refused():
    def test():
        for value in (object(), 1 << 64, [object()]):
            try:
                msgpack.pack(value)
            except ValueError:
                continue
            raise AssertionError(value)

    _each_way(test)
