import enum
import math
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest

from cmf.errors import CorruptError, UsageError
from cmf.model import encoding
from cmf.model.encoding import DEPTH_MAX, INTEGER_MAX, RECORD_BYTES_MAX, decode, encode, from_value, number_of, to_value


def nested(levels: int, *, inner: bytes = b"1") -> bytes:
    """Return an object of this many levels, of lists below the first."""
    return b'{"a":' + b"[" * (levels - 1) + inner + b"]" * (levels - 1) + b"}"


REFUSED = {
    "nothing": b"",
    "not JSON": b"{",
    "a list": b"[1]",
    "a number": b"1",
    "null": b"null",
    "white space before": b' {"a":1}',
    "white space after": b'{"a":1}\n',
    "white space inside": b'{"a": 1}',
    "a tab inside": b'{"a":[1,\t2]}',
    "trailing bytes": b'{"a":1}x',
    "a second object": b'{"a":1}{"a":1}',
    "a byte order mark": b'\xef\xbb\xbf{"a":1}',
    "a comma too many": b'{"a":1,}',
    "a comment": b'{"a":1/**/}',
    "single quotes": b"{'a':1}",
    "a duplicate key": b'{"a":1,"a":1}',
    "a duplicate key, once escaped": b'{"a":1,"\\u0061":1}',
    "a duplicate key deep inside": b'{"a":[{"b":{"c":1,"c":2}}]}',
    "unsorted keys": b'{"b":1,"a":1}',
    "unsorted keys deep inside": b'{"a":[{"b":{"d":1,"c":1}}]}',
    "unsorted keys after a list": b'{"b":[1,{"x":1}],"a":1}',
    "keys sorted as UTF-16 would": '{"\U00010000":1,"\uffff":1}'.encode(),
    "a letter escaped": b'{"a":"\\u0061"}',
    "a slash escaped": b'{"a":"\\/"}',
    "a line feed escaped by number": b'{"a":"\\u000a"}',
    "a penguin escaped": b'{"a":"\\ud83d\\udc27"}',
    "not UTF-8": b'{"a":"\xff"}',
    "a key that is not UTF-8": b'{"\xff":1}',
    "UTF-8 too long": b'{"a":"\xc0\xaf"}',
    "a raw line feed in text": b'{"a":"\n"}',
    "a lone surrogate, escaped": b'{"a":"\\ud800"}',
    "a lone low surrogate, escaped": b'{"a":"\\udc00"}',
    "a lone surrogate as a key": b'{"\\ud800":1}',
    "a lone surrogate, raw": b'{"a":"\xed\xa0\x80"}',
    "NaN": b'{"a":NaN}',
    "nan": b'{"a":nan}',
    "Infinity": b'{"a":Infinity}',
    "-Infinity": b'{"a":-Infinity}',
    "a number over all doubles": b'{"a":1e400}',
    "an integer over 2**53": b'{"a":9007199254740993}',
    "an integer under -2**53": b'{"a":-9007199254740993}',
    "an integer over 2**63": b'{"a":9223372036854775808}',
    "an integer over 2**64": b'{"a":18446744073709551616}',
    "an integer of fifty digits": b'{"a":' + b"9" * 50 + b"}",
    "a leading zero": b'{"a":01}',
    "a plus sign": b'{"a":+1}',
    "hexadecimal": b'{"a":0x1}',
    "a bare point": b'{"a":1.}',
    "seventeen levels of lists": nested(DEPTH_MAX + 1),
    "seventeen levels of objects": b'{"a":' * DEPTH_MAX + b"{}" + b"}" * DEPTH_MAX,
    "a hundred thousand levels": b'{"a":' + b"[" * 60_000,
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_lies_outside_the_profile_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptError):
        decode(data)


