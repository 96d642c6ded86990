"""What is wrong with what a store holds: its segments, its objects, and the bytes that it left where they are."""

from __future__ import annotations

import msgspec

from cmf import moving, transfer, witness
from cmf.errors import CmfError
from cmf.graph.views import Use
from cmf.objects import damaged
from cmf.objects.local import LocalObjects
from cmf.store.index import SqlIndex
from cmf.store.sql import SqlStore
from cmf.worktree import uri
from cmf.worktree.files import Files


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that were recorded here and left where they are; ``state`` is ``same``, ``changed`` or ``gone``."""

    path: str
    artifact: str
    state: str


class Verified(msgspec.Struct, kw_only=True):
    """What `verify` checked, and what it found wrong; of the objects, which are ``damaged``.

    ``logged``: how many times a segment was shown to be in a hub's log; ``unproven``: how many times a hub sent or
    acknowledged one, and has not shown that yet.
    """

    segments: int = 0
    objects: int = 0
    object_bytes: int = 0
    logged: int = 0
    unproven: int = 0
    problems: list[transfer.Problem] = []
    damaged: list[str] = []


def references(index: SqlIndex, files: Files, site: str) -> list[Reference]:
    """Return what became of the bytes that a site recorded and left where they are, by path.

    Of each path what was recorded last counts. What the stat memory knows and has not changed is not read.
    """
    last = {use.path: use for use in index.references()}
    nodes = index.nodes(sorted({use.execution for use in last.values()}))
    known = index.executions(list(nodes.values()))

    def is_own(use: Use) -> bool:
        made = known.get(nodes.get(use.execution, -1))
        return made is not None and made.site == site

    return [
        Reference(path=use.path, artifact=use.artifact, state=files.drift(use.path, use.artifact))
        for use in sorted(last.values(), key=lambda use: use.path)
        if is_own(use) and not uri.is_uri(use.path)  # nobody is asked over the network just to say how things are
    ]


def verify(store: SqlStore, objects: LocalObjects, left: list[Reference], progress: moving.Progress) -> Verified:
    """Check every segment (form, chain, signature, records), object (its hash) and reference; say what is wrong.

    The segments are held against what is kept of hubs' logs, too: see `cmf.witness.check`.
    """
    found = Verified(problems=[], damaged=[])
    for problem in transfer.verify(store):
        progress("segments", 1)
        if problem is not None:
            found.problems.append(problem)
    found.segments = store.counts()["segment"]
    logs = witness.check(store)
    found.logged, found.unproven = logs.shown, logs.open
    found.problems += logs.problems
    for digest in objects.damaged():
        found.problems.append(transfer.Problem(f"object {digest}", damaged(digest).message))
        found.damaged.append(digest)
    for digest, size in objects.list():
        found.objects += 1
        found.object_bytes += size
        progress("objects", 1)
        try:
            objects.check(digest)
        except CmfError as error:
            found.problems.append(transfer.Problem(f"object {digest}", error.message))
            found.damaged.append(digest)
    for reference in left:
        progress("references", 1)
        if reference.state != "same":
            what = f"{reference.state} since it was recorded as {reference.artifact}, and no copy was kept"
            found.problems.append(transfer.Problem(f"file {reference.path}", what))
    return found
