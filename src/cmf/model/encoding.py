"""The encoding profile: which JSON bytes a fact may be, and how Python values become such JSON.

UTF-8, compact, keys sorted by their UTF-8 bytes, integers within 2**53, finite floats, at most 16 levels deep and
64 KiB long. What lies outside is written in tagged forms (`to_value`) and refused by readers (`decode`). Bytes are
hashed as produced and never re-encoded.
"""

from __future__ import annotations

import base64
import math
import re
from typing import Any, Literal

import msgspec

from cmf.errors import CorruptError, UsageError

RECORD_BYTES_MAX = 64 * 1024
DEPTH_MAX = 16
INTEGER_MAX = 2**53
REPR_CHARS_MAX = 1024
_SAID_CHARS = 2000
INTEGER_BITS_MAX = 13_000
"""Below the 4,300 decimal digits up to which Python reads and writes integers."""

_SPECIAL = ("nan", "inf", "-inf")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder()
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"?|[{}\[\],:]|[^\s{}\[\],:"]+|\s+', re.DOTALL)


def encode(value: Any) -> bytes:
    """Return the profile's bytes of a value made of plain JSON types or of a record Struct."""
    return _encoder.encode(value)


def decode(data: bytes, *, bytes_max: int = RECORD_BYTES_MAX) -> dict[str, Any]:
    """Return the object that these bytes spell, or raise `CorruptError` if they lie outside the profile.

    The common case costs one decode and one encode: if encoding again gives the same bytes, they are in the profile.
    Only if it doesn't, a scan of the tokens decides, since any JSON spelling of a number is valid.
    """
    value = _parse(data, bytes_max)
    if not isinstance(value, dict):
        raise CorruptError("A record is not a JSON object.", kind="profile")
    _check_limits(value, 1)
    try:
        same = _encoder.encode(value) == data
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        same = False
    if not same:
        _scan(data)
    return value


def _parse(data: bytes, bytes_max: int) -> Any:
    if len(data) > bytes_max:
        raise CorruptError(f"A record of {len(data)} bytes is over the limit of {bytes_max}.", kind="limit")
    if data.count(b"[") + data.count(b"{") > DEPTH_MAX:
        _check_nesting(data)
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise CorruptError(f"A record is not valid JSON: {error}.", kind="profile") from error


def _check_nesting(data: bytes) -> None:
    """Refuse deep nesting before the decoder recurses into it."""
    depth = 0
    for match in _TOKEN.finditer(data):
        token = match.group()
        if token in (b"{", b"["):
            depth += 1
            if depth > DEPTH_MAX:
                raise CorruptError(f"A record is nested deeper than {DEPTH_MAX} levels.", kind="limit")
        elif token in (b"}", b"]"):
            depth -= 1


def check_limits(value: Any) -> None:
    """Raise `CorruptError` if plain JSON types hold a number or a depth beyond the profile."""
    _check_limits(value, 1)


def _check_limits(value: Any, depth: int) -> None:
    if isinstance(value, dict | list):
        if depth > DEPTH_MAX:
            raise CorruptError(f"A record is nested deeper than {DEPTH_MAX} levels.", kind="limit")
        for item in value.values() if isinstance(value, dict) else value:
            # Most are short: what needs no look costs no call.
            if item.__class__ is str or (item.__class__ is int and -INTEGER_MAX <= item <= INTEGER_MAX):
                continue
            _check_limits(item, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise CorruptError("A record holds a number that no double can hold.", kind="profile")
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) > INTEGER_MAX:
        raise CorruptError("A record holds an integer beyond 2**53; it must be tagged.", kind="profile")


def _scan(data: bytes) -> None:
    """Check white space, key order and string spelling token by token; numbers may be spelled in any way."""
    objects: list[list[bytes] | None] = []  # the last key of each open object; None inside an array
    expect_key = False
    for match in _TOKEN.finditer(data):
        token = match.group()
        if token in (b"{", b"["):
            expect_key = token == b"{"
            objects.append([] if expect_key else None)
        elif token in (b"}", b"]"):
            objects.pop()
            expect_key = False
        elif token == b",":
            expect_key = objects[-1] is not None
        elif token.isspace():
            raise CorruptError("A record is not compact: it holds white space.", kind="profile")
        elif token.startswith(b'"'):
            if _encoder.encode(_decoder.decode(token)) != token:
                raise CorruptError("A record spells a string in another way than the profile's.", kind="profile")
            last = objects[-1]
            if expect_key and last is not None:
                key = _decoder.decode(token).encode()
                if last and key <= last[0]:
                    raise CorruptError("A record's keys are duplicate or not sorted.", kind="profile")
                last[:] = [key]
            expect_key = False


