"""The lock of a store on a file system that hosts share: a file that is linked in place and names who holds it.

Nothing else works on all of them. It is broken only if its process is provably dead; a person may break it by `unlock`.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import msgspec

from cmf.errors import CmfError, UnreachableError
from cmf.model.process import Process
from cmf.worktree import machine

NAME = "store.lock"
WAIT_SECONDS = 60.0
LOOK_SECONDS = 0.02


class LinkLock:
    """The lock of one `.cmf` folder. One thread at a time uses it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def acquire(self) -> None:
        """Take the lock; raise `UnreachableError` if another process keeps it for a minute."""
        mine = self.path.with_name(f".{NAME}.{os.getpid()}.{os.urandom(4).hex()}")
        deadline = time.monotonic() + WAIT_SECONDS
        try:
            mine.write_bytes(msgspec.json.encode(machine.process()))
            while not _linked(mine, self.path):
                self._wait(deadline)
        except CmfError:
            raise
        except OSError as error:
            raise UnreachableError(f"{self.path} cannot be taken: {error.strerror}.", kind="disk") from error
        finally:
            with contextlib.suppress(OSError):
                mine.unlink()

    def _wait(self, deadline: float) -> None:
        """Break the lock if its process is dead; else wait a little."""
        found = holder(self.path.parent)
        if found is not None and machine.alive(found) is False:
            self._break(found)
            return
        if time.monotonic() > deadline:
            who = f"process {found.pid} on {found.host}" if found else "another process"
            raise UnreachableError(
                f"{self.path.parent} is in use by {who}.",
                hint="Try again in a moment. If that process is gone for good, 'cmf doctor --unlock'.",
                kind="busy",
            )
        time.sleep(LOOK_SECONDS)

    def release(self) -> None:
        """Give the lock back."""
        with contextlib.suppress(FileNotFoundError):  # a person broke it
            self.path.unlink()

    def _break(self, dead: Process) -> None:
        """Remove a dead process's lock. Who breaks holds a lock of its own, so that none removes a new holder's."""
        breaking = self.path.with_name(f"{NAME}.break")
        try:
            os.close(os.open(breaking, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            time.sleep(LOOK_SECONDS)
            if time.time() - _changed(breaking) > WAIT_SECONDS:
                raise UnreachableError(
                    f"{breaking} was left by a process that died.", hint="Run 'cmf doctor --unlock'.", kind="busy"
                ) from None
            return
        try:
            if holder(self.path.parent) == dead:
                self.path.unlink(missing_ok=True)
        finally:
            breaking.unlink(missing_ok=True)


def holder(folder: Path) -> Process | None:
    """Return the process that holds the lock of a `.cmf` folder, or None."""
    try:
        return msgspec.json.decode((folder / NAME).read_bytes(), type=Process)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return None


def unlock(folder: Path) -> Process | None:
    """Break the lock of a `.cmf` folder, whoever holds it; return who did. Only for a person who knows that it is dead.

    A holder that lives would go on writing beside the next one, and damage the database: ask first, and name it.
    """
    found = holder(folder)
    for name in (f"{NAME}.break", NAME):
        (folder / name).unlink(missing_ok=True)
    return found


def _linked(mine: Path, path: Path) -> bool:
    """Link a file to a name that must be free. Where the answer of a server was lost, the number of links tells."""
    try:
        os.link(mine, path)
    except OSError as error:
        if mine.stat().st_nlink == 2:
            return True
        if isinstance(error, FileExistsError):
            return False
        raise
    return True


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
