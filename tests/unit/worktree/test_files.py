import os
import unicodedata
from pathlib import Path

import pytest

from cmf.errors import ConflictError, CorruptError, NotFoundError, UsageError
from cmf.model.digest import file_digest, object_of
from cmf.objects import manifest, read
from cmf.objects.local import LocalObjects
from cmf.objects.manifest import HEADER, Entry
from cmf.worktree.files import Files
from tests.objects import flip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "work"
    (root / ".cmf").mkdir(parents=True)
    return root


@pytest.fixture
def objects(root: Path) -> LocalObjects:
    return LocalObjects(root / ".cmf" / "objects")


@pytest.fixture
def files(objects: LocalObjects, root: Path, home: Path) -> Files:
    return Files(objects, root, home=home)


@pytest.fixture
def data(root: Path) -> Path:
    """Make a folder with sub-folders, an executable, an empty file and an empty folder."""
    data = root / "data"
    (data / "deep" / "er").mkdir(parents=True)
    (data / "void").mkdir()
    (data / "a.csv").write_bytes(b"1,2\n")
    (data / "deep" / "b.csv").write_bytes(b"1,2\n")
    (data / "deep" / "er" / "empty").touch()
    (data / "deep.txt").write_bytes(b"sorts before deep/")
    (data / "run.sh").write_bytes(b"#!/bin/sh\n")
    (data / "run.sh").chmod(0o755)
    return data


def members(objects: LocalObjects, digest: str) -> dict[str | bytes, Entry]:
    return {entry.path: entry for entry in manifest.decode(read(objects, object_of(digest)))}


def test_a_file_is_kept_under_its_hash(files: Files, objects: LocalObjects, root: Path) -> None:
    (root / "model.bin").write_bytes(b"weights")
    for path in (root / "model.bin", str(root / "model.bin")):
        kept = files.keep(path)
        assert (kept.digest, kept.size, kept.path) == (file_digest(b"weights"), 7, "model.bin")
        assert kept.files == 1
    assert read(objects, file_digest(b"weights")) == b"weights"


def test_a_relative_path_is_taken_from_the_working_folder(
    files: Files, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "x").write_bytes(b"x")
    monkeypatch.chdir(root / "sub")
    assert files.keep("x").path == "sub/x"
    assert files.record_path("../y") == "y"


def test_a_folder_is_kept_file_by_file_with_its_manifest(files: Files, objects: LocalObjects, data: Path) -> None:
    kept = files.keep(data)
    assert kept.digest.startswith("tree:sha256:")
    assert (kept.size, kept.path, kept.files) == (4 + 4 + 0 + 18 + 10, "data", 5)
    found = members(objects, kept.digest)
    assert list(found) == ["a.csv", "deep.txt", "deep/b.csv", "deep/er/empty", "run.sh"]
    assert [path for path, entry in found.items() if entry.executable] == ["run.sh"]
    assert objects.absent([entry.digest for entry in found.values()]) == []