def to_value(value: Any) -> Any:
    """Turn a Python value into the profile's plain JSON types, tagging what JSON cannot hold.

    null, bool, int, float, str, list, tuple, string-keyed dict and NumPy scalars and small arrays keep their meaning;
    NaN and the infinities become ``{"$f": …}``, integers beyond 2**53 ``{"$i": …}``, bytes ``{"$b": …}``; anything
    else ``{"$repr": …}``, cut at 1 KiB. Keys that start with ``$`` are written ``$$``.
    """
    if type(value) is int and -INTEGER_MAX <= value <= INTEGER_MAX:
        return value
    return _to_value(value, 0)


def _to_value(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(str.__str__(value))
    if depth > DEPTH_MAX - 4:
        return _repr(value)
    if isinstance(value, int):
        number = int(value)
        if number.bit_length() > INTEGER_BITS_MAX:
            return {"$repr": hex(number)[:REPR_CHARS_MAX]}
        return number if -INTEGER_MAX <= number <= INTEGER_MAX else {"$i": str(number)}
    if isinstance(value, float):
        number_f = float(value)
        return number_f if math.isfinite(number_f) else {"$f": _special(number_f)}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$b": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, dict):
        return {_key(key): _to_value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_value(item, depth + 1) for item in value]
    item_of = getattr(value, "item", None)  # NumPy scalars and one-element arrays, without importing NumPy
    if callable(item_of) and getattr(value, "size", 1) == 1 and type(value).__module__.partition(".")[0] == "numpy":
        return _to_value(item_of(), depth + 1)
    return _repr(value)


def _repr(value: Any) -> dict[str, str]:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  # it is the program's own code, and recording must not break the program
        text = f"<{type(value).__name__}, whose repr failed: {type(error).__name__}>"
    return {"$repr": _text(text[:REPR_CHARS_MAX])}


def said(value: object) -> str:
    """Return a short text for anything, even for what cannot say what it is."""
    try:
        return str(to_value(str(value)))[:_SAID_CHARS]
    except Exception:  # noqa: BLE001  # the program's own code
        return f"<{type(value).__name__}>"


def from_value(value: Any) -> Any:
    """Undo `to_value`: tagged numbers and bytes become Python's again; ``$object`` and ``$repr`` stay as they are.

    So does a tag whose content is none: nothing that another site recorded makes this fail.
    """
    if isinstance(value, list):
        return [from_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((tag, item),) = value.items()
        if tag == "$f" and isinstance(item, str) and item in _SPECIAL:
            return float(item)
        if tag == "$i" and isinstance(item, str) and re.fullmatch(r"-?[0-9]{1,4000}", item):
            return int(item)
        if tag == "$b" and isinstance(item, str) and _BASE64.fullmatch(item):
            return base64.b64decode(item)
    return {key[1:] if key.startswith("$$") else key: from_value(item) for key, item in value.items()}


def to_json(value: Any, *, order: Literal["sorted"] | None = None) -> bytes:
    """Return JSON of what people and programs are shown: Structs, times and all that `msgspec` knows, NumPy's values.

    Others are text. NaN and the infinities, for which JSON has no word and `msgspec` writes null, are tagged as in
    records. Sorted keys, if asked; no limits.
    """
    return msgspec.json.encode(_finite(msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)), order=order)


def _plain(value: Any) -> Any:
    """Return what stands for a value of a type that `msgspec` does not know."""
    if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return value.tolist()  # its scalars and arrays, without importing it
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$f": _special(value)}
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def number_of(value: Any) -> float | None:
    """Return a value as a number for comparing, or None if it isn't one. Booleans count as 0 and 1; NaN does not."""
    plain = from_value(value) if isinstance(value, dict) else value
    if isinstance(plain, bool | int | float):
        try:
            number = float(plain)
        except OverflowError:
            return math.inf if plain > 0 else -math.inf
        return None if math.isnan(number) else number
    return None


def objects_in(value: Any) -> list[str]:
    """Return the digests of the objects, files or folders, that a value names with ``$object``, in order."""
    found: list[str] = []
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(value.get("$object"), str):
            return [value["$object"]]
        for item in value.values():
            found += objects_in(item)
    elif isinstance(value, list):
        for item in value:
            found += objects_in(item)
    return found


def _special(number: float) -> str:
    if math.isnan(number):
        return "nan"
    return "inf" if number > 0 else "-inf"


def _text(text: str) -> str:
    """Return text that UTF-8 can hold: lone surrogates (an undecodable byte in a name) are escaped visibly."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def _key(key: Any) -> str:
    if not isinstance(key, str):
        if isinstance(key, bool | int | float) or key is None:
            key = str(key)
        else:
            raise UsageError(f"A recorded dict has a key that is not text: {key!r}.", hint="Use text keys.")
    text = _text(key)
    return "$" + text if text.startswith("$") else text
