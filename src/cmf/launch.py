"""Which execution a process writes: its scope, id, name, attempt and rank.

From what the caller and the environment say. Processes that a launcher started together share an execution: its id is
derived from the launcher's where that is unique for ever; else rank 0 publishes one under `.cmf/launch/`.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time as clocks
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cmf import config
from cmf.errors import NotFoundError, UsageError
from cmf.model import records as model
from cmf.model.process import Process
from cmf.worktree import launcher, machine

if TYPE_CHECKING:
    from cmf import collect

_FIRST = "amber bold brave brisk calm clear crisp deep eager fair fleet fresh gentle glad golden grand keen kind light "
_FIRST += "lively lucid mellow merry neat noble plain prime proud quick quiet rapid royal sharp silent solid steady "
_FIRST += "still sunny swift tidy true vivid warm wise"
_SECOND = "aspen badger birch bison brook cedar comet coral crane delta dune eagle ember falcon fern finch fjord gull "
_SECOND += (
    "harbor hawk heron ibis jay lark linden lynx maple marten meadow otter pebble pine plover puffin quail raven "
)
_SECOND += "reef ridge river robin sable spruce tern willow"


FOLDER = "launch"
WAIT_SECONDS = 20.0
"""How long a rank waits for rank 0 to publish what they share; then it records an execution of its own."""

LOOK_SECONDS = 0.05
SKEW_SECONDS = 60.0
"""How much earlier than a rank's own start, by another host's clock, rank 0 may have published."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Which execution a process writes, in which attempt and as which rank.

    ``first``: it writes the birth. ``heir``: it does so at its end if nobody has by then. ``late``: it is
    rank 0, and an heir was faster. ``problem`` says why it shares no execution although it was started among others.
    """

    id: str
    attempt: str
    rank: int = 0
    first: bool = True
    heir: bool = False
    late: bool = False
    problem: str = ""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a file in `.cmf/launch/` says: which process took this place, when (µs), and what rank 0 publishes."""

    process: Process
    t: int
    launcher: tuple[str, ...] = ()
    execution: str = ""
    attempt: str = ""
    v: int = 1


def place(folder: Path, environment: config.Environment, full: str, rank: int | None) -> Place:
    """Return what this process writes in a scope. Only a rank whose rank 0 is yet to publish waits, and not for ever.

    ``folder`` is the `.cmf` folder. Raises `UsageError` if the environment names no valid execution.
    """
    rank = environment.rank if rank is None else rank
    started = launcher.find(environment.launcher, rank)
    if environment.execution:
        return _given(folder, environment, started)
    if started is None:
        return _alone()
    key = _digest(*started.key, full, str(_count_of(folder, full)))
    claims = _Claims(folder / FOLDER, key, started)
    try:
        return claims.derived() if started.unique else claims.published()
    except OSError as error:
        return _alone(f"{claims.folder} cannot be written: {error.strerror}")


