"""What becomes of a file's bytes: copied, linked or left, by rule and by argument."""

import os
import resource
from pathlib import Path

import pytest

from cmf.config import Rule
from cmf.errors import CorruptError
from cmf.model.digest import file_digest, object_of
from cmf.objects import manifest, read
from cmf.objects.local import LocalObjects
from cmf.worktree.files import Files
from cmf.worktree.policy import Policies

LARGE = bytes(range(256)) * 4096


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "work"
    (root / ".cmf").mkdir(parents=True)
    (root / "large.bin").write_bytes(LARGE)
    (root / "small.txt").write_bytes(b"small")
    return root


@pytest.fixture
def objects(root: Path) -> LocalObjects:
    return LocalObjects(root / ".cmf" / "objects")


def files_of(objects: LocalObjects, root: Path, *rules: Rule) -> Files:
    return Files(objects, root, rules=rules)


@pytest.mark.parametrize(
    ("path", "size", "expected"),
    [
        ("raw/deep/a.tif", 1, "reference"),
        ("raw/keep.me", 1, "copy"),
        ("other/raw/x", 1, "copy"),
        ("model.ckpt", 10, "link"),
        ("model.ckpt", 9, "copy"),
        ("huge", 10**12, "reference"),
        ("~/elsewhere/x", 5, "copy"),
    ],
)
def test_the_first_rule_that_fits_decides(path: str, size: int, expected: str) -> None:
    rules = [
        Rule(policy="copy", path="/raw/keep.me"),
        Rule(policy="reference", path="/raw/**"),
        Rule(policy="link", path="*.ckpt", bytes_min=10),
        Rule(policy="reference", bytes_min=10**12),
    ]
    assert Policies(rules).of(path, size) == expected


def test_without_rules_everything_is_kept(objects: LocalObjects, root: Path) -> None:
    kept = files_of(objects, root).keep(root)
    assert kept.policy == "copy"
    assert objects.absent([file_digest(LARGE), file_digest(b"small")]) == []
    assert (root / "large.bin").stat().st_nlink == 1


def test_a_link_shares_the_bytes_and_makes_the_file_read_only(objects: LocalObjects, root: Path) -> None:
    path = root / "large.bin"
    path.chmod(0o750)
    kept = files_of(objects, root).keep(path, policy="link")
    assert (kept.digest, kept.policy) == (file_digest(LARGE), "link")
    found = path.stat()
    assert (found.st_nlink, found.st_mode & 0o777) == (2, 0o550)
    assert read(objects, kept.digest) == LARGE
    objects.flush()
    path.unlink()
    assert read(objects, kept.digest) == LARGE
    assert list((objects.folder / "tmp").iterdir()) == []


def test_a_second_file_with_the_same_bytes_is_left_as_it_is(objects: LocalObjects, root: Path) -> None:
    (root / "again.bin").write_bytes(LARGE)
    files = files_of(objects, root)
    files.keep(root / "large.bin", policy="copy")
    files.keep(root / "again.bin", policy="link")
    assert (root / "again.bin").stat().st_nlink == 1
    assert os.access(root / "again.bin", os.W_OK)


def test_small_files_are_copied_though_links_are_asked_for(objects: LocalObjects, root: Path) -> None:
    files_of(objects, root).keep(root / "small.txt", policy="link")
    assert (root / "small.txt").stat().st_nlink == 1
    (root / "small.txt").write_bytes(b"later")
    assert read(objects, file_digest(b"small")) == b"small"


