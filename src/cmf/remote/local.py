"""Our own hub on this machine: the note that it leaves its user, and when that note is to be believed."""

from __future__ import annotations

import contextlib
import os
import urllib.parse
from pathlib import Path

import msgspec


class LocalHub(msgspec.Struct, frozen=True, kw_only=True):
    """What a hub leaves its own user on this machine: where it is, who it is, and a token."""

    url: str
    hub: str
    pid: int
    start: int
    token: str


def own_token(url: str, state_home: Path) -> str:
    """Return the token of our own hub on this machine, or "".

    Used only if the note that the hub left is ours, its process lives under our user, and that process owns the port.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1") or parts.port is None:
        return ""
    try:
        note = state_home / "hubs" / f"{parts.port}.json"
        found = msgspec.json.decode(note.read_bytes(), type=LocalHub)
        if note.stat().st_uid != os.getuid() or os.stat(f"/proc/{found.pid}").st_uid != os.getuid():
            return ""
    except (OSError, msgspec.MsgspecError):
        return ""
    return found.token if _owns_port(found.pid, found.start, parts.port) else ""


def _owns_port(pid: int, start: int, port: int) -> bool:
    """Tell whether a process, which started at this clock tick, holds the listening socket of a port."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            if int(file.read().rpartition(b")")[2].split()[19]) != start:
                return False
        sockets = set()
        for table in ("tcp", "tcp6"):
            with contextlib.suppress(FileNotFoundError), open(f"/proc/net/{table}", encoding="ascii") as file:
                for line in list(file)[1:]:
                    fields = line.split()
                    if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                        sockets.add(f"socket:[{fields[9]}]")
        return any(os.readlink(f"/proc/{pid}/fd/{name}") in sockets for name in os.listdir(f"/proc/{pid}/fd"))
    except (OSError, ValueError, IndexError):
        return False
