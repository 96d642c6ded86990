"""The key of each user who seals: `.cmf/keys/<uid>`, kept, shown, and followed by another.

A first key is 32 bytes; one that followed another is JSON, with what those before it said. Either is one file, replaced
in one step: whenever a crash comes, there is the old key or the new one, and the old one ends with the step.

Which keys a user has had is in a file beside it, `<uid>.had`: public keys, no secrets. By it a store that came back
from a backup knows its own streams when others bring them, whichever key sealed them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from cmf import signing
from cmf.errors import CorruptError, DeniedError, UnsupportedError
from cmf.model import rotation
from cmf.model.rotation import Vouch

VERSION = 1


class HeldKey(NamedTuple):
    """A user's key, and since when (wall time in µs) it is that."""

    key: signing.Key
    since_us: int


class _Kept(msgspec.Struct, kw_only=True):
    seed: str
    since: int
    v: int
    vouched: tuple[Vouch, ...] = ()


def writer_key(folder: Path, uid: int) -> signing.Key:
    """Return the key with which this user seals records of the store; it is made if there is none."""
    return held_key(folder, uid).key


def held_key(folder: Path, uid: int) -> HeldKey:
    """Return the key with which this user seals, and its age; it is made if there is none."""
    path = _path(folder, uid)
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    if not data.startswith(b'{"') or len(data) == 32:
        seed = signing.kept_secret(path)
        return HeldKey(signing.Key(seed), path.stat().st_mtime_ns // 1000)
    try:
        kept = msgspec.json.decode(data, type=_Kept)
        seed = bytes.fromhex(kept.seed)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CorruptError(f"{path} is damaged.", kind="key") from error
    if kept.v > VERSION:
        raise UnsupportedError(f"{path} has a newer format.", hint="Upgrade cmf.", kind="newer-format")
    if len(seed) != 32:
        raise CorruptError(f"{path} is damaged.", kind="key")
    return HeldKey(signing.Key(seed, kept.vouched), kept.since)


def rotate_key(folder: Path, uid: int, *, now: int, alone: bool = False) -> HeldKey:
    """Make a new key, for which the old one vouches, and put it in its place. The caller lets nobody else do so.

    ``alone``: nothing joins it to the old one, which others may have. ``now`` is wall time in µs.
    """
    old = held_key(folder, uid)
    seed = os.urandom(32)
    new = signing.Key(seed)
    _note(folder, uid, old.key.public, new.public)
    vouched = () if alone else (*old.key.vouched, rotation.vouch(old.key, new.public, at=now))
    kept = _Kept(seed=seed.hex(), since=now, v=VERSION, vouched=vouched[-rotation.VOUCHES_MAX :])
    signing.replace_secret(_path(folder, uid), msgspec.json.encode(kept))
    return HeldKey(signing.Key(seed, kept.vouched), now)


def had_keys(folder: Path, uid: int) -> frozenset[bytes]:
    """Return the public keys that this user has, or had before, as far as is known here."""
    key = writer_key(folder, uid)
    try:
        lines = _had(folder, uid).read_text(encoding="ascii", errors="replace").split("\n")
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise DeniedError(f"{_had(folder, uid)} cannot be read: {error.strerror}.") from error
    noted = (bytes.fromhex(line) for line in lines if re.fullmatch("[0-9a-f]{64}", line))  # a crash may tear the last
    return frozenset((key.public, *(bytes.fromhex(said.key) for said in key.vouched), *noted))


def _note(folder: Path, uid: int, *keys: bytes) -> None:
    """Note keys as ones that this user has had, for ever."""
    known = had_keys(folder, uid) if _had(folder, uid).exists() else frozenset()
    if lines := "".join(f"\n{key.hex()}\n" for key in keys if key not in known):
        handle = os.open(_had(folder, uid), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())


def _had(folder: Path, uid: int) -> Path:
    return folder / "keys" / f"{uid}.had"


def _path(folder: Path, uid: int) -> Path:
    return folder / "keys" / str(uid)