def test_where_no_link_can_be_made_the_file_is_copied(
    objects: LocalObjects, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    files_of(objects, root).keep(root / "large.bin", policy="link")
    assert (root / "large.bin").stat().st_nlink == 1
    assert os.access(root / "large.bin", os.W_OK)
    assert read(objects, file_digest(LARGE)) == LARGE


def test_a_file_that_changes_while_it_is_linked_is_read_again(
    objects: LocalObjects, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.link

    def change_and_link(source: str, target: str) -> None:
        monkeypatch.setattr(os, "link", really)
        with open(source, "ab") as file:
            file.write(b"more")
        really(source, target)

    monkeypatch.setattr(os, "link", change_and_link)
    kept = files_of(objects, root).keep(root / "large.bin", policy="link")
    assert kept.digest == file_digest(LARGE + b"more")
    assert read(objects, kept.digest) == LARGE + b"more"
    assert objects.absent([file_digest(LARGE)]) == [file_digest(LARGE)]


def test_what_is_changed_through_an_open_link_is_found_by_name(objects: LocalObjects, root: Path) -> None:
    with open(root / "large.bin", "r+b") as file:
        kept = files_of(objects, root).keep(root / "large.bin", policy="link")
        file.write(b"changed")
    with pytest.raises(CorruptError, match=kept.digest):
        objects.check(kept.digest)


def test_a_reference_keeps_no_bytes_and_a_change_is_noticed(objects: LocalObjects, root: Path) -> None:
    files = files_of(objects, root, Rule(policy="reference", path="large.bin"))
    kept = files.keep(root / "large.bin")
    assert (kept.digest, kept.policy) == (file_digest(LARGE), "reference")
    assert list(objects.list()) == []
    assert files.drift("large.bin", kept.digest) == "same"
    (root / "large.bin").write_bytes(LARGE[::-1])
    assert files.drift("large.bin", kept.digest) == "changed"
    (root / "large.bin").unlink()
    assert files.drift("large.bin", kept.digest) == "gone"
    assert list(objects.list()) == []


def test_a_folder_is_as_safe_as_its_least_safe_file(objects: LocalObjects, root: Path) -> None:
    (root / "data").mkdir()
    (root / "large.bin").rename(root / "data" / "large.bin")
    (root / "small.txt").rename(root / "data" / "small.txt")
    files = files_of(objects, root, Rule(policy="reference", bytes_min=1000))
    kept = files.keep(root / "data")
    assert kept.policy == "reference"
    entries = manifest.decode(read(objects, object_of(kept.digest)))
    assert objects.absent([entry.digest for entry in entries]) == [file_digest(LARGE)]
    assert files.drift("data", kept.digest) == "same"
    (root / "data" / "new").touch()
    before = list(objects.list())
    assert files.drift("data", kept.digest) == "changed"
    assert list(objects.list()) == before, "looking keeps nothing"


def test_a_sparse_file_is_its_bytes_and_its_holes_cost_little(objects: LocalObjects, root: Path) -> None:
    path = root / "sparse.bin"
    with path.open("wb") as file:
        file.truncate(40 << 20)
        file.seek(20 << 20)
        file.write(b"an island")
    kept = files_of(objects, root).keep(path)
    assert kept.digest == file_digest(path.read_bytes())
    copy = objects.folder / kept.digest[7:9] / kept.digest[9:]
    assert copy.read_bytes() == path.read_bytes()
    assert copy.stat().st_blocks * 512 < 10 << 20


@pytest.mark.parametrize(
    "size", [(16 << 20) - 1, 16 << 20, (16 << 20) + 1, (17 << 20) + 4096, (18 << 20) + 4095, (20 << 20) + 513]
)
def test_the_digest_of_a_large_file_with_any_tail_is_right(objects: LocalObjects, root: Path, size: int) -> None:
    path = root / "tail.bin"
    path.write_bytes((LARGE * 21)[:size])
    kept = files_of(objects, root).keep(path)
    assert (kept.digest, kept.size) == (file_digest(path.read_bytes()), size)
    assert read(objects, kept.digest) == path.read_bytes()


@pytest.mark.parametrize("lacks", ["O_DIRECT", "writing with O_DIRECT", "copy_file_range too"])
def test_a_file_system_without_the_fast_ways_gets_the_plain_one(
    objects: LocalObjects, root: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    import errno
    import fcntl

    from cmf.objects import duplicate

    path = root / "tail.bin"
    path.write_bytes((LARGE * 20)[: (17 << 20) + 77])
    really = os.pwrite

    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    def refuse_direct(handle: int, data: bytes, at: int) -> int:
        return refuse() if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT else really(handle, data, at)

    if lacks == "writing with O_DIRECT":
        monkeypatch.setattr(os, "pwrite", refuse_direct)
    else:
        monkeypatch.setattr(duplicate, "_set_direct", lambda *_, **__: False)
    if lacks == "copy_file_range too":
        monkeypatch.setattr(os, "copy_file_range", refuse)
    kept = files_of(objects, root).keep(path)
    assert kept.digest == file_digest(path.read_bytes())
    assert read(objects, kept.digest) == path.read_bytes()


def test_a_disk_that_fills_while_a_large_file_is_copied_is_said_and_leaves_nothing(
    objects: LocalObjects, root: Path
) -> None:
    from cmf.errors import UnreachableError

    path = root / "large.bin"
    path.write_bytes(LARGE * 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (18 << 20, hard))
        with pytest.raises(UnreachableError, match="File too large"):
            files_of(objects, root).keep(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(objects.list()) == []
    assert list((objects.folder / "tmp").iterdir()) == []
