"""`Repo`: one store as a person holds it. Composes the journals, the store, the objects and the work tree.

Every question collects first, so that it sees what was just recorded.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Self

import msgspec

from cmf import (
    beside,
    checking,
    collect,
    comparison,
    config,
    exporting,
    fetching,
    following,
    importing,
    labelling,
    media,
    moving,
    series,
    sync,
    tables,
    withdrawing,
    witness,
)
from cmf.bundle import Bundle
from cmf.checking import Reference, Verified
from cmf.errors import CmfError, ConflictError, NotFoundError, UsageError
from cmf.graph import filter as filters
from cmf.graph import lineage, ranks, views
from cmf.graph.index import Direction, Index, Target
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.model.exchange import EVERYTHING, Sample, View
from cmf.objects import ObjectStore, read
from cmf.objects.local import LocalObjects
from cmf.overview import Status
from cmf.redaction import Redactor
from cmf.remote.data import DataRemote
from cmf.remotes import Remotes
from cmf.series import Points
from cmf.space import Space
from cmf.store.sql import SqlStore
from cmf.tables import Results
from cmf.worktree.files import Files


class Repo:
    """A store in a `.cmf` folder. Use it as a context manager, or close it."""

    def __init__(self, folder: Path, environment: config.Environment) -> None:
        self.folder = folder
        self.root = folder.parent
        self.config = config.read(folder)
        self.environment = environment
        self.objects = LocalObjects(folder / "objects")
        self.files = Files(self.objects, self.root, rules=self.config.data)
        self.store: SqlStore = collect.open_store(folder)
        self._remotes = Remotes(folder, self.store, environment)
        self.collected = collect.Collected(problems=[])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; merge packs of objects when there are many small ones."""
        self.store.close()
        with contextlib.suppress(CmfError):  # another user's store, or a full disk: reading does not need it
            self.files.close()
            self.objects.tidy()

    @property
    def space(self) -> Space:
        """Return what takes space here, what of it may go, and where bytes are."""
        return Space(self.folder, self.store, self.objects, self.config, self.site, self.remotes)

    @property
    def remotes(self) -> Remotes:
        """Return the remotes: their names, how they are opened, and what is followed of them."""
        return self._remotes

    @property
    def site(self) -> str:
        """Return this site's name: the one set, else the host's."""
        return self.config.site or config.slugged(os.uname().nodename)

    def collect(self, *, cut: bool = False) -> collect.Collected:
        """Take in what was recorded since. Every question does this by itself."""
        self.collected = collect.collect(self.folder, self.store, self.objects, collect.Clock.now(), cut=cut)
        return self.collected

    # ---- questions -----------------------------------------------------------------------------------------------

    def page(
        self, text: str = "", *, scopes: Sequence[str] = (), limit: int = 100, cursor: str = "", remote: str = ""
    ) -> views.Page:
        """Return a page of executions, newest first, that satisfy a filter: of a hub, if a ``remote`` is named."""
        query = filters.parse(text, scopes=tuple(scopes), limit=limit, cursor=cursor)
        return self._index(remote).select(query)

    def executions(self, text: str = "", *, scopes: Sequence[str] = ()) -> Results[views.Execution]:
        """Return every execution that satisfies a filter, newest first. See `cmf.graph.filter`.

        They are a list, and a table too: ``to_pandas()``, ``to_polars()``, ``to_arrow()``.
        """
        found = tables.executions(())
        page = self.page(text, scopes=scopes, limit=1000)
        while True:
            found += page.executions
            if not page.cursor:
                return found
            query = filters.parse(text, scopes=tuple(scopes), limit=1000, cursor=page.cursor)
            page = self.store.index.select(query)

    def children(self, execution: str | views.Execution) -> Results[views.Execution]:
        """Return the executions of its pipeline that were started as parts of one, such as a sweep's, newest first."""
        view = execution if isinstance(execution, views.Execution) else self.execution(execution)
        found = self.executions(f'parent = "{view.id}" and pipeline = "{view.pipeline}"')
        return tables.executions(child for child in found if child.parent == view.node)

    def artifacts(self, *, type: str = "", name: str = "") -> Results[views.Artifact]:
        """Return artifacts by the type and name that events give them, newest first."""
        self.collect()
        found = self.store.index.artifact_nodes(type=type, name=name, limit=100_000)
        known = self.store.index.artifacts(found)
        return tables.artifacts(known[node] for node in found)

    def resolve(self, text: str) -> Target:
        """Return what a person's words name. See `Index.resolve`."""
        self.collect()
        return self.store.index.resolve(text)

    def execution(self, text: str) -> views.Execution:
        """Return the execution that this names: itself, or the one that made the artifact it names."""
        self.collect()
        return self._view(self.store.index, text)

    def _view(self, index: Index, text: str) -> views.Execution:
        target = index.resolve(text)
        node = target.execution or target.node
        if model.split_execution(node) is None:
            raise NotFoundError(f"'{text}' is an artifact that no execution here made.", hint=f"Try 'cmf show {text}'.")
        return next(iter(index.executions(list(index.nodes([node]).values())).values()))

    def artifact(self, digest: str) -> views.Artifact:
        """Return an artifact by its digest."""
        self.collect()
        nodes = self.store.index.nodes([f"artifact:{digest}"])
        found = self.store.index.artifacts(list(nodes.values()))
        if not found:
            raise NotFoundError(f"There is no artifact {digest} here.", hint="'cmf pull' brings what others have.")
        return next(iter(found.values()))

    def label_files(self, digest: str) -> Results[views.Artifact]:
        """Return the artifacts that hold a data set's labels, as its events say; errors as `artifact`."""
        named = labelling.files(use.attributes for use in self.artifact(digest).uses)
        nodes = self.store.index.nodes([f"artifact:{each}" for each in named])
        return tables.artifacts(self.store.index.artifacts(list(nodes.values())).values())

    def lineage(
        self,
        text: str,
        *,
        direction: Direction = "up",
        all_producers: bool = False,
        depth_max: int | None = None,
        remote: str = "",
    ) -> lineage.Lineage:
        """Return where something came from (``up``) or what came of it (``down``), as known here or to a ``remote``."""
        index = self._index(remote)
        return lineage.trace(index, text, direction, all_producers=all_producers, depth_max=depth_max)

    def _index(self, remote: str) -> Index:
        if remote:
            return self.remotes.hub(remote).index
        self.collect()
        return self.store.index

    def series(
        self,
        execution: str | views.Execution,
        name: str,
        *,
        steps: tuple[int | None, int | None] = (None, None),
        points: int | None = None,
        attempt: str = "",
        rank: int | None = None,
        merge: bool = False,
        remote: str = "",
    ) -> Points:
        """Return the points of one name of an execution's step metrics, as logged.

        ``steps`` are the first step and the one after the last, as for `range`; None leaves an end open. If there are
        more than ``points`` of them, as many as that stand for all, enough to draw the same chart: of each stretch the
        first, the least, the greatest and the last. That reads a few thousand points of a million.

        If the name was logged together with different others, the points of all these are merged by time.
        Of the newest attempt and the lowest rank that has the name, unless others are named; ``merge`` takes those of
        all ranks, by time. With a ``remote``, as a hub holds them.
        """
        if points is not None and points < 4:
            raise UsageError(f"A series cannot be told in {points} points.", hint="Ask for 4 or more.")
        index = self._index(remote)
        view = execution if isinstance(execution, views.Execution) else self._view(index, execution)
        found = series.of_attempt(
            name,
            attempt or (view.attempts[-1] if view.attempts else ""),
            refs=index.series(view.node, name),
            tails=[] if remote else collect.tails(self.folder, self.store, view.node, name),
            store=series.Store(self._series_objects(remote), self.folder / series.THINNED),
            rank=rank,
            merged=merge,
            between=steps,
            most=points,
        )
        if found is None:
            known = "" if remote else ", ".join(self.series_names(view)) or "none"
            hint = f"Those it has: {known}." if known else ""
            where = "there" if remote else "here"
            raise NotFoundError(f"{view.name or view.id} has no step metric '{name}' {where}.", hint=hint)
        return found

    def _series_objects(self, remote: str) -> ObjectStore:
        return self.remotes.hub(remote).objects("") if remote else self.objects

    def ranks(self, execution: str | views.Execution, *, remote: str = "") -> Results[views.Rank]:
        """Return the processes that wrote an execution: of each attempt its ranks, with how each ended, and where."""
        index = self._index(remote)
        view = execution if isinstance(execution, views.Execution) else self._view(index, execution)
        return tables.ranks(ranks.ranks(view.scope, index.history(view.node)))

    def diff(self, first: str, second: str) -> comparison.Difference:
        """Return what differs between two executions, each named as for `execution`."""
        return comparison.compare(self.execution(first), self.execution(second), self.read)

    def diff_folders(self, first: str, second: str) -> comparison.Changes:
        """Return which files differ between two folders, each named as for `get`; manifests may come from remotes.

        No file is read. What is no folder is a `UsageError`.
        """
        self.collect()
        hubs = self.remotes.hubs
        found = [fetching.find(self.store.index, hubs, text) for text in (first, second)]
        holders = self.remotes.holders
        both = [fetching.manifest_of(self.objects, holders, named, moving.Moved()) for named in found]
        return comparison.folders(self.objects, *both)

    def series_names(self, execution: views.Execution) -> list[str]:
        """Return every name that an execution has step metrics of, those of a live run included."""
        waiting = collect.waiting_names(self.store, execution.node)
        return sorted({*self.store.index.series_names(execution.node), *waiting})

    def logged(self, execution: str | views.Execution, name: str = "") -> Results[views.Use]:
        """Return the texts, images, tables and figures that an execution logged, of one name or of all, by step.

        Each has its ``name``, its ``type``, and in ``attributes`` its ``step``, ``rank`` and ``format`` (media type);
        ``repo.read(it.artifact)`` gives its bytes.
        """
        view = execution if isinstance(execution, views.Execution) else self.execution(execution)
        found = [use for use in view.outputs if use.role == media.ROLE and name in ("", use.name)]
        return tables.uses(sorted(found, key=lambda use: (use.name, media.step_of(use.attributes), use.t)))

    def history(self, text: str) -> list[views.Write]:
        """Return every write to every register of what this names, newest first."""
        target = self.resolve(text)
        return self.store.index.history(target.execution or target.node)

    def read(self, digest: str) -> bytes:
        """Return an object's verified bytes."""
        return read(self.objects, digests.object_of(digest))

    # ---- bytes ---------------------------------------------------------------------------------------------------

    def get(
        self,
        artifact: str,
        path: str | os.PathLike[str] | None = None,
        *,
        remote: str = "",
        progress: moving.Progress = moving.nothing,
    ) -> Path:
        """Write an artifact, or part of a folder, to a path, and return that; bytes that lack here come from remotes.

        ``artifact`` is named as for `resolve`, and may be followed by ``/`` and a path or pattern inside a folder. The
        path is its name here if none is given. It appears whole, or not at all; other content there is never
        overwritten: that is a `ConflictError`. Only ``remote`` is asked, if one is named.
        """
        brought = self._bring(artifact, remote, moving.Moved(), progress)
        target = Path(path) if path is not None else Path.cwd() / fetching.own_name(brought)
        place = functools.partial(self.files.place, brought.digest, target, self.objects, executable=brought.executable)
        self.space.whole(brought.digest, place, remote=remote)
        return target

    def cat(self, artifact: str, out: BinaryIO, *, remote: str = "") -> int:
        """Write the bytes of an artifact, or of one file of a folder, to a stream; return how many. See `get`."""
        brought = self._bring(artifact, remote, moving.Moved(), moving.nothing)
        if brought.digest.startswith(digests.TREE):
            raise UsageError(
                f"{brought.name} is a folder.", hint=f"Name a file in it: {artifact}/FILE; 'cmf get' writes folders."
            )
        check = functools.partial(self.objects.check, brought.digest)  # a stream takes nothing back
        self.space.whole(brought.digest, check, remote=remote)
        return fetching.write(self.objects, brought.digest, out)

    def fetch(
        self, artifacts: Sequence[str], *, remote: str = "", progress: moving.Progress = moving.nothing
    ) -> moving.Moved:
        """Bring the bytes of artifacts, or of parts of folders, named as for `get`, into the objects here."""
        moved = moving.Moved()
        for artifact in artifacts:
            self._bring(artifact, remote, moved, progress)
        return moved

    def _bring(self, text: str, remote: str, moved: moving.Moved, progress: moving.Progress) -> fetching.Brought:
        self.collect()
        named = fetching.find(self.store.index, functools.partial(self.remotes.hubs, remote), text)
        before = moved.objects
        holders = functools.partial(self.remotes.holders, remote)
        bring = functools.partial(fetching.bring, self.objects, holders, named, moved, progress)
        try:
            return self.space.whole(named.digest, bring, remote=remote)
        finally:
            if moved.objects > before:
                moving.note_kept(self.store, self.objects)

    # ---- beside the code -----------------------------------------------------------------------------------------

    def add(self, *paths: str | os.PathLike[str], ignore: bool = False) -> list[beside.Added]:
        """Keep files and folders, and write for each a pointer file for git, ``PATH.cmf``; say what was done.

        Recorded as an execution of the stage ``add``, so that push sends the bytes. ``ignore``: add them to the
        `.gitignore` beside them, which else is left alone. See `cmf.beside.add`.
        """
        here = config.place(Path.cwd(), override=self.environment.dir).absolute()
        if here.resolve() != self.folder.absolute().resolve():
            raise UsageError(f"What is added here belongs to the store {here}.", hint=f"Go to {self.root}.")
        self.collect()
        added = beside.add(self.files, paths, lambda digest: bool(self.store.index.nodes([f"artifact:{digest}"])))
        self.collect()
        for path, found in zip(paths, added, strict=True):
            if ignore and found.to_ignore:
                beside.ignore(path)
        return added

    def checkout(
        self,
        *paths: str | os.PathLike[str],
        force: bool = False,
        remote: str = "",
        progress: moving.Progress = moving.nothing,
    ) -> beside.CheckedOut:
        """Make the data be what its pointer files say; bytes that lack here come from remotes. See `cmf.beside`."""
        done = beside.checkout(self.files, self.space.source(remote, progress), paths, force=force)
        if done.written:
            moving.note_kept(self.store, self.objects)
        return done

    def pointers(self) -> list[beside.Pointed]:
        """Return the state of the data of every pointer file in the project's git work tree, by path."""
        found = beside.states(self.files)
        with contextlib.suppress(CmfError):
            self.files.flush()  # so that the next look is quick
        return found

    # ---- remotes -------------------------------------------------------------------------------------------------

    def pack(
        self,
        path: str | os.PathLike[str],
        *,
        scopes: Sequence[str] = (),
        sites: Sequence[str] = (),
        since: str = "",
        data: bool = False,
        progress: moving.Progress = moving.nothing,
    ) -> moving.Moved:
        """Write what is here into a bundle, for a site that no network reaches.

        ``since``: a bundle that came from there; what its maker held is left out. See `cmf.sync.pack`.
        """
        self.collect(cut=True)
        sync.seal(self.folder, self.store, collect.Clock.now())
        held: Sequence[Sample] = ()
        if since:
            with Bundle.open(Path(since)) as theirs:
                held = theirs.holds
        view = View(scopes=tuple(scopes), sites=tuple(sites))
        return sync.pack(self.store, self.objects, Path(path), view=view, since=held, data=data, progress=progress)

    def unpack(self, path: str | os.PathLike[str], *, progress: moving.Progress = moving.nothing) -> moving.Moved:
        """Take in a bundle. See `cmf.sync.unpack`."""
        self.collect()
        return sync.unpack(self.store, self.objects, Path(path), progress=progress)

    def import_dvc(
        self,
        path: str | os.PathLike[str] = ".",
        *,
        revisions: Sequence[str] = (),
        pipeline: str = "",
        data: bool = False,
        progress: moving.Progress = moving.nothing,
    ) -> importing.Imported:
        """Take in the history of a DVC repository. See `cmf.importing.from_dvc`."""
        self.collect()
        found = importing.from_dvc(
            self.store,
            self.objects,
            Path(path).absolute(),
            revisions=revisions,
            pipeline=pipeline,
            data=data,
            secret=collect.site(self.folder).secret,
            redactor=Redactor(self.environment.secrets),
            options=self.environment.cloud_options(),
            progress=progress,
        )
        self.collect()
        return found

    def export_dvc(
        self,
        *names: str,
        to: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
        remote: str = "",
        progress: moving.Progress = moving.nothing,
    ) -> list[exporting.Exported]:
        """Write artifacts, or what lies at paths, as pointer files and a cache or remote of DVC.

        See `cmf.exporting.to_dvc`.
        """

        def bring(name: str) -> fetching.Brought:
            return self._bring(name, "", moving.Moved(), progress)

        options = self.environment.cloud_options()
        return exporting.to_dvc(
            self.files, bring, names, to=to, cache=cache, remote=remote, options=options, progress=progress
        )

    def retract(self, what: str, *, undo: bool = False, reason: str = "") -> withdrawing.Retracted:
        """Hide an execution, or a record by its id, from everybody; ``undo`` shows it again. See `cmf.withdrawing`."""
        return withdrawing.retract(
            self._withdrawing(), what, undo=undo, reason=reason, now_us=collect.Clock.now().wall_us
        )

    def redact(self, *records: str, reason: str = "", objects: bool = False) -> withdrawing.Redacted:
        """Drop the bytes of records, named by their ids, for ever. See `cmf.withdrawing.redact`."""
        return withdrawing.redact(
            self._withdrawing(), records, reason=reason, drop_objects=objects, now_us=collect.Clock.now().wall_us
        )

    def _withdrawing(self) -> withdrawing.Place:
        self.collect(cut=True)
        return withdrawing.Place(self.store, self.objects, collect.site(self.folder).secret, self.remotes.hubs())

    def push(
        self,
        remote: str = "",
        *,
        data: bool = False,
        relay: bool = False,
        dry: bool = False,
        progress: moving.Progress = moving.nothing,
    ) -> moving.Moved:
        """Send this site's records, and the objects that go with them, to a hub; to a remote of data its data."""
        there = self.remotes.open(remote)
        if isinstance(there, DataRemote):
            return moving.push_data(
                self.folder, self.store, self.objects, there.objects(), collect.Clock.now(), dry=dry, progress=progress
            )
        return sync.push(
            self.folder,
            self.store,
            self.objects,
            there,
            collect.Clock.now(),
            data=data,
            relay=relay,
            dry=dry,
            progress=progress,
        )

    def pull(
        self,
        remote: str = "",
        *,
        scopes: Sequence[str] = (),
        sites: Sequence[str] = (),
        where: str = "",
        everything: bool = False,
        data: bool = False,
        dry: bool = False,
        progress: moving.Progress = moving.nothing,
    ) -> moving.Moved:
        """Bring records, and with ``data`` their bytes, from a hub; the data from a remote that holds only that.

        ``sites``: only what these sites recorded, by name. ``where``: only executions that this filter finds. What is
        chosen is followed from now on, too; without a choice all that is followed comes. See `cmf.following`.
        """
        self.collect()
        there = self.remotes.open(remote)
        filters.parse(where)
        view = View(scopes=tuple(scopes), sites=tuple(sites), where=where)
        if isinstance(there, DataRemote):
            bytes_ = there.objects()
            return moving.pull_data(self.store, self.objects, bytes_, view=view, dry=dry, progress=progress)
        asked = (view,) if everything or view != EVERYTHING else following.followed(self.store, there.url)
        moved = sync.pull(
            self.store, self.objects, there, views=asked or (view,), data=data, dry=dry, progress=progress
        )
        if not dry:
            following.add(self.store, there.url, asked or (view,))
        return moved

    def pull_lineage(
        self,
        root: str,
        direction: Direction = "up",
        *,
        depth_max: int | None = None,
        remote: str = "",
        data: bool = False,
        dry: bool = False,
        progress: moving.Progress = moving.nothing,
    ) -> moving.Moved:
        """Bring one thing that a hub holds and all it came from, or (``down``) all that came from it.

        ``depth_max``: so many executions away at most; 0 is the thing alone.
        """
        self.collect()
        asked = (self.store, self.objects, self.remotes.hub(remote), root, direction)
        return sync.pull_lineage(*asked, depth_max=depth_max, data=data, dry=dry, progress=progress)

    # ---- health --------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Return what this store is, holds, and could not record."""
        done = self.collect()
        counts = self.store.counts()
        running = self.store.index.select(filters.parse("status = running", limit=1000))
        dropped, first = collect.dropped(self.store)
        references = self.references()
        return Status(
            folder=str(self.folder),
            site=self.site,
            site_id=collect.site(self.folder).id,
            counts=counts,
            running=len(running.executions),
            dropped=dropped,
            dropped_first=first,
            problems=done.problems,
            promised=len(moving.lacking(self.store, self.objects)),
            promised_executions=len(self.store.index.referred()),
            scarce=self.space.scarce(),
            copies=self.config.copies,
            references=len(references),
            drifted=[found for found in references if found.state != "same"],
            pointers=self.pointers(),
            remotes=dict(self.remotes.named),
        )

    def references(self) -> list[Reference]:
        """Return what became of the bytes that this site recorded and left where they are, by path."""
        self.collect()
        found = checking.references(self.store.index, self.files, self.site)
        with contextlib.suppress(CmfError):
            self.files.flush()  # so that the next look is quick
        return found

    def verify(self, *, progress: moving.Progress = moving.nothing) -> Verified:
        """Check every segment, object and reference that is here. See `cmf.checking.verify`."""
        self.collect()
        return checking.verify(self.store, self.objects, self.references(), progress)

    def verify_log(self, remote: str = "") -> witness.Shown:
        """Have a hub show that its log is as it was, and holds what it sent or acknowledged; say what is wrong."""
        there = self.remotes.open(remote)
        return witness.Shown() if isinstance(there, DataRemote) else witness.ask(self.store, there)


