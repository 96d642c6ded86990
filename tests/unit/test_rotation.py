import contextlib
import os
import stat
from pathlib import Path

import pytest

from cmf import collect, signing
from cmf.errors import CmfError, CorruptError, UnsupportedError
from cmf.model import rotation
from cmf.model import segment as segments
from cmf.model.exchange import View
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer
from tests.histories import Writer

UID = 7


def chain_of(*seeds: bytes) -> signing.Key:
    """Return the last of some keys, each vouched for by the one before."""
    key = signing.Key(seeds[0])
    for at, seed in enumerate(seeds[1:], 1):
        said = rotation.vouch(key, signing.Key(seed).public, at=at)
        key = signing.Key(seed, (*key.vouched, said))
    return key


def test_a_chain_of_rotations_is_checked_from_the_first_header_alone() -> None:
    key = chain_of(b"a" * 32, b"b" * 32, b"c" * 32)
    made = segments.start("lab/train", "site-1", key, created=1, nonce=bytes(16))
    read = segments.from_wire(segments.to_wire(made))
    assert isinstance(read.fields, segments.Genesis)
    assert read.fields.vouched == key.vouched
    rotation.check(read.fields.vouched, key.public, signing.verify)
    other = signing.Key(b"x" * 32).public
    for bad in (key.vouched[:1], key.vouched[::-1]):
        with pytest.raises(CorruptError):
            rotation.check(bad, key.public, signing.verify)
    with pytest.raises(CorruptError):
        rotation.check(key.vouched, other, signing.verify)


def test_a_first_key_changes_no_header() -> None:
    made = segments.start("lab/train", "site-1", signing.Key(b"a" * 32), created=1, nonce=bytes(16))
    assert b"vouched" not in made.header


def test_the_longest_chain_fits_a_header() -> None:
    key = chain_of(*(bytes([number]) * 32 for number in range(1, 12)))
    made = segments.start("/".join(["s" * 64] * 6), "s" * 64, key, created=2**53, nonce=bytes(16))
    assert len(made.header) <= segments.HEADER_BYTES_MAX
    fields = segments.from_wire(segments.to_wire(made)).fields
    assert isinstance(fields, segments.Genesis)
    assert len(fields.vouched) == rotation.VOUCHES_MAX
    rotation.check(fields.vouched, key.public, signing.verify)


def test_a_rotated_key_is_kept_for_its_user_alone_and_the_old_one_is_gone(tmp_path: Path) -> None:
    first = collect.writer_key(tmp_path, UID)
    seed = (tmp_path / "keys" / str(UID)).read_bytes()
    made = collect.rotate_key(tmp_path, UID, now=5)
    again = collect.held_key(tmp_path, UID)
    assert again.key.public == made.key.public != first.public
    assert (again.since_us, again.key.vouched[0].key) == (5, first.public.hex())
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert seed not in path.read_bytes()
        assert seed.hex().encode() not in path.read_bytes()
    rotation.check(again.key.vouched, again.key.public, signing.verify)
    assert collect.rotate_key(tmp_path, UID, now=6, alone=True).key.vouched == ()


def test_every_key_that_a_user_had_is_remembered_whatever_became_of_its_file(tmp_path: Path) -> None:
    keys = [collect.writer_key(tmp_path, UID).public]
    assert collect.had_keys(tmp_path, UID) == {*keys}
    first = (tmp_path / "keys" / str(UID)).read_bytes()
    keys += [collect.rotate_key(tmp_path, UID, now=now, alone=now % 2 == 0).key.public for now in range(1, 4)]
    with open(tmp_path / "keys" / f"{UID}.had", "ab") as file:
        file.write(b"00ff")  # as a crash leaves it
    signing.replace_secret(tmp_path / "keys" / str(UID), first)  # from a backup
    assert collect.had_keys(tmp_path, UID) == {*keys}
    keys.append(collect.rotate_key(tmp_path, UID, now=9).key.public)
    assert collect.had_keys(tmp_path, UID) == {*keys}
    assert collect.had_keys(tmp_path, UID + 1).isdisjoint(keys)


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_crash_of_a_rotation_leaves_the_old_key_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    old = collect.writer_key(tmp_path, UID).public
    real, count = getattr(os, call), 0
    for crash in range(1, 4):

        def failing(*args: object, crash: int = crash, **named: object) -> object:
            nonlocal count
            count += 1
            if count == crash:
                raise KeyboardInterrupt
            return real(*args, **named)

        count = 0
        with monkeypatch.context() as patched:
            patched.setattr(os, call, failing)
            with contextlib.suppress(KeyboardInterrupt):
                collect.rotate_key(tmp_path, UID, now=5)
        held = collect.held_key(tmp_path, UID).key
        assert held.public == old or held.vouched[-1].key == old.hex()
        rotation.check(held.vouched, held.public, signing.verify)
        old = held.public


@pytest.mark.parametrize("data", [b'{"v":1}' + bytes(30), b'{"seed":"ff","since":1,"v":1}' + b" " * 10])
def test_a_damaged_key_is_said_and_never_replaced(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / str(UID)).write_bytes(data)
    with pytest.raises(CorruptError):
        collect.rotate_key(tmp_path, UID, now=1)
    assert (tmp_path / "keys" / str(UID)).read_bytes() == data


def test_a_key_of_a_newer_format_is_not_touched(tmp_path: Path) -> None:
    made = collect.rotate_key(tmp_path, UID, now=1)
    path = tmp_path / "keys" / str(UID)
    path.write_bytes(path.read_bytes().replace(b'"v":1', b'"v":2'))
    with pytest.raises(UnsupportedError) as caught:
        collect.writer_key(tmp_path, UID)
    assert isinstance(caught.value, CmfError)
    assert made.key.public


def test_what_is_sealed_again_keeps_its_ids_and_is_sealed_once_however_often_that_begins() -> None:
    writer = Writer("again", seed=5)
    writer.execution("again/train", 1, writes=("model",))
    writer.seal()
    writer.execution("again/train", 2, reads=("model",))
    writer.seal()
    before = writer.store.dump()
    (stream,) = (bytes(one["stream"]) for one in writer.store.streams())
    writer.key = signing.Key(b"z" * 32)
    site = writer.store.streams()[0]["site"]
    first = writer.store.unseal({stream: 2}, writer.key.public, site)
    assert first == writer.store.unseal({stream: 2}, writer.key.public, site) > 0  # a crash came before the sealing
    writer.seal()
    assert writer.store.unseal({stream: 2}, writer.key.public, site) == 0
    after = writer.store.dump()
    assert {table: rows for table, rows in after.items() if table != "carried"} == {
        table: rows for table, rows in before.items() if table != "carried"
    }
    new = next(bytes(one["stream"]) for one in writer.store.streams() if bytes(one["stream"]) != stream)
    other = SqlStore(Sqlite(None))
    wires = [wire for wire in writer.store.segments(View(), {}) if segments.from_wire(wire).stream == new]
    assert {done.outcome for done in LocalPeer(other).admit(wires)} == {"new"}
    assert [artifact for artifact, _ in other.dump()["artifact"]]  # a reader of the new stream alone lacks nothing
