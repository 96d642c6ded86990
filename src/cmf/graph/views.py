"""What people see of an index: small immutable views of executions, artifacts and series chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec


class Use(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One event as seen from its execution or its artifact. ``t`` in µs, ``size`` in bytes."""

    artifact: str
    direction: str
    execution: str
    scope: str
    path: str = ""
    name: str = ""
    type: str = ""
    role: str = ""
    size: int | None = None
    t: int = 0
    attributes: dict[str, Any] = {}
    pointer: dict[str, str] = {}
    event: str = ""


class Execution(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One recorded execution. Times in µs since 1970, ``duration`` in seconds or None while it runs.

    ``heard`` is when one that is lost was last heard of.

    ``process`` is what the first rank of the newest attempt says of itself; ``code`` and ``environment`` (a digest) are
    of it too. ``known`` is False for an execution that is referred to but whose birth is not in this store (promised).
    """

    node: str
    id: str
    scope: str
    name: str = ""
    status: str = "unknown"
    exit: int | None = None
    started: int | None = None
    ended: int | None = None
    heard: int | None = None
    site: str = ""
    host: str = ""
    author: str = ""
    command: tuple[str, ...] = ()
    parent: str = ""
    params: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    inputs: tuple[Use, ...] = ()
    outputs: tuple[Use, ...] = ()
    code: dict[str, Any] = {}
    environment: str = ""
    process: dict[str, Any] = {}
    terminal: dict[str, Any] = {}
    error: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    attempts: tuple[str, ...] = ()
    conflict: bool = False
    retracted: bool = False
    known: bool = True

    @property
    def pipeline(self) -> str:
        """Return the scope without its last part."""
        return self.scope.rpartition("/")[0]

    @property
    def stage(self) -> str:
        """Return the last part of the scope."""
        return self.scope.rpartition("/")[2]

    @property
    def duration(self) -> float | None:
        """Return how long it took in seconds, or None while that isn't known."""
        if self.started is None or self.ended is None:
            return None
        return (self.ended - self.started) / 1e6


class Artifact(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One artifact and every event about it. ``names`` newest first; claims that differ are all in ``uses``."""

    digest: str
    name: str = ""
    type: str = ""
    size: int | None = None
    uses: tuple[Use, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return every name that some event gives it, newest first."""
        newest = sorted(self.uses, key=lambda use: (use.t, use.event), reverse=True)
        return tuple(dict.fromkeys(use.name for use in newest if use.name))


def artifact(digest: str, uses: Sequence[Use]) -> Artifact:
    """Return an artifact as some events tell of it, newest first: the newest that says something is believed."""
    return Artifact(
        digest=digest,
        name=next((use.name for use in uses if use.name), ""),
        type=next((use.type for use in uses if use.type), ""),
        size=next((use.size for use in uses if use.size is not None), None),
        uses=tuple(uses),
    )


class Page(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Some executions, newest first; ``cursor`` asks for the next page, "" if there is none.

    ``complete`` is False if the scan budget ended before the page was full: ask again with the cursor.
    """

    executions: tuple[Execution, ...] = ()
    cursor: str = ""
    complete: bool = True


class Write(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One write to a register, for histories: newest first, the first that is not retracted counts."""

    scope: str
    key: str
    value: Any
    t: int
    record: str
    retracted: bool = False


class Rank(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One process of an attempt of an execution: how it ended, and where it ran. ``ended`` in µs since 1970."""

    attempt: str
    rank: int
    status: str = "unknown"
    exit: int | None = None
    signal: int | None = None
    ended: int | None = None
    host: str = ""
    site: str = ""


class ChunkRef(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One chunk of a series, where it starts and which object holds it."""

    names: tuple[str, ...]
    attempt: str
    rank: int
    first: int
    rows: int
    steps: tuple[int, int]
    times: tuple[int, int]
    object: str
    size: int
