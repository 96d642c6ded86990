"""The machines of a simulation: sites, whose processes record and whose users push and pull, and hubs."""

import os
import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from cmf import collect, errors, signing
from cmf.collect import Clock
from cmf.errors import CmfError
from cmf.hub.access import Access, console
from cmf.hub.service import Hub
from cmf.journal import JournalWriter
from cmf.model import records as model
from cmf.model import wire
from cmf.model.process import Process
from cmf.objects.local import LocalObjects
from cmf.store.sql import SqlStore
from cmf.worktree import machine
from tests.simulator import facts
from tests.simulator.disk import Crash, Database, Disk
from tests.simulator.network import Request, delivered

UID = os.getuid()
SITE_NAMES = ("lab", "edge")


class Running:
    """A process that records: its journal, what it wrote, and how much of that was synced."""

    def __init__(self, folder: Path, process: Process) -> None:
        self.process = process
        self.journal = JournalWriter(folder, process)
        self.path = self.journal.path
        self.drafts: list[tuple[str, model.Record]] = []
        self.synced = 0
        self.rows = 0

    def sync(self) -> None:
        """Make all that it wrote survive a power cut."""
        self.journal.sync()
        self.synced = len(self.drafts)


class KeptKey(NamedTuple):
    """A key, and the bytes of the file that it is kept in."""

    key: signing.Key
    file: bytes