def test_the_same_folder_elsewhere_is_the_same_artifact(files: Files, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    for path in sorted(data.rglob("*"), reverse=True):
        if path.is_file():
            (other / path.relative_to(data)).parent.mkdir(parents=True, exist_ok=True)
            (other / path.relative_to(data)).write_bytes(path.read_bytes())
    (other / "run.sh").chmod(0o700)
    assert files.keep(other).digest == files.keep(data).digest
    (other / "run.sh").chmod(0o600)
    assert files.keep(other).digest != files.keep(data).digest


def test_an_empty_folder_is_an_artifact_too(files: Files, root: Path, tmp_path: Path, objects: LocalObjects) -> None:
    (root / "none").mkdir()
    kept = files.keep(root / "none")
    assert (kept.size, kept.files) == (0, 0)
    assert files.place(kept.digest, tmp_path / "out" / "none", objects) == 0
    assert list((tmp_path / "out" / "none").iterdir()) == []


def test_hashing_alone_keeps_no_file(files: Files, objects: LocalObjects, data: Path) -> None:
    only = files.keep(data, policy="reference")
    assert [digest for digest, _ in objects.list()] == [object_of(only.digest)]
    single = files.keep(data / "a.csv", policy="reference")
    assert objects.absent([single.digest]) == [single.digest]
    assert (only.policy, single.policy) == ("reference", "reference")
    assert files.keep(data).digest == only.digest
    assert files.keep(data / "a.csv").digest == single.digest


def test_what_git_and_cmf_own_is_left_out_of_a_folder_and_refused_alone(
    files: Files, objects: LocalObjects, root: Path
) -> None:
    (root / "train.py").write_text("print()")
    (root / ".git").mkdir()
    (root / ".git" / "HEAD").write_text("ref")
    (root / "vendored" / ".git").mkdir(parents=True)
    (root / "vendored" / ".git" / "config").write_text("secret")
    (root / "vendored" / "lib.py").write_text("pass")
    kept = files.keep(root)
    assert kept.path == "."
    assert list(members(objects, kept.digest)) == ["train.py", "vendored/lib.py"]
    for own in (".git/HEAD", ".git", ".cmf", "vendored/.git/config"):
        with pytest.raises(UsageError, match="belongs to git or to cmf"):
            files.keep(root / own)


def test_a_link_counts_as_what_it_leads_to_inside_the_folder_or_the_root(
    files: Files, objects: LocalObjects, root: Path, data: Path
) -> None:
    (root / "shared.csv").write_bytes(b"shared")
    (data / "latest.csv").symlink_to("a.csv")
    (data / "shared.csv").symlink_to(root / "shared.csv")
    (data / "folder").symlink_to("deep", target_is_directory=True)
    found = members(objects, files.keep(data).digest)
    assert found["latest.csv"].digest == found["a.csv"].digest
    assert found["shared.csv"].digest == file_digest(b"shared")
    assert found["folder/b.csv"].digest == found["deep/b.csv"].digest
    assert "folder/er/empty" in found


@pytest.mark.parametrize("target", ["/etc/passwd", "/etc", "../../outside", "../.cmf", "../.git/config"])
def test_a_link_that_leads_out_is_refused_by_name(files: Files, data: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").write_text("not yours")
    (data.parent / ".git").mkdir()
    (data.parent / ".git" / "config").write_text("token")
    (data / "link").symlink_to(target)
    with pytest.raises(UsageError, match="link leads out of its folder"):
        files.keep(data)


@pytest.mark.parametrize("target", [".", "..", "../..", "../deep"])
def test_a_link_in_a_circle_is_refused(files: Files, data: Path, target: str) -> None:
    (data / "deep" / "round").symlink_to(target)
    with pytest.raises(UsageError, match="round leads"):
        files.keep(data)


def test_a_link_to_nothing_a_pipe_and_a_missing_path_are_said(files: Files, root: Path, data: Path) -> None:
    with pytest.raises(NotFoundError, match="absent"):
        files.keep(root / "absent")
    with pytest.raises(UsageError):
        files.keep("a\0b")
    os.mkfifo(data / "pipe")
    with pytest.raises(UsageError, match="pipe is neither a file nor a folder"):
        files.keep(data)
    (data / "pipe").unlink()
    (data / "dangling").symlink_to("nowhere")
    with pytest.raises(NotFoundError, match="dangling"):
        files.keep(data)


def test_names_are_held_in_one_form_and_odd_ones_byte_by_byte(
    files: Files, objects: LocalObjects, data: Path, tmp_path: Path
) -> None:
    (data / unicodedata.normalize("NFD", "prüfung")).write_bytes(b"n")
    (data / os.fsdecode(b"odd\xff")).write_bytes(b"o")
    (data / 'q"uo\\te\n').write_bytes(b"q")
    kept = files.keep(data)
    assert {"prüfung", b"odd\xff", 'q"uo\\te\n'} <= set(members(objects, kept.digest))
    assert files.record_path(data / unicodedata.normalize("NFD", "prüfung")) == "data/prüfung"
    assert files.keep(data / os.fsdecode(b"odd\xff")).path == {"$b": "ZGF0YS9vZGT/"}
    files.place(kept.digest, tmp_path / "again", objects)
    assert files.keep(tmp_path / "again").digest == kept.digest


def test_a_path_is_recorded_from_the_root_from_home_or_whole(
    files: Files, root: Path, home: Path, tmp_path: Path
) -> None:
    assert files.record_path(root) == "."
    assert files.record_path(root / "a" / ".." / "b") == "b"
    assert files.record_path(home / "data" / "x") == "~/data/x"
    assert files.record_path(home) == "~"
    assert files.record_path("/srv/x") == "/srv/x"
    assert files.record_path(str(root) + "-2/x") == str(root) + "-2/x"
    assert files.record_path(root / "~" / "x") == "./~/x"
    assert files.record_path("https://ada:pw@example.org/x?token=1") == "https://example.org/x"
    (tmp_path / "door").symlink_to(root)
    assert files.record_path(tmp_path / "door" / "x") == "x"
    (root / "link").symlink_to("/srv/x")
    assert files.record_path(root / "link") == "link"


def test_a_placed_file_is_the_file(files: Files, objects: LocalObjects, root: Path, tmp_path: Path) -> None:
    (root / "x").write_bytes(b"bytes")
    kept = files.keep(root / "x")
    target = tmp_path / "new" / "folders" / "y"
    assert files.place(kept.digest, target, objects) == 5
    assert target.read_bytes() == b"bytes"
    assert target.stat().st_mode & 0o222, "the user's copy is the user's to write"
    assert files.place(kept.digest, target, objects) == 5
    assert os.listdir(target.parent) == ["y"]


def test_a_placed_folder_is_the_folder(files: Files, objects: LocalObjects, data: Path, tmp_path: Path) -> None:
    kept = files.keep(data)
    target = tmp_path / "copy"
    for _ in range(2):
        assert files.place(kept.digest, target, objects) == kept.size
    assert files.keep(target).digest == kept.digest
    assert os.access(target / "run.sh", os.X_OK)
    (tmp_path / "prepared").mkdir()
    assert files.place(kept.digest, tmp_path / "prepared", objects) == kept.size
    assert sorted(os.listdir(tmp_path)) == ["copy", "prepared", "work"]


def test_nothing_is_overwritten(files: Files, objects: LocalObjects, data: Path, tmp_path: Path) -> None:
    file, folder = files.keep(data / "a.csv").digest, files.keep(data).digest
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    taken = [(file, name) for name in ("file", "full", "empty", "link", "dangling", "pipe", "file/below")]
    taken += [(folder, name) for name in ("file", "full", "link", "dangling", "pipe", "file/below")]
    before = sorted(tmp_path.rglob("*"))
    for digest, name in taken:
        with pytest.raises(ConflictError):
            files.place(digest, tmp_path / name, objects)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"


def test_a_missing_or_damaged_object_leaves_nothing_placed(
    files: Files, objects: LocalObjects, data: Path, tmp_path: Path
) -> None:
    kept = files.keep(data)
    member = file_digest(b"1,2\n")
    flip(objects.folder, member)
    for digest in (member, kept.digest):
        with pytest.raises(CorruptError, match=member):
            files.place(digest, tmp_path / "out", objects)
    objects.remove([member])
    with pytest.raises(NotFoundError, match=r"1 of the objects of folder tree:.* are not here"):
        files.place(kept.digest, tmp_path / "out", objects)
    objects.remove([object_of(kept.digest)])
    with pytest.raises(NotFoundError):
        files.place(kept.digest, tmp_path / "out", objects)
    assert os.listdir(tmp_path) == ["work"]


HOSTILE = ["../escaped", "/tmp/escaped", "a/../../escaped", ".git/config", "a\\\\..\\\\..\\\\escaped", "nul\\u0000"]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_manifest_writes_nothing_anywhere(
    files: Files, objects: LocalObjects, tmp_path: Path, path: str
) -> None:
    objects.put(file_digest(b"evil"), b"evil")
    data = HEADER + f'["{path}","{file_digest(b"evil")}",4,1]\n'.encode()
    objects.put(file_digest(data), data)
    with pytest.raises(CorruptError):
        files.place(manifest.tree_digest(data), tmp_path / "target" / "folder", objects)
    assert sorted(os.listdir(tmp_path)) in (["work"], ["target", "work"])
    assert not (tmp_path / "target").exists() or os.listdir(tmp_path / "target") == []
    assert not Path("/tmp/escaped").exists()


def test_a_manifest_that_lies_about_a_size_is_refused(files: Files, objects: LocalObjects, tmp_path: Path) -> None:
    objects.put(file_digest(b"four"), b"four")
    data = manifest.encode([Entry("x", file_digest(b"four"), 5)])
    objects.put(file_digest(data), data)
    with pytest.raises(CorruptError, match="size"):
        files.place(manifest.tree_digest(data), tmp_path / "target", objects)
    assert os.listdir(tmp_path) == ["work"]


def test_what_is_no_manifest_and_what_is_no_digest_are_refused(
    files: Files, objects: LocalObjects, tmp_path: Path
) -> None:
    objects.put(file_digest(b"text"), b"text")
    for digest in ("tree:" + file_digest(b"text"), "sha256:../../x", ""):
        with pytest.raises(CorruptError):
            files.place(digest, tmp_path / "target", objects)
    assert os.listdir(tmp_path) == ["work"]


def test_a_manifest_is_sorted_by_whole_paths_whatever_the_names(
    files: Files, objects: LocalObjects, root: Path
) -> None:
    # "a-b" and "a.b" sort around "a/": so does what lies in a folder `a` between files and other folders.
    names = [b"a-b", b"a/x", b"a/x.y/z", b"a/x-y", b"a.b", b"a0/q", b"b/e\xcc\x81/1", b"b/f", b"b/\xff/2", b"\xc3\xa9"]
    for name in names:
        path = Path(os.fsdecode(os.fsencode(root / "odd") + b"/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name)
    found = members(objects, files.keep(root / "odd").digest)
    raw = [manifest.raw_path(path) for path in found]
    assert raw == sorted(raw)
    assert sorted(file_digest(name) for name in names) == sorted(entry.digest for entry in found.values())
