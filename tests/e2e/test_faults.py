"""Whatever befalls a recorded program, at whichever write: what is recorded is there, and the end is true."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cmf
from tests.commands import script

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(400)
def test_a_kill_or_a_full_disk_at_any_write_loses_nothing_that_was_recorded() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--kills", "50"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {name: int(count) for name, count in re.findall(r"([a-z][a-z ]*): (\d+)", done.stdout)}
    assert counts["writes"] > 15
    assert counts["kill at a write"] == 3 * counts["writes"]
    assert counts["kill at random"] == 50
    assert counts["full disk"] == 2 * counts["writes"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a disk of 300 KiB: a file system in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "cmf", str(folder)], check=False, capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"only who may mount can make a disk here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("end", "code", "status"), [("pass", 0, "finished"), ("sys.exit(3)", 3, "failed"), ("raise KeyError", 1, "failed")]
)
def test_a_disk_that_is_really_full_changes_nothing_and_once_there_is_room_the_end_is_recorded(
    disk: Path, end: str, code: int, status: str
) -> None:
    text = (
        "import cmf, os, subprocess, sys\n"
        "with cmf.run('p/a') as run:\n"
        "    run.metrics(before=1)\n"
        "    try: open('filler', 'wb').write(bytes(1_000_000))\n"
        "    except OSError: pass\n"
        "    for number in range(50): run.set(f'tag/{number}', 'x' * 1000)\n"
        "    os.unlink('filler')\n"
        "    run.metrics(after=2)\n"
        f"    {end}\n"
    )
    done = script(disk, text, code=code)
    assert "No space left on device" in done.err
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    with cmf.open(disk) as repo:
        (found,) = repo.executions()
        assert (found.status, found.exit) == (status, code)
        assert found.metrics == {"before": 1, "after": 2}
        assert repo.status().dropped > 0
        assert repo.status().problems == []


def test_a_disk_that_stays_full_changes_nothing_and_the_run_never_reads_as_finished(disk: Path) -> None:
    text = (
        "import cmf\n"
        "run = cmf.run('p/a')\n"
        "run.metrics(before=1)\n"
        "try: open('filler', 'wb').write(bytes(1_000_000))\n"
        "except OSError: pass\n"
        "for number in range(50): run.set(f'tag/{number}', 'x' * 1000)\n"
        "print('done')\n"
    )
    done = script(disk, text)
    assert done.out == "done\n"
    assert "will read as lost" in done.err
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    with cmf.open(disk) as repo:
        (found,) = repo.executions()
        assert (found.status, found.metrics) == ("lost", {"before": 1})
