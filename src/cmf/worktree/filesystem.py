"""Which file system a folder is on: one that hosts share works unlike a disk. Starts no process to find out."""

from __future__ import annotations

import os
import re
from pathlib import Path

SHARED = frozenset(
    (
        *(
            "9p",
            "acfs",
            "afs",
            "beegfs",
            "beegfs_nodev",
            "ceph",
            "cifs",
            "coda",
            "davfs",
            "fhgfs",
            "fuse",
            "gfs",
            "gfs2",
        ),
        *("glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2"),
        *("smb3", "smbfs", "vboxsf", "virtiofs", "wekafs"),
    )
)
"""File systems on which locks and shared memory cannot be relied on, as the kernel names them; also all ``fuse.…``."""

_ESCAPED = re.compile(r"\\([0-7]{3})")


def kind(path: Path, mounts: str | None = None) -> str:
    """Return the type of the file system that a path is on, as the kernel names it; "" if that can't be found out."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return ""
    real = os.path.realpath(path)
    found, longest = "", -1
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:  # of two mounts on one place the later one is on top
            found, longest = after.split(" ", 1)[0], len(point)
    return found


def is_shared(path: Path) -> bool:
    """Tell whether a path is on a file system that other hosts may write at the same time."""
    name = kind(path)
    return name in SHARED or name.startswith("fuse.")
