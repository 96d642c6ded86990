"""The operating system's view: `strace` beside the program, and what its log says.

The tracer runs in a session of its own (`-DD`), so that the program stays the child of who started it, with its own
process id, exit code, signals and job control. Only calls that name files are stopped at (`--seccomp-bpf`).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

from cmf.worktree.trace.accesses import Accesses

CALLS = (
    "openat,?open,?creat,?openat2,?rename,?renameat,renameat2,?unlink,unlinkat,?link,linkat,?truncate,chdir,fchdir,"
    "clone,?clone3,?fork,?vfork,execve,?execveat"
)
SECONDS_MAX = 10.0
"""How long the tracer may take to write its last line after the program ended."""

_OPTIONS = ("-DD", "-f", "-I4", "-q", "-y", "-xx", "-s", "4096", "--seccomp-bpf", "-e", "signal=none")
_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?(?: .*)?$", re.DOTALL)
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)$", re.DOTALL)
_QUOTED = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FOLDER = re.compile(r'(?:AT_FDCWD|\b\d+)<((?:\\x[0-9a-f]{2})*)>(?:\(deleted\))?, (?=")')
_CHARACTER = re.compile(r"\\x([0-9a-f]{2})")


def usable() -> bool:
    """Tell whether there is an `strace` that may trace here: containers and hardened systems forbid it."""
    program = shutil.which("strace")
    if program is None:
        return False
    try:
        done = subprocess.run(
            [program, *_OPTIONS, "-e", "trace=chdir", "-o", os.devnull, "true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and not done.stderr


def prefix(log: str) -> list[str]:
    """Return the words to put before a command, so that it is traced into a file."""
    return [shutil.which("strace") or "strace", *_OPTIONS, "-e", f"trace={CALLS}", "-o", log, "--"]


def refused(log: str, pid: int) -> OSError | None:
    """Return why the program could not be executed, which strace itself then ended for; None if it was."""
    try:
        with open(log, encoding="ascii", errors="surrogateescape") as file:
            calls = re.findall(rf"^{pid} +execve\(.*\) += (-?\d+) ?(\w*)(?: \((.*)\))?$", file.read(), re.MULTILINE)
    except FileNotFoundError:
        return None
    if not calls or any(returned == "0" for returned, _, _ in calls):
        return None
    _, name, said = calls[-1]
    return OSError(getattr(errno, name, errno.ENOEXEC), said.lower())


def take(log: str, pid: int, into: Accesses) -> bool:
    """Read the log of a program that ended; return whether it was whole.

    The tracer is not waited for to end, since what the program left running in the background is still traced.
    """
    ended = time.monotonic() + SECONDS_MAX
    last = re.compile(rf"^{pid} +\+\+\+ ", re.MULTILINE)
    while True:
        try:
            with open(log, encoding="ascii", errors="surrogateescape") as file:
                text = file.read()
        except FileNotFoundError:
            text = ""
        if last.search(text):
            _Reader(into).take(text)
            return True
        if time.monotonic() > ended:
            _Reader(into).take(text)
            return False
        time.sleep(0.005)


class _Reader:
    """Makes accesses of the lines of a log."""

    def __init__(self, into: Accesses) -> None:
        self._into = into
        self._folders: dict[str, str] = {}
        self._begun: dict[str, str] = {}
        self._looking: set[str] = set()

    def take(self, text: str) -> None:
        """Take in the lines of a log."""
        for line in text.split("\n"):
            if line.endswith("<unfinished ...>"):
                pid = line.partition(" ")[0]
                self._begun[pid] = line.removesuffix("<unfinished ...>")
                continue
            resumed = _RESUMED.match(line)
            whole = self._begun.pop(resumed[1], "") + resumed[3] if resumed else line
            if (match := _LINE.match(whole)) and int(match[4]) >= 0:
                self._call(match[1], match[2], match[3], match[4], match[5] or "")

    def _call(self, pid: str, name: str, arguments: str, returned: str, opened: str) -> None:
        if name in ("clone", "clone3", "fork", "vfork"):
            if pid in self._folders:
                self._folders.setdefault(returned, self._folders[pid])
            if pid in self._looking:
                self._looking.add(returned)
            return
        if name == "fchdir":
            if found := re.match(r"\d+<(.*)>", arguments):
                self._folders[pid] = _text(found[1])
            return
        paths = list(self._paths(pid, arguments))
        if not paths:
            return
        if name.startswith("execve"):
            # git looks through the work tree, for whoever starts it: what it reads is nobody's input.
            (self._looking.add if os.path.basename(paths[0]) == "git" else self._looking.discard)(pid)
        elif name == "chdir":
            self._folders[pid] = paths[0]
        elif name in ("open", "openat", "openat2", "creat"):
            flags = "O_CREAT|O_WRONLY|O_TRUNC" if name == "creat" else arguments
            if not (pid in self._looking and "O_WRONLY" not in flags and "O_RDWR" not in flags):
                self._open(paths[0], flags, _text(opened))
        elif name.startswith("rename") and len(paths) == 2:
            self._into.moved(*paths)
        elif name.startswith("link") and len(paths) == 2:
            self._into.wrote(paths[1])
        elif name.startswith("unlink"):
            self._into.deleted(paths[0])
        elif name == "truncate":
            self._into.opened(paths[0])

    def _open(self, path: str, flags: str, real: str) -> None:
        if "O_DIRECTORY" in flags or "O_PATH" in flags or ("O_NOCTTY" in flags and "O_NONBLOCK" in flags):
            return  # a folder, a mere name, or the recorder itself
        if not any(word in flags for word in ("O_WRONLY", "O_RDWR")):
            self._into.read(path)
        elif "O_TRUNC" in flags or "O_EXCL" in flags:
            self._into.wrote(path)
        else:
            self._into.opened(path)
        if "O_TMPFILE" in flags:
            self._into.deleted(real)

    def _paths(self, pid: str, arguments: str) -> Iterator[str]:
        """Yield the paths of a call, absolute: each relative to the folder said before it, else to the process's."""
        position = 0
        for quoted in _QUOTED.finditer(arguments):
            before = arguments[position : quoted.end()]
            position = quoted.end()
            folder = _FOLDER.search(before)
            if folder is not None:
                base = _text(folder[1])
                if "AT_FDCWD" in before:
                    self._folders[pid] = base
            else:
                base = self._folders.get(pid, os.getcwd())
            yield os.path.normpath(os.path.join(base, _text(quoted[1])))


def _text(escaped: str) -> str:
    return os.fsdecode(bytes(int(pair, 16) for pair in _CHARACTER.findall(escaped)))
