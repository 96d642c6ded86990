"""What a shell offers: commands, options, and names that are in the store here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import cmf, script


def completed(folder: Path, line: str) -> list[str]:
    """Return what bash would offer behind a line."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "_CMF_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "cmf"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return [item.partition(",")[2] for item in done.stdout.splitlines() if item]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    script(
        tmp_path,
        "import cmf\nwith cmf.run('lab/train', name='brave-run') as run:\n"
        "    open('m.bin', 'w').write('x')\n    run.output('m.bin', name='detector')",
    )
    cmf(tmp_path, "remote", "add", "origin", "http://127.0.0.1:1")
    cmf(tmp_path, "log")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cmf sh", ["show"]),
        ("cmf push --dr", ["--dry-run"]),
        ("cmf show det", ["detector"]),
        ("cmf lineage bra", ["brave-run"]),
        ("cmf push o", ["origin"]),
        ("cmf pull --scope lab", ["lab/train"]),
        ("cmf show nothing-like-it", []),
    ],
)
def test_commands_options_and_names_are_completed(project: Path, line: str, offered: list[str]) -> None:
    assert completed(project, line) == offered


def test_without_a_store_nothing_is_offered_and_nothing_is_made(tmp_path: Path) -> None:
    assert completed(tmp_path, "cmf show d") == []
    assert list(tmp_path.iterdir()) == []


def test_bash_itself_completes_with_the_script(project: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    (project / "bin").mkdir()
    (project / "bin" / "cmf").write_text(f'#!/bin/sh\nexec {sys.executable} -m cmf "$@"\n')
    (project / "bin" / "cmf").chmod(0o755)
    (project / "completion.sh").write_text(cmf(project, "completion", "bash").out)
    text = (
        ". ./completion.sh; COMP_WORDS=(cmf show det); COMP_CWORD=2; "
        "_cmf_completion cmf det show; printf '%s\\n' \"${COMPREPLY[@]}\"; complete -p cmf"
    )
    done = subprocess.run(
        [bash, "--norc", "-c", text],
        cwd=project,
        env={**os.environ, "PATH": f"{project / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[0] == "detector", done.stderr
    assert "_cmf_completion" in done.stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_that_asks_for_their_form(tmp_path: Path, shell: str) -> None:
    said = cmf(tmp_path, "completion", shell).out
    assert f"_CMF_COMPLETE={shell}_complete" in said
