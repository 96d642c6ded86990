"""An alias: the object that stands for bytes of which another's name is known, and not their SHA-256.

The normative text is `docs/reference/format.md`. An alias is an ordinary object, the same one at every site.
"""

from __future__ import annotations

import msgspec

from cmf.model import digest as digests
from cmf.model import encoding

ATTRIBUTE = "alias"
"""Of an event: its artifact is an alias."""

BYTES_MAX = 4096
_START = b'{"cmf":"alias"'


class _Spelled(msgspec.Struct):
    cmf: str
    v: int
    of: str


def encode(of: str) -> bytes:
    """Return the alias of what another calls so: ``KIND:NAME``."""
    return encoding.encode({"cmf": "alias", "of": of, "v": 1})


def digest(of: str) -> str:
    """Return the digest of an alias."""
    return digests.file_digest(encode(of))


def decode(data: bytes) -> str:
    """Return what an alias stands for; "" if these bytes are none."""
    if not data.startswith(_START) or len(data) > BYTES_MAX:
        return ""
    try:
        return msgspec.json.decode(data, type=_Spelled).of
    except (msgspec.MsgspecError, UnicodeError):
        return ""