ACCEPTED = {
    "empty": (b"{}", {}),
    "every type": (b'{"a":[null,true,false,1,1.5,"x",{}]}', {"a": [None, True, False, 1, 1.5, "x", {}]}),
    "the greatest integers": (b'{"a":[9007199254740992,-9007199254740992]}', {"a": [2**53, -(2**53)]}),
    "sixteen levels": (nested(DEPTH_MAX, inner=b""), None),
    "a scalar at sixteen levels": (nested(DEPTH_MAX), None),
    "many brackets, not deep": (b'{"a":[' + b"[]," * 100 + b"[]]}", {"a": [[]] * 101}),
    "brackets and quotes inside text": (b'{"[{\\"":"' + b"[" * 50 + b'\\\\"}', {'[{"': "[" * 50 + "\\"}),
    "the same key at two levels": (b'{"a":{"a":[{"a":1}]},"b":1}', {"a": {"a": [{"a": 1}]}, "b": 1}),
    "keys sorted as UTF-8": ('{"":1,"a":1,"\uffff":1,"\U00010000":1}'.encode(), None),
    "escapes as the profile spells them": (b'{"a":"\\"\\\\\\n\\t\\u0000/\x7f"}', {"a": '"\\\n\t\0/\x7f'}),
}


@pytest.mark.parametrize(("data", "value"), ACCEPTED.values(), ids=ACCEPTED)
def test_what_lies_inside_the_profile_is_read_and_spelled_in_the_same_way(data: bytes, value: Any) -> None:
    found = decode(data)
    if value is not None:
        assert found == value
    assert encode(found) == data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1E5", 1e5),
        ("1e+5", 1e5),
        ("100000.0", 1e5),
        ("1.50", 1.5),
        ("-0", 0),
        ("-0.0", -0.0),
        ("0.00000001", 1e-8),
        ("1e-400", 0.0),
        ("0.1000000000000000055511151231257827021181583404541015625", 0.1),
    ],
)
def test_any_json_spelling_of_a_number_is_valid(text: str, value: float) -> None:
    found = decode(b'{"a":%b,"b":[%b,{"c":%b}]}' % ((text.encode(),) * 3))
    assert found == {"a": value, "b": [value, {"c": value}]}
    assert math.copysign(1, float(found["a"])) == math.copysign(1, value)


def test_a_strange_number_excuses_nothing_else() -> None:
    for data in (b'{"b":1E5,"a":1}', b'{"a":1E5,"a":1}', b'{"a":1E5, "b":1}', b'{"a":1E5,"b":"\\u0061"}'):
        with pytest.raises(CorruptError):
            decode(data)


def test_sixty_four_kibibytes_are_read_and_one_byte_more_is_refused() -> None:
    data = b'{"a":"%b"}' % (b"x" * (RECORD_BYTES_MAX - 8))
    assert len(data) == RECORD_BYTES_MAX
    assert len(decode(data)["a"]) == RECORD_BYTES_MAX - 8
    with pytest.raises(CorruptError) as caught:
        decode(data.replace(b"x", b"xx", 1))
    assert caught.value.kind == "limit"
    with pytest.raises(CorruptError):
        decode(b'{"a":1}', bytes_max=6)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("quotes", [b'"' + b'\\"' * 100_000, b'"\\' * 100_000, b'"' * 200_001])
def test_text_that_never_ends_is_refused_at_once(quotes: bytes) -> None:
    # Looking for its end anew from every quote would take hours.
    with pytest.raises(CorruptError):
        decode(b'{"a":[' + b"[]," * 20 + quotes, bytes_max=1 << 20)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (math.nan, {"$f": "nan"}),
        (math.inf, {"$f": "inf"}),
        (-math.inf, {"$f": "-inf"}),
        (INTEGER_MAX, INTEGER_MAX),
        (-INTEGER_MAX, -INTEGER_MAX),
        (INTEGER_MAX + 1, {"$i": "9007199254740993"}),
        (-INTEGER_MAX - 1, {"$i": "-9007199254740993"}),
        (b"\xff", {"$b": "/w=="}),
        (bytearray(b"\xff"), {"$b": "/w=="}),
        (memoryview(b"\xff"), {"$b": "/w=="}),
        ((1, (2,)), [1, [2]]),
        ({"$f": "nan"}, {"$$f": "nan"}),
        ({"$$": 1, "$": 2, "a$": 3}, {"$$$": 1, "$$": 2, "a$": 3}),
        ({"$object": "x"}, {"$$object": "x"}),
        ({1: 2, None: 3}, {"1": 2, "None": 3}),
        (OrderedDict(b=1, a=2), {"a": 2, "b": 1}),
        ({1, 2}, {"$repr": "{1, 2}"}),
        (1j, {"$repr": "1j"}),
        ("\ud800", "\\ud800"),
        ({"\udcff": 1}, {"\\udcff": 1}),
    ],
)
def test_what_json_cannot_hold_is_tagged(value: Any, plain: Any) -> None:
    assert to_value(value) == plain
    assert decode(encode({"a": to_value(value)})) == {"a": plain}


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()


