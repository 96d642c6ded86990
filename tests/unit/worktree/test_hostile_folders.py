"""Manifests made to harm: none of them writes anything outside of where it is placed, and none exhausts the machine."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf.errors import CmfError, ConflictError, CorruptError, UnreachableError
from cmf.model.digest import file_digest
from cmf.objects import manifest
from cmf.objects.local import LocalObjects
from cmf.worktree.files import Files
from cmf.worktree.placing import discard

EVIL = b"#!/bin/sh\necho harm\n"
DIGEST = file_digest(EVIL)


def line(path: object, digest: str = DIGEST, size: int = len(EVIL), executable: int = 1) -> bytes:
    return json.dumps([path, digest, size, executable], ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def raw(path: bytes) -> dict[str, str]:
    return {"$b": base64.b64encode(path).decode()}


ESCAPES: list[object] = [
    "/etc/passwd",
    "//etc/passwd",
    "../outside",
    "a/../../outside",
    "a/..",
    "..",
    ".",
    "./a",
    "a/./b",
    "",
    "a//b",
    "a/",
    "/",
    "\\outside",
    "..\\outside",
    "a\\..\\..\\outside",
    "C:\\outside",
    "C:outside",
    "c:/outside",
    "a:b",
    "\\\\server\\share\\outside",
    "a\0b",
    "a/\0",
    ".git/hooks/post-checkout",
    ".GIT/config",
    "sub/.git/config",
    "sub/.Git/hooks/pre-commit",
    ".cmf/config.yaml",
    ".CMF/keys/secret",
    "a\\.git\\config",
    "e\u0301",  # not in NFC: the same name twice on some disks
    raw(b"plain"),  # text in the disguise of bytes
    raw(b"../outside\xff"),
    raw(b"/outside\xff"),
    raw(b"a/\xff/../../outside"),
    raw(b".git/\xff"),
    raw(b"\xff\0"),
    "x" * 4097,
    "\ud800",
    ["a"],
    None,
    7,
    {"$b": "!"},
    {"other": "x"},
]

TOGETHER: dict[str, list[object]] = {
    "twice": ["a", "a"],
    "unsorted": ["b", "a"],
    "a file and a folder": ["a", "a/b"],
    "a file and a folder below": ["d", "d-", "d/e/f"],
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Make a folder full of traps around the place where a manifest is put, and see that none was sprung."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    place = tmp_path / "place"
    place.mkdir()
    (place / "link").symlink_to(outside)
    before = seen(tmp_path)
    yield place
    after = {path: what for path, what in seen(tmp_path).items() if not path.startswith(("place/target", "store"))}
    assert after == {path: what for path, what in before.items() if not path.startswith(("place/target", "store"))}
    assert not [path for path in os.listdir(place) if path.startswith(".target")], "no draft is left behind"


def seen(folder: Path) -> dict[str, object]:
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    objects = LocalObjects(tmp_path / "store" / "objects")
    objects.put(DIGEST, EVIL)
    return objects


def put(objects: LocalObjects, lines: list[bytes]) -> str:
    data = manifest.HEADER + b"".join(each + b"\n" for each in lines)
    objects.put(file_digest(data), data)
    return "tree:" + file_digest(data)


def attempt(objects: LocalObjects, tree: str, place: Path) -> None:
    Files(objects, place.parent).place(tree, place / "target", objects)


@pytest.mark.parametrize("path", ESCAPES, ids=[ascii(path)[:40] for path in ESCAPES])
def test_a_path_that_leads_out_or_is_spelled_oddly_is_refused(objects: LocalObjects, place: Path, path: object) -> None:
    for lines in ([line(path)], [line("0"), line(path)]):
        with pytest.raises(CorruptError):
            attempt(objects, put(objects, lines), place)
    assert not (place / "target").exists()


@pytest.mark.parametrize("name", TOGETHER)
def test_paths_that_clash_are_refused(objects: LocalObjects, place: Path, name: str) -> None:
    with pytest.raises(CorruptError):
        attempt(objects, put(objects, [line(path) for path in TOGETHER[name]]), place)
    assert not (place / "target").exists()


ODD = [
    "CON",
    "nul.txt",
    "aux/com1",
    "trailing.",
    "trailing ",
    " leading",
    "new\nline",
    "tab\t",
    "-rf",
    "~",
    "~root/x",
    "$HOME",
    "%2e%2e/x",
    "a/...",
    "dev/null",
    "\u202egnp.exe",
    "\uff0e\uff0e/x",  # full-width dots are no dots
    "\u2025/x",
    "x" * 255,
    raw(b"\xff\xfe"),
    raw(b"men\xfa/today"),
]


@pytest.mark.parametrize("path", ODD, ids=[ascii(path)[:40] for path in ODD])
def test_a_name_that_is_only_odd_stays_inside(objects: LocalObjects, place: Path, path: object) -> None:
    attempt(objects, put(objects, [line(path)]), place)
    (found,) = [each for each in (place / "target").rglob("*") if each.is_file()]
    assert found.read_bytes() == EVIL


def test_names_that_differ_in_case_alone_both_stay_or_nothing_is_placed(objects: LocalObjects, place: Path) -> None:
    tree = put(objects, [line("README"), line("Readme"), line("readme")])
    (place / "Probe").touch()
    folds = (place / "probe").exists()
    (place / "Probe").unlink()
    if folds:
        with pytest.raises(ConflictError):
            attempt(objects, tree, place)
        assert not (place / "target").exists()
    else:
        attempt(objects, tree, place)
        assert sorted(os.listdir(place / "target")) == ["README", "Readme", "readme"]


@pytest.mark.parametrize("trap", ["link to a folder", "link to a file", "link to nothing", "link in the folder"])
def test_no_link_that_waits_at_the_place_is_followed_or_replaced(objects: LocalObjects, place: Path, trap: str) -> None:
    tree = put(objects, [line("mine"), line("sub/mine")])
    target = place / "target"
    if trap == "link to a folder":
        target.symlink_to(place.parent / "outside")
    elif trap == "link to a file":
        target.symlink_to(place.parent / "outside" / "mine")
    elif trap == "link to nothing":
        target.symlink_to(place.parent / "outside" / "new")
    else:
        target.mkdir()
        (target / "sub").symlink_to(place.parent / "outside")
    for digest in (tree, DIGEST):
        with pytest.raises(ConflictError, match="is there already"):
            Files(objects, place.parent).place(digest, target, objects)
    assert (target / "sub").is_symlink() if trap == "link in the folder" else target.is_symlink()


def test_a_path_as_deep_as_it_may_be_is_placed_or_refused_but_nothing_is_left(
    objects: LocalObjects, place: Path
) -> None:
    for depth in (500, 1900, 2047):
        tree = put(objects, [line("/".join("d" * depth))])
        try:
            attempt(objects, tree, place)
        except CmfError:
            assert not (place / "target").exists()
        else:
            below = str(place / "target")
            for _ in range(depth - 1):
                below += "/d"
                assert os.path.isdir(below)
            assert os.path.isfile(below + "/d")
            attempt(objects, tree, place)
            discard(str(place / "target"))


def test_a_deep_folder_that_cannot_be_finished_leaves_nothing(objects: LocalObjects, place: Path) -> None:
    tree = put(objects, [line("d/" * 1900 + "a"), line("e", size=1)])
    with pytest.raises(CorruptError, match="another size"):
        attempt(objects, tree, place)
    assert not (place / "target").exists()


def test_more_bytes_than_the_disk_has_are_refused_before_the_first(objects: LocalObjects, place: Path) -> None:
    large = bytes(1 << 20)
    objects.put(file_digest(large), large)
    claimed = [line(f"{n:04}", file_digest(large), 2**52) for n in range(100)]
    with pytest.raises(UnreachableError, match="do not fit"):
        attempt(objects, put(objects, claimed), place)
    assert not (place / "target").exists()


@pytest.mark.parametrize("size", [-1, 2**53 + 1, 10**30, 1.5, True, "20"])
def test_a_size_that_cannot_be_is_refused(objects: LocalObjects, place: Path, size: object) -> None:
    with pytest.raises(CorruptError):
        attempt(objects, put(objects, [line("a", size=size)]), place)  # type: ignore[arg-type]


def test_more_files_than_a_folder_may_have_are_refused_before_they_are_decoded() -> None:
    data = manifest.HEADER + b"[]\n" * (manifest.FILES_MAX + 1)
    with pytest.raises(CorruptError, match="more than 1000000 files"):
        manifest.decode(data)


def test_deeply_nested_json_is_refused(objects: LocalObjects, place: Path) -> None:
    with pytest.raises(CorruptError):
        attempt(objects, put(objects, [b"[" * 100_000]), place)