def init(path: str | os.PathLike[str] | None = None, *, site: str = "") -> Repo:
    """Make a store, or name the site of one that is there. Recording needs no init: a store appears on first use."""
    environment = config.environment()
    start = Path(path) if path is not None else Path.cwd()
    if not start.is_dir():
        raise NotFoundError(f"There is no folder {start}.")
    folder = start / config.FOLDER if path is not None else config.place(start, override=environment.dir)
    if site and not config.NAME.fullmatch(site):
        raise UsageError(f"'{site}' is not a site's name.", hint="Use letters, digits, '.', '_' and '-'.")
    try:
        (folder / "journal").mkdir(parents=True, exist_ok=True)
        with open(folder / ".gitignore", "x", encoding="utf-8") as file:
            file.write("*\n")
    except FileExistsError:
        pass
    except OSError as error:
        raise ConflictError(f"{folder} cannot be made: {error.strerror}.", kind="disk") from error
    if site:
        config.write(folder, msgspec.structs.replace(config.read(folder), site=site))
    repo = Repo(folder, environment)
    repo.collect()
    return repo


def open_repo(path: str | os.PathLike[str] | None = None) -> Repo:
    """Open the store that holds for a folder (this one if none is given)."""
    environment = config.environment()
    start = Path(path).absolute() if path is not None else Path.cwd()
    folder = config.find(start, override="" if path is not None else environment.dir)
    if folder is None:
        raise NotFoundError(
            f"There is no store in {start} or above it.",
            hint="Record something first ('cmf run -- …' or cmf.run in Python), or make one with 'cmf init'.",
            kind="no-store",
        )
    return Repo(folder, environment)
