"""Records from what others recorded: the history of a DVC repository, taken into a store.

What is read makes the same records however often, and in whichever parts, it is read: those that are here already are
not written again. Bytes are hashed where they lie, and copied only if asked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from cmf.bridges.dvc import files, runs
from cmf.bridges.dvc.files import Declared, Hash, Item, Stage
from cmf.errors import CmfError, CorruptError, DeniedError, NotFoundError, UnreachableError, UsageError
from cmf.model import alias
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.objects import CHUNK_BYTES, manifest
from cmf.objects.bucket import Bucket, in_flight, reader
from cmf.objects.local import LocalObjects
from cmf.redaction import Redactor
from cmf.remote.data import bucket, is_data
from cmf.store.sql import SqlStore
from cmf.worktree import dvc, git, past, uri

METRICS_BYTES_MAX = 4 << 20
TOLD_MAX = 500
BLOB_BYTES_MAX = 64 << 20
PROBLEMS_MAX = 20
Progress = Callable[[str, int], None]

_PATTERNS = (":(glob)**/*.dvc", ":(glob)**/dvc.lock")


class Imported(msgspec.Struct, kw_only=True):
    """What an import read and wrote.

    ``records`` are those that were not here before. ``found`` files and folders had bytes here, ``aliased`` ones are
    known by DVC's hash alone, ``unnamed`` ones by none. ``problems`` are files of the history that could not be read.
    """

    pipeline: str
    commits: int = 0
    executions: int = 0
    records: int = 0
    found: int = 0
    aliased: int = 0
    unnamed: int = 0
    problems: list[str] = []


def from_dvc(
    store: SqlStore,
    objects: LocalObjects,
    path: Path,
    *,
    revisions: Sequence[str] = (),
    pipeline: str = "",
    data: bool = False,
    secret: bytes,
    redactor: Redactor,
    options: Mapping[str, str],
    progress: Progress,
) -> Imported:
    """Take in what the git history of a DVC repository tells: every stage run and every version that was added.

    ``revisions`` as git has them, all branches and tags if none are given. ``data`` copies the bytes that are in DVC's
    cache or remotes into the objects; a remote in a cloud is asked only then. ``options``: settings of its client.
    """
    top = dvc.require(path)
    if not git.work_tree(top):
        raise NotFoundError(f"{top} is in no git repository, so it has no history.", hint="Record its files by a run.")
    name = pipeline or model.slug(top.resolve().name) or "dvc"
    if not model.is_scope(f"{name}/stage"):
        raise UsageError(f"'{name}' is no pipeline.", hint="Such as 'detector' or 'team/detector'.")
    done = Imported(pipeline=name, problems=[])
    address = git.address(top)
    with past.Blobs(str(top), bytes_max=BLOB_BYTES_MAX) as blobs:
        writer = _Writer(store, objects, secret, redactor, done)
        history = _History(blobs, done)
        places = dvc.places(top)
        clouds = _Clouds(places.remotes if data else (), options, objects, done)
        bytes_ = _Bytes(places.folders(), clouds, blobs, objects, is_copied=data)
        for commit in past.commits(str(top), revisions, _PATTERNS):
            done.commits += 1
            known = runs.Commit(commit.id, commit.t, commit.author, address)
            told = [
                runs.tell(ran, known, name, found=bytes_.finder(commit.id), keep=bytes_.keep)
                for ran in history.ran(commit, bytes_)
            ]
            writer.add(told)
            progress("commits", 1)
        writer.flush()
    done.found, done.aliased = bytes_.found, bytes_.aliased
    return done


class _History:
    """The stages that commits tell of."""

    def __init__(self, blobs: past.Blobs, done: Imported) -> None:
        self._blobs = blobs
        self._done = done

    def ran(self, commit: past.Commit, bytes_: _Bytes) -> Iterator[runs.Ran]:
        """Yield the stages that ran before a commit, and what was added, in an order that puts producers first."""
        stages: dict[runs.Name, Stage] = {}
        before: dict[str, list[Mapping[str, Stage]]] = {}
        declared: dict[str, dict[str, Declared]] = {}
        for each in commit.changed:
            if not each.after:
                continue
            beside = os.path.join(os.path.dirname(each.path), files.PIPELINE)
            declared[each.path] = self._declared(commit.id, beside) if files.is_lock(each.path) else {}
            after = self._stages(each.path, each.after, declared[each.path], commit.id)
            stages.update(((each.path, name), stage) for name, stage in after.items())
            before[each.path] = [self._stages(each.path, blob, declared[each.path], "") for blob in each.before]
        for number, (path, name) in enumerate(runs.ordered(stages)):
            stage = stages[path, name]
            if runs.is_new(stage, before[path]):
                said = declared[path].get(files.plain(name))
                yield runs.Ran(path, number, stage, self._metrics(stage, said, commit.id, bytes_), _types(stage, said))

    def _stages(self, path: str, blob: str, declared: Mapping[str, Declared], commit: str) -> Mapping[str, Stage]:
        data = self._blobs.read(blob) if blob else None
        if data is None:
            return {}
        try:
            if files.is_lock(path):
                return files.read_lock(data, path, declared)
            stage = files.read_pointer(data, path)
            return {stage.name: stage} if stage.outs else {}
        except CorruptError as error:
            if commit and len(self._done.problems) < PROBLEMS_MAX:
                self._done.problems.append(f"{commit[:12]}: {error.message}")
            return {}

    def _declared(self, commit: str, path: str) -> dict[str, Declared]:
        data = self._blobs.read(f"{commit}:{path}")
        try:
            return files.read_pipeline(data, path) if data is not None else {}
        except CorruptError:
            return {}  # the lock file says what ran; only where metrics are is lost

    def _metrics(self, stage: Stage, declared: Declared | None, commit: str, bytes_: _Bytes) -> dict[str, float | int]:
        """Return a stage's metrics by name; by file and name, if several files hold some."""
        wanted = [item for item in stage.outs if declared is not None and item.path in declared.metrics]
        read: dict[str, dict[str, float | int]] = {}
        for item in wanted:
            data = bytes_.read(item, commit)
            if data is not None and (values := files.read_metrics(data, item.path)):
                read[item.path] = values
        if len(read) == 1:
            return next(iter(read.values()))
        return {f"{path}:{name}": value for path, values in read.items() for name, value in values.items()}


