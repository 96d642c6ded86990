"""What the bytes here cost, and for whom they are kept: by kind, by scope and by name."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec

from cmf import keeping, series
from cmf.errors import CmfError
from cmf.model import digest as digests
from cmf.objects import manifest, read
from cmf.objects.local import PACKS, LocalObjects
from cmf.store.sql import SqlStore

SERIES, EVIDENCE, UNREFERENCED = "step metrics", "code, environment and other evidence", "nothing refers to"
UNTYPED = "data of no type"


class Cost(msgspec.Struct, kw_only=True):
    """What something costs. ``own``: the bytes of objects that it shares with no other of its list."""

    name: str
    objects: int = 0
    bytes: int = 0
    own: int = 0


class Costs(msgspec.Struct, kw_only=True):
    """What a store's objects cost. In ``kinds`` each object is counted once; lists begin with the greatest.

    ``scopes`` are those whose records refer to an object, ``names`` those of artifacts, all versions together. ``disk``
    is what the folder of objects takes, of it ``packs`` and in these ``removed`` bytes, which merging gives back;
    ``caches`` are the stat memory and thinned step metrics, ``records`` the database. All in bytes.
    """

    objects: int
    bytes: int
    kinds: list[Cost]
    scopes: list[Cost]
    names: list[Cost]
    disk: int
    packs: int
    removed: int
    caches: int
    records: int


def count(folder: Path, store: SqlStore, objects: LocalObjects) -> Costs:
    """Return what the objects here cost. Everything recorded should be taken in before; `ConflictError` as gc."""
    sizes = dict(objects.list())
    named = keeping.Named(objects)
    named.refresh(store)
    named.add(keeping.pointed(folder.parent))
    kinds: dict[str, set[str]] = defaultdict(set)
    names: dict[str, set[str]] = defaultdict(set)
    scopes: dict[str, set[str]] = defaultdict(set)
    left = dict(sizes)
    for digest, name, type_ in store.index.artifact_names():
        parts = _parts(objects, digest)
        names[name].update(parts)
        kinds[type_ or UNTYPED].update(part for part in parts if left.pop(part, None) is not None)
    for digest in store.index.every_series_object():
        if left.pop(digest, None) is not None:
            kinds[SERIES].add(digest)
    for digest in left:
        kinds[EVIDENCE if digest in named.scopes else UNREFERENCED].add(digest)
    for digest, found in named.scopes.items():
        for scope in found:
            scopes[scope].add(digest)
    names.pop("", None)
    packs = _size(folder / "objects" / PACKS)
    return Costs(
        objects=len(sizes),
        bytes=sum(sizes.values()),
        kinds=_costs(kinds, sizes),
        scopes=_costs(scopes, sizes),
        names=_costs(names, sizes),
        disk=_size(folder / "objects"),
        packs=packs,
        removed=objects.removed_bytes(),
        caches=_size(folder / series.THINNED) + _size(folder / "stat.db"),
        records=sum(_size(path) for path in folder.glob("store.db*")),
    )


def _parts(objects: LocalObjects, digest: str) -> list[str]:
    """Return the objects that an artifact consists of, as far as that is known here."""
    found = [digests.object_of(digest)]
    if digest.startswith(digests.TREE):
        with contextlib.suppress(CmfError):
            data = read(objects, found[0], manifest.MANIFEST_BYTES_MAX)
            found += [entry.digest for entry in manifest.decode(data)]
    return found


def _costs(groups: dict[str, set[str]], sizes: dict[str, int]) -> list[Cost]:
    users: dict[str, int] = defaultdict(int)
    for found in groups.values():
        for digest in found:
            users[digest] += 1
    costs = [_cost(name, found, sizes, users) for name, found in groups.items()]
    return sorted((cost for cost in costs if cost.objects), key=lambda cost: (-cost.bytes, cost.name))


def _cost(name: str, found: Iterable[str], sizes: dict[str, int], users: dict[str, int]) -> Cost:
    cost = Cost(name=name)
    for digest in found:
        size = sizes.get(digest)
        if size is not None:
            cost.objects += 1
            cost.bytes += size
            cost.own += size if users[digest] == 1 else 0
    return cost


def _size(path: Path) -> int:
    """Return what a file, or all in a folder, takes on the disk."""
    total = 0
    with contextlib.suppress(OSError):
        if path.is_file():
            return path.stat().st_blocks * 512
        for folder, _, files in os.walk(path):
            for name in files:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
