"""What an attack must not do to a hub: change anything that it holds, or use it up."""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from tests.hubs import HubProcess, Raw, until

MEMORY_MAX = 96 << 20
"""How much more memory a hub may hold after an attack than before it: a few bodies, and what Python keeps of them."""
FILES_MAX = 16


def holdings(hub: HubProcess) -> dict[str, str]:
    """Return a hash of each table of a hub, and of the names and sizes of its files that are no database."""
    found = {}
    with contextlib.closing(sqlite3.connect(f"file:{hub.folder}/hub.db?mode=ro", uri=True)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            rows = sorted(map(repr, database.execute(f"SELECT * FROM {table}")))
            found[table] = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    files = sorted((str(path), path.stat().st_size) for path in hub.folder.rglob("*") if path.is_file())
    found["files"] = repr([file for file in files if "/hub.db" not in file[0]])
    return found


def open_files(hub: HubProcess) -> int:
    """Return how many files and connections the hub's process has open."""
    return len(os.listdir(f"/proc/{hub.process.pid}/fd"))


def memory(hub: HubProcess) -> int:
    """Return how many bytes of memory the hub's process holds."""
    text = Path(f"/proc/{hub.process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) << 10


def disk(hub: HubProcess) -> int:
    """Return how many bytes the hub's folder takes."""
    return sum(path.stat().st_size for path in hub.folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def unharmed(hub: HubProcess, *, memory_max: int = MEMORY_MAX) -> Iterator[None]:
    """Check that a hub after the block holds, tells and uses what it did before, and still serves."""
    before, files, used = holdings(hub), open_files(hub), memory(hub)
    log = Raw(hub, hub.token)("POST", "/v1/log", b"{}")
    yield
    assert hub.process.poll() is None
    after = holdings(hub)
    changed = [name for name in after if after[name] != before.get(name)]
    assert not changed, changed
    assert Raw(hub, hub.token)("POST", "/v1/log", b"{}") == log, "the log says something else"
    grown = memory(hub) - used
    assert grown < memory_max, f"{grown >> 20} MiB more memory"
    until(lambda: open_files(hub) - files <= FILES_MAX)
