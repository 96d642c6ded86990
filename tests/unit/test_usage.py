"""What a program and its machine use, told beside its own step metrics and never mixed with them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cmf
from cmf.worktree import usage
from tests.commands import script

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")


def held_bytes(megabytes: int) -> Iterator[subprocess.Popen[bytes]]:
    code = f"held = b'x' * {megabytes << 20}; print(len(held), flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    yield child
    child.communicate(b"\n")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    yield from held_bytes(200)


def test_the_memory_of_a_child_is_its_parents_use(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    used = usage.Usage(tmp_path, time.monotonic()).look(time.monotonic() + 1)
    assert used["system/process/memory"] > 200 << 20
    assert used["system/machine/memory"] > 200 << 20
    assert used["system/machine/disk"] > 0


def test_a_busy_program_uses_the_seconds_that_its_clock_says(tmp_path: Path) -> None:
    start = time.monotonic()
    looking = usage.Usage(tmp_path, start)
    before = time.process_time()
    while time.process_time() - before < 0.5:
        pass
    (tmp_path / "written").write_bytes(os.urandom(8 << 20))
    # As if a second had passed, however long the machine took.
    used = looking.look(start + 1)
    assert 0.4 <= used["system/process/cores"] <= time.process_time() - before + 0.5
    assert used["system/machine/cores"] > 0
    assert all(value >= 0 for value in used.values())
    assert all(name.startswith(usage.PREFIX) for name in used)


def test_a_look_that_is_dear_makes_the_next_one_late(tmp_path: Path) -> None:
    looking = usage.Usage(tmp_path, 100.0)
    assert not looking.due(100.5)
    assert looking.due(101.0)
    looking.look(101.0)
    looking.rest(0.002)
    assert not looking.due(110.9)
    assert looking.due(111.0)
    looking.look(111.0)
    looking.rest(0.1)
    assert not looking.due(210.9)
    assert looking.due(211.1)


WAITS = """
import time, cmf
def told():
    with cmf.open() as repo:
        try:
            return len(repo.series(run.id, "system/process/memory"))
        except cmf.NotFoundError:
            return 0
with cmf.run("p/train") as run:
    run.log({"loss": 0.5})
    until = time.monotonic() + 45
    while time.monotonic() < until and not told():
        time.sleep(0.1)
"""


def test_a_run_tells_what_it_used_apart_from_its_own_metrics(tmp_path: Path) -> None:
    script(tmp_path, WAITS, env={"CMF_SYSTEM": "on"})
    with cmf.open(tmp_path) as repo:
        (found,) = repo.executions()
        assert found.metrics == {"loss": 0.5}
        assert "system/process/memory" in repo.series_names(found)
        assert repo.series(found, "system/process/memory").values[0] > 1 << 20
        assert repo.executions("metrics.loss = 0.5") == [found]


QUIET = """
import time, cmf
from cmf import recorder
with cmf.run("p/train"{}) as run:
    started = time.monotonic()
    while time.monotonic() - started < 3 * recorder.FLUSH_SECONDS:
        time.sleep(0.1)
"""


@pytest.mark.parametrize(
    ("option", "variable", "setting"),
    [(", system=False", "on", ""), ("", "off", ""), ("", "", "v: 1\nsystem: false\n")],
    ids=["argument", "environment", "config"],
)
def test_a_run_can_be_told_not_to_look(tmp_path: Path, option: str, variable: str, setting: str) -> None:
    if setting:
        (tmp_path / ".cmf").mkdir()
        (tmp_path / ".cmf" / "config.yaml").write_text(setting)
    script(tmp_path, QUIET.format(option), env={"CMF_SYSTEM": variable})
    with cmf.open(tmp_path) as repo:
        assert repo.series_names(repo.executions()[0]) == []
