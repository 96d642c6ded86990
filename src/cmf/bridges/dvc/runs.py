"""A history of DVC's files as records: each stage run, and each version that was added, is an execution.

What a commit changed in a lock file are the stages that ran before it. A run's records depend on that commit alone, so
that every import of it, anywhere, gives the same ones; its id is made from the commit, the file and the stage.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from cmf.bridges.dvc import files
from cmf.bridges.dvc.files import Hash, Item, Stage
from cmf.model import alias as aliases
from cmf.model import encoding
from cmf.model import records as model

ADD = "add"
"""The stage of those executions that are no run: versions of data that a pointer file tracks."""

ATTRIBUTE = "dvc"
"""Of an event: the hash that DVC names its bytes by."""

TEXT_CHARS_MAX = 16_384
PARAMS_BYTES_MAX = 32 * 1024


Name: TypeAlias = tuple[str, str]
"""Which stage: the path of the file that tells of it, and its name in there."""


class Commit(NamedTuple):
    """One git commit: its hash, when it was made in µs, who wrote it, and the address of the repository."""

    id: str
    t: int
    author: str
    repository: str


class Ran(NamedTuple):
    """One stage that a commit tells of: the file that tells it, its number among the commit's, producers first.

    ``metrics`` by name; ``types`` are those of its files that have one, by path.
    """

    path: str
    number: int
    stage: Stage
    metrics: dict[str, float | int]
    types: dict[str, str]


class Found(NamedTuple):
    """Bytes that are here: their digest and their size."""

    digest: str
    size: int


class Told(NamedTuple):
    """The records of one execution, and how many of its files no hash names, so that no record can."""

    scope: str
    execution: model.Execution
    others: list[model.Record]
    superseded: list[model.Event]
    unnamed: int


def is_new(stage: Stage, before: Sequence[Mapping[str, Stage]]) -> bool:
    """Tell whether a stage is other than in every parent commit: then it ran, and was not merged."""
    return all(parent.get(stage.name) != stage for parent in before)


def scope_of(pipeline: str, path: str, stage: Stage) -> str:
    """Return where a stage belongs: the pipeline, the folder of the file that tells of it, and the stage's name."""
    last = model.slug(posixpath.basename(files.plain(stage.name))) if stage.command else ADD
    parts = [*pipeline.split("/"), *map(model.slug, posixpath.dirname(path).split("/")), last or "stage"]
    kept = [part for part in parts if part]
    folders, name = kept[:-1], kept[-1]
    room = model.SCOPE_PARTS[1] - 1
    if len(folders) > room:
        folders = [*folders[: room - 1], model.slug("-".join(folders[room - 1 :]))]
    return "/".join([*folders, name])


def alias(hash_: Hash) -> bytes:
    """Return the object that stands for bytes of which only DVC's hash is known."""
    return aliases.encode(str(hash_))


def alias_digest(hash_: Hash) -> str:
    """Return the digest of an alias."""
    return aliases.digest(str(hash_))


def same_as(digest: str, hash_: Hash) -> list[model.Record]:
    """Return the records that say that bytes have a hash of DVC's: the alias, and the link to it."""
    named = alias_digest(hash_)
    return [
        model.Artifact(digest=named),
        model.Link(source=f"artifact:{digest}", rel="same_as", to=f"artifact:{named}"),
    ]