class _Bytes:
    """The bytes that hashes of DVC name: in its caches, or as files of the repository."""

    def __init__(
        self, caches: dvc.Caches, clouds: _Clouds, blobs: past.Blobs, objects: LocalObjects, *, is_copied: bool
    ) -> None:
        self._caches = caches
        self._clouds = clouds
        self._blobs = blobs
        self._objects = objects
        self._is_copied = is_copied
        self._known: dict[Hash, runs.Found | None] = {}
        self.found = 0
        self.aliased = 0

    def keep(self, data: bytes) -> str:
        """Keep some bytes as an object."""
        digest = digests.file_digest(data)
        self._objects.put(digest, data, durable=False)
        return digest

    def finder(self, commit: str) -> Callable[[Item], runs.Found | None]:
        """Return what tells which bytes an item was at a commit."""

        def find(item: Item) -> runs.Found | None:
            found = self._find(item.hash) or self._in_git(item, commit)
            self.found += found is not None
            if item.hash is not None:
                self.aliased += found is None
                self.keep(runs.alias(item.hash))
            return found

        return find

    def read(self, item: Item, commit: str) -> bytes | None:
        """Return the bytes of a small file as it was at a commit; None if they are not here."""
        data = self._blobs.read(f"{commit}:{item.path}")
        if data is not None and (item.hash is None or dvc.md5(data, item.hash.algorithm) == item.hash.value):
            return data
        with self._path(item.hash) as path:
            data = dvc.read(path, METRICS_BYTES_MAX) if path is not None else None
        if data is None or item.hash is None or dvc.md5(data, item.hash.algorithm) != item.hash.value:
            return None
        return data

    @contextlib.contextmanager
    def _path(self, hash_: Hash | None) -> Iterator[str | None]:
        """Give the path of the file with a hash, for as long as it is read; None if it is nowhere."""
        if hash_ is None or hash_.algorithm not in (files.MD5, files.DOS2UNIX):
            yield None
        elif (path := self._caches.find(hash_.value, hash_.algorithm)) is not None:
            yield path
        else:
            with self._clouds.fetched(hash_) as path:
                yield path

    def _find(self, hash_: Hash | None) -> runs.Found | None:
        if hash_ is None:
            return None
        if hash_ not in self._known:
            found = None
            with contextlib.suppress(CmfError), self._path(hash_) as path:  # damaged, or not to be read: its hash alone
                if path is not None:
                    found = self._folder(hash_, path) if hash_.is_folder else self._file(hash_, path)
            self._known[hash_] = found
        return self._known[hash_]

    def _file(self, hash_: Hash, path: str) -> runs.Found | None:
        measured = dvc.measure(path, hash_.algorithm)
        if measured.md5 != hash_.value:
            return None
        if self._is_copied:
            taken = self._objects.adopt(path, durable=False)
            if taken.digest != measured.digest:
                return None
        return runs.Found(measured.digest, measured.size)

    def _folder(self, hash_: Hash, path: str) -> runs.Found | None:
        data = dvc.read(path, files.FOLDER_BYTES_MAX)
        if data is None or dvc.md5(data, files.MD5) + files.DIR != hash_.value:
            return None
        listed = files.read_folder(data, hash_)
        known = dict(in_flight(self._find, dict.fromkeys(each for _, each in listed)))
        entries = []
        for name, each in listed:
            found = known[each]
            if found is None:
                return None
            entries.append(manifest.Entry(name, found.digest, found.size))
        spelled = manifest.encode(entries)
        self.keep(spelled)
        return runs.Found(manifest.tree_digest(spelled), sum(entry.size for entry in entries))

    def _in_git(self, item: Item, commit: str) -> runs.Found | None:
        """Return a file that git keeps, as code and metrics are, if it is the one that was used."""
        if item.hash is not None and (item.hash.is_folder or item.hash.algorithm not in (files.MD5, files.DOS2UNIX)):
            return None
        data = self._blobs.read(f"{commit}:{item.path}")
        if data is None or (item.hash is not None and dvc.md5(data, item.hash.algorithm) != item.hash.value):
            return None
        if self._is_copied or len(data) <= model.SENT_BYTES_MAX:
            self.keep(data)
        return runs.Found(digests.file_digest(data), len(data))


