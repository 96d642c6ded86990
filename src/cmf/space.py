"""What takes space in a store, what of it may go, and where else the bytes are: one face for the modules that know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from cmf import collect, costs, fetching, freeing, keeping, mending, whereabouts
from cmf.config import Config
from cmf.errors import CorruptError, NotFoundError
from cmf.fetching import Holders, Named
from cmf.moving import Moved, Progress, nothing
from cmf.objects.local import LocalObjects
from cmf.remotes import Remotes
from cmf.store.sql import SqlStore

_T = TypeVar("_T")


class Space:
    """The bytes of one store. ``remotes`` may hold them too."""

    def __init__(
        self,
        folder: Path,
        store: SqlStore,
        objects: LocalObjects,
        config: Config,
        site: str,
        remotes: Remotes,
    ) -> None:
        self._folder = folder
        self._store = store
        self._objects = objects
        self._config = config
        self._site = site
        self._remotes = remotes

    def free(
        self,
        *,
        older_than: float = freeing.OLDER_THAN_SECONDS,
        elsewhere: bool = False,
        remote: str = "",
        copies: int = 0,
        force: bool = False,
        progress: Progress = nothing,
    ) -> freeing.Freed:
        """Free objects that nothing refers to; without ``force`` only tell what would go. See `cmf.freeing.free`.

        With ``elsewhere`` bytes of artifacts go as well of which remotes (only ``remote``, if one is named) hold at
        least ``copies``, or else as many as the settings want.
        """
        return freeing.free(
            self._folder,
            self._store,
            self._objects,
            collect.Clock.now(),
            older_than=older_than,
            holders=[*self._remotes.holders(remote)] if elsewhere else (),
            copies=(copies or self._config.copies) if elsewhere else 0,
            force=force,
            progress=progress,
        )

    def mend(self, damaged: Sequence[str], *, remote: str = "") -> mending.Mended:
        """Fetch objects again that are damaged here, from whoever has them whole."""
        return mending.again(self._objects, self._remotes.holders(remote), damaged)

    def whole(self, digest: str, act: Callable[[], _T], *, remote: str = "") -> _T:
        """Do something with an artifact's bytes; once more, if all that was damaged of them here came again."""
        try:
            return act()
        except CorruptError:
            if not self._mend_artifact(digest, remote):
                raise
            return act()

    def source(self, remote: str, progress: Progress) -> Source:
        """Return where the bytes of artifacts come from: all remotes, or the one that is named."""
        return Source(self, self._objects, lambda: self._remotes.holders(remote), remote, progress)

    def _mend_artifact(self, digest: str, remote: str) -> bool:
        """Fetch again what of an artifact is damaged here; tell whether something was, and all of that is whole."""
        mended = False
        while damaged := mending.damaged_parts(self._objects, digest):
            mended = not self.mend(damaged, remote=remote).left
            if not mended:
                break
        return mended

    def check_remote(self, remote: str, *, repair: bool = False, progress: Progress = nothing) -> mending.Checked:
        """Read all that a remote holds, of a hub what it holds of this store's scopes, and say what is damaged there.

        ``repair``: replace what is damaged there and whole here.
        """
        scopes = sorted({stream["scope"] for stream in self._store.streams()})
        (holder,) = self._remotes.holders(remote)
        done = mending.check(holder, scopes, progress)
        if repair and done.damaged:
            done.mended = mending.send_again(self._objects, holder, scopes, [*done.damaged]).mended
        return done

    def costs(self) -> costs.Costs:
        """Return what the objects here cost, and for whom they are kept. See `cmf.costs`."""
        collect.collect(self._folder, self._store, self._objects, collect.Clock.now())
        return costs.count(self._folder, self._store, self._objects)

    def scarce(self) -> int:
        """Return how many objects of artifacts are known at fewer places than the settings want. Asks nobody.

        The one here is a place, and each remote that has a name.
        """
        copies = self._config.copies
        if copies < 2:  # what is known somewhere has one copy
            return 0
        held = (digest for digest, _ in self._objects.list())
        wanted = keeping.artifact_objects(self._store, self._objects)
        places = {url.rstrip("/") for url in self._remotes.named.values()}
        return whereabouts.scarce(self._store.whereabouts, held, wanted, places, copies)

    def whereabouts(self, digest: str) -> whereabouts.Whereabouts:
        """Return which places hold an artifact's bytes, by its digest, and when that was last seen. Asks nobody."""
        index = self._store.index
        found = index.artifacts([*index.nodes([f"artifact:{digest}"]).values()])
        if not found:
            raise NotFoundError(f"There is no artifact {digest} here.", hint="'cmf pull' brings what others have.")
        return whereabouts.of(
            self._store.whereabouts,
            self._objects,
            digest,
            remotes=self._remotes.named,
            sites=whereabouts.sites(index, next(iter(found.values())).uses, but=self._site),
        )


class Source:
    """Where the bytes of artifacts come from that lack here, or are damaged."""

    def __init__(self, space: Space, objects: LocalObjects, holders: Holders, remote: str, progress: Progress) -> None:
        self._space = space
        self._objects = objects
        self._holders = holders
        self._remote = remote
        self._progress = progress

    def bring(self, named: Named, only: Sequence[str] | None = None) -> None:
        """Make sure that an artifact's bytes are here, or ``only`` these objects of it; errors as `fetching.bring`."""
        if only is None:
            fetching.bring(self._objects, self._holders, named, Moved(), self._progress)
        else:
            fetching.fetch(self._objects, self._holders, only, named, Moved(), self._progress)

    def whole(self, digest: str, act: Callable[[], _T]) -> _T:
        """Do something with an artifact's bytes. See `Space.whole`."""
        return self._space.whole(digest, act, remote=self._remote)
