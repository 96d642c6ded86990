"""Hypothesis decides what befalls sites and disks; whatever it is, the last copy of what is referred to never goes."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cmf.errors import CmfError, UnreachableError
from cmf.model.digest import file_digest, object_of
from cmf.objects import read
from cmf.objects.folder import FolderBucket
from cmf.objects.local import LocalObjects
from cmf.objects.remote import RemoteObjects
from cmf.remote.data import DataRemote
from tests.sites import Site

which = st.integers(0, 1)
LARGE = 300_000


class Killed(BaseException):
    """The process is gone."""


@contextlib.contextmanager
def killed_at(number: int | None) -> Iterator[None]:
    """End the process at the so many-th thing that it asks of the disk; never, if that is None."""
    if number is None:
        yield
        return
    left = number

    def stopping(really: Any) -> Any:
        def asked(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return really(*arguments, **more)

        return asked

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        for name in ("unlink", "rename", "pwrite", "pwritev", "fsync", "fdatasync", "utime", "mkdir", "link"):
            patch.setattr(os, name, stopping(getattr(os, name)))
        yield


class Freeing(RuleBasedStateMachine):
    """Two sites and two disks, in folders."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.root = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.sites = [Site(self.root / f"site{n}") for n in range(2)]
        self.is_plugged = [True, True]
        self.objects: dict[str, bytes] = {}
        """Every object that some record names, and its bytes."""
        self.artifacts: list[tuple[str, list[str]]] = []
        self.count = 0

    def disk(self, n: int) -> str:
        return str(self.root / f"disk{n}" if self.is_plugged[n] else self.root / f"away{n}" / "disk")

    def remote(self, n: int) -> DataRemote:
        """Return a disk as the sites know it."""
        return DataRemote(str(self.root / f"mount{n}" / "disk"), {})

    @initialize()
    def mount(self) -> None:
        for n in range(2):
            (self.root / f"mount{n}").mkdir()

    @rule(site=which, large=st.booleans())
    def record_a_file(self, site: int, large: bool) -> None:
        self.count += 1
        data = b"%d" % self.count * (LARGE if large else 1)
        digest = self.sites[site].put(data)
        self.objects[digest] = data
        self.artifacts.append((self.sites[site].record(digest), [digest]))

    @rule(site=which, fresh=st.integers(0, 2))
    def record_a_folder(self, site: int, fresh: int) -> None:
        files = {"same": b"in every folder"}
        for n in range(fresh):
            self.count += 1
            files[str(n)] = b"in one folder: %d" % self.count
        digest = self.sites[site].put_folder(files)
        data = read(self.sites[site].objects, object_of(digest))
        members = {file_digest(each): each for each in files.values()}
        self.objects |= {object_of(digest): data, **members}
        self.artifacts.append((self.sites[site].record(digest), [object_of(digest), *members]))

    @rule(site=which)
    def keep_what_nobody_names(self, site: int) -> None:
        self.count += 1
        self.sites[site].put(b"nobody's %d" % self.count)

    @precondition(lambda self: self.artifacts)
    @rule(site=which, which=st.integers(0, 100))
    def hear_of_an_artifact(self, site: int, which: int) -> None:
        self.sites[site].record(self.artifacts[which % len(self.artifacts)][0])

    @rule(site=which)
    def seal(self, site: int) -> None:
        self.sites[site].seal()

    @precondition(lambda self: self.artifacts)
    @rule(site=which, disk=which, which=st.integers(0, 100), cut=st.none() | st.integers(0, 3))
    def send(self, site: int, disk: int, which: int, cut: int | None) -> None:
        left = [cut]
        really = FolderBucket.write

        def write(self: FolderBucket, *arguments: Any, **options: Any) -> int:
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    raise UnreachableError("The disk is gone.")
            return really(self, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(UnreachableError):
            patch.setattr(FolderBucket, "write", write)
            self.sites[site].send(self.remote(disk).objects(), self.artifacts[which % len(self.artifacts)][0])

    @precondition(lambda self: self.artifacts)
    @rule(site=which, disk=which, which=st.integers(0, 100))
    def fetch(self, site: int, disk: int, which: int) -> None:
        with contextlib.suppress(UnreachableError):
            self.sites[site].fetch(self.remote(disk).objects(), self.artifacts[which % len(self.artifacts)][0])

    @rule(disk=which)
    def plug_or_unplug(self, disk: int) -> None:
        there, away = self.root / f"mount{disk}", self.root / f"away{disk}"
        there.rename(away) if self.is_plugged[disk] else away.rename(there)
        self.is_plugged[disk] = not self.is_plugged[disk]

    @rule(site=which, disks=st.sets(which), copies=st.integers(0, 2), killed=st.none() | st.integers(0, 30))
    def free(self, site: int, disks: set[int], copies: int, killed: int | None) -> None:
        here = self.sites[site]
        before = {digest for digest, _ in here.objects.list()}
        freed = None
        with killed_at(killed):
            freed = here.free(*(self.remote(n) for n in sorted(disks)), copies=copies)
        here.reopen()
        gone = before - {digest for digest, _ in here.objects.list()}
        needed = {digest for digest in gone if digest in self.objects and self.names(here, digest)}
        for digest in needed:
            holders = [n for n in disks if self.is_plugged[n] and digest in self.held_at_disk(n)]
            assert copies
            assert len(holders) >= copies, f"{digest} was freed with {len(holders)} copies of {copies}"
        if freed is not None:
            assert freed.unreferenced.count == len(gone) - len(needed)

    def names(self, site: Site, digest: str) -> bool:
        """Tell whether a site's records name an object, or a folder that is here and holds it."""
        return any(
            digest in members
            for artifact, members in self.artifacts
            if site.store.index.nodes([f"artifact:{artifact}"])
            and (digest == members[0] or not site.objects.absent(members[:1]))
        )

    def held_at_disk(self, n: int) -> dict[str, int]:
        folder = self.root / (f"mount{n}" if self.is_plugged[n] else f"away{n}") / "disk"
        return dict(RemoteObjects(FolderBucket(str(folder))).list()) if folder.exists() else {}

    @invariant()
    def every_object_that_is_referred_to_is_somewhere_and_whole(self) -> None:
        left = dict(self.objects)
        for site in self.sites:
            objects = LocalObjects(site.folder / "objects")
            for digest in {*left}.difference(objects.absent(left)):
                with contextlib.suppress(CmfError):
                    if read(objects, digest) == left[digest]:
                        del left[digest]
        for n in range(2):
            folder = self.root / (f"mount{n}" if self.is_plugged[n] else f"away{n}") / "disk"
            if left and folder.exists():
                objects_there = RemoteObjects(FolderBucket(str(folder)))
                for digest in {*left}.difference(objects_there.absent(left)):
                    if objects_there.open(digest).read() == left[digest]:
                        del left[digest]
        assert not left, f"{len(left)} objects are lost"

    def teardown(self) -> None:
        with self.stack:
            for site in self.sites:
                site.close()


TestFreeing = Freeing.TestCase
TestFreeing.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