def tell(
    ran: Ran,
    commit: Commit,
    pipeline: str,
    *,
    found: Callable[[Item], Found | None],
    keep: Callable[[bytes], str],
) -> Told:
    """Return the records of one stage run.

    ``found`` says which bytes an item is, if they are here: else the alias of its hash takes their place. ``keep``
    keeps what is too long for a record as an object, and returns its digest.
    """
    stage = ran.stage
    scope = scope_of(pipeline, ran.path, stage)
    id_ = _id(commit.id, ran.path, stage.name)
    node = model.execution_node(scope, id_)
    t = commit.t + 2 * ran.number
    params: dict[str, Any] = stage.params
    if len(spelled := encoding.encode(params)) > PARAMS_BYTES_MAX:
        params = {"$object": keep(spelled)}
    birth = model.Execution(
        id=id_,
        name=stage.name[: model.TEXT_CHARS_MAX],
        command=[word[:TEXT_CHARS_MAX] for word in stage.command[:16]],
        started=commit.t,
        params=params,
        author=commit.author[: model.TEXT_CHARS_MAX],
    )
    attempt = f"1-{id_[:8]}"
    process = {"code": {"commit": commit.id} | ({"repository": commit.repository} if commit.repository else {})}
    others: list[model.Record] = [
        model.Property(subject=node, key=f"process/{attempt}/0", value=process, t=commit.t),
        model.Property(subject=node, key=f"status/{attempt}/0", value={"status": "finished"}, t=t + 1),
    ]
    others += [
        model.Property(
            subject=node, key=f"metric/{name}"[: model.TEXT_CHARS_MAX], value=encoding.to_value(value), t=t + 1
        )
        for name, value in sorted(ran.metrics.items())
    ]
    superseded: list[model.Event] = []
    unnamed = 0
    for direction, items, when in (("input", stage.deps, t), ("output", stage.outs, t + 1)):
        for item in items:
            told = list(_events(id_, direction, item, when, ran, commit, found(item)))
            others += told[0] if told else []
            superseded += [told[1]] if len(told) > 1 else []
            unnamed += not told
    return Told(scope, birth, others, superseded, unnamed)


def _events(
    id_: str, direction: Any, item: Item, t: int, ran: Ran, commit: Commit, found: Found | None
) -> Iterator[Any]:
    """Yield the records that say that a run used or made an item; then the event they take the place of, if any."""
    if found is None and item.hash is None:
        return
    common: dict[str, Any] = {
        "execution": id_,
        "direction": direction,
        "path": item.path[: model.PATH_CHARS_MAX],
        "type": ran.types.get(item.path, ""),
        # By its path an execution `add` is called, too: its data gets that as a name, which is looked for first.
        "name": "" if ran.stage.command or direction == "input" else item.path[: model.TEXT_CHARS_MAX],
        "t": t,
        "pointer": model.Pointer(path=ran.path, commit=commit.id),
    }
    attributes = {ATTRIBUTE: str(item.hash)} if item.hash is not None else {}
    aliased = None
    if item.hash is not None:
        named = alias_digest(item.hash)
        aliased = model.Event(
            artifact=named, size=item.size, attributes={**attributes, aliases.ATTRIBUTE: True}, **common
        )
    if found is None:
        assert aliased is not None
        yield [model.Artifact(digest=aliased.artifact), aliased]
        return
    event = model.Event(artifact=found.digest, size=found.size, attributes=attributes, **common)
    links = same_as(found.digest, item.hash) if item.hash is not None else []
    yield [model.Artifact(digest=found.digest), event, *links]
    if aliased is not None:
        yield aliased


def ordered(stages: Mapping[Name, Stage]) -> list[Name]:
    """Return the names of stages, with those first that make what others use; sorted otherwise."""
    makers = {item.path: name for name, stage in stages.items() for item in stage.outs}
    waiting = {
        name: {maker for item in stages[name].deps for maker in _makers(item.path, makers) if maker != name}
        for name in sorted(stages)
    }
    found: list[Name] = []
    while waiting:
        ready = [name for name, needed in waiting.items() if not needed & waiting.keys()]
        for name in ready or list(waiting):  # a circle has no order
            found.append(name)
            del waiting[name]
    return found


def _makers(path: str, makers: Mapping[str, Name]) -> Iterator[Name]:
    """Yield who makes a path, or a folder that it lies in."""
    while path and path not in ("/", ".", ".."):
        if path in makers:
            yield makers[path]
        path = posixpath.dirname(path)


def _id(*texts: str) -> str:
    """Return a UUIDv8 (RFC 9562) of some texts."""
    raw = bytearray(
        hashlib.sha256("\0".join(("cmf import dvc", *texts)).encode("utf-8", "surrogatepass")).digest()[:16]
    )
    raw[6], raw[8] = raw[6] & 0x0F | 0x80, raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
