"""Long answers through a pager, as git does it: on a terminal only, and only if they are higher than it is."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator

PAGED = frozenset({"diff", "lineage", "log", "show"})
"""The commands whose answers may be long."""


class _Held(io.TextIOWrapper):
    """What is written to the terminal, kept until it is known how long it is."""

    def __init__(self) -> None:
        self.raw_bytes = io.BytesIO()
        super().__init__(self.raw_bytes, encoding="utf-8", errors="backslashreplace", write_through=True)

    def isatty(self) -> bool:
        """Tell whoever writes that it will be seen on a terminal: it is."""
        return True


@contextlib.contextmanager
def paged(words: list[str]) -> Iterator[None]:
    """Show what a command writes within in `CMF_PAGER`, `PAGER` or `less`, if it does not fit on the terminal.

    ``words`` are the command line: JSON is for programs and is never paged.
    """
    if not (sys.stdout.isatty() and words[1:2] and words[1] in PAGED) or "--json" in words:
        yield
        return
    pager = os.environ.get("CMF_PAGER", os.environ.get("PAGER", "less")).strip()
    terminal, held = sys.stdout, _Held()
    sys.stdout = held
    try:
        yield
    finally:
        sys.stdout = terminal
        data = held.raw_bytes.getvalue()
        if pager in ("", "cat") or data.count(b"\n") < shutil.get_terminal_size().lines or not _show(pager, data):
            terminal.buffer.write(data)
            terminal.flush()


def _show(pager: str, data: bytes) -> bool:
    """Let the pager show it; return False if there is no such program."""
    import shlex
    import signal
    import subprocess

    try:
        process = subprocess.Popen(shlex.split(pager), stdin=subprocess.PIPE, env={"LESS": "FRX", **os.environ})
    except (OSError, ValueError):
        return False
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the pager's
    try:
        process.communicate(data)
    finally:
        signal.signal(signal.SIGINT, before)
    return True
