"""Children to measure in or to measure: each in an empty folder and a home of its own. Standard library only."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PRIVATE = ("CMF_", "GIT_", "XDG_", "MLFLOW_", "PYTHON", "VIRTUAL_ENV")
SECONDS_MAX = 7200

# The greatest resident size is read from /proc where there is one: what the system accounts to a child on its end
# includes the parent that it was forked from.
RESIDENT = """
import sys
try:
    kib = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
except OSError:
    import resource
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
print(kib)
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment that knows nothing of the user's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE)}
    git = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": str(home / ".gitconfig")}
    return kept | git | {"HOME": str(home), "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"} | more


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    """Lend an empty folder with a ``home`` and a ``work`` folder in it."""
    with tempfile.TemporaryDirectory(prefix="cmf-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "home").mkdir()
        (folder / "work").mkdir()
        (folder / "home" / ".gitconfig").write_text(
            "[user]\n\tname = bench\n\temail = bench@example.org\n[init]\n\tdefaultBranch = main\n", encoding="utf-8"
        )
        yield folder


def run(command: Sequence[str | Path], folder: Path, *, work: Path | None = None) -> str:
    """Run a command to its end and return its output; a failure is an error with what it said."""
    done = subprocess.run(
        command,
        cwd=work or folder / "work",
        env=environment(folder / "home"),
        check=False,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS_MAX,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def part(
    module: str,
    name: str,
    folder: Path,
    *,
    tiny: bool,
    python: str | Path = sys.executable,
    work: Path | None = None,
    told: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run one part of a module in a process of its own, and return what it measured."""
    words = (python, "-m", module, name, json.dumps({"tiny": tiny, **(told or {})}))
    found = json.loads(run(words, folder, work=work).splitlines()[-1])
    assert isinstance(found, dict)
    return found


def repository(folder: Path) -> None:
    """Make the work folder a git repository with one commit."""
    work = folder / "work"
    (work / "train.py").write_text("print('training')\n", encoding="utf-8")
    (work / ".gitignore").write_text("*.bin\n", encoding="utf-8")
    for words in (("init", "--quiet"), ("add", "train.py", ".gitignore"), ("commit", "--quiet", "-m", "start")):
        run(("git", *words), folder)


def seconds(command: Sequence[str | Path], folder: Path) -> float:
    """Return how long a command takes from its start to its end, its output thrown away."""
    home = environment(folder / "home")
    started = time.perf_counter()
    subprocess.run(command, cwd=folder / "work", env=home, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return time.perf_counter() - started


def starts(python: Path, statement: str, folder: Path, repeats: int) -> tuple[list[float], list[float]]:
    """Return what a statement costs above the bare interpreter: seconds, and MiB of greatest resident size.

    Bare and full starts alternate, so that a machine that grows busy weighs on both. The first of each isn't counted:
    it may have bytecode to write.
    """
    bare = (python, "-c", "pass")
    full = (python, "-c", statement)
    for command in (bare, full):
        seconds(command, folder)
    times, sizes = [], []
    for _ in range(repeats):
        empty = seconds(bare, folder)
        times.append(seconds(full, folder) - empty)
        resident = [int(run((python, "-c", text + RESIDENT), folder)) for text in ("pass", statement)]
        sizes.append((resident[1] - resident[0]) / 1024)
    return times, sizes


def at_once(writer: Callable[..., None], count: int, *arguments: object) -> float:
    """Let processes write at once; return the ms from the first that begins to the last that has it kept.

    Each calls ``writer(rank, *arguments, go)``, which makes ready, calls ``go()``, writes, and returns.
    """
    context = multiprocessing.get_context("spawn")
    gate, times = context.Barrier(count), context.Queue()
    children = [context.Process(target=_at_the_gate, args=(writer, n, arguments, gate, times)) for n in range(count)]
    for child in children:
        child.start()
    found = [times.get(timeout=SECONDS_MAX) for _ in children]
    for child in children:
        child.join()
    if any(child.exitcode for child in children):
        raise RuntimeError("A writer failed.")
    return float(1000 * (max(end for _, end in found) - min(begin for begin, _ in found)))


def _at_the_gate(writer: Callable[..., None], rank: int, arguments: tuple[object, ...], gate: Any, times: Any) -> None:
    begun: list[float] = []

    def go() -> None:
        gate.wait(SECONDS_MAX)
        begun.append(time.monotonic())

    writer(rank, *arguments, go)
    times.put((begun[0], time.monotonic()))


def held(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def serve_parts(arguments: list[str], parts: Mapping[str, Callable[..., object]]) -> None:
    """Be the process that `part` starts: do the part that is named, and print what it measured."""
    print(json.dumps(parts[arguments[1]](**json.loads(arguments[2]))))
