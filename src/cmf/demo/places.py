"""Where the demo happens: the folders of its sites, the commands run in them, and the hub's process."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent
TIMEOUT_SECONDS = 120
SHOWN = "  "
BOLD, RED, GREEN, MAGENTA, CYAN = 1, 31, 32, 35, 36


held: list[str] = []
"""The claims that were checked and hold, so far."""


class BrokenClaimError(Exception):
    """Something that the demo claims did not hold: the message says what."""


def styled(text: str, code: int) -> str:
    """Return text in a colour, where a person reads it."""
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def claim(holds: object, what: str) -> None:
    """Say that something holds, after checking it."""
    if not holds:
        raise BrokenClaimError(what)
    held.append(what)
    print(f"{SHOWN}{styled('✓', GREEN)} {what}")


def say(title: str, text: str = "") -> None:
    """Begin a step of the story."""
    print("\n" + styled(title, BOLD))
    if text:
        print(textwrap.fill(text, width=100, initial_indent=SHOWN, subsequent_indent=SHOWN))


class Place:
    """One folder in which commands are run: a site with its store."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.folder = root / name
        self.folder.mkdir()
        self._environment = {
            "HOME": str(root),
            "LANG": "C.UTF-8",
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_STATE_HOME": str(root / "state"),
            **({"COLUMNS": "160", "FORCE_COLOR": "1"} if sys.stdout.isatty() else {"COLUMNS": "160"}),
        }

    def run(self, command: str, *, shown: bool = True) -> str:
        """Run a command here and return what it printed; ``shown``: show both."""
        if shown:
            print(SHOWN + styled(f"{self.name} $ {command}", CYAN))
        words = shlex.split(command)
        if words[0] in ("cmf", "python"):
            words[:1] = [sys.executable, *(["-m", "cmf"] if words[0] == "cmf" else [])]
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise BrokenClaimError(f"'{command}' at {self.name} ended with {done.returncode}: {done.stderr.strip()}")
        if shown:
            for line in done.stdout.splitlines():
                print(f"{SHOWN}  {line}")
        return done.stdout

    def json(self, command: str) -> Any:
        """Run a command with ``--json`` without a word, and return its answer."""
        return json.loads(self.run(f"{command} --json", shown=False))

    def take_scripts(self, team: str) -> None:
        """Put a team's scripts into a git repository here, where there is git."""
        for script in sorted((SCRIPTS / team).glob("*.py")):
            shutil.copy(script, self.folder)
        if shutil.which("git") is None:
            print(f"{SHOWN}(git is not installed: the code's version is not recorded)")
            return
        who = f"-c user.name={team} -c user.email={team}@example.org"
        (self.folder / ".gitignore").write_text("*.csv\n*.json\n", encoding="utf-8")
        for command in ("git init -q", "git add .", f"git {who} commit -q -m 'the {team} team: its stages'"):
            self.run(command, shown=False)

    def hub(self) -> contextlib.AbstractContextManager[str]:
        """Serve a hub from here for the length of a block; give its address."""
        return _serving(self.folder, self._environment)


@contextlib.contextmanager
def _serving(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    command = [sys.executable, "-m", "cmf", "hub", "serve", "--folder", str(folder / "hub"), "--port", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            if "ready at" not in line:
                raise BrokenClaimError(f"The hub did not start: {process.stderr.read().strip()}")
            yield line.split()[-1]
        finally:
            process.terminate()


def carry(source: Place, target: Place, *names: str) -> None:
    """Copy files from one site to another by hand, as on a stick."""
    print(SHOWN + styled(f"stick: {source.name} → {target.name}: {', '.join(names)}", MAGENTA))
    for name in names:
        shutil.copy(source.folder / name, target.folder / name)
