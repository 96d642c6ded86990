"""A pointer file comes with a clone: whatever is outside its format is refused, and none leads out of its folder."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cmf.errors import CmfError, CorruptError, UnsupportedError, UsageError
from cmf.worktree import pointer
from cmf.worktree.pointer import Pointer

DIGEST = "sha256:" + "ab" * 32
GOOD = {"cmf": "pointer", "v": 1, "digest": DIGEST, "size": 3}


def test_what_is_written_is_read_and_writing_it_again_changes_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "data.cmf")
    said = Pointer(digest=f"tree:{DIGEST}", size=12)
    assert pointer.write(path, said)
    before = os.stat(path)
    assert not pointer.write(path, said)
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns
    assert pointer.read(path) == said
    assert json.loads(Path(path).read_text()) == {"cmf": "pointer", "v": 1, "digest": f"tree:{DIGEST}", "size": 12}
    assert pointer.write(path, Pointer(digest=DIGEST, size=3, executable=True))
    assert pointer.read(path).executable
    assert os.listdir(tmp_path) == ["data.cmf"]


@pytest.mark.parametrize(
    "change",
    [
        {"cmf": "manifest"},
        {"v": 0},
        {"v": "1"},
        {"digest": "sha256:../../etc"},
        {"digest": None},
        {"size": -1},
        {"size": 2**60},
        {"size": "3"},
        {"executable": "yes"},
        {"padding": "x" * 5000},
    ],
)
def test_what_is_outside_the_format_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "data.cmf"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(CorruptError, match="no pointer file"):
        pointer.read(str(path))


def test_a_newer_version_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "data.cmf"
    path.write_text(json.dumps({**GOOD, "v": 2, "more": []}))
    with pytest.raises(UnsupportedError):
        pointer.read(str(path))


@given(some.binary(max_size=300))
def test_no_bytes_make_reading_fail_in_another_way(data: bytes) -> None:
    path = Path(os.environ["PYTEST_POINTER"])
    path.write_bytes(data)
    with pytest.raises(CmfError):
        pointer.read(str(path))


@pytest.fixture(autouse=True, scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_POINTER", str(tmp_path_factory.mktemp("pointers") / "data.cmf"))
        yield


def test_neither_a_link_nor_a_pipe_is_read(tmp_path: Path) -> None:
    (tmp_path / "real.cmf").write_text(json.dumps(GOOD))
    (tmp_path / "link.cmf").symlink_to("real.cmf")
    os.mkfifo(tmp_path / "pipe.cmf")
    for name in ("link.cmf", "pipe.cmf"):
        with pytest.raises(CmfError):
            pointer.read(str(tmp_path / name))
    with pytest.raises(UsageError, match="is a link"):
        pointer.write(str(tmp_path / "link.cmf"), Pointer(digest=DIGEST, size=3))


@pytest.mark.parametrize("name", [".cmf", ".git.cmf", ".GIT.cmf", "..cmf", "...cmf", ".cmf.cmf", "data.dvc"])
def test_no_pointer_stands_for_a_repository_or_for_a_folder_above(name: str) -> None:
    with pytest.raises(UsageError):
        pointer.target(f"folder/{name}")


def test_the_walk_looks_into_no_data_no_repository_and_no_link(tmp_path: Path) -> None:
    for name in ("a", "a/data", ".git", ".cmf", "a/elsewhere"):
        (tmp_path / name).mkdir()
    for name in ("top.cmf", "a/data.cmf", "a/data/inner.cmf", ".git/x.cmf", ".cmf/y.cmf"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "b").symlink_to("a")
    found = sorted(os.path.relpath(path, tmp_path) for path in pointer.walk(str(tmp_path)))
    assert found == ["a/data.cmf", "top.cmf"]
