"""How a key is followed by another: the old one vouches for the new one, in the first header of what that writes.

Such a chain travels wherever the new key's segments do, and anybody can check it without asking. Who still believes the
old key is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from cmf.errors import CorruptError
from cmf.model import dsse

if TYPE_CHECKING:
    from cmf.model.segment import Signer

PAYLOAD_TYPE = b"application/vnd.cmf.rotation.v1"
VOUCHES_MAX = 8
"""How many rotations a stream's header tells of: its last ones."""


class Vouch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """What an old key (hex) said when it was replaced at ``at``, wall time in µs: the next one is the same writer's."""

    at: int
    key: str
    signature: str


def payload(old: str, new: str, at: int) -> bytes:
    """Return what an old key signs for a new one: the DSSE pre-authentication encoding of both and the time."""
    said = b'{"at":%d,"new":"%b","old":"%b","v":1}' % (at, new.encode(), old.encode())
    return dsse.encoded(PAYLOAD_TYPE, said)


def vouch(old: Signer, new: bytes, *, at: int) -> Vouch:
    """Have an old key vouch for a new one."""
    key = old.public.hex()
    return Vouch(at=at, key=key, signature=old.sign(payload(key, new.hex(), at)).hex())


def check(vouched: Sequence[Vouch], writer: bytes, verify: Callable[[bytes, bytes, bytes], bool]) -> None:
    """Check that each key of a chain vouched for the next, the last one for the writer; else `CorruptError`."""
    following = [*(said.key for said in vouched[1:]), writer.hex()]
    for said, new in zip(vouched, following, strict=True) if vouched else ():
        signature = bytes.fromhex(said.signature)
        if not verify(bytes.fromhex(said.key), payload(said.key, new, said.at), signature):
            raise CorruptError("A key is said to follow another that did not vouch for it.", kind="signature")