class _Clouds:
    """The remotes of a DVC repository that are buckets of a cloud. One that fails is told of, and not asked again."""

    def __init__(
        self, remotes: Iterable[dvc.Remote], options: Mapping[str, str], objects: LocalObjects, done: Imported
    ) -> None:
        self._folder = objects.folder.parent
        self._done = done
        self._buckets: list[Bucket] = []
        for remote in remotes:
            if remote.url.startswith("/"):
                continue
            if not is_data(remote.url):
                self._tell(f"The remote {uri.bare(remote.url)} is of a kind that is not read here.")
                continue
            try:
                self._buckets.append(bucket(remote.url, {**options, **remote.options}))
            except CmfError as error:
                self._tell(error.message)

    @contextlib.contextmanager
    def fetched(self, hash_: Hash) -> Iterator[str | None]:
        """Give the path of a temporary file with what the first of them has under a hash; None if none has it."""
        if not self._buckets:
            yield None
            return
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix="dvc-") as file:
            yield file.name if any(self._read(each, hash_, file) for each in list(self._buckets)) else None

    def _read(self, source: Bucket, hash_: Hash, file: IO[bytes]) -> bool:
        """Write what a bucket has under a hash to a file, and tell whether it has something there."""
        try:
            for name, size in source.sizes(dvc.names(hash_.value, hash_.algorithm)).items():
                file.truncate(0)
                file.seek(0)
                shutil.copyfileobj(reader(source, name, size), file, CHUNK_BYTES)
                file.flush()
                return True
        except (UnreachableError, DeniedError, NotFoundError) as error:
            with contextlib.suppress(ValueError):  # another thread met the same
                self._buckets.remove(source)
                self._tell(error.message)
        return False

    def _tell(self, problem: str) -> None:
        if len(self._done.problems) < PROBLEMS_MAX:
            self._done.problems.append(problem)


def _types(stage: Stage, declared: Declared | None) -> dict[str, str]:
    if declared is None:
        return {} if stage.command else {item.path: "dataset" for item in stage.outs}
    return dict.fromkeys(declared.models, "model") | dict.fromkeys(declared.metrics, "metrics")


