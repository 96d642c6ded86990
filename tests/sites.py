"""A site without processes: a store whose records name objects, for tests of what becomes of those."""

from collections.abc import Mapping
from pathlib import Path

from cmf import collect, freeing, moving
from cmf.model import records as model
from cmf.model.digest import file_digest
from cmf.objects import RemoteStore, manifest
from cmf.objects.local import LocalObjects
from cmf.remote.data import DataRemote
from cmf.store.sql import SqlStore

SECRET = b"s" * 32


class Site:
    """A store and its objects in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".cmf"
        (self.folder / "journal").mkdir(parents=True, exist_ok=True)
        self.objects = LocalObjects(self.folder / "objects")
        self.store: SqlStore = collect.open_store(self.folder)
        self._count = 0

    def close(self) -> None:
        self.objects.close()
        self.store.close()

    def reopen(self) -> None:
        """Go on as another process would."""
        self.store.close()
        self.objects = LocalObjects(self.folder / "objects")
        self.store = collect.open_store(self.folder)

    def put(self, data: bytes) -> str:
        """Keep an object that no record names."""
        digest = file_digest(data)
        self.objects.put(digest, data)
        return digest

    def put_folder(self, files: Mapping[str, bytes]) -> str:
        """Keep a folder that no record names."""
        entries = [manifest.Entry(path, self.put(data), len(data)) for path, data in files.items()]
        data = manifest.encode(entries)
        self.put(data)
        return manifest.tree_digest(data)

    def tell(self, *records: model.Record, scope: str = "lab/train") -> None:
        """Commit some records."""
        self.store.add([(scope, *model.salted(record, SECRET)) for record in records])
        self.store.fold_pending()

    def execution(self) -> str:
        """Return the id of an execution that no other is."""
        self._count += 1
        return f"00000000-0000-4000-8000-{self._count:012x}"

    def record(self, digest: str, *, scope: str = "lab/train", type: str = "", **attributes: object) -> str:
        """Record that an execution made an artifact; return its digest."""
        id_ = self.execution()
        self.tell(
            model.Execution(id=id_, started=1),
            model.Artifact(digest=digest),
            model.Event(execution=id_, direction="output", artifact=digest, type=type, attributes=attributes, t=1),
            scope=scope,
        )
        return digest

    def seal(self) -> None:
        """Sign what is pending."""
        from cmf import sync

        collect.collect(self.folder, self.store, self.objects, collect.Clock.now())
        sync.seal(self.folder, self.store, collect.Clock.now())

    def free(self, *holders: DataRemote, copies: int = 0, force: bool = True, older_than: float = 0.0) -> freeing.Freed:
        """Free what need not be kept; by default also what was put just now."""
        return freeing.free(
            self.folder,
            self.store,
            self.objects,
            collect.Clock.now(),
            older_than=older_than,
            holders=holders,
            copies=copies,
            force=force,
        )

    def send(self, remote: RemoteStore, *digests: str) -> None:
        """Send the bytes of artifacts."""
        moving.send(remote, self.objects, digests, moving.Moved(refused=[], scopes=[], warnings=[]), moving.nothing)

    def fetch(self, remote: RemoteStore, *digests: str) -> None:
        """Fetch the bytes of artifacts."""
        moving.fetch(remote, self.objects, digests, moving.Moved(refused=[], scopes=[], warnings=[]), moving.nothing)
