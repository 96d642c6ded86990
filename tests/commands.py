"""The `cmf` command and Python scripts as real processes, as a person would run them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec


class Done(msgspec.Struct, frozen=True):
    """What a process said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return what it wrote as JSON."""
        return json.loads(self.out)


def run(command: list[str], cwd: Path, *, code: int | None = 0, env: dict[str, str] | None = None) -> Done:
    """Run a command to its end; it must end with this code (None: any)."""
    done = subprocess.run(
        command, cwd=cwd, text=True, capture_output=True, check=False, timeout=60, env={**os.environ, **(env or {})}
    )
    assert code is None or done.returncode == code, (command, done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr or command[1:2] != ["-m"], done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def cmf(cwd: Path, *arguments: str, code: int | None = 0, env: dict[str, str] | None = None) -> Done:
    """Run `cmf` with some arguments."""
    return run([sys.executable, "-m", "cmf", *arguments], cwd, code=code, env=env)


def script(cwd: Path, text: str, *, code: int | None = 0, env: dict[str, str] | None = None) -> Done:
    """Run a Python script, given as its text."""
    return run([sys.executable, "-c", text], cwd, code=code, env=env)


def git(cwd: Path, *arguments: str) -> str:
    """Run git and return what it said."""
    return run(["git", *arguments], cwd).out