class Number(float):
    pass


class Pair(NamedTuple):
    left: int
    right: int


@pytest.mark.parametrize(
    ("value", "plain"),
    [(Colour.RED, "red"), (Level.HIGH, 3), (Text("x"), "x"), (Number(1.5), 1.5), (Pair(1, 2), [1, 2]), (True, True)],
    ids=["text enum", "number enum", "text", "number", "named tuple", "boolean"],
)
def test_a_value_of_a_derived_type_is_the_plain_value(value: Any, plain: Any) -> None:
    found = decode(encode({"a": [to_value(value)]}))["a"][0]
    assert found == plain
    assert type(found) is type(plain)


def test_a_key_that_is_no_text_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="not text"):
        to_value({(1, 2): 3})


def test_a_long_repr_is_cut() -> None:
    assert to_value(set(range(10_000)))["$repr"] == repr(set(range(10_000)))[: encoding.REPR_CHARS_MAX]


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("a value that cannot even be shown")


def test_a_value_that_cannot_be_shown_does_not_stop_the_recording() -> None:
    assert isinstance(to_value(Broken())["$repr"], str)


@pytest.mark.parametrize("digits", [4000, 4200, 5000])
def test_an_integer_of_thousands_of_digits_does_not_stop_the_recording(digits: int) -> None:
    plain = to_value(10**digits)
    assert decode(encode({"a": plain})) == {"a": plain}
    if "$i" in plain:
        assert from_value(plain) == 10**digits


def test_deep_values_fit_into_a_record_and_say_what_was_cut() -> None:
    value: Any = math.nan
    for _ in range(100):
        value = [value]
    plain = to_value(value)
    # As the value of a parameter it is the third level of a record.
    assert decode(encode({"params": {"name": plain}})) == {"params": {"name": plain}}
    assert "$repr" in encode(plain).decode()


def test_a_value_that_holds_itself_is_cut() -> None:
    value: list[Any] = []
    value.append(value)
    assert "$repr" in encode(to_value(value)).decode()


@pytest.mark.parametrize(
    "value",
    [
        {"$f": "NaN"},
        {"$f": 1},
        {"$f": "nan", "x": 1},
        {"$i": "1e5"},
        {"$i": 5},
        {"$i": "\u0661"},
        {"$b": "not base64!"},
        {"$b": "/w="},
        {"$b": None},
        {"$object": "sha256:x"},
        {"$repr": "<thing>"},
        {"$later": [1]},
    ],
)
def test_a_tag_that_is_unknown_or_holds_what_it_cannot_stays_as_it_is(value: Any) -> None:
    data = encode({"a": value})
    assert decode(data) == {"a": value}
    assert encode(decode(data)) == data
    assert from_value(value) == value


def test_numbers_are_compared_as_numbers() -> None:
    assert [number_of(value) for value in (True, 2, 2.5, {"$i": "9007199254740993"}, {"$f": "inf"})] == [
        1.0,
        2.0,
        2.5,
        9007199254740992.0,
        math.inf,
    ]
    assert number_of({"$i": "-" + "9" * 400}) == -math.inf
    for value in (None, "1", [1], {}, {"$f": "nan"}, {"$i": "x"}, {"$b": "/w=="}):
        assert number_of(value) is None


def test_objects_are_found_in_order_wherever_a_value_names_them() -> None:
    value = [{"$object": "one"}, {"a": {"$object": "two"}, "b": [[{"$object": "three"}]]}, {"$$object": "none"}]
    assert encoding.objects_in(value) == ["one", "two", "three"]
    assert encoding.objects_in({"$object": "x", "more": 1}) == []
    assert encoding.objects_in({"$object": 5}) == []