def within(
    folder: Path, environment: config.Environment, full: str, rank: int | None, *, named: bool
) -> config.Environment:
    """Return the environment of a run whose process `cmf run` started, in its execution or as a child.

    The first that names no other scope writes the execution of `cmf run`; any other is a child of it.
    """
    if not environment.scope or not environment.execution:
        return environment
    started = launcher.find(environment.launcher, environment.rank if rank is None else rank)
    claim = folder / FOLDER / f"{environment.execution}.{started.rank if started else 0}"
    if not named or full == environment.scope:
        try:
            if _create(claim, Claim(process=machine.process(), t=clocks.time_ns() // 1000)):
                return environment
        except OSError:
            pass  # no place to say that it was taken: a child is never wrong
    parent = environment.parent or model.execution_node(environment.scope, environment.execution)
    return msgspec.structs.replace(environment, scope="", execution="", attempt="", parent=parent)


def announce(folder: Path, id_: str) -> None:
    """Say that the birth of an execution is recorded, for the processes that are told its id."""
    _first(folder / FOLDER, id_)


def _told(folder: Path, id_: str, attempt: str, rank: int) -> Place:
    """Return the place in an execution whose id every rank is told, so that none waits for another."""
    if rank:
        return Place(id=id_, attempt=attempt, rank=rank, first=False, heir=True)
    first = _first(folder, id_)
    taken = None if first else _read(folder / id_)
    return Place(id=id_, attempt=attempt, first=first, late=taken is not None and taken.attempt == attempt)


def inherits(folder: Path, id_: str, attempt: str) -> bool:
    """Tell whether an execution that ends has no birth yet: whoever asks first is to write it."""
    return _first(folder / FOLDER, id_, attempt)


def _alone(problem: str = "") -> Place:
    return Place(id=uuid7(clocks.time_ns()), attempt=_attempt(1), problem=problem)


def _attempt(number: int) -> str:
    return f"{number}-{os.urandom(4).hex()}"


def _given(folder: Path, environment: config.Environment, started: launcher.Launch | None) -> Place:
    """Return the place that `CMF_EXECUTION` says; without `CMF_ATTEMPT`, all of one start derive the same attempt."""
    id_ = environment.execution
    if not model.is_execution_id(id_):
        raise UsageError(f"CMF_EXECUTION is '{id_}'.", hint="It takes a lower-case UUID.")
    rank = started.rank if started else 0
    turn, restarts = (started.turn, started.restarts) if started else ((), 0)
    attempt = environment.attempt or f"{restarts + 1}-{_digest(id_, *turn)[:8]}"
    return _told(folder / FOLDER, id_, attempt, rank)


def _first(folder: Path, id_: str, attempt: str = "") -> bool:
    """Tell whether nobody recorded the birth of an execution yet, and from now on somebody has."""
    try:
        return _create(folder / id_, Claim(process=machine.process(), t=clocks.time_ns() // 1000, attempt=attempt))
    except OSError:
        return True  # a second birth is flagged; an execution without any is not even seen


class _Claims:
    """The places of one launch: who writes which rank of which execution."""

    def __init__(self, folder: Path, key: str, started: launcher.Launch) -> None:
        self.folder = folder
        self.key = key
        self.started = started
        self.turn = _digest(key, *started.turn)[:8]
        self.process = machine.process()
        self.now = clocks.time_ns() // 1000

    def derived(self) -> Place:
        """Take the place that the launcher's own id gives."""
        rank = self.started.rank
        if not _create(self._path(rank), Claim(process=self.process, t=self.now)):
            return self._taken(rank)
        id_ = _uuid8(self.key)
        attempt = f"{self.started.restarts + 1}-{self.turn}"
        return _told(self.folder, id_, attempt, rank)

    def published(self) -> Place:
        """Publish an execution as rank 0; take what rank 0 publishes as any other."""
        return self._publish() if self.started.rank == 0 else self._follow()

    def _publish(self) -> Place:
        above = machine.parent()
        last = _read(self.folder / self.key)
        again = last is not None and last.launcher == above
        number = int(last.attempt.partition("-")[0]) + 1 if again and last is not None else 1
        id_ = last.execution if again and last is not None else uuid7(clocks.time_ns())
        claim = Claim(process=self.process, t=self.now, launcher=above, execution=id_, attempt=_attempt(number))
        path = self._path(0)
        if not _create(path, claim):
            held = _read(path)
            if held is not None and machine.alive(held.process) is not False and not self._old(held):
                return self._taken(0)
            _replace(path, claim)
        _replace(self.folder / self.key, claim)
        return Place(id=id_, attempt=claim.attempt, first=not again)

    def _follow(self) -> Place:
        rank = self.started.rank
        deadline = clocks.monotonic() + WAIT_SECONDS
        while True:
            held = _read(self._path(0))
            if held is not None and model.is_execution_id(held.execution) and not self._old(held):
                return Place(id=held.execution, attempt=held.attempt, rank=rank, first=False)
            if clocks.monotonic() > deadline:
                return _alone(
                    f"rank {rank} found nothing that rank 0 published in {WAIT_SECONDS:.0f} s: it records an execution "
                    "of its own. Give all ranks one CMF_EXECUTION"
                )
            clocks.sleep(LOOK_SECONDS)

    def _old(self, held: Claim) -> bool:
        """Tell whether something was published before this launch: by a process long gone, under the same name."""
        alive = machine.alive(held.process)
        return alive is not True and held.t < (machine.started(self.process) - SKEW_SECONDS) * 1e6

    def _taken(self, rank: int) -> Place:
        """Return a place beside the launch: a program that a rank starts, or the next one in a script."""
        return _alone(
            f"another process recorded rank {rank} of this {self.started.launcher} already: this one records an "
            "execution of its own"
        )

    def _path(self, rank: int) -> Path:
        return self.folder / f"{self.key}.{self.turn}.{rank}"


def _create(path: Path, claim: Claim) -> bool:
    """Write a file that must not be there yet; return whether it was not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(file, "wb") as handle:
        handle.write(msgspec.json.encode(claim))
    return True


def _replace(path: Path, claim: Claim) -> None:
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
    temporary.write_bytes(msgspec.json.encode(claim))
    os.replace(temporary, path)


def _read(path: Path) -> Claim | None:
    """Return what a file says; None if there is none, or it is still being written."""
    try:
        claim = msgspec.json.decode(path.read_bytes(), type=Claim)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return None
    return claim if not claim.attempt or config.ATTEMPT.fullmatch(claim.attempt) else None


_counts: dict[tuple[int, Path, str], int] = {}


def _count_of(folder: Path, full: str) -> int:
    """Return which run of this process in a scope this is, from 0: the second runs of all ranks belong together."""
    place = (os.getpid(), folder, full)
    _counts[place] = _counts.get(place, -1) + 1
    return _counts[place]


def _digest(*texts: str) -> str:
    return hashlib.sha256(msgspec.json.encode(texts)).hexdigest()[:32]


def resumed(known: collect.Known, chosen: Place) -> Place:
    """Return the place of a process that goes on with an execution: a new attempt, which its ranks share."""
    shared = chosen.attempt.partition("-")[2]
    for attempt in known.attempts:
        if attempt.endswith(shared):  # another rank of this start was here first
            return Place(id=known.id, attempt=attempt, rank=chosen.rank, first=False, problem=chosen.problem)
    numbers = [int(text) for text in (a.partition("-")[0] for a in known.attempts) if text.isdigit()]
    attempt = f"{max(numbers, default=0) + 1}-{shared}"
    return Place(id=known.id, attempt=attempt, rank=chosen.rank, first=False, problem=chosen.problem)


def known(folder: Path, prefix: str) -> collect.Known:
    """Return what a resumed run must know of the execution that it goes on with; `NotFoundError` if it isn't here."""
    from cmf import collect

    found = collect.known_execution(folder, prefix, collect.Clock.now())
    if found is None:
        raise NotFoundError(
            f"There is no execution '{prefix}' here to resume.",
            hint="If another site recorded it, 'cmf pull' it first.",
        )
    return found


def scope(given: str, root: Path) -> str:
    """Return a whole scope: what is left out comes from the folder and the script."""
    if "/" not in given:
        script = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "notebook"
        stage = given or model.slug(script) or "main"
        given = f"{model.slug(root.name) or 'main'}/{stage}"
    return model.check_scope(given)


def uuid7(now_ns: int) -> str:
    """Return a UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits."""
    value = (now_ns // 1_000_000 & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return _spelled(value)


def _uuid8(digest: str) -> str:
    """Return a UUIDv8 (RFC 9562) of 32 hexadecimal digits of a hash."""
    value = int(digest, 16)
    value = value & ~(0xF << 76) | 0x8 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return _spelled(value)


def _spelled(value: int) -> str:
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def two_words(id_: str) -> str:
    """Return the name of an execution that was given none: two words, always the same for one id."""
    first, second = _FIRST.split(), _SECOND.split()
    number = int(id_[24:], 16)
    return f"{first[number % len(first)]}-{second[number // len(first) % len(second)]}"
