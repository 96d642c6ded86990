"""What DVC says of a path is believed of the bytes that were kept only if that is proven."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from cmf import tracked
from cmf.bridges.dvc import files
from cmf.bridges.dvc.files import Hash, Item
from cmf.objects.local import LocalObjects
from cmf.tracked import Tracked
from cmf.worktree.files import Files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".dvc").mkdir()
    return tmp_path


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def point(path: Path, value: str, *, size: int | None = None, new: bool = True) -> None:
    """Write the pointer file of a path."""
    lines = ["outs:", f"- md5: {value}", *([f"  size: {size}"] if size is not None else [])]
    lines += [*(["  hash: md5"] if new else []), f"  path: {path.name}"]
    path.with_name(path.name + ".dvc").write_text("\n".join(lines) + "\n")


def cached(root: Path, value: str, data: bytes) -> Path:
    """Put a file into the cache, as DVC leaves it there."""
    place = root / ".dvc/cache/files/md5" / value[:2] / value[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    place.chmod(0o444)
    return place


def said(root: Path, path: Path, *, later_ns: int = 10**9) -> Hash | None:
    """Return what is believed of a path, as of that much after now."""
    objects = LocalObjects(root / ".cmf/objects")
    return Tracked(objects).hash_of(str(path), Files(objects, root).keep(path), root, time.time_ns() + later_ns)


def test_a_pointer_beside_a_file_is_believed_if_its_md5_is_that_of_the_bytes(root: Path) -> None:
    path = root / "a.csv"
    path.write_bytes(b"a\r\n")
    point(path, md5(b"a\r\n"), size=3)
    assert said(root, path) == Hash("md5", md5(b"a\r\n"))
    path.write_bytes(b"b\r\n")
    assert said(root, path) is None
    point(path, md5(b"b\n"), new=False)
    assert said(root, path) == Hash("md5-dos2unix", md5(b"b\n"))


def test_a_folder_is_believed_if_all_its_files_are_those_of_the_list(root: Path) -> None:
    folder = root / "data"
    (folder / "sub").mkdir(parents=True)
    for name in ("b", "a", "sub/ü"):
        (folder / name).write_bytes(name.encode())
    value = md5(files.write_folder((name, md5(name.encode())) for name in ("a", "b", "sub/ü"))) + ".dir"
    point(folder, value)
    assert said(root, folder) == Hash("md5", value)
    (folder / "c").write_bytes(b"more")
    assert said(root, folder) is None


def test_a_file_in_a_tracked_folder_is_known_by_the_list_in_the_cache(root: Path) -> None:
    (root / "data/sub").mkdir(parents=True)
    (root / "data/sub/x").write_bytes(b"x")
    listed = files.write_folder([("sub/x", md5(b"x"))])
    point(root / "data", md5(listed) + ".dir")
    assert said(root, root / "data/sub/x") is None
    cached(root, md5(listed) + ".dir", listed)
    assert said(root, root / "data/sub/x") == Hash("md5", md5(b"x"))


def test_an_output_of_a_lock_file_is_known_from_there(root: Path) -> None:
    (root / "out").mkdir()
    (root / "out/model.bin").write_bytes(b"model")
    (root / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  train:\n    cmd: python train.py\n    outs:\n"
        f"    - path: out/model.bin\n      hash: md5\n      md5: {md5(b'model')}\n      size: 5\n"
    )
    assert said(root, root / "out/model.bin") == Hash("md5", md5(b"model"))


def test_a_large_file_is_believed_only_if_it_is_the_one_in_the_cache_and_cannot_change(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracked, "MD5_BYTES_MAX", 3)
    data = b"large"
    path = root / "large"
    path.write_bytes(data)
    point(path, md5(data), size=len(data))
    place = cached(root, md5(data), data)
    assert said(root, path) is None  # a copy: it could be of any time
    path.unlink()
    os.link(place, path)
    assert said(root, path) == Hash("md5", md5(data))
    assert said(root, path, later_ns=0) is None  # linked so late, it may not be what was read
    place.chmod(0o644)
    assert said(root, path) is None
    place.chmod(0o444)
    path.unlink()
    path.symlink_to(place)
    assert said(root, path) == Hash("md5", md5(data))


def test_files_that_are_no_pointers_say_nothing(root: Path) -> None:
    path = root / "a"
    path.write_bytes(b"a")
    for text in (b"\xff\xfe", b"outs: [", b"- md5: xyz\n  path: a\n", b"outs:\n- path: a\n", b"{}"):
        (root / "a.dvc").write_bytes(text)
        assert said(root, path) is None
    (root / "a.dvc").unlink()
    (root / "a.dvc").mkdir()
    assert said(root, path) is None


def test_statements_are_read_as_the_whole_parser_reads_them() -> None:
    names = ["plain", "with space", "quote'", '"double"', "ünï", "- dash", "#hash", "a: b", "new\nline", "x" * 70]
    for name in names:
        data = files.write_pointer(name, "0" * 32, size=7, files=None, executable=True)
        whole = files.read_pointer(data, "x.dvc").outs
        assert files.read_statements(data) in ([Item(name, Hash("md5", "0" * 32), 7)], [])
        assert whole == (Item(name, Hash("md5", "0" * 32), 7),), json.dumps(name)
    assert files.read_statements(files.write_pointer("with space", "0" * 31 + "1", size=7, files=None, executable=True))
