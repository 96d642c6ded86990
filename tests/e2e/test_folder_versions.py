"""Which file of many changed: what `cmf diff` says of two versions of a folder, and what the second one costs."""

import os
from pathlib import Path

import pytest

import cmf as api
from cmf.errors import UsageError
from tests.commands import cmf, script

MAKE = """
import os, sys
import cmf
with cmf.run("p/prepare") as run:
    run.output("images", name="images")
    run.label(sys.argv[1], "images")
"""
FILES = 2_000


def record(folder: Path, label: str) -> dict[str, int]:
    """Record the folder under a label; return the objects that are new since."""
    script(folder, MAKE.replace("sys.argv[1]", repr(label)))
    with api.open(folder) as repo:
        repo.collect()
        return dict(repo.objects.list())


def test_one_changed_file_of_many_is_named_and_costs_one_object_and_one_manifest(tmp_path: Path) -> None:
    for number in range(FILES):
        path = tmp_path / "images" / str(number // 100) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"picture {number}")
    script(tmp_path, MAKE.replace("sys.argv[1]", "'warm'"))
    before = record(tmp_path, "v1")
    (tmp_path / "images/7/701.png").write_text("another picture")
    after = record(tmp_path, "v2")
    with api.open(tmp_path) as repo:
        manifest = repo.resolve("images@v2").node.removeprefix("artifact:tree:")
        changes = repo.diff_folders("images@v1", "images@v2")
    fresh = after.keys() - before.keys()
    assert manifest in fresh
    assert sorted(after[digest] for digest in fresh if digest != manifest) == [len("another picture")]
    assert (changes.changed, changes.added, changes.removed, changes.same) == (["7/701.png"], [], [], FILES - 1)


def test_odd_names_modes_additions_and_removals_are_listed_one_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    names = [b"a b", b"line\nfeed", b"n" * 255, b"not-utf8-\xff", b"Case", b"case", b"run.sh", b"\x1b[31mred"]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(b"old " + name)
    record(tmp_path, "v1")
    (folder / "run.sh").chmod(0o755)
    (folder / "case").write_text("changed")
    os.unlink(os.path.join(os.fsencode(folder), b"not-utf8-\xff"))
    (folder / "line\nfeed").unlink()
    (folder / "\x1b[31mred").write_text("changed")
    (folder / "new").write_text("new")
    record(tmp_path, "v2")
    assert cmf(tmp_path, "diff", "images@v1", "images@v2").out.splitlines() == [
        "M  \\x1b[31mred",
        "M  case",
        "M  run.sh",
        "A  new",
        "D  line\\x0afeed",
        "D  not-utf8-\\xff",
        "3 changed, 1 added, 2 removed, 3 the same",
    ]
    found = cmf(tmp_path, "diff", "images@v1", "images@v2", "--json").json
    assert found["removed"] == ["line\nfeed", "not-utf8-\\xff"]
    cmf(tmp_path, "get", "images@v1", "back")
    back = os.fsencode(tmp_path / "back")
    assert sorted(os.listdir(back)) == sorted(names)
    assert all(Path(os.fsdecode(os.path.join(back, name))).read_bytes() == b"old " + name for name in names)


def test_two_names_that_are_no_folders_are_compared_as_the_runs_that_made_them(tmp_path: Path) -> None:
    text = "import cmf\nfor n in (1, 2):\n  with cmf.run('p/a', params={'n': n}) as run:\n"
    script(tmp_path, text + "    open('m','w').write('m' * 99 * n); run.output('m', name=f'm{n}')")
    assert "n  1 → 2" in cmf(tmp_path, "diff", "m1", "m2").out
    with api.open(tmp_path) as repo, pytest.raises(UsageError, match="is a file"):
        repo.diff_folders("m1", "m2")
