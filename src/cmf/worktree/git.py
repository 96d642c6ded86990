"""The state of a git repository, only ever read, through the `git` command.

Works as well without git, without a repository and in one without commits. What git is asked runs with locks, hooks,
file system monitors, external diff tools, pagers and transports switched off: looking changes nothing, and starts
nothing that a repository's configuration names (but the content filters that the user's own `git status` runs too).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from cmf.objects import manifest
from cmf.redaction import Redactor, Rule
from cmf.worktree import uri

DIFF_BYTES_MAX = 64 << 20
STATUS_BYTES_MAX = 64 << 20
UNTRACKED_FILES_MAX = 1_000
UNTRACKED_TOTAL_FACTOR = 16
OMITTED_MAX = 100
SECONDS_MAX = 30.0
SUBMODULE = "a submodule's own changes"
POINTER_SUFFIXES = (".cmf", ".dvc")

# Files that are made to hold secrets: never kept, whatever is in them.
_SECRET_NAME = Rule(
    r"\.env(?:\..+)?|.+\.env|\.envrc|\.netrc|_netrc|\.pgpass|\.pypirc|\.npmrc|\.git-credentials|\.htpasswd|\.boto|\.s3cfg"
    r"|\.dockercfg|\.vault-token|id_(?:rsa|dsa|ecdsa|ed25519)(?:[._-](?!pub$).*)?|.+\.(?:pem|key|p12|pfx|jks|keystore|ppk|kdbx|gpg|asc|ovpn)"
    r"|(?:.*[._-])?(?:credentials?|secrets?)(?:\.(?:json|ya?ml|toml|ini|cfg|txt|csv|env|xml))?|kubeconfig"
    r"|(?:.*[._-])?service[._-]account.*\.json|token(?:\.(?:json|txt|pickle))?",
    re.IGNORECASE,
)
_SECRET_FOLDERS = frozenset({b".ssh", b".aws", b".gnupg", b".kube", b".azure", b".docker", b".gcloud"})

READ_ONLY = (
    "--no-optional-locks",
    "--no-pager",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    # `git diff` would renew the index without asking for the lock's permission; see `_EMPTY`.
    "-c",
    "diff.autoRefreshIndex=false",
    # One that isn't there fails every comparison.
    "-c",
    "diff.orderFile=/dev/null",
    # A partial clone would fetch what a diff needs: recording never waits for a network.
    "-c",
    "protocol.allow=never",
)
_STATUS = ("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames", "--no-ahead-behind")
# Every change of a file in every commit, against each parent of a merge.
_CHANGES = (
    *("log", "--all", "--reflog", "--full-history", "-m", "--raw", "--no-abbrev", "--no-renames", "--format="),
    "--no-show-signature",
)
# Every option that a user's configuration may set, so that one state has one diff.
_DIFF = (
    "diff",
    "--binary",
    "--full-index",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--no-renames",
    "--no-relative",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "--unified=3",
    "--inter-hunk-context=0",
    "--diff-algorithm=myers",
    "--submodule=short",
    "--ignore-submodules=dirty",
)


# Without a renewed index, a file that was touched but not changed has a header and nothing else. No line of content
# starts like a header does.
_EMPTY = re.compile(rb"^diff --git [^\n]*\n(?=diff --git |\Z)", re.MULTILINE)


class Omitted(NamedTuple):
    """A changed or untracked file that was not kept: its path from the repository's top, its size and why."""

    path: str
    size: int
    reason: str


