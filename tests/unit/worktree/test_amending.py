"""A folder that becomes another version: only what differs is touched, and death at any step loses nothing."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cmf.errors import ConflictError, CorruptError, NotFoundError
from cmf.model.digest import file_digest
from cmf.objects import manifest
from cmf.objects.local import LocalObjects
from cmf.worktree import amending, memory
from cmf.worktree.files import Files

OLD = {"same/1": "one", "same/2": "two", "swap": "a file", "gone/below/1": "gone", "changed": "old", "turn/x/y": "deep"}
NEW = {"same/1": "one", "same/2": "two", "swap/a": "now a folder", "changed": "new", "turn": "a file", "fresh/n": "n"}


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    made = Files(LocalObjects(tmp_path / ".cmf" / "objects"), tmp_path)
    yield made
    made.close()


def lay(folder: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, ns=(1, 1))


def found(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def versions(files: Files, tmp_path: Path) -> tuple[Path, str]:
    """Keep both versions, with the old one in the folder; return that, and the object of the new one's manifest."""
    lay(tmp_path / "new", NEW)
    lay(tmp_path / "data", OLD)
    wanted = files.keep(tmp_path / "new").digest
    files.keep(tmp_path / "data")
    return tmp_path / "data", wanted.removeprefix("tree:")


def become(files: Files, data: Path, wanted: str) -> None:
    seen_ns = memory.now()
    changes = list(manifest.Differences(files.objects, files.listing(str(data)), wanted))
    amending.amend(files.objects, str(data), changes, seen_ns=seen_ns)


def test_only_what_differs_is_written_and_emptied_folders_go(files: Files, tmp_path: Path) -> None:
    data, wanted = versions(files, tmp_path)
    before = {name: (data / name).stat() for name in ("same/1", "same/2")}
    become(files, data, wanted)
    assert found(data) == NEW
    assert {name: (data / name).stat() for name in before} == before
    assert sorted(path.name for path in data.iterdir()) == ["changed", "fresh", "same", "swap", "turn"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cmf", "data", "new"]


CALLS = ("mkdir", "rename", "unlink", "rmdir", "link", "open")


def dying_at(step: int, act: Callable[[], None]) -> bool:
    """Do something in a process that is killed at its n-th call that changes the disk; tell whether it was killed."""
    child = os.fork()
    if child == 0:
        left = [step]

        def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
            def called(*given: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*given, **named)

            return called

        for name in CALLS:
            setattr(os, name, deadly(getattr(os, name)))
        try:
            act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_death_at_any_step_leaves_whole_files_and_the_next_try_ends_it(files: Files, tmp_path: Path) -> None:
    data, wanted = versions(files, tmp_path)
    files.flush()
    step = 0
    while dying_at(step, lambda: become(files, data, wanted)):
        for name, text in found(data).items():
            assert text in (OLD.get(name), NEW.get(name)), (step, name)
        become(files, data, wanted)
        assert found(data) == NEW, step
        assert sorted(path.name for path in tmp_path.iterdir()) == [".cmf", "data", "new"], step
        for path in sorted(data.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        lay(data, OLD)
        step += 1
    assert step > 20
    assert found(data) == NEW


@pytest.mark.parametrize("name", ["changed", "gone/below/1"])
def test_a_file_that_was_changed_since_it_was_looked_at_stays(files: Files, tmp_path: Path, name: str) -> None:
    data, wanted = versions(files, tmp_path)
    seen_ns = memory.now()
    changes = list(manifest.Differences(files.objects, files.listing(str(data)), wanted))
    (data / name).write_text("mine")
    with pytest.raises(CorruptError, match=name) as raised:
        amending.amend(files.objects, str(data), changes, seen_ns=seen_ns)
    assert raised.value.kind == "changing"
    assert (data / name).read_text() == "mine"


def test_a_file_that_came_since_is_not_replaced(files: Files, tmp_path: Path) -> None:
    data, wanted = versions(files, tmp_path)
    seen_ns = memory.now()
    changes = list(manifest.Differences(files.objects, files.listing(str(data)), wanted))
    lay(data, {"fresh/n": "mine"})
    with pytest.raises(ConflictError):
        amending.amend(files.objects, str(data), changes, seen_ns=seen_ns)
    assert (data / "fresh/n").read_text() == "mine"


def test_nothing_is_changed_if_an_object_is_missing(files: Files, tmp_path: Path) -> None:
    data, wanted = versions(files, tmp_path)
    files.objects.remove([file_digest(b"now a folder")])
    with pytest.raises(NotFoundError):
        become(files, data, wanted)
    assert found(data) == OLD
    assert not (tmp_path / ".data.checkout").exists()


def test_two_checkouts_of_one_folder_do_not_mix(files: Files, tmp_path: Path) -> None:
    data, wanted = versions(files, tmp_path)
    with amending._stage(str(data)), pytest.raises(ConflictError, match="Another checkout"):
        become(files, data, wanted)
    assert found(data) == OLD