class _Complete(NamedTuple):
    """The records of one execution, each with its id and bytes, and the events that they take the place of."""

    scope: str
    records: list[tuple[model.Record, bytes, bytes]]
    superseded: dict[bytes, int]


class _Writer:
    """Writes what is not here yet: whole executions, so that a stream carries the artifacts that its events name."""

    def __init__(
        self, store: SqlStore, objects: LocalObjects, secret: bytes, redactor: Redactor, done: Imported
    ) -> None:
        self._store = store
        self._objects = objects
        self._secret = secret
        self._redactor = redactor
        self._done = done
        self._waiting: list[runs.Told] = []

    def add(self, told: Sequence[runs.Told]) -> None:
        """Take in some executions; they are written some hundred at a time."""
        self._waiting += told
        if len(self._waiting) >= TOLD_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what was taken in."""
        told, self._waiting = self._waiting, []
        each = [self._complete(one) for one in told]
        asked = {id_ for one in each for _, id_, _ in one.records} | {id_ for one in each for id_ in one.superseded}
        held = self._store.held(asked)
        known = self._known_with_bytes(each, held)
        fresh: dict[tuple[str, bytes], bytes] = {}
        waiting: list[tuple[str, bytes]] = []
        for one in each:
            for id_, t in one.superseded.items():
                if id_ in held:  # the bytes have come since
                    hidden = model.Property(subject=f"record:{id_.hex()}", key="retracted", value=True, t=t + 1)
                    one.records.append((hidden, *model.completed(hidden, self._secret)))
            held |= self._store.held({id_ for _, id_, _ in one.records} - asked) if one.superseded else set()
            new = {id_ for record, id_, _ in one.records if not isinstance(record, model.Artifact)} - held - known
            for record, id_, data in one.records if new else ():
                if id_ in new or isinstance(record, model.Artifact):
                    fresh[one.scope, id_] = data
                    if isinstance(record, model.Event) and record.direction == "input":
                        waiting.append((one.scope, id_))
        self._done.records += sum(id_ not in held for _, id_ in fresh)
        if fresh:
            self._objects.flush()  # what records name is durable before them
            self._store.add([(scope, id_, data) for (scope, id_), data in fresh.items()], waiting)

    def _known_with_bytes(self, each: Sequence[_Complete], held: set[bytes]) -> set[bytes]:
        """Return the ids of those events with an alias that are told here with the bytes: which have gone since."""
        waiting: dict[str, dict[tuple[object, ...], bytes]] = {}
        for one in each:
            for record, id_, _ in one.records:
                if isinstance(record, model.Event) and record.attributes.get(alias.ATTRIBUTE) and id_ not in held:
                    key = record.direction, record.path, record.attributes[runs.ATTRIBUTE]
                    waiting.setdefault(model.execution_node(one.scope, record.execution), {})[key] = id_
        nodes = self._store.index.nodes(list(waiting)) if waiting else {}
        found = self._store.index.executions(list(nodes.values())) if nodes else {}
        told: set[bytes] = set()
        for node, number in nodes.items():
            for direction, uses in (("input", found[number].inputs), ("output", found[number].outputs)):
                keys = [(direction, use.path, use.attributes.get(runs.ATTRIBUTE)) for use in uses]
                told |= {waiting[node][key] for key in keys if key in waiting[node]}
        return told

    def _complete(self, told: runs.Told) -> _Complete:
        self._done.executions += 1
        self._done.unnamed += told.unnamed
        records = []
        for draft in (told.execution, *told.others):
            clean = _redacted(draft, self._redactor)
            records.append((clean, *model.completed(clean, self._secret)))
        superseded = {model.completed(event, self._secret)[0]: event.t for event in told.superseded}
        return _Complete(told.scope, records, superseded)


def _redacted(record: model.Record, redact: Redactor) -> model.Record:
    """Return a draft without the secrets that a history may hold: in parameters, commands and metrics' names."""
    if isinstance(record, model.Execution):
        params: Any = redact.value(record.params)
        return msgspec.structs.replace(record, command=[redact.text(word) for word in record.command], params=params)
    if isinstance(record, model.Property):
        return msgspec.structs.replace(record, value=redact.value(record.value, record.key.rpartition("/")[2]))
    return record