class Code(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of the code. What is not known, or not there, is empty.

    ``dirty``: anything differs from the commit, untracked files included. ``diff`` is the digest of the binary diff
    against the commit (against the empty tree before the first one), ``untracked`` that of the manifest of the
    folder of untracked files. ``masked`` lines of the diff held secrets: it can be read, but not applied. ``omitted``
    names the first hundred files left out, ``omitted_count`` counts them all.
    """

    repository: str = ""
    commit: str = ""
    branch: str = ""
    dirty: bool = False
    diff: str = ""
    masked: int = 0
    untracked: str = ""
    omitted: tuple[Omitted, ...] = ()
    omitted_count: int = 0


def capture(
    root: Path, keep: Callable[[bytes], str], *, untracked_bytes_max: int, redactor: Redactor | None = None
) -> Code | None:
    """Return the state of the repository that holds a folder; None without a repository or without git.

    ``keep`` takes in an object and returns its digest. Untracked files over ``untracked_bytes_max`` are omitted, and
    those beyond sixteen times as much in all or beyond a thousand; so are those whose name or content is a secret's.
    `.cmf` is never looked into. If git fails or is slow, what is known is returned, and ``omitted`` says what isn't.
    """
    redactor = redactor or Redactor()
    answer = _git(root, *_STATUS, bytes_max=STATUS_BYTES_MAX)
    top = _git(root, "rev-parse", "--show-toplevel") if answer is not None else None
    if answer is None or not top:
        if _folders(root) is None or not _is_installed():
            return None
        return Code(omitted=(Omitted("", 0, "git did not answer"),), omitted_count=1)
    folder = top.removesuffix(b"\n")
    state = _parse(answer)
    omitted = [Omitted(_shown(path), 0, SUBMODULE) for path in state.submodules]
    diff, masked = "", 0
    if state.changed:
        against = state.commit or (_git(root, "hash-object", "-t", "tree", "/dev/null") or b"").decode().strip()
        data = _git(folder, *_DIFF, against, "--", ":(top)", ":(top,exclude,glob)**/.cmf/**", bytes_max=DIFF_BYTES_MAX)
        if data is None:
            omitted.append(Omitted("", 0, "the diff is too large, or git did not make it"))
        elif found := _EMPTY.sub(b"", data):
            found, masked = _masked(found, redactor)
            diff = keep(found)
    kept = _Untracked(folder, keep, untracked_bytes_max, redactor)
    untracked = kept.keep_all(state.untracked, omitted)
    return Code(
        repository=address(root),
        commit=state.commit,
        branch=state.branch,
        dirty=state.changed or bool(state.submodules or state.untracked),
        diff=diff,
        masked=masked,
        untracked=untracked,
        omitted=tuple(omitted[:OMITTED_MAX]),
        omitted_count=len(omitted),
    )


def pointer(path: str | os.PathLike[str]) -> tuple[Path, str] | None:
    """Return the pointer file of an artifact, ``PATH.cmf`` or ``PATH.dvc``, and its last commit, if git tracks one.

    The commit is empty if the file was added but never committed. Git is started only if there is such a file.
    """
    absolute = os.path.abspath(os.fspath(path))
    for suffix in POINTER_SUFFIXES:
        found = absolute + suffix
        if not os.path.isfile(found):
            continue
        folder, name = os.path.split(found)
        literal = ("--literal-pathspecs",)
        if _git(folder, *literal, "ls-files", "-z", "--", name):
            commit = _git(folder, *literal, "rev-list", "--max-count=1", "HEAD", "--", name)
            return Path(found), (commit or b"").decode().strip()
    return None


def pointers(folder: str | os.PathLike[str], suffix: str) -> dict[bytes, bool] | None:
    """Return the files below a folder that end so and that git does not ignore, relative to it; whether it tracks them.

    None without a repository, without git, or if git is slow.
    """
    found: dict[bytes, bool] = {}
    for tracked, options in ((False, ("--others", "--exclude-standard")), (True, ("--cached",))):
        answer = _git(folder, "ls-files", "-z", *options, "--", f"*{suffix}", bytes_max=STATUS_BYTES_MAX)
        if answer is None:
            return None
        found.update(dict.fromkeys(filter(None, answer.split(b"\0")), tracked))
    return found


def every_version(folder: str | os.PathLike[str], suffix: str, bytes_max: int) -> bytes | None:
    """Return the bytes of every file that ends so in any commit that git still has a name for, or in its index.

    They are joined, in any order, with git's words between; larger ones are left out. Without a repository there are
    none; None if git does not tell.
    """
    if not work_tree(folder):
        return b""
    changes = _git(folder, *_CHANGES, "--", f"*{suffix}", bytes_max=STATUS_BYTES_MAX)
    staged = _git(folder, "ls-files", "--stage", "--", f"*{suffix}", bytes_max=STATUS_BYTES_MAX)
    if changes is None or staged is None:
        return None
    # Behind two modes stand the names of the file before and after; in the index, behind one its name.
    listed = {name for line in changes.splitlines() if line[:1] == b":" for name in line.split()[2:4]}
    listed.update(line.split()[1] for line in staged.splitlines())
    names = b"\n".join(sorted(name for name in listed if name.strip(b"0")))
    told = _git(folder, "cat-file", "--batch-check", bytes_max=STATUS_BYTES_MAX, given=names) if names else b""
    if told is None:
        return None
    small = [line.split() for line in told.splitlines()]
    wanted = [name for name, kind, *size in small if kind == b"blob" and int(size[0]) <= bytes_max]
    if not wanted:
        return b""
    return _git(folder, "cat-file", "--batch", bytes_max=STATUS_BYTES_MAX, given=b"\n".join(wanted))


def is_ignored(path: str | os.PathLike[str]) -> bool:
    """Tell whether git ignores a path."""
    folder, name = os.path.split(os.path.abspath(os.fspath(path)))
    return _git(folder, "check-ignore", "--quiet", "--", f"./{name}") is not None


def is_tracked(path: str | os.PathLike[str]) -> bool:
    """Tell whether git tracks a file, or anything in a folder."""
    folder, name = os.path.split(os.path.abspath(os.fspath(path)))
    return bool(_git(folder, "--literal-pathspecs", "ls-files", "-z", "--", name, bytes_max=STATUS_BYTES_MAX))


def hooks(folder: str | os.PathLike[str]) -> str:
    """Return the folder that git looks for a work tree's hooks in; "" without a repository."""
    folders = _folders(Path(folder))
    if folders is None:
        return ""
    # The last one is ours, see `READ_ONLY`.
    answer = (_git(folder, "config", "-z", "--type=path", "--get-all", "core.hooksPath") or b"").split(b"\0")[:-2]
    return os.path.join(work_tree(folder), os.fsdecode(answer[-1])) if answer else os.path.join(folders[1], "hooks")


def work_tree(path: str | os.PathLike[str]) -> str:
    """Return the top of the git work tree that holds a folder, looked up without git; "" if there is none."""
    for folder in _upwards(os.path.abspath(path)):
        if os.path.exists(os.path.join(folder, ".git")):
            return folder
    return ""


def signature(root: Path, sources: Iterable[str] = ()) -> tuple[object, ...]:
    """Return a value that differs when HEAD, its branch, the index or one of some source files changed.

    Looked up by a few `stat` calls, without git. Empty without a repository and sources.
    """
    found: list[object] = [_stamp(path) for path in sources]
    folders = _folders(root)
    if folders is None:
        return tuple(found)
    own, common = folders
    head = _line(os.path.join(own, "HEAD"))
    reference = head.removeprefix("ref: ")
    found += [head, _stamp(os.path.join(own, "index"))]
    found += [_stamp(os.path.join(common, name)) for name in (reference, "packed-refs", "reftable/tables.list")]
    return tuple(found)


class _State(NamedTuple):
    commit: str
    branch: str
    changed: bool
    submodules: list[bytes]
    untracked: list[bytes]


def _parse(answer: bytes) -> _State:
    """Read `git status --porcelain=v2 --branch -z`: its paths are raw bytes, from the repository's top."""
    commit = branch = ""
    changed = False
    submodules: list[bytes] = []
    untracked: list[bytes] = []
    items = iter(answer.split(b"\0"))
    for item in items:
        kind = item[:2]
        if kind == b"# ":
            name, _, value = item[2:].decode("utf-8", "replace").partition(" ")
            if name == "branch.oid" and value != "(initial)":
                commit = value
            elif name == "branch.head" and value != "(detached)":
                branch = value
        elif kind == b"? ":
            if not _is_ours(item[2:]):
                untracked.append(item[2:])
        elif kind in (b"1 ", b"2 ", b"u "):
            path = item.split(b" ", {b"1 ": 8, b"2 ": 9, b"u ": 10}[kind])[-1]
            if kind == b"2 ":
                next(items, None)  # where it was renamed from
            if _is_ours(path):
                continue
            # S<c><m><u>: a submodule with another commit, with changed files, with untracked files.
            submodule = item.split(b" ", 3)[2]
            if submodule.startswith(b"S") and submodule[2:4] != b"..":
                submodules.append(path)
                changed = changed or submodule[1:2] == b"C" or item[2:3] != b"."
            else:
                changed = True
    return _State(commit, branch, changed, submodules, untracked)


def _masked(diff: bytes, redactor: Redactor) -> tuple[bytes, int]:
    """Return a diff without the secrets in it, and how many of its lines that changed."""
    text = diff.decode("utf-8", "surrogateescape")
    clean = redactor.text(text)
    if clean == text:
        return diff, 0
    lines = sum(before != after for before, after in zip(text.split("\n"), clean.split("\n"), strict=False))
    return clean.encode("utf-8", "surrogateescape"), lines


class _Untracked(NamedTuple):
    """Keeps the untracked files of one work tree as a folder."""

    top: bytes
    keep: Callable[[bytes], str]
    bytes_max: int
    redactor: Redactor

    def keep_all(self, paths: list[bytes], omitted: list[Omitted]) -> str:
        """Return the digest of the manifest, or "" if there is nothing to keep."""
        entries: list[manifest.Entry] = []
        total = 0
        for path in sorted(paths):
            if path.endswith(b"/"):
                omitted.append(Omitted(_shown(path), 0, "a repository of its own"))
                continue
            data, size, mode, reason = self._look(path)
            if not reason and (
                len(entries) == UNTRACKED_FILES_MAX or total + size > UNTRACKED_TOTAL_FACTOR * self.bytes_max
            ):
                reason = "too many untracked files"
            name = manifest.path_of(path)
            if not reason and not manifest.is_path(name):
                reason = "a path that no folder may hold"
            if not reason and self._holds_secret(data):
                reason = "holds what looks like a secret"
            if reason:
                omitted.append(Omitted(_shown(path), size, reason))
                continue
            total += size
            entries.append(manifest.Entry(name, self.keep(data), size, executable=bool(mode & stat.S_IXUSR)))
        if not entries:
            return ""
        # Two names that are one in NFC: the first is kept.
        distinct = {entry.path: entry for entry in reversed(entries)}
        return self.keep(manifest.encode(distinct.values()))

    def _look(self, path: bytes) -> tuple[bytes, int, int, str]:
        *folders, name = path.split(b"/")
        if _SECRET_NAME.pattern.fullmatch(_shown(name)) or not _SECRET_FOLDERS.isdisjoint(folders):
            return b"", 0, 0, "named as what holds secrets"
        return _untracked(os.path.join(self.top, path), self.bytes_max)

    def _holds_secret(self, data: bytes) -> bool:
        text = data.decode("utf-8", "surrogateescape")
        return self.redactor.text(text) != text


def _untracked(path: bytes, bytes_max: int) -> tuple[bytes, int, int, str]:
    """Return an untracked file's bytes, size and mode, and why it can't be kept if it can't. No link is followed."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return b"", 0, 0, "a link" if os.path.islink(path) else "unreadable"
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            return b"", 0, 0, "no regular file"
        if found.st_size > bytes_max:
            return b"", found.st_size, 0, "over the size limit"
        try:
            data = file.read(bytes_max + 1)
        except OSError:
            return b"", found.st_size, 0, "unreadable"
        if len(data) > bytes_max:
            return b"", len(data), 0, "over the size limit"
        return data, len(data), found.st_mode, ""


def _is_installed() -> bool:
    # As `shutil.which`, which takes long to load; and what loads it when Python ends would change Python's exit code.
    return any(os.access(os.path.join(folder, "git"), os.X_OK) for folder in os.get_exec_path())


def address(root: Path) -> str:
    """Return the address of `origin`, or else of the first remote, without anything secret in it."""
    answer = _git(root, "config", "-z", "--get-regexp", r"^remote\..*\.url$") or b""
    found: dict[str, str] = {}
    for item in answer.split(b"\0"):
        name, _, value = item.decode("utf-8", "replace").partition("\n")
        if value:
            found.setdefault(name.removeprefix("remote.").removesuffix(".url"), value)
    address = found.get("origin") or next(iter(found.values()), "")
    return uri.bare(address, query=False)


def start(
    folder: str | bytes | os.PathLike[str],
    *arguments: str,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start git in a folder, to be asked without a change; its standard output is a pipe. `OSError` if it can't.

    Ctrl-Z does not stop it. It is sent to all that share the terminal, and would stop git between vfork and exec too:
    there the thread that started it waits where no signal stops it, so that the program around us would neither stop
    nor go on, and nobody get their shell back.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
    try:
        return subprocess.Popen(
            ["git", *READ_ONLY, "-C", os.fspath(folder), *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd="/",
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _git(
    folder: str | bytes | os.PathLike[str], *arguments: str, bytes_max: int = 1 << 20, given: bytes = b""
) -> bytes | None:
    """Run git in a folder and return what it printed; None if it can't, fails, is slow or prints too much.

    ``given`` is what it reads.
    """
    try:
        with _as_file(given) as source:
            process = start(folder, *arguments, stdin=source)
    except OSError:
        return None
    timer = threading.Timer(SECONDS_MAX, process.kill)
    timer.daemon = True
    timer.start()
    with process:
        try:
            assert process.stdout is not None
            found = process.stdout.read(bytes_max + 1)
            if len(found) > bytes_max:
                process.kill()
        finally:
            timer.cancel()
    return found if process.returncode == 0 and len(found) <= bytes_max else None


@contextlib.contextmanager
def _as_file(given: bytes) -> Iterator[IO[bytes] | int]:
    """Lend a file that holds some bytes, for a process to read: through a pipe both could wait for each other."""
    if not given:
        yield subprocess.DEVNULL
        return
    with tempfile.TemporaryFile() as file:
        file.write(given)
        file.seek(0)
        yield file


def _folders(root: Path) -> tuple[str, str] | None:
    """Return the git folder of the work tree that holds a path, and the one that its work trees share."""
    start = os.path.abspath(root)
    for folder in _upwards(start):
        own = os.path.join(folder, ".git")
        if os.path.isfile(own):
            # A work tree's or a submodule's `.git` is a file that names the folder.
            named = _line(own).removeprefix("gitdir: ")
            own = os.path.normpath(os.path.join(folder, named)) if named else own
        if os.path.isdir(own):
            common = _line(os.path.join(own, "commondir"))
            return own, os.path.normpath(os.path.join(own, common)) if common else own
    return None


def _upwards(folder: str) -> Iterator[str]:
    yield folder
    while (parent := os.path.dirname(folder)) != folder:
        yield parent
        folder = parent


def _line(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read(4096)).strip()
    except OSError:
        return ""


def _stamp(path: str) -> tuple[str, int, int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return path, found.st_mtime_ns, found.st_size, found.st_ino


def _is_ours(path: bytes) -> bool:
    return b".cmf" in path.split(b"/")


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
