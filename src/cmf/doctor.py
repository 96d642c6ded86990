"""What is wrong here, and what to do about it: the installation, the machine, the store, its remotes.

Each check looks at one thing. It changes nothing unless it is asked to mend, and then only what nobody can miss.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from importlib import metadata, util
from pathlib import Path

import msgspec

from cmf import collect, config, journal, reaching
from cmf.errors import CmfError
from cmf.objects.local import LocalObjects
from cmf.worktree import git, machine

OURS = "common-metadata-framework"
FREE_BYTES_MIN = 1 << 30
CLOCK_SECONDS_MAX = 60
LEFTOVER_SECONDS = 86_400
EXTRAS = {"hub": "litestar", "postgres": "psycopg", "cloud": "obstore", "ssh": "asyncssh"}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found: ``is_well``, or what to do. ``is_mended``: it was wrong, and was mended just now."""

    check: str
    is_well: bool
    said: str
    hint: str = ""
    is_mended: bool = False


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What is examined. ``folder``: the `.cmf` that holds here, or None. ``mend``: mend what is safe."""

    start: Path
    folder: Path | None
    environment: config.Environment
    path: str
    mend: bool = False


Check = Callable[[Place], Iterator[Finding]]


def _well(check: str, said: str) -> Finding:
    return Finding(check=check, is_well=True, said=said)


def _wrong(check: str, said: str, hint: str, *, is_mended: bool = False) -> Finding:
    return Finding(check=check, is_well=False, said=said, hint=hint, is_mended=is_mended)


def examine(place: Place) -> Iterator[Finding]:
    """Run every check, cheapest first; one that fails itself is a finding of its own."""
    for check in CHECKS:
        if check in NEED_STORE and place.folder is None:
            continue
        name = check.__name__.lstrip("_").replace("_", " ")
        try:
            yield from check(place)
        except (CmfError, OSError, ValueError, KeyError, TypeError) as error:
            hint = error.hint if isinstance(error, CmfError) else ""
            said = error.message if isinstance(error, CmfError) else str(error)
            yield _wrong(name, said, hint)


# ---- the installation --------------------------------------------------------------------------------------------


def _installation(_: Place) -> Iterator[Finding]:
    extras = [name for name, module in EXTRAS.items() if util.find_spec(module) is not None]
    said = f"cmf {metadata.version(OURS)}"
    yield _well("installation", f"{said}, extras: {', '.join(extras) or 'none'}")
    clashing = sorted(
        {
            found.metadata["Name"]
            for found in metadata.distributions()
            if found.metadata["Name"] != OURS and _installs_cmf(found)
        }
    )
    if clashing:
        yield _wrong(
            "installation",
            f"{', '.join(clashing)} installs something called 'cmf' as well.",
            f"pip uninstall {' '.join(clashing)}, or give one of the two an environment of its own.",
        )


def _installs_cmf(found: metadata.Distribution) -> bool:
    if any(entry.group == "console_scripts" and entry.name == "cmf" for entry in found.entry_points):
        return True
    return any(path.parts[:1] == ("cmf",) or path.parts == ("cmf.py",) for path in found.files or ())


def _command(place: Place) -> Iterator[Finding]:
    """Look for commands called `cmf` on the PATH: the first one is what a person gets."""
    found: dict[str, None] = {}
    for folder in place.path.split(os.pathsep):
        candidate = os.path.join(folder, "cmf")
        if folder and os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            found[os.path.realpath(candidate)] = None
    if not found:
        yield _wrong(
            "command",
            "No 'cmf' is on the PATH.",
            "Activate the environment that cmf is installed in, or use 'python -m cmf'.",
        )
        return
    first, *others = found
    if others:
        yield _wrong(
            "command",
            f"'cmf' is {first}, but there are others: {', '.join(others)}.",
            "If 'cmf --version' shows another program, change the order of the PATH.",
        )
    else:
        yield _well("command", first)


# ---- the machine -------------------------------------------------------------------------------------------------


def _git(place: Place) -> Iterator[Finding]:
    if shutil.which("git", path=place.path) is None:
        yield _wrong("git", "git is not installed: runs are recorded without the state of their code.", "Install git.")
        return
    top = next((folder for folder in (place.start, *place.start.parents) if (folder / ".git").exists()), None)
    if top is None:
        yield _well("git", "installed; no repository here")
        return
    state = git.capture(top, lambda _: "", untracked_bytes_max=0)
    if state is None:
        yield _wrong(
            "git",
            f"git does not tell the state of {top}.",
            f"Try 'git -C {top} status': git refuses a repository of another owner.",
        )
        return
    said = f"{top.name} at {state.commit[:12]}" if state.commit else f"{top.name}, without a commit yet"
    yield _well("git", said)


def _strace(place: Place) -> Iterator[Finding]:
    found = shutil.which("strace", path=place.path)
    yield _well(
        "strace",
        found or "not installed: 'cmf run' finds what Python reads, and what anything writes",
    )


def _disk(place: Place) -> Iterator[Finding]:
    where = place.folder or place.start
    free = shutil.disk_usage(where).free
    if not os.access(where, os.W_OK):
        yield _wrong(
            "disk",
            f"{where} cannot be written.",
            "Nothing can be recorded here: change its permissions, or set CMF_DIR.",
        )
    elif free < FREE_BYTES_MIN:
        yield _wrong(
            "disk",
            f"Only {free >> 20} MiB are free where {where} is.",
            "Free some space: what cannot be written is not recorded.",
        )
    else:
        yield _well("disk", f"{free >> 30} GiB free")


# ---- the store ---------------------------------------------------------------------------------------------------


def _settings(place: Place) -> Iterator[Finding]:
    assert place.folder is not None
    found = config.read(place.folder)
    remotes = len(found.remotes)
    yield _well("settings", f"{remotes} remote{'' if remotes == 1 else 's'}" if remotes else "defaults")
    ignore = place.folder / ".gitignore"
    if not ignore.is_file():
        if place.mend:
            ignore.write_text("*\n", encoding="utf-8")
        yield _wrong(
            "settings",
            f"{ignore} is missing, so git would show the store's files.",
            "cmf doctor --fix",
            is_mended=place.mend,
        )


def _keys(place: Place) -> Iterator[Finding]:
    assert place.folder is not None
    keys = place.folder / "keys"
    open_to_others = []
    for path in [*keys.glob("*"), *keys.glob("tokens/*")]:
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and path.name != "secret" and found.st_mode & 0o077:
            open_to_others.append(path)
            if place.mend:
                path.chmod(0o600)
    if open_to_others:
        yield _wrong(
            "keys",
            f"Others can read {', '.join(str(path) for path in open_to_others)}.",
            "cmf doctor --fix takes that right away. If others may have read it: cmf key rotate.",
            is_mended=place.mend,
        )
        return
    yield _well("keys", _identity(place.folder) + _own_key(place.folder))


def _own_key(folder: Path) -> str:
    """Say which key signs here, if there is one; looking makes none."""
    if not (folder / "keys" / str(os.getuid())).exists():
        return ""
    held = collect.held_key(folder, os.getuid())
    day = time.strftime("%Y-%m-%d", time.localtime(held.since_us / 1e6))
    return f", key {held.key.public.hex()[:16]} since {day}"


def _identity(folder: Path) -> str:
    """Say who the store is, without making it anybody: a copied store gets its own identity when it collects."""
    path = folder / "site"
    try:
        held = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        return "made when something is collected"
    if held["inode"] != path.stat().st_ino:
        return "this store was copied: it gets an identity and keys of its own"
    return f"site {str(held['id'])[:12]}"


def _lock(place: Place) -> Iterator[Finding]:
    """Look who holds the lock of a store on a file system that hosts share; elsewhere there is none."""
    assert place.folder is not None
    holder = collect.holder(place.folder)
    if holder is None:
        return
    who = f"process {holder.pid} on {holder.host}"
    if machine.alive(holder) is False:
        yield _wrong(
            "lock",
            f"The store is locked by {who}, which has died.",
            "The next command breaks it by itself; if it does not: cmf doctor --unlock.",
        )
    else:
        yield _well("lock", f"held by {who}")


def _journals(place: Place) -> Iterator[Finding]:
    assert place.folder is not None
    open_, ended = 0, []
    for path in sorted((place.folder / "journal").glob("*.j")):
        try:
            first = next(iter(journal.frames(path)), None)
            writer = journal.parse_open(first.payload) if first is not None and first.tag == journal.OPEN else None
            if writer is not None and machine.alive(writer) is False:
                ended.append(path)
            else:
                open_ += 1
        except CmfError as error:
            yield _wrong("journals", error.message, error.hint)
        except FileNotFoundError:
            continue  # another process collected it
    if ended:
        with contextlib.closing(collect.open_store(place.folder)) as store:
            done = collect.collect(place.folder, store, LocalObjects(place.folder / "objects"), collect.Clock.now())
        ended = [path for path in ended if path.exists()]
        for problem in done.problems:
            yield _wrong("journals", problem, "Keep the file and report it.")
    yield _well("journals", f"{open_} open" if open_ else "all taken in")


def _database(place: Place) -> Iterator[Finding]:
    assert place.folder is not None
    if not (place.folder / collect.DATABASE).exists():
        yield _well("database", "not made yet: nothing was collected")
        return
    with contextlib.closing(collect.open_store(place.folder)) as store:
        problem = store.damage()
        counts = store.counts()
        dropped, first = collect.dropped(store)
    if problem:
        yield _wrong(
            "database",
            f"The database is damaged: {problem}",
            "Keep a copy of .cmf, move store.db away and pull: journals and the hub hold the rest.",
        )
    else:
        yield _well("database", f"executions held: {counts['execution']}")
    if dropped:
        yield _wrong(
            "recording",
            f"{dropped} things could not be recorded, the first: {first}",
            "What was lost then stays lost; mend its cause.",
        )


def _leftovers(place: Place) -> Iterator[Finding]:
    assert place.folder is not None
    objects = LocalObjects(place.folder / "objects")
    old = [
        path
        for path in [*(place.folder / "objects" / "tmp").glob("*"), *place.folder.glob(".site.*")]
        if time.time() - path.lstat().st_mtime > LEFTOVER_SECONDS
    ]
    if not old:
        yield _well("leftovers", "none")
        return
    if place.mend:
        objects.sweep(before=time.time() - LEFTOVER_SECONDS)
        for path in place.folder.glob(".site.*"):
            path.unlink(missing_ok=True)
    yield _wrong(
        "leftovers",
        f"{len(old)} unfinished files of processes that died.",
        "cmf doctor --fix removes them.",
        is_mended=place.mend,
    )


def _clock(place: Place) -> Iterator[Finding]:
    assert place.folder is not None
    ahead = 0
    for path in (place.folder / "journal").glob("*.j"):
        ahead = max(ahead, int(path.stat().st_mtime - time.time()))
    if ahead > CLOCK_SECONDS_MAX:
        yield _wrong(
            "clock",
            f"This machine's clock is {ahead} s behind the newest journal.",
            "Set the clock: times in records come from it. Merging does not depend on it.",
        )
    else:
        yield _well("clock", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


# ---- remotes -----------------------------------------------------------------------------------------------------


def _remotes(place: Place) -> Iterator[Finding]:
    assert place.folder is not None
    environment = place.environment
    asker = reaching.Asker(environment.state_home, place.folder / "keys", environment.cloud_options())
    remotes = config.read(place.folder).remotes
    for found in reaching.reach(remotes, asker):
        yield _wrong(*found) if found.hint else _well(found.title, found.said)
    if not remotes:
        yield _well("remotes", "none: nothing leaves this machine")


CHECKS: tuple[Check, ...] = (
    *(_installation, _command, _git, _strace, _disk),
    *(_settings, _keys, _clock, _leftovers, _lock, _journals, _database, _remotes),
)
NEED_STORE = frozenset({_settings, _keys, _clock, _leftovers, _lock, _journals, _database, _remotes})
