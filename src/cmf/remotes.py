"""The remotes of a store: their names, how they are opened, and what is followed of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cmf import config, following, whereabouts, witness
from cmf.errors import NotFoundError, UsageError
from cmf.model.exchange import View
from cmf.objects import RemoteStore
from cmf.remote.data import DataRemote, is_data
from cmf.store.sql import SqlStore

if TYPE_CHECKING:
    from cmf.remote import HubClient

DEFAULT = "origin"


class Remotes:
    """The remotes that the settings of a store name; what is seen of objects there is noted in the store."""

    def __init__(self, folder: Path, store: SqlStore, environment: config.Environment) -> None:
        self._folder = folder
        self._store = store
        self._environment = environment
        self._named = dict(config.read(folder).remotes)

    @property
    def named(self) -> Mapping[str, str]:
        """Return the URL of each remote by its name."""
        return {name: remote.url for name, remote in self._named.items()}

    def open(self, name: str = "") -> HubClient | DataRemote:
        """Return a remote: the one named, or at this URL, else `CMF_REMOTE`, else `origin`, else the only one."""
        from cmf.remote import HubClient

        name = name or self._environment.remote
        if not name:
            name = DEFAULT if DEFAULT in self._named or len(self._named) != 1 else next(iter(self._named))
        if name not in self._named and "://" not in name:
            raise NotFoundError(
                f"There is no remote '{name}' here.",
                hint=f"Known: {', '.join(sorted(self._named)) or 'none'}. Add one with 'cmf remote add {name} URL'.",
            )
        url = self._named[name].url if name in self._named else name
        if is_data(url):
            return DataRemote(url, self._environment.cloud_options(), watch=self._watch)
        keys = self._folder / "keys"
        return HubClient(url, state_home=self._environment.state_home, keys=keys, watch=self._watch)

    def hub(self, name: str = "") -> HubClient:
        """Return the client of a remote that is a hub, named as for `open`."""
        found = self.open(name)
        if isinstance(found, DataRemote):
            raise UsageError(f"'{name or found.url}' holds data, and no records.", hint="Name a hub for that.")
        return found

    def holders(self, only: str = "") -> Iterator[HubClient | DataRemote]:
        """Yield the one remote that is named, or all: `origin` first."""
        names = [only] if only else sorted(self._named, key=lambda name: (name != DEFAULT, name))
        return (self.open(name) for name in names)

    def hubs(self, only: str = "") -> Iterator[HubClient]:
        """Yield those of `holders` that are hubs."""
        return (each for each in self.holders(only) if not isinstance(each, DataRemote))

    def set(self, name: str, url: str) -> None:
        """Add a remote, or have a name stand for another one."""
        if not config.NAME.fullmatch(name):
            raise UsageError(f"'{name}' is not a remote's name.", hint="Use letters, digits, '.', '_' and '-'.")
        self._write({**self._named, name: config.Remote(url=url)})

    def remove(self, name: str) -> None:
        """Forget a remote, and what was followed of it; `NotFoundError` if there is none of this name."""
        if name not in self._named:
            raise NotFoundError(f"There is no remote '{name}' here.")
        if not is_data(self._named[name].url):
            self.follow(name, ())
        self._write({known: remote for known, remote in self._named.items() if known != name})

    def _write(self, remotes: dict[str, config.Remote]) -> None:
        config.write(self._folder, msgspec.structs.replace(config.read(self._folder), remotes=remotes))
        self._named = remotes

    def followed(self, name: str = "") -> tuple[View, ...]:
        """Return what a pull that is told nothing else brings from a remote; none if no pull has said yet."""
        there = self.open(name)
        return () if isinstance(there, DataRemote) else following.followed(self._store, there.url)

    def follow(self, name: str, views: Sequence[View]) -> None:
        """Have a pull that is told nothing else bring these views from now on. What is here stays."""
        following.follow(self._store, self.hub(name).url, views)

    def trust(self, name: str) -> None:
        """Forget a hub's key and log, to believe them anew: see `cmf.witness`."""
        witness.trust(self._store, self.hub(name))

    def _watch(self, objects: RemoteStore, url: str, scope: str) -> RemoteStore:
        return whereabouts.Watched(objects, self._store.whereabouts, url, part=scope != "")
