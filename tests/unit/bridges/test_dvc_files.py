"""DVC's files as they may come from anybody: read as DVC reads them, and refused where they are no such files."""

import json

import pytest

from cmf.bridges.dvc import files, runs
from cmf.bridges.dvc.files import Hash, Item, Stage
from cmf.errors import CorruptError
from cmf.worktree import dvc

MD5 = "0123456789abcdef" * 2


def test_aliases_of_yaml_that_name_each_other_into_millions_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(CorruptError, match="more values"):
        files.read_yaml("\n".join(lines).encode(), "dvc.lock")
    with pytest.raises(CorruptError, match="deeper"):
        files.read_yaml(b"a: &a [*a]", "dvc.lock")


@pytest.mark.parametrize(
    "text", [b"a: [", b"!!python/object:os.system {}", b"\xff\xfe\x00", b"[1, 2]", b"stages: 7\nschema: '2.0'"]
)
def test_what_is_no_lock_file_is_refused(text: bytes) -> None:
    with pytest.raises(CorruptError):
        files.read_lock(text, "dvc.lock", {})


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a/../../b", "", ".git/config", "a\\..\\..\\b"])
def test_a_folder_whose_files_lead_out_of_it_is_refused(path: str) -> None:
    data = json.dumps([{"md5": MD5, "relpath": path}]).encode()
    with pytest.raises(CorruptError, match="no file of a folder"):
        files.read_folder(data, Hash("md5", MD5 + ".dir"))


def test_a_lock_file_of_dvc_1_and_one_of_dvc_3_say_the_same_but_for_the_hash() -> None:
    entry = (
        f"train:\n  cmd: python train.py\n  deps:\n  - {{path: a, md5: {MD5}, size: 3%s}}\n"
        "  params: {params.yaml: {lr: 1}, p.json: {x: 2}}\n"
    )
    old = files.read_lock((entry % "").encode(), "sub/dvc.lock", {})["train"]
    indented = "".join(f"  {line}\n" for line in (entry % ", hash: md5").splitlines())
    new = files.read_lock(f"schema: '2.0'\nstages:\n{indented}".encode(), "sub/dvc.lock", {})["train"]
    assert old.deps == (Item("sub/a", Hash("md5-dos2unix", MD5), 3),)
    assert new.deps == (Item("sub/a", Hash("md5", MD5), 3),)
    assert old.params == new.params == {"lr": 1, "p.json:x": 2}


def test_the_old_hash_reads_text_with_unix_line_ends_and_nothing_else() -> None:
    assert dvc.md5(b"a\r\nb\r\n", "md5-dos2unix") == dvc.md5(b"a\nb\n", "md5")
    assert dvc.md5(b"\0a\r\n", "md5-dos2unix") == dvc.md5(b"\0a\r\n", "md5")
    assert dvc.md5(b"a\r\n", "md5") != dvc.md5(b"a\n", "md5")


def test_producers_come_before_those_that_use_their_files_even_inside_a_folder() -> None:
    made = Stage("z", ("x",), (), (Item("out", None),), {})
    used = Stage("a", ("x",), (Item("out/part/file", None),), (), {})
    assert runs.ordered({("dvc.lock", "a"): used, ("dvc.lock", "z"): made}) == [("dvc.lock", "z"), ("dvc.lock", "a")]
