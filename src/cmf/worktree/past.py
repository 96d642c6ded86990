"""The past of a git repository, only ever read: its commits, what each changed, and files as they were."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from cmf.errors import NotFoundError, UnreachableError, UsageError
from cmf.worktree import git

_ALL = ("--branches", "--tags", "--remotes", "HEAD")


class Changed(NamedTuple):
    """A file that a commit changed against every parent: its blobs before, one for each parent, and after.

    "" where there is none.
    """

    path: str
    before: tuple[str, ...]
    after: str


class Commit(NamedTuple):
    """One commit: its hash, the number of its parents, when it was made in µs, its author, and what it changed."""

    id: str
    parents: int
    t: int
    author: str
    changed: tuple[Changed, ...]


def commits(folder: str, revisions: Sequence[str], patterns: Sequence[str]) -> Iterator[Commit]:
    """Yield the commits that revisions name, parents first; of each the changed files that match git's patterns.

    A merge changed what is other than in each of its parents. No revision means all branches and tags. A path that is
    not UTF-8, or holds a line end, is passed over.
    """
    for revision in revisions:
        if revision.startswith("-"):
            raise UsageError(f"'{revision}' is no revision.", hint="Such as main, v1..v2, or a commit's hash.")
    arguments = ["-c", "log.showRoot=true", "log", "--topo-order", "--reverse"]
    arguments += ["--format=%x01%H%x02%P%x02%ct%x02%aN <%aE>%x00", "-m", "--raw", "--no-abbrev", "--no-renames", "-z"]
    arguments += ["--full-history", "--no-color", "--no-show-signature", "--encoding=UTF-8", *(revisions or _ALL)]
    arguments += ["--", *patterns]
    try:
        process = git.start(folder, *arguments, stderr=subprocess.PIPE)
    except OSError as error:
        raise UnreachableError(f"git cannot be started: {error}.", hint="Install git.") from error
    with process:
        found, errors = process.communicate()
    if process.returncode:
        said = errors.decode("utf-8", "replace").strip().splitlines() or ["git failed"]
        raise UsageError(f"git cannot tell the history of {folder}: {said[0]}.", hint="Is the revision right?")
    yield from _parse(found)


def _parse(answer: bytes) -> Iterator[Commit]:
    """Read `git log --raw -z -m`: a merge comes once for each parent, in their order."""
    current: list[str] = []
    found: dict[str, dict[int, tuple[str, str]]] = {}
    part = -1
    items = iter(answer.split(b"\0"))
    for item in items:
        if b"\x01" in item[:2]:
            head = item[item.index(b"\x01") + 1 :].decode("utf-8", "replace").split("\x02")
            if current and head[0] == current[0]:
                part += 1
                continue
            if current:
                yield _commit(current, found)
            current, found, part = head, {}, 0
        elif item.lstrip(b"\n").startswith(b":"):
            fields = item.lstrip(b"\n").split(b" ")
            path = next(items, b"")
            try:
                text = path.decode()
            except UnicodeDecodeError:
                continue
            if "\n" not in text and fields[1] != b"120000":
                found.setdefault(text, {})[part] = (fields[2].decode(), fields[3].decode())
    if current:
        yield _commit(current, found)


def _commit(head: list[str], found: dict[str, dict[int, tuple[str, str]]]) -> Commit:
    id_, parents, when, author = (*head, "", "", "", "")[:4]
    count = len(parents.split())
    changed = [
        Changed(
            path, tuple(_blob(diffs[part][0]) for part in sorted(diffs) if count), _blob(next(iter(diffs.values()))[1])
        )
        for path, diffs in sorted(found.items())
        if len(diffs) == max(1, count)
    ]
    return Commit(id_, count, int(when or 0) * 1_000_000, author.strip(), tuple(changed))


def _blob(text: str) -> str:
    return "" if not text.strip("0") else text


class Blobs:
    """Reads files as they were, through one `git cat-file`. Use it as a context manager."""

    def __init__(self, folder: str, *, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        try:
            self._git = git.start(folder, "cat-file", "--batch", stdin=subprocess.PIPE)
        except OSError as error:
            raise UnreachableError(f"git cannot be started: {error}.", hint="Install git.") from error

    def read(self, name: str) -> bytes | None:
        """Return a blob by its hash, or as ``COMMIT:PATH``; None if there is none, or it is over the limit."""
        if "\n" in name:
            return None
        assert self._git.stdin is not None
        assert self._git.stdout is not None
        try:
            self._git.stdin.write(os.fsencode(name) + b"\n")
            self._git.stdin.flush()
            # SHA SP type SP size, or the name as asked and a word such as "missing"
            head = self._git.stdout.readline().rsplit(b" ", 2)
            if len(head) != 3 or not head[2].strip().isdigit():
                if not head[-1].endswith(b"\n"):
                    raise NotFoundError("git stopped reading its objects.", hint="Try 'git fsck'.")
                return None
            size = int(head[2])
            taken = []
            left = size
            while left > 0:
                chunk = self._git.stdout.read(min(left, 1 << 20))
                if not chunk:
                    raise NotFoundError("git stopped in the middle of an object.", hint="Try 'git fsck'.")
                left -= len(chunk)
                if size <= self.bytes_max:
                    taken.append(chunk)
            self._git.stdout.read(1)
        except (BrokenPipeError, UnicodeEncodeError) as error:
            raise NotFoundError("git stopped reading its objects.", hint="Try 'git fsck'.") from error
        return b"".join(taken) if size <= self.bytes_max and head[1] == b"blob" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        assert self._git.stdin is not None
        assert self._git.stdout is not None
        self._git.stdin.close()
        self._git.stdout.close()
        self._git.wait()
