"""The real DVC, in an environment of its own: made on first use, from hashed requirements."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.installed import ROOT, once

REQUIREMENTS = ROOT / "requirements" / "dvc.txt"

HISTORY = """
import os, subprocess, sys
from pathlib import Path
from dvc.repo import Repo

def git(*words):
    subprocess.run(["git", *words], check=True, stdout=subprocess.DEVNULL)

def commit(number):
    git("add", "--all")
    when = f"{1700000000 + 60 * number} +0000"
    environment = {**os.environ, "GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
    subprocess.run(["git", "commit", "-q", "-m", f"commit {number}"], check=True, env=environment)

git("init", "-q")
repo = Repo.init()
Path("raw").mkdir()
Path("raw/a.csv").write_text("a\\n" * 100)
Path("raw/b.csv").write_text("b\\r\\n" * 100)
repo.add("raw")
for name in ("prepare", "train", "evaluate"):
    Path(f"{name}.py").write_text(f"# {name}\\n")
Path("params.yaml").write_text("cut: 1\\ntrain:\\n  lr: 0.1\\n")
Path("dvc.yaml").write_text('''
stages:
  prepare:
    cmd: mkdir -p clean && cat raw/*.csv > clean/all.csv && grep cut params.yaml >> clean/all.csv
    deps: [raw, prepare.py]
    params: [cut]
    outs: [clean]
  train:
    cmd: cat clean/all.csv params.yaml > model.bin
    deps: [clean, train.py]
    params: [train.lr]
    outs: [model.bin]
  evaluate:
    cmd: wc -c < model.bin | sed 's/.*/{"score":{"size":&}}/' > scores.json
    deps: [model.bin]
    metrics: [{scores.json: {cache: false}}]
artifacts:
  detector: {path: model.bin, type: model}
''')
repo.reproduce()
commit(0)
for number in range(1, int(sys.argv[1])):
    if number % 5 == 0:
        Path(f"notes-{number}.md").write_text("nothing that DVC tracks")
    elif number % 5 == 1:
        Path("raw/a.csv").write_text("a\\n" * (100 + number))
        repo.add("raw")
        repo.reproduce()
    else:
        Path("params.yaml").write_text(f"cut: 1\\ntrain:\\n  lr: {number / 100}{'0' * number}1\\n")
        repo.reproduce()
    commit(number)
repo.close()
"""
"""Three stages over twenty commits: seventeen tell of runs, and three change nothing of DVC's."""


def python() -> str:
    """Return the interpreter of the environment that real DVC is in."""
    return str(once("dvc", REQUIREMENTS, _install) / "bin" / "python")


def dvc(folder: Path, *words: str) -> str:
    """Run real `dvc` in a folder, and return what it said."""
    return _run(folder, "-m", "dvc", *words)


def history(folder: Path, commits: int) -> None:
    """Make a DVC repository of three stages and so many commits in a folder, by real DVC."""
    folder.mkdir()
    _run(folder, "-c", HISTORY, str(commits))


def _run(folder: Path, *words: str) -> str:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_TEST": "1"}
    command = [python(), *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _install(place: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    found = str(place / "bin" / "python")
    own = ROOT / "build" / "uv" / "bin" / "uv"
    uv = str(own) if own.is_file() else shutil.which("uv")
    pip = [uv, "pip", "install", "--quiet", "--python", found] if uv else [found, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--require-hashes", "--requirement", str(REQUIREMENTS)], check=True)
