"""`cmf run` and the terminal: what a command writes passes as if nobody were between, and is kept."""

import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from cmf.terminal import HEAD_BYTES, TAIL_BYTES, Kept
from tests.commands import cmf, git

CMF = [sys.executable, "-m", "cmf"]
WAIT_SECONDS = 60


def kept(folder: Path) -> bytes:
    """Return what was kept of the newest execution's output."""
    (newest, *_) = cmf(folder, "log", "--json").json["executions"]
    shown = subprocess.run([*CMF, "show", newest["id"], "--output"], cwd=folder, capture_output=True, check=True)
    return shown.stdout


def test_a_pipe_stays_a_pipe_and_the_two_outputs_stay_apart(tmp_path: Path) -> None:
    text = "test -t 1 && echo terminal; printf 'out\\n'; printf 'err\\n' >&2; exit 3"
    done = subprocess.run([*CMF, "run", "--", "sh", "-c", text], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 3
    assert done.stdout == b"out\n"
    assert done.stderr.startswith(b"err\n")
    assert sorted(kept(tmp_path).split()) == [b"err", b"out"]


def test_every_byte_passes_unchanged(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "data").write_bytes(data)
    done = subprocess.run([*CMF, "run", "--", "cat", "data"], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == data
    found = kept(tmp_path)
    assert found[:HEAD_BYTES] == data[:HEAD_BYTES]
    assert found[-TAIL_BYTES:] == data[-TAIL_BYTES:]
    left_out = len(data) - HEAD_BYTES - TAIL_BYTES
    assert (b"%d bytes are left out" % left_out in found) == (left_out > 0)


@pytest.mark.parametrize("size", [0, 1, HEAD_BYTES, HEAD_BYTES + TAIL_BYTES, HEAD_BYTES + TAIL_BYTES + 1, 5 << 20])
def test_head_and_tail_are_kept_of_any_length(size: int) -> None:
    data = os.urandom(size)
    held = Kept()
    for at in range(0, size, 77_777):
        held.add(data[at : at + 77_777])
    assert held.size == size
    if size <= HEAD_BYTES + TAIL_BYTES:
        assert held.take() == data
    else:
        assert held.take().startswith(data[:HEAD_BYTES])
        assert held.take().endswith(data[-TAIL_BYTES:])


def test_standard_input_reaches_the_command(tmp_path: Path) -> None:
    done = subprocess.run([*CMF, "run", "--", "sort"], cwd=tmp_path, input=b"b\na\n", capture_output=True, check=True)
    assert done.stdout == b"a\nb\n"


def test_when_nobody_reads_the_command_learns_it(tmp_path: Path) -> None:
    text = f"{' '.join(CMF)} run --trace off -- yes | head -n 2"
    done = subprocess.run(["sh", "-c", text], cwd=tmp_path, capture_output=True, check=True, timeout=WAIT_SECONDS)
    assert done.stdout == b"y\ny\n"


def test_output_is_not_kept_if_that_is_said(tmp_path: Path) -> None:
    cmf(tmp_path, "run", "--no-output", "--", "echo", "secret")
    (newest,) = cmf(tmp_path, "log", "--json").json["executions"]
    assert cmf(tmp_path, "show", newest["id"], "--output", code=3).err


def states_of(group: int) -> set[str]:
    """Return the states, such as ``S`` or ``T``, of the processes of a group."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group:
                found.add(state)
    return found


class Terminal:
    """A shell in a real terminal of its own, typed into and read."""

    def __init__(self, folder: Path) -> None:
        self.screen = b""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.environ.update(PS1="$ ", TERM="dumb", CMF_SYSTEM="off")
            os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "-i"])
        self.resize(33, 99)
        self.wait(r"\$ $")

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        self.screen = b""
        os.write(self.master, text.encode())

    def wait(self, pattern: str) -> str:
        """Read until the screen shows a pattern."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if match := re.search(pattern, self.screen.decode(errors="replace"), re.MULTILINE):
                return match[0]
            if select.select([self.master], [], [], 0.2)[0]:
                self.screen += os.read(self.master, 65536)
        raise AssertionError(f"never saw {pattern!r}: {self.screen.decode(errors='replace')}")

    def wait_until_stopped(self, group: int) -> None:
        """Wait until no process of a group runs: the shell says so of a job as soon as its first process stops."""
        deadline = time.monotonic() + WAIT_SECONDS
        while states_of(group) - {"T", "Z"}:
            assert time.monotonic() < deadline, f"{group} never stopped: {states_of(group)}"
            time.sleep(0.01)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.master)


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    if shutil.which("bash") is None:
        pytest.fail("these tests need bash")
    return Terminal(tmp_path)


RUN = f"{' '.join(CMF)} run --trace off -- "


def test_in_a_terminal_the_command_sees_a_terminal_of_the_same_size(terminal: Terminal, tmp_path: Path) -> None:
    code = "import os, sys; print('tty', sys.stdout.isatty(), sys.stderr.isatty(), *os.get_terminal_size(1))"
    terminal.type(f'{RUN}{sys.executable} -c "{code}"; echo "code $?"\n')
    assert terminal.wait(r"tty \w+ \w+ \d+ \d+") == "tty True True 99 33"
    terminal.wait(r"^code 0")
    terminal.close()
    assert b"tty True True 99 33" in kept(tmp_path)


WATCH = """
import os, signal
signal.signal(signal.SIGWINCH, lambda *_: None)
print("ready", flush=True)
while os.get_terminal_size(1).columns != 120:
    signal.sigtimedwait([signal.SIGUSR1], 0.05)
print("now", os.get_terminal_size(1).columns)
"""


def test_a_terminal_that_is_resized_tells_the_command(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "watch.py").write_text(WATCH)
    terminal.type(f"{RUN}{sys.executable} watch.py\n")
    terminal.wait(r"^ready")
    terminal.resize(40, 120)
    terminal.wait(r"^now 120")
    terminal.close()


def test_ctrl_c_ends_the_command_and_is_recorded(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type(f'{RUN}sh -c "echo started; sleep 60"\n')
    terminal.wait(r"^started")
    terminal.type("\x03")
    terminal.wait(r"cmf show \w+\s+\$ $")
    terminal.type('echo "code $?"\n')
    terminal.wait(r"^code 130")
    terminal.close()
    (newest,) = cmf(tmp_path, "log", "--json").json["executions"]
    assert newest["status"] == "killed"


def test_ctrl_z_stops_and_fg_goes_on(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type(f'{RUN}sh -c "echo started; read line; echo got \\$line"; echo "code $?"\n')
    terminal.wait(r"^started")
    job = os.tcgetpgrp(terminal.master)
    terminal.type("\x1a")
    terminal.wait(r"Stopped")
    terminal.wait(r"^code 148\s+\$ $")
    terminal.wait_until_stopped(job)  # else it may still take what is typed next
    terminal.type("fg\n")
    terminal.wait(r"read line")
    terminal.type("hello\n")
    terminal.wait(r"^got hello")
    terminal.wait(r"\$ $")
    terminal.close()
    (newest,) = cmf(tmp_path, "log", "--json").json["executions"]
    assert newest["status"] == "finished"


def test_what_is_left_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    text = "(sleep 60; echo late) & echo done"
    started = threading.Event()
    timer = threading.Timer(WAIT_SECONDS, started.set)
    timer.start()
    done = subprocess.run(
        [*CMF, "run", "--trace", "off", "--", "sh", "-c", text], cwd=tmp_path, stdout=subprocess.PIPE, check=True
    )
    timer.cancel()
    assert done.stdout == b"done\n"
    assert not started.is_set()


def test_a_long_answer_is_paged_on_a_terminal_and_a_short_one_is_not(terminal: Terminal, tmp_path: Path) -> None:
    for n in range(3):
        cmf(tmp_path, "run", "--name", f"run{n}", "--", "true")
    terminal.resize(6, 99)
    terminal.type(f"CMF_PAGER='sed s/^/paged:/' {' '.join(CMF)} log -n 1; echo end\n")
    assert "paged:" not in terminal.wait(r"(?s)run2.*^end")
    terminal.type(f"CMF_PAGER='sed s/^/paged:/' {' '.join(CMF)} show run0; echo end\n")
    assert "paged:run0" in terminal.wait(r"(?s)paged:.*^end")
    terminal.type(f"CMF_PAGER='sed s/^/paged:/' {' '.join(CMF)} show run0 --json; echo end\n")
    assert "paged:" not in terminal.wait(r"(?s)\}\s+end")
    terminal.type(f"CMF_PAGER=no-such-pager {' '.join(CMF)} show run0; echo end\n")
    assert "run0" in terminal.wait(r"(?s)run0.*^end")
    terminal.close()


def test_a_diff_is_coloured_on_a_terminal_and_obeys_nothing_that_was_recorded(
    terminal: Terminal, tmp_path: Path
) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "work.py").write_text("one = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "start")
    (tmp_path / "work.py").write_text("one = 2  # \x1b]0;owned\x07\n")
    cmf(tmp_path, "run", "--name", "dirty", "--", sys.executable, "work.py")
    terminal.type(f"TERM=xterm CMF_PAGER=cat {' '.join(CMF)} show dirty --diff; echo end\n")
    shown = terminal.wait(r"(?s)diff --git.*^end")
    assert "\x1b[31m-one = 1\x1b[m" in shown
    assert "\x1b[32m+one = 2  # ^[]0;owned^G\x1b[m" in shown
    plain = subprocess.run([*CMF, "show", "dirty", "--diff"], cwd=tmp_path, capture_output=True, check=True).stdout
    assert b"+one = 2  # \x1b]0;owned\x07\n" in plain
    terminal.type(f"TERM=xterm NO_COLOR=1 CMF_PAGER=cat {' '.join(CMF)} show dirty --diff; echo end\n")
    assert "\x1b" not in terminal.wait(r"(?s)diff --git.*^end")
    terminal.close()
