"""What this store follows of a hub: the views that a pull brings if it is told nothing else.

A pull of something more widens it, and only being told so narrows it. What came once stays. Nothing remembered means
that no pull has said yet: then a pull brings everything.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cmf.model.exchange import EVERYTHING, View
from cmf.store.sql import SqlStore

_Kept = list[tuple[tuple[str, ...], tuple[str, ...], str]]


def followed(store: SqlStore, url: str) -> tuple[View, ...]:
    """Return the views that are followed of a hub; none if none were said yet."""
    kept = store.meta(_place(url))
    if not kept:
        return ()
    found = msgspec.json.decode(kept, type=_Kept)
    return tuple(View(scopes=scopes, sites=sites, where=where) for scopes, sites, where in found)


def follow(store: SqlStore, url: str, views: Sequence[View]) -> None:
    """Follow these views of a hub from now on, and no others; none: as if nothing was ever said."""
    if tuple(views) != followed(store, url):
        kept = [(view.scopes, view.sites, view.where) for view in views]
        store.set_meta(_place(url), msgspec.json.encode(kept).decode() if kept else "")


def add(store: SqlStore, url: str, views: Sequence[View]) -> None:
    """Follow these views of a hub from now on, too."""
    known = followed(store, url)
    for view in views:
        known = widened(known, view)
    follow(store, url, known)


def widened(views: Sequence[View], more: View) -> tuple[View, ...]:
    """Return views that show what these show, and what one more does: no more of them than needed."""
    if EVERYTHING in (*views, more):
        return (EVERYTHING,)
    found = []
    for view in views:
        if (view.sites, view.where) == (more.sites, more.where):
            scopes = {*view.scopes, *more.scopes} if view.scopes and more.scopes else ()
            more = View(scopes=tuple(sorted(scopes)), sites=view.sites, where=view.where)
        else:
            found.append(view)
    return (*found, more)


def described(view: View) -> str:
    """Return what a view shows, as the options that ask for it."""
    said = [f"--scope {scope}" for scope in view.scopes] + [f"--site {site}" for site in view.sites]
    return " ".join(said + ([f"--where '{view.where}'"] if view.where else [])) or "everything"


def _place(url: str) -> str:
    return f"follow {url}"
