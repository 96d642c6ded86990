"""What differs between two executions (parameters, metrics, code, environment, inputs, outputs) or two folders.

Knows views and objects. Refuses to know where they are kept: `read` brings an object's bytes.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from cmf.errors import CmfError
from cmf.graph import views
from cmf.objects import ObjectStore, manifest

Read = Callable[[str], bytes]
Pair = tuple[Any, Any]
_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@")
_FILE = re.compile(r"^diff --git a/(.*) b/\1$")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What differs, each as the pair (of the first, of the second); None where one of them has nothing.

    ``code`` is a unified diff from the first's uncommitted changes to the second's, "" if they are equal; it is of the
    commit's files if both ran on one commit. ``unknown`` names what could not be compared.
    """

    params: dict[str, Pair] = {}
    metrics: dict[str, Pair] = {}
    commit: Pair | None = None
    code: str = ""
    packages: dict[str, Pair] = {}
    environment: dict[str, Pair] = {}
    machine: dict[str, Pair] = {}
    inputs: dict[str, Pair] = {}
    outputs: dict[str, Pair] = {}
    unknown: list[str] = []


def compare(first: views.Execution, second: views.Execution, read: Read) -> Difference:
    """Compare two executions. An object that isn't here is named in ``unknown``, and the rest is compared."""
    unknown: list[str] = []

    def object_of(of: Mapping[str, Any], member: str, what: str) -> bytes:
        named = of.get(member)
        digest = named.get("$object", "") if isinstance(named, dict) else named
        if not isinstance(digest, str) or not digest:
            return b""
        try:
            return read(digest)
        except CmfError:
            unknown.append(what)
            return b""

    def facts(view: views.Execution, member: str) -> dict[str, Any]:
        of = {"environment": view.environment, "machine": view.process.get("machine")}
        try:
            found = json.loads(object_of(of, member, f"the {member} of {view.name or view.id}") or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    environments = facts(first, "environment"), facts(second, "environment")
    packages = [found.pop("packages", {}) for found in environments]
    patches = [
        object_of(view.code, "diff", f"the uncommitted changes of {view.name or view.id}").decode("utf-8", "replace")
        for view in (first, second)
    ]
    commits = first.code.get("commit", ""), second.code.get("commit", "")
    return Difference(
        params=_pairs(first.params, second.params),
        metrics=_pairs(first.metrics, second.metrics),
        commit=commits if commits[0] != commits[1] else None,
        code=between(*patches),
        packages=_pairs(*packages),
        environment=_pairs(*environments),
        machine=_pairs(facts(first, "machine"), facts(second, "machine")),
        inputs=_pairs(_digests(first.inputs), _digests(second.inputs)),
        outputs=_pairs(_digests(first.outputs), _digests(second.outputs)),
        unknown=unknown,
    )


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Which files differ between two versions of a folder, each list sorted; ``same`` is how many do not.

    A file whose bytes are equal and whose executable bit is not counts as changed. Paths are as a manifest holds them,
    with what is not UTF-8 in it escaped.
    """

    added: list[str] = []
    removed: list[str] = []
    changed: list[str] = []
    same: int = 0


def folders(objects: ObjectStore, first: str, second: str) -> Changes:
    """Compare two versions of a folder by the objects that hold their manifests; memory grows with what differs only.

    Errors as of `manifest.Differences`.
    """
    added: list[str] = []
    removed: list[str] = []
    changed: list[str] = []
    found = manifest.Differences(objects, first, second)
    for was, now in found:
        if was is None and now is not None:
            added.append(_text(now))
        elif was is not None:
            (removed if now is None else changed).append(_text(was))
    return Changes(added=sorted(added), removed=sorted(removed), changed=sorted(changed), same=found.same)


def _text(entry: manifest.Entry) -> str:
    return manifest.raw_path(entry.path).decode("utf-8", "backslashreplace")


def _pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Pair]:
    names = sorted({*first, *second})
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}


def _digests(uses: Sequence[views.Use]) -> dict[str, str]:
    return {use.path or use.name or use.artifact: use.artifact for use in uses}


class _Hunk(NamedTuple):
    start: int
    length: int
    lines: tuple[str, ...]

    def before(self) -> list[str]:
        return [line[1:] for line in self.lines if line[:1] in ("-", " ")]

    def after(self) -> list[str]:
        return [line[1:] for line in self.lines if line[:1] in ("+", " ")]

    def meets(self, other: _Hunk) -> bool:
        return self.start < other.start + other.length and other.start < self.start + self.length


def between(first: str, second: str) -> str:
    """Return how one set of changes to a commit differs from another, as a unified diff of the files that they make.

    Both are git diffs against one commit. Line numbers are of the parts compared. Binary files are only named.
    """
    if first == second:
        return ""
    one, other = _parsed(first), _parsed(second)
    found: list[str] = []
    for path in sorted({*one, *other}):
        (head, hunks), (other_head, others) = one.get(path, ("", [])), other.get(path, ("", []))
        if not hunks and not others:
            if head != other_head:
                found += [f"Binary file or mode of {path} differs"]
            continue
        same = set(hunks) & set(others)
        left = [hunk for hunk in hunks if hunk not in same]
        right = [hunk for hunk in others if hunk not in same]
        found += difflib.unified_diff(_made(left, right), _made(right, left), f"a/{path}", f"b/{path}", lineterm="")
    return "\n".join(found) + "\n" if found else ""


def _made(own: list[_Hunk], others: list[_Hunk]) -> list[str]:
    """Return the lines that changes make of the parts which they or the others touch."""
    parts = [(hunk.start, hunk.after()) for hunk in own]
    parts += [(hunk.start, hunk.before()) for hunk in others if not any(hunk.meets(one) for one in own)]
    return [line for _, lines in sorted(parts, key=lambda part: part[0]) for line in lines]


def _parsed(patch: str) -> dict[str, tuple[str, list[_Hunk]]]:
    """Return for each file of a git diff what heads it, and its hunks."""
    found: dict[str, tuple[str, list[_Hunk]]] = {}
    for part in re.split(r"^(?=diff --git )", patch, flags=re.MULTILINE):
        lines = part.split("\n")
        named = _FILE.match(lines[0])
        if named is None:
            continue
        starts = [number for number, line in enumerate(lines) if _HUNK.match(line)]
        hunks = []
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=False):  # none, of a binary file
            match = _HUNK.match(lines[start])
            assert match is not None
            body = tuple(line for line in lines[start + 1 : end] if line[:1] in ("+", "-", " "))
            hunks.append(_Hunk(int(match[1]), int(match[2] or 1), body))
        found[named[1]] = ("\n".join(lines[: starts[0]] if starts else lines), hunks)
    return found
