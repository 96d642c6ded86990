"""The plain types that two ends of a transfer speak: what a peer holds, what is asked for, what was done with it."""

from __future__ import annotations

import fnmatch
import re
from typing import Literal, NamedTuple

import msgspec

from cmf.model.records import covers


class Head(NamedTuple):
    """A segment that a peer holds complete back to its stream's genesis."""

    n: int
    hash: bytes


class Sample(NamedTuple):
    """Some (n, hash) of one stream: n, n-1, n-3, n-7 … 0 back from each head, greatest n first."""

    stream: bytes
    points: tuple[Head, ...]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Which streams a transfer is about: those whose scope matches any glob (none given: all).

    ``own``: only this store's. ``below``: only scopes at or below one of these, whatever else is asked: what a caller
    may read (None: everything). ``sites``: only streams of these sites, by id or by the name that their executions
    give (none given: all). ``where``: no whole streams, only the segments about executions that this filter finds.
    ``streams``: only these, by id (None: all).
    """

    scopes: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    where: str = ""
    streams: frozenset[bytes] | None = None
    own: bool = False
    below: tuple[str, ...] | None = None

    def covers(self, scope: str, site: str | None = None) -> bool:
        """Tell whether a stream's scope is in the view, and its site (by id) if one is given.

        ``penguins/*`` matches any depth below ``penguins``.
        """
        if site is not None and self.sites and site not in self.sites:
            return False
        if self.below is not None and not any(covers(prefix, scope) for prefix in self.below):
            return False
        return not self.scopes or any(
            scope == glob or re.fullmatch(fnmatch.translate(glob), scope) is not None or scope.startswith(glob + "/")
            for glob in self.scopes
        )


EVERYTHING = View()


class Admission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one segment: ``new`` was committed, ``known`` was held already, ``refused`` says why."""

    stream: str
    n: int
    hash: str
    outcome: Literal["new", "known", "refused"]
    records: int = 0
    scope: str = ""
    kind: str = ""
    detail: str = ""
    status: int = 0


def sample_numbers(n: int) -> list[int]:
    """Return which positions of a stream are sampled: n, n-1, n-3, n-7 … 0."""
    found, step = [n], 1
    while found[-1] > 0:
        found.append(max(0, n - step))
        step = step * 2 + 1
    return found
