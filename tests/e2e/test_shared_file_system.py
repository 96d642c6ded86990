"""A store on a file system that hosts share: no locks, no shared memory; mounted for real, by FUSE.

It needs /dev/fuse and libfuse. Where they are missing it can't be shown here, and CI requires them.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cmf
from cmf import collect
from cmf.errors import UnreachableError
from cmf.worktree import filesystem
from tests.commands import cmf as command
from tests.commands import script

WAIT_SECONDS = 30


def _can_mount() -> bool:
    try:
        import mfusepy  # noqa: F401  # it looks for libfuse as it is loaded
    except OSError:
        return False
    return os.access("/dev/fuse", os.R_OK | os.W_OK)


pytestmark = pytest.mark.skipif(
    not _can_mount() and not os.environ.get("CI"), reason="needs /dev/fuse and libfuse (apt install libfuse2 fuse3)"
)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """Lend a mounted folder."""
    source, point = tmp_path / "source", tmp_path / "shared"
    source.mkdir()
    point.mkdir()
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.fuse", str(source), str(point)], cwd=Path(__file__).parents[2]
    )
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while not os.path.ismount(point):
            assert server.poll() is None, "it could not be mounted"
            assert time.monotonic() < deadline, "it was not mounted"
            time.sleep(0.01)
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(5)
        server.kill()
        server.wait()


TRAIN = """
import cmf, pathlib, sys
with cmf.run("team/train", params={"n": int(sys.argv[1])}) as run:
    pathlib.Path(f"out{sys.argv[1]}.txt").write_text(sys.argv[1])
    run.output(f"out{sys.argv[1]}.txt", name="model")
    run.log({"loss": 1.0})
with cmf.open() as repo:  # every process collects, all at once
    repo.status()
"""


def test_processes_record_and_collect_on_a_file_system_without_locks_and_shared_memory(shared: Path) -> None:
    assert filesystem.is_shared(shared)
    (shared / ".cmf").mkdir()
    made = [subprocess.Popen([sys.executable, "-c", TRAIN, str(n)], cwd=shared) for n in range(6)]
    assert [process.wait(120) for process in made] == [0] * 6
    with cmf.open(shared) as repo:
        views = repo.executions()
        assert sorted(view.params["n"] for view in views) == list(range(6))
        assert {view.status for view in views} == {"finished"}
        assert all(view.outputs for view in views)
        assert repo.status().dropped == 0
    left = set(os.listdir(shared / ".cmf"))
    assert not {name for name in left if name.endswith(("-wal", "-shm", ".lock", ".break"))}
    assert command(shared, "log").out.count("finished") == 6


def test_a_lock_whose_process_is_dead_is_broken(shared: Path) -> None:
    (shared / ".cmf").mkdir()
    text = """
import os, pathlib, signal
from cmf import collect
store = collect.open_store(pathlib.Path(".cmf"))
with store._sql.write() as connection:
    connection.execute("INSERT INTO meta (key, value) VALUES ('half', 'done')")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    script(shared, text, code=-signal.SIGKILL)
    assert collect.holder(shared / ".cmf") is not None
    store = collect.open_store(shared / ".cmf")
    assert store.meta("half") == ""
    assert collect.holder(shared / ".cmf") is None


def test_a_lock_of_another_host_is_waited_for_and_only_a_person_breaks_it(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared / ".cmf"
    folder.mkdir()
    (folder / "store.lock").write_text('{"host":"elsewhere","boot":"x","pid":1,"start":1,"uid":0}')
    monkeypatch.setattr("cmf.collect.lock.WAIT_SECONDS", 0.1)
    with pytest.raises(UnreachableError, match="process 1 on elsewhere") as caught:
        collect.open_store(folder)
    assert "cmf doctor --unlock" in caught.value.hint
    held = collect.unlock(folder)
    assert held is not None
    assert held.host == "elsewhere"
    collect.open_store(folder).set_meta("a", "b")


def test_a_store_that_was_on_a_disk_goes_on_where_hosts_share_it(tmp_path: Path, shared: Path) -> None:
    script(tmp_path, TRAIN.replace("sys.argv[1]", "'1'"))
    subprocess.run(["cp", "-r", str(tmp_path / ".cmf"), str(shared / ".cmf")], check=True)
    script(shared, TRAIN.replace("sys.argv[1]", "'2'"))
    with cmf.open(shared) as repo:
        assert len(repo.executions()) == 2
