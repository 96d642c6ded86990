"""Bundles: what is carried by hand arrives whole or not at all, and back again costs only the difference."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cmf
from cmf.bundle import Bundle
from cmf.errors import CmfError, ConflictError, CorruptError, NotFoundError, UnsupportedError
from cmf.model import digest as digests
from cmf.repo import Repo, init
from tests.commands import script

TRAIN = """
import cmf, os
with cmf.run("lab/train") as run:
    os.makedirs("data")
    for name in "abc":
        open(f"data/{name}", "w").write(name)
    run.input("data")
    open("large.bin", "wb").write(b"0123456789abcdef" * 200_000)
    run.output("large.bin", name="weights")
    run.log({"loss": 0.5}, step=1)
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    folder = tmp_path / "lab"
    folder.mkdir()
    script(folder, TRAIN)
    return folder


def opened(folder: Path) -> Repo:
    return cmf.open(folder)


def fresh(folder: Path, name: str) -> Repo:
    (folder / name).mkdir()
    return init(folder / name, site=name)


def test_a_bundle_carries_records_and_their_evidence(lab: Path, tmp_path: Path) -> None:
    with opened(lab) as here, fresh(tmp_path, "edge") as there:
        packed = here.pack(tmp_path / "lab.bundle")
        assert (packed.refused, packed.stayed) == ([], 0)
        moved = there.unpack(tmp_path / "lab.bundle")
        assert (moved.segments, moved.records) == (packed.segments, packed.records)
        assert there.store.dump() == here.store.dump()
        (execution,) = there.executions()
        assert list(there.series(execution, "loss").values) == [0.5]
        assert there.objects.absent([execution.environment]) == []
        large = execution.outputs[0].artifact
        assert there.objects.absent([large]) == [large]
        again = there.unpack(tmp_path / "lab.bundle")
        assert (again.segments, again.objects) == (0, 0)


def test_with_data_it_carries_every_byte(lab: Path, tmp_path: Path) -> None:
    with opened(lab) as here, fresh(tmp_path, "edge") as there:
        here.pack(tmp_path / "lab.bundle", data=True)
        there.unpack(tmp_path / "lab.bundle")
        (execution,) = there.executions()
        assert there.read(execution.outputs[0].artifact) == b"0123456789abcdef" * 200_000
        folder = execution.inputs[0].artifact
        there.files.place(folder, tmp_path / "placed", there.objects)
        assert sorted(path.name for path in (tmp_path / "placed").iterdir()) == ["a", "b", "c"]
        assert there.store.promised() == []


def test_since_a_bundle_only_what_its_maker_lacked_travels(lab: Path, tmp_path: Path) -> None:
    with opened(lab) as here, fresh(tmp_path, "edge") as there:
        first = here.pack(tmp_path / "1.bundle")
        there.unpack(tmp_path / "1.bundle")
        there.pack(tmp_path / "back.bundle")
        script(lab, "import cmf; cmf.run('lab/train').metrics({'f1': 1})")
        second = here.pack(tmp_path / "2.bundle", since=str(tmp_path / "back.bundle"))
        assert 0 < second.segments < first.segments
        assert there.unpack(tmp_path / "2.bundle").segments == second.segments
        assert there.store.dump() == here.store.dump()
        with fresh(tmp_path, "stranger") as other:
            moved = other.unpack(tmp_path / "2.bundle")
            assert {refused.kind for refused in moved.refused} == {"gap"}
            assert other.store.counts()["execution"] == 0


def test_only_the_scopes_asked_for_travel(lab: Path, tmp_path: Path) -> None:
    script(lab, "import cmf; cmf.run('other/stage')")
    with opened(lab) as here, fresh(tmp_path, "edge") as there:
        here.pack(tmp_path / "some.bundle", scopes=["other/*"])
        there.unpack(tmp_path / "some.bundle")
        assert {view.scope for view in there.executions()} == {"other/stage"}


def test_a_bundle_is_never_written_over_and_never_half_there(lab: Path, tmp_path: Path) -> None:
    with opened(lab) as here:
        here.pack(tmp_path / "lab.bundle")
        with pytest.raises(ConflictError):
            here.pack(tmp_path / "lab.bundle")
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(NotFoundError):
            here.pack(tmp_path / "new.bundle", since=str(tmp_path / "none.bundle"))
        with Bundle.create(tmp_path / "unsealed.bundle"):
            pass
        assert sorted(path.name for path in tmp_path.iterdir()) == before


def small(folder: Path) -> bytes:
    path = folder / "small.bundle"
    with Bundle.create(path) as made:
        for data in (b"", b"one", b"x" * 5000):
            made.put(digests.file_digest(data), io.BytesIO(data))
        made.seal()
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small(tmp_path_factory.mktemp("whole"))


@given(draws=st.data())
def test_a_bundle_that_was_cut_or_changed_is_refused_whole(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, draws: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.bundle"
    at = draws.draw(st.integers(0, len(whole) - 1))
    if draws.draw(st.booleans()):
        path.write_bytes(whole[:at])
    else:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ draws.draw(st.integers(1, 255))]) + whole[at + 1 :])
    with pytest.raises((CorruptError, UnsupportedError)):
        Bundle.open(path)


@given(junk=st.binary(max_size=300))
def test_any_bytes_are_refused_as_what_they_are(junk: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.bundle"
    for start in (b"", b"cmf-bdl\x01"):
        path.write_bytes(start + junk)
        with pytest.raises(CmfError):
            Bundle.open(path)


def test_objects_are_read_back_byte_for_byte_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.bundle"
    contents = [b"", b"one", b"y" * (3 << 20)]
    with Bundle.create(path) as made:
        for data in contents:
            assert made.put(digests.file_digest(data), io.BytesIO(data)) == len(data)
        with pytest.raises(CorruptError):
            made.put(digests.file_digest(b"other"), io.BytesIO(b"these"))
        made.seal()
    with Bundle.open(path) as found:
        assert {found.read(digest).read() for digest in found.objects} == set(contents)
