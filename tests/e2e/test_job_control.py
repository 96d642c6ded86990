"""Ctrl-Z gives the shell back at any moment, also between the vfork and the exec of what is being started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.commands import cmf, git

STOPS = 10
WAIT_SECONDS = 60

# So many places where no program is, that nearly all of a start is the search between vfork or fork and exec.
ENVIRONMENT = {**os.environ, "PATH": "/:" * 60_000 + os.environ["PATH"], "CMF_SYSTEM": "off"}

ASKS_GIT = """
import os
from cmf.worktree import git
print("begun", flush=True)
while git.address(os.getcwd()):
    pass
"""


@contextmanager
def job(folder: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a job as a shell does: a process group of its own in our session."""
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.001)


def stop_and_go_on(process: subprocess.Popen[bytes]) -> None:
    """Do what ctrl-Z does, see the stop as a shell sees it, and do what `fg` does."""
    os.killpg(process.pid, signal.SIGTSTP)
    seen: list[int] = []

    def is_stopped() -> bool:
        pid, status = os.waitpid(process.pid, os.WUNTRACED | os.WNOHANG)
        seen.append(status)
        return pid != 0

    until(is_stopped, "stopped")
    assert os.WIFSTOPPED(seen[-1])
    os.killpg(process.pid, signal.SIGCONT)


def children(pid: int) -> list[str]:
    """Return the child processes of all threads of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            found += (task / "children").read_text().split()
    return found


def test_ctrl_z_stops_a_program_that_is_about_to_ask_git(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "remote", "add", "origin", "https://example.org/it.git")
    with job(tmp_path, sys.executable, "-c", ASKS_GIT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        for _ in range(STOPS):
            until(lambda: bool(children(process.pid)), "asked git")
            stop_and_go_on(process)
            assert process.poll() is None


def test_ctrl_z_stops_a_run_that_is_about_to_start_its_command(tmp_path: Path) -> None:
    cmf(tmp_path, "init")
    for _ in range(3):
        with job(tmp_path, sys.executable, "-m", "cmf", "run", "--trace", "off", "--", "sleep", "60") as process:
            until(lambda: bool(children(process.pid)), "started a command")
            stop_and_go_on(process)


def test_ctrl_c_ends_a_run_that_is_about_to_start_its_command(tmp_path: Path) -> None:
    cmf(tmp_path, "init")
    with job(tmp_path, sys.executable, "-m", "cmf", "run", "--trace", "off", "--", "sleep", "60") as process:
        until(lambda: bool(children(process.pid)), "started a command")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(WAIT_SECONDS) == 130
    (newest,) = cmf(tmp_path, "log", "--json").json["executions"]
    assert newest["status"] == "killed"