class SiteNode:
    """A site: a folder, a disk with a database, processes that record, and a clock that may be wrong."""

    def __init__(self, name: str, folder: Path, chance: random.Random, disk: Disk) -> None:
        self.name = name
        self.folder = folder
        self.chance = chance
        self.disk = disk
        self.skew = 0
        self.was_cut = False
        self.backups: list[bytes] = []
        self.running: list[Running] = []
        self.unlinked: dict[Path, bytes] = {}
        self.tokens: dict[str, str] = {}
        self.spoiled: set[str] = set()
        """The hubs of whose logs it keeps something that was damaged."""
        self.had: dict[bytes, KeptKey] = {}
        """The keys it had before, by what is public of them."""
        (folder / "journal").mkdir(parents=True, exist_ok=True)
        self.open()

    def open(self) -> None:
        """Open what the disk holds."""
        self.store = SqlStore(Database(self.disk))
        self.objects = LocalObjects(self.folder / "objects")

    def close(self) -> None:
        self.store.close()
        self.objects.close()

    @property
    def called(self) -> str:
        """Return what its user calls it: so do others call theirs."""
        return SITE_NAMES[sum(self.name.encode()) % len(SITE_NAMES)]

    @property
    def secret(self) -> bytes:
        return collect.site(self.folder).secret

    @property
    def key(self) -> bytes:
        return self.keys[-1]

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Return its key, and before it those that it follows, the oldest first."""
        key = self.kept_key().key
        return (*(bytes.fromhex(said.key) for said in key.vouched), key.public)

    def kept_key(self) -> "KeptKey":
        """Return its key with the file that keeps it."""
        collect.site(self.folder)  # a copy gets keys of its own
        key = collect.writer_key(self.folder, UID)
        return KeptKey(key, (self.folder / "keys" / str(UID)).read_bytes())

    def clock(self, now: int) -> Clock:
        return Clock(wall_us=max(1, now + self.skew), monotonic_s=now / 1e6)

    # ---- what its processes do -------------------------------------------------------------------------------------

    def start(self, pid: int) -> Running:
        """Start a process that records."""
        here = machine.process()
        process = Process(host=here.host, boot=here.boot, pid=pid, start=pid, uid=UID)
        self.running.append(Running(self.folder / "journal", process))
        return self.running[-1]

    def record(self, process: Running, now: int) -> None:
        """Have a process record something, with the bytes that must go along."""
        if self.chance.random() < 0.1:
            process.rows += facts.points(self.chance, process.journal, now, process.rows)
            return
        scope, record = facts.draw(self.chance, max(1, now + self.skew), self.called)
        for digest in model.sent_with(record):
            if (data := facts.OBJECTS.get(digest)) is not None:
                self.objects.put(digest, data)
        process.journal.record(scope, record)
        process.drafts.append((scope, record))

    def end(self, process: Running) -> None:
        """Have a process end as it should."""
        process.journal.close()
        process.synced = len(process.drafts)
        self.running.remove(process)

    def kill(self, process: Running) -> None:
        """Kill a process in the middle of a write."""
        process.journal.abandon()
        self.running.remove(process)
        with open(process.path, "ab") as file:
            file.write(self.chance.choice((b"", b"\x20\0\0\0abc", b"\x05")))
        os.utime(process.path, (0, 0))

    def rotate(self, now: int, *, alone: bool) -> None:
        """Make another key, as `cmf key rotate` does."""
        held = self.kept_key()
        with self.store.still():
            collect.rotate_key(self.folder, UID, now=self.clock(now).wall_us, alone=alone)
        self.had[held.key.public] = held

    # ---- what befalls it ---------------------------------------------------------------------------------------------

    def restart(self, *, power: bool) -> list[Running]:
        """Come back after every command was killed; after a power cut, with what was synced and perhaps some more.

        Returns the processes that a power cut ended.
        """
        self.close()
        ended = []
        if power:
            self.disk.cut_power(self.chance)
            self.was_cut = True
            ended = self.running
            for process in ended:
                self._tear(process)
            self.running = []
            for path, data in self.unlinked.items():
                if self.chance.random() < 0.3:
                    path.write_bytes(data)  # the folder was not synced: the name is there again
                    os.utime(path, (0, 0))
            self.unlinked.clear()
        self.disk.arm(0)
        self.open()
        return ended

    def _tear(self, process: Running) -> None:
        process.journal.abandon()
        unsynced = sum(map(len, process.journal._unsynced))
        size = process.path.stat().st_size
        left = size - self.chance.randint(0, unsynced)
        with open(process.path, "r+b") as file:
            file.truncate(left)
            if left < size and self.chance.random() < 0.5:
                file.truncate(size)  # blocks that were allocated and never written
        os.utime(process.path, (0, 0))

    def remember_journals(self) -> dict[Path, bytes]:
        """Return the journals there are: a power cut may bring back one that is removed next."""
        return {path: path.read_bytes() for path in (self.folder / "journal").glob("*.j")}

    def forget(self, before: dict[Path, bytes]) -> None:
        """Note which journals were removed."""
        self.unlinked.update({path: data for path, data in before.items() if not path.exists()})

    def restore(self, image: bytes) -> None:
        """Come back with an old backup of the database; the rest of the folder is as it was."""
        self.close()
        self.disk.restore(image)
        self.open()

    def restore_key(self) -> None:
        """Put the file of a key that it had before in the place of the present one."""
        held = self.kept_key()
        old = self.had.pop(self.chance.choice(sorted(self.had)))
        self.had[held.key.public] = held
        signing.replace_secret(self.folder / "keys" / str(UID), old.file)

    def clone(self, name: str, folder: Path) -> "SiteNode":
        """Copy the whole store elsewhere, as people do."""
        shutil.copytree(self.folder, folder)
        copy = SiteNode(name, folder, self.chance, Disk(name, self.disk.image))
        copy.tokens = dict(self.tokens)
        copy.spoiled = set(self.spoiled)
        return copy


class HubNode:
    """A hub: a folder with its key and objects, and a disk with its database."""

    def __init__(self, name: str, folder: Path, chance: random.Random, disk: Disk) -> None:
        self.name = name
        self.url = f"http://{name}"
        self.folder = folder
        self.chance = chance
        self.disk = disk
        self.backups: list[bytes] = []
        self.watch: Any = None
        self.now = 1
        self.tokens: dict[str, str] = {}
        self.hub = Hub(folder)

    def receive(self, request: Request) -> bytes:
        """Answer a request; if the machine dies over it, it comes back, and the connection is cut."""
        try:
            data = delivered(self.hub, request, self.now)
        except Crash:
            self.restart(power=self.chance.random() < 0.7)
            raise ConnectionResetError("the hub died") from None
        if self.watch is not None:
            self.watch(self, request, data)
        return data

    def restart(self, *, power: bool) -> None:
        """Come back after a kill or a power cut."""
        self.hub.close()
        if power:
            self.disk.cut_power(self.chance)
        self.disk.arm(0)
        self.hub = Hub(self.folder)

    def restore(self, image: bytes) -> None:
        """Come back from an old backup."""
        self.hub.close()
        self.disk.restore(image)
        self.hub = Hub(self.folder)

    def enrol(self, site: SiteNode, prefix: str, role: str) -> None:
        """Let a site join, or give it one role more."""
        asked = wire.AskInvite(name=site.name, role=wire.Role(prefix, role), expires_s=60)
        code = Access(self.hub._dialect, lambda: self.now).invite(console(), asked).secret
        site.tokens[self.name], _ = self.hub.auth.enrol(code, site.key, site.name, now=self.now)

    def befriend(self, other: "HubNode") -> None:
        """Add another hub as a peer, both ways; that one lets us in."""
        asked = wire.AskInvite(name=self.name, role=wire.Role("", "peer"), expires_s=60)
        code = Access(other.hub._dialect, lambda: other.now).invite(console(), asked).secret
        key = self.hub.key.public
        self.tokens[other.name], _ = other.hub.auth.enrol(code, key, self.name, now=other.now)
        self.hub.peers.add(console(), wire.AskPeer(name=other.name, url=other.url, direction="both"))

    def set_peer(self, peer: bytes | str, prefix: str) -> None:
        """Have a peer, by its key or by the name it was added under, be that for these scopes from now on."""
        where = "hub_key WHERE key" if isinstance(peer, bytes) else "hub_peer WHERE name"
        with self.hub._dialect.write(durable=True) as connection:
            connection.execute(
                f"UPDATE hub_role SET prefix = ? WHERE role = 'peer' AND p = (SELECT p FROM {where} = ?)",
                (prefix, peer),
            )

    def revoke_key(self, key: bytes) -> None:
        """Take nothing more that a key signs."""
        Access(self.hub._dialect, lambda: self.now).revoke_key(console(), key)

    def revoke(self, site: SiteNode) -> None:
        """Take everything from a site's principal but its name."""
        with self.hub._dialect.write(durable=True) as connection:
            row = connection.execute("SELECT p FROM hub_key WHERE key = ?", (site.key,)).fetchone()
            if row:
                connection.execute("DELETE FROM hub_token WHERE p = ?", row)
                connection.execute("DELETE FROM hub_role WHERE p = ?", row)


def is_expected(error: CmfError) -> bool:
    """Tell whether an error is what faults cause: no way there, a full disk, or no right to it."""
    return isinstance(error, errors.UnreachableError | errors.DeniedError)


Node = SiteNode | HubNode


def store_of(node: Node) -> Any:
    return node.store if isinstance(node, SiteNode) else node.hub.store


def rows(node: Node, sql: str, *values: Any) -> list[Any]:
    """Read a node's tables."""
    with store_of(node)._sql.read() as connection:
        return list(connection.execute(sql, values).fetchall())
