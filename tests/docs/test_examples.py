"""The examples on the pages: run in order, in an empty folder, they say what the page says.

In a ``console`` block, lines that start with ``$ `` are commands and the rest is what they write, where ``...`` stands
for anything. A ``python`` block that starts with ``# NAME.py`` is that file.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf import launch
from tests.hubs import HubProcess

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w.-]+\.py)\n")
SERVE = re.compile(r"cmf hub serve --folder (\S+)")
PAGE_HUB = "127.0.0.1:8899"

WORDS = "(?:{})-(?:{})".format("|".join(launch._FIRST.split()), "|".join(launch._SECOND.split()))
VARYING = {
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d": "<time>",
    r"\b\d+\.\d s\b": "<seconds>",
    r"\b\d+\.\d KiB": "<size>",
    r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b": "<uuid>",
    r"\b[0-9a-f]{7}\b": "<id>",
    rf"\b{WORDS}\b": "<name>",
    r"[ \t]+": " ",
}
"""What differs from run to run, or with what is installed: times, ids, sizes, made-up names, widths of columns."""


def steady(text: str) -> str:
    """Return text without what differs from one run to the next."""
    for varying, word in VARYING.items():
        text = re.sub(varying, word, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def matches(expected: str, said: str) -> bool:
    """Tell whether what a command said is what a page shows."""
    pattern = re.escape(steady(expected)).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, steady(said), flags=re.DOTALL) is not None


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a console block, and what each is to write."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


class Shell:
    """A person at a terminal, who follows one page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hub: HubProcess | None = None

    def close(self) -> None:
        """Stop the hub that the page started."""
        if self.hub is not None:
            self.hub.stop()

    def say(self, command: str) -> str:
        """Run one command as typed; return all that it wrote."""
        if command.startswith("cd "):
            self.folder = (self.folder / command.removeprefix("cd ")).resolve(strict=True)
            return ""
        if serve := SERVE.fullmatch(command):
            return self._serve(self.folder / serve[1])
        if self.hub is not None:
            command = command.replace(PAGE_HUB, f"127.0.0.1:{self.hub.port}")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}(exit code {done.returncode})"
        return self._as_on_the_page(done.stdout)

    def _serve(self, folder: Path) -> str:
        assert self.hub is None, "a page starts one hub"
        self.hub = HubProcess(folder, Path(os.environ["XDG_STATE_HOME"]))
        stdout = self.hub.process.stdout
        assert stdout is not None
        said = f"Hub ready at {self.hub.url}\n{stdout.readline()}{stdout.readline()}"
        return self._as_on_the_page(said)

    def _as_on_the_page(self, said: str) -> str:
        return said if self.hub is None else said.replace(f"127.0.0.1:{self.hub.port}", PAGE_HUB)


def examples(page: Path) -> list[tuple[str, str]]:
    """Return the blocks of a page that are run: (language, text)."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(kind, text) for kind, text in found if kind == "console" or FILE.match(text)]


RUN = [page for page in PAGES if examples(page)]


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_do_what_the_page_says(page: Path, tmp_path: Path) -> None:
    with contextlib.closing(Shell(tmp_path)) as shell:
        for kind, text in examples(page):
            if kind == "python":
                name = FILE.match(text)
                assert name is not None
                (shell.folder / name[1]).write_text(text, encoding="utf-8")
                continue
            for command, expected in commands(text):
                said = shell.say(command)
                assert matches(expected, said), f"$ {command}\n{said}\n--- the page says:\n{expected}"


@pytest.mark.parametrize(("page", "least"), [("README.md", 9), ("docs/tutorial.md", 25)])
def test_the_readme_and_the_tutorial_are_run(page: str, least: int) -> None:
    blocks = [text for kind, text in examples(ROOT / page) if kind == "console"]
    assert sum(len(list(commands(block))) for block in blocks) >= least


@pytest.mark.parametrize(
    ("expected", "said", "same"),
    [
        ("one\ntwo", "one\ntwo\n", True),
        ("one\ntwo", "one\nthree\n", False),
        ("one", "one\ntwo\n", False),
        ("", "something\n", False),
        ("one ... four", "one two three four\n", True),
        ("one\n...\nfour", "one\ntwo\nthree\nfour\n", True),
        ("fleet-heron  1c0ffee  0.1 s", "bold-ibis 09ab8f1   2.3 s\n", True),
        ("loss 0.5", "loss 0.6\n", False),
        ("a.b", "axb\n", False),
    ],
)
def test_a_page_is_held_to_all_but_ids_times_and_made_up_names(expected: str, said: str, same: bool) -> None:
    assert matches(expected, said) is same
