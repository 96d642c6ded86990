"""Which file system a folder is on."""

from pathlib import Path

import pytest

from cmf.worktree import filesystem

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /home rw - nfs4 server:/home rw
31 30 8:2 / /home/ada/scratch rw - xfs /dev/sdb rw
32 22 0:41 / /with\040blank rw - lustre server:/l rw
33 22 0:42 / /twice rw - ext4 /dev/sdc rw
34 33 0:43 / /twice rw - fuse.sshfs host: rw
a line that says nothing
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/x", "ext4"),
        ("/home", "nfs4"),
        ("/home/ada/work", "nfs4"),
        ("/homework", "ext4"),
        ("/home/ada/scratch/x", "xfs"),
        ("/with blank/x", "lustre"),
        ("/twice/x", "fuse.sshfs"),
    ],
)
def test_the_nearest_mount_above_a_path_counts(path: str, kind: str) -> None:
    assert filesystem.kind(Path(path), MOUNTS) == kind


def test_a_temporary_folder_is_not_shared(tmp_path: Path) -> None:
    assert not filesystem.is_shared(tmp_path)
