"""A clean-up that is killed at whatever it asks of the disk: nothing that is referred to is gone, nothing is torn."""

import itertools
import os
import shutil
from pathlib import Path
from typing import Any

from cmf.objects import read
from cmf.remote.data import DataRemote
from tests.sites import Site

LARGE = bytes(range(256)) * 1200
CHANGES = (
    "unlink",
    "rename",
    "pwrite",
    "pwritev",
    "write",
    "fsync",
    "fdatasync",
    "utime",
    "mkdir",
    "link",
    "ftruncate",
)


def killed_at(number: int, site: Path, disk: Path) -> bool:
    """Free in a process of its own, which ends at the so many-th change that it asks for; tell if it got so far."""
    child = os.fork()
    if child == 0:
        left = number

        def stopping(really: Any) -> Any:
            def asked(*arguments: Any, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os._exit(9)
                return really(*arguments, **more)

            return asked

        code = 1
        try:
            freeing = Site(site)
            for name in CHANGES:
                setattr(os, name, stopping(getattr(os, name)))
            freeing.free(DataRemote(str(disk), {}), copies=1)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def test_a_clean_up_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    site, disk = Site(tmp_path / "lab"), tmp_path / "disk"
    kept = {site.record(site.put(b"%d, only here" % n)): b"%d, only here" % n for n in range(4)}
    kept[site.record(site.put(LARGE))] = LARGE
    copied = [site.record(site.put(data)) for data in (b"held elsewhere", LARGE + b"!")]
    site.send(DataRemote(str(disk), {}).objects(), *copied)
    garbage = [site.put(data) for data in (*(b"nobody's %d" % n * 40 for n in range(9)), LARGE + b"?")]
    site.close()
    for number in itertools.count():
        copy = tmp_path / f"copy{number}"
        shutil.copytree(site.root, copy)
        was_killed = killed_at(number, copy, disk)
        after = Site(copy)
        for digest, data in kept.items():
            assert read(after.objects, digest) == data, f"killed at change {number}"
        there = {digest for digest, _ in after.objects.list()}
        assert there <= {*kept, *copied, *garbage}
        for digest in there:
            after.objects.check(digest)
        assert after.objects.damaged() == []
        after.free(DataRemote(str(disk), {}), copies=1)
        assert {digest for digest, _ in after.objects.list()} == {*kept}
        after.close()
        shutil.rmtree(copy)
        if not was_killed:
            break
    assert number > 10
