"""`cmf demo`: the story holds, leaves nothing behind, and says so loudly when a claim does not hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmf.demo import places

pytestmark = pytest.mark.xdist_group("demo")


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "cmf", "demo", *arguments],
        env={**os.environ, "HOME": str(folder), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_claim_holds_and_nothing_is_left_behind(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every claim held" in done.stdout
    assert done.stdout.count("✓") >= 12
    assert "13 executions at 2 sites, merged at one hub" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_is_kept_can_be_asked(tmp_path: Path) -> None:
    done = demo(tmp_path, "--keep", str(tmp_path / "story"))
    assert done.returncode == 0, done.stdout + done.stderr
    office = tmp_path / "story" / "office"
    shown = subprocess.run(
        [sys.executable, "-m", "cmf", "show", "classifier@best"], cwd=office, capture_output=True, text=True, check=True
    )
    assert "model-2-2.json" in shown.stdout
    again = demo(tmp_path, "--keep", str(tmp_path / "story"))
    assert again.returncode == 4
    assert "is not empty" in again.stderr


def test_a_claim_that_does_not_hold_is_an_error() -> None:
    with pytest.raises(places.BrokenClaimError, match="two and two"):
        places.claim(False, "two and two are five")


def test_a_command_that_fails_is_told_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(places.BrokenClaimError, match="nothing-like-it"):
        places.Place(tmp_path, "edge").run("cmf show nothing-like-it", shown=False)
