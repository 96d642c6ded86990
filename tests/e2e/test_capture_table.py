"""What the docs claim that `cmf run` finds of ten programs is what it finds."""

import shutil
from pathlib import Path

import pytest

from benchmarks import capture
from benchmarks.capture import page

WITHOUT = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here")


@pytest.mark.parametrize("way", [pytest.param("strace", marks=WITHOUT), "python"])
@pytest.mark.parametrize("program", capture.PROGRAMS, ids=lambda program: program.name)
def test_what_is_found_of_a_program_is_what_the_page_claims(program: capture.Program, way: str, tmp_path: Path) -> None:
    capture.prepare(program, tmp_path / "farm")
    assert capture.score(program, way, tmp_path / "farm") == page.claimed()[program.name, way]


def test_the_page_claims_that_nothing_is_missed_with_strace() -> None:
    claims = page.claimed()
    assert {claims[program.name, "strace"] for program in capture.PROGRAMS} == {capture.Score(1.0, 1.0)}
