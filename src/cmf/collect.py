"""Journals into the store: drafts completed with their salt, points cut into chunks, origins found.

Any command collects before it reads, so that everybody reads their own writes. Taking a journal in is one transaction
with the offset where reading goes on; doing it twice, or in two processes at once, changes nothing. Time comes from
the caller.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cmf import journal, signing
from cmf.errors import CmfError, CorruptError, NotFoundError, UnsupportedError, UsageError
from cmf.graph import registers
from cmf.model import digest as digests
from cmf.model import encoding, series
from cmf.model import records as model
from cmf.model.process import Process
from cmf.objects.local import LocalObjects
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.worktree import machine

DATABASE = "store.db"
TAKE_RECORDS = 100_000
SILENT_SECONDS = 600
"""How long a journal of another host may stay as it is, by this host's monotonic clock, before its runs are lost."""


class Clock(msgspec.Struct, frozen=True):
    """The time handed in: wall time in µs, and monotonic seconds since boot."""

    wall_us: int
    monotonic_s: float


class Site(msgspec.Struct, frozen=True):
    """One store's identity: its random id, and the secret that salts its records."""

    id: str
    secret: bytes


class Collected(msgspec.Struct):
    """What a collection did and saw."""

    records: int = 0
    journals: int = 0
    lost: int = 0
    dropped: int = 0
    dropped_first: str = ""
    problems: list[str] = []


class _Set(msgspec.Struct):
    """Points of one set of names that a journal holds.

    Rows before ``first`` are cut for good, ``cut`` of the rest were cut early, ``rows`` were seen; ``at`` is the offset
    of the frame that holds row ``first``.
    """

    first: int
    rows: int
    at: int
    cut: int = 0


class _State(msgspec.Struct):
    """How far a journal has been read, and what is still open in it."""

    offset: int = 0
    process: Process | None = None
    closed: bool = False
    lost: bool = False
    open: dict[str, int] = {}
    sets: dict[str, _Set] = {}
    heard: int = 0
    dropped: int = 0
    dropped_first: str = ""
    watched: tuple[str, int, float] | None = None


def open_store(folder: Path) -> SqlStore:
    """Open the database of a `.cmf` folder; make it if there is none."""
    return SqlStore(Sqlite(folder / DATABASE))


def site(folder: Path) -> Site:
    """Return the identity of the store in a folder; the first collector makes it.

    A store whose `site` file has another inode than it names was copied: it gets a new identity, so that the copy and
    the original never write to one stream.
    """
    secret = signing.kept_secret(folder / "keys" / "secret")
    path = folder / "site"
    for _ in range(3):
        try:
            held = msgspec.json.decode(path.read_bytes())
            if isinstance(held, dict) and held.get("v", 1) > 1:
                raise UnsupportedError(f"{path} has a newer format.", hint="Upgrade cmf.", kind="newer-format")
            if held["inode"] == path.stat().st_ino:
                return Site(str(held["id"]), secret)
            for key in (folder / "keys").glob("[0-9]*"):
                key.unlink(missing_ok=True)
            _make_site(path, replace=True)
        except FileNotFoundError:
            _make_site(path, replace=False)
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise CorruptError(
                f"{path} is damaged.", hint="Remove it: this store then gets a new identity and loses nothing."
            ) from error
    raise CorruptError(f"{path} cannot be made.", kind="disk")


def _make_site(path: Path, *, replace: bool) -> None:
    temporary = path.with_name(f".site.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with open(temporary, "xb") as file:
            inode = os.fstat(file.fileno()).st_ino
            file.write(msgspec.json.encode({"id": os.urandom(16).hex(), "inode": inode, "v": 1}))
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    except FileExistsError:
        pass  # another collector was first: its identity is used
    except OSError as error:
        raise CorruptError(f"{path} cannot be made: {error.strerror}.", kind="disk") from error
    finally:
        temporary.unlink(missing_ok=True)


def writer_key(folder: Path, uid: int) -> signing.Key:
    """Return the key with which this user seals records of the store."""
    return signing.Key(signing.kept_secret(folder / "keys" / str(uid)))


def collect(folder: Path, store: SqlStore, objects: LocalObjects, clock: Clock, *, cut: bool = False) -> Collected:
    """Take in every journal of a store, fold what is new, and find the origin of each new input.

    ``cut``: points that wait for a full chunk are cut as they are (push asks for this). A journal that cannot be read
    is reported in ``problems``, kept as it is, and holds nobody else up.
    """
    done = Collected(problems=[])
    identity = site(folder)
    finished = []
    for path in sorted((folder / "journal").glob("*.j")):
        try:
            if _Journal(path, store, objects, identity, clock, done).take(cut=cut):
                finished.append(path)
        except FileNotFoundError:
            continue  # another collector finished it
        except CmfError as error:
            done.problems.append(f"{path.name}: {error.message}")
    if done.dropped:
        _note_dropped(store, done)
    store.fold_pending()
    _find_origins(store, identity)
    if finished:
        store.checkpoint()
        for path in finished:
            path.unlink(missing_ok=True)
            store.forget_journal(path.name)
    return done


def dropped(store: SqlStore) -> tuple[int, str]:
    """Return how many things could not be recorded since this store was made, and what the first was."""
    text = store.meta("dropped")
    count, first = msgspec.json.decode(text, type=tuple[int, str]) if text else (0, "")
    return count, first


def _note_dropped(store: SqlStore, done: Collected) -> None:
    count, first = dropped(store)
    store.set_meta("dropped", msgspec.json.encode((count + done.dropped, first or done.dropped_first)).decode())


def _find_origins(store: SqlStore, identity: Site) -> None:
    """Add to each new input event a link to the execution that made those bytes, where this store knows one."""
    while waiting := store.origins():
        links = []
        for scope, event, producer in waiting:
            if producer:
                link = model.Link(source=f"record:{event.hex()}", rel="via", to=producer)
                links.append((scope, *model.salted(link, identity.secret)))
        store.settle([(scope, event) for scope, event, _ in waiting], links)
        store.fold_pending()


class _Journal:
    """One journal being taken in."""

    def __init__(
        self, path: Path, store: SqlStore, objects: LocalObjects, identity: Site, clock: Clock, done: Collected
    ) -> None:
        self.path = path
        self.store = store
        self.objects = objects
        self.identity = identity
        self.clock = clock
        self.done = done

    def take(self, *, cut: bool) -> bool:
        """Take in what is new; return whether nothing more can come and all of it is committed."""
        for _ in range(1000):
            before = self.store.journals().get(self.path.name, "")
            state = msgspec.json.decode(before, type=_State) if before else _State()
            dead = self._dead(state)
            records: list[tuple[str, bytes, bytes]] = []
            waiting: list[tuple[str, bytes]] = []
            more = self._read(state, records, waiting)
            if not more:
                ended = dead is True or state.closed
                if ended or dead is None:
                    self._lose(state, records)
                self._cut_points(state, records, everything=ended, part=cut or ended)
            self._count_dropped(state, before)
            after = msgspec.json.encode(state).decode()
            if after != before and not self.store.take(self.path.name, before, after, records, waiting):
                continue  # another collector was faster: look again
            self.done.records += len(records)
            self.done.journals += bool(records)
            if not more:
                return (state.closed or dead is True) and not state.sets
        raise CorruptError(f"{self.path} changes faster than it can be read.", kind="busy")

    def _read(self, state: _State, records: list[tuple[str, bytes, bytes]], waiting: list[tuple[str, bytes]]) -> bool:
        """Read new frames into the state; return True if it stopped before the end, to commit what it has."""
        for frame in journal.frames(self.path, state.offset):
            start, state.offset = state.offset, frame.end
            if frame.tag == journal.RECORD:
                scope, draft = journal.parse_record(frame.payload)
                self._record(state, scope, model.draft(draft), records, waiting)
            elif frame.tag == journal.POINTS:
                header, _ = journal.parse_points_header(frame.payload)
                _seen(state, header, start)
            elif frame.tag == journal.OPEN:
                state.process = journal.parse_open(frame.payload)
            elif frame.tag == journal.HEARTBEAT:
                state.heard = max(state.heard, int.from_bytes(frame.payload[:8], "little"))
            elif frame.tag == journal.DROPPED:
                found = msgspec.json.decode(frame.payload)
                state.dropped += int(found.get("count", 0))
                state.dropped_first = state.dropped_first or str(found.get("first", ""))
            elif frame.tag == journal.CLOSE:
                state.closed = True
            if len(records) >= TAKE_RECORDS:
                return True
        return False

    def _record(
        self,
        state: _State,
        scope: str,
        record: model.Record,
        records: list[tuple[str, bytes, bytes]],
        waiting: list[tuple[str, bytes]],
    ) -> None:
        complete = self._completed(state, scope, record)
        if complete is None:
            return
        records.append(complete)
        state.heard = max(state.heard, model.time_of(record) or 0)
        if isinstance(record, model.Event) and record.direction == "input":
            waiting.append((scope, complete[1]))
        elif isinstance(record, model.Property) and record.key.startswith(registers.STATUS):
            place = json.dumps([scope, record.subject, record.key])
            if registers.state(record.value) == "running":
                state.open[place] = record.t
            else:
                state.open.pop(place, None)

    def _completed(self, state: _State, scope: str, record: model.Record) -> tuple[str, bytes, bytes] | None:
        """Add the salt. What no peer would take is counted as dropped: sealed, it would block its stream for ever."""
        try:
            if not model.is_scope(scope):
                raise CorruptError(f"'{scope[:80]}' is not a scope.", kind="scope")
            id_, data = model.salted(record, self.identity.secret)
            model.read(data)
        except (CorruptError, UsageError) as error:
            state.dropped += 1
            state.dropped_first = state.dropped_first or error.message
            return None
        return scope, id_, data

    def _count_dropped(self, state: _State, before: str) -> None:
        known = msgspec.json.decode(before, type=_State).dropped if before else 0
        self.done.dropped += state.dropped - known
        self.done.dropped_first = self.done.dropped_first or state.dropped_first

    def _dead(self, state: _State) -> bool | None:
        """Tell whether the writer is gone for good: True, False, or None if only its long silence says so."""
        process = state.process or self._opened()
        if process is None:
            return False
        alive = machine.alive(process)
        if alive is not None:
            return not alive
        here = machine.process().boot
        size = self.path.stat().st_size
        if state.watched is None or state.watched[:2] != (here, size):
            state.watched = (here, size, self.clock.monotonic_s)
            return False
        return None if self.clock.monotonic_s - state.watched[2] >= SILENT_SECONDS else False

    def _opened(self) -> Process | None:
        for frame in journal.frames(self.path, 0):
            return journal.parse_open(frame.payload) if frame.tag == journal.OPEN else None
        return None

    def _lose(self, state: _State, records: list[tuple[str, bytes, bytes]]) -> None:
        """Record as lost every run that this journal left without an end."""
        for place, t in state.open.items():
            scope, subject, key = json.loads(place)
            value = {"status": "lost", "heard": state.heard}
            now = min(max(self.clock.wall_us, t + 1), encoding.INTEGER_MAX)
            lost = model.Property(subject=subject, key=key, value=value, t=now)
            records.append((scope, *model.salted(lost, self.identity.secret)))
            self.done.lost += 1
        state.open = {}

    def _cut_points(
        self, state: _State, records: list[tuple[str, bytes, bytes]], *, everything: bool, part: bool
    ) -> None:
        """Cut each set of names that has a full chunk; all of it if its execution ended, or the rest if asked to."""
        running = {json.loads(place)[1] for place in state.open}
        for place, held in list(state.sets.items()):
            scope, execution, attempt, rank, names = json.loads(place)
            ended = everything or model.execution_node(scope, execution) not in running
            waiting = held.rows - held.first
            if waiting < series.CHUNK_ROWS and not (waiting > held.cut and (ended or part)) and not ended:
                continue
            for chunk, first, at in self._chunks(place, held):
                whole = len(chunk.steps) == series.CHUNK_ROWS
                if not whole and not (ended or part):
                    held.at, held.first = at, first
                    break
                if whole or len(chunk.steps) > held.cut:
                    record = self._chunk(execution, attempt, rank, names, first, chunk)
                    if (complete := self._completed(state, scope, record)) is not None:
                        records.append(complete)
                held.cut = 0 if whole else len(chunk.steps)
                held.first, held.at = (first + len(chunk.steps) if whole else first), at
            if ended:
                del state.sets[place]

    def _chunk(
        self, execution: str, attempt: str, rank: int, names: Sequence[str], first: int, chunk: series.Chunk
    ) -> model.Series:
        data = series.encode(chunk)
        digest = digests.file_digest(data)
        self.objects.put(digest, data)
        return model.Series(
            execution=execution,
            names=list(names),
            attempt=attempt,
            rank=rank,
            first=first,
            rows=len(chunk.steps),
            steps=(min(chunk.steps), max(chunk.steps)),
            times=(min(chunk.times), max(chunk.times)),
            object=digest,
            size=len(data),
            stats=[series.stats(column) for column in chunk.columns],
        )

    def _chunks(self, place: str, held: _Set) -> Iterator[tuple[series.Chunk, int, int]]:
        """Yield (chunk, its first row, offset of the frame where the row after it lies) from the first row not cut."""
        names = tuple(json.loads(place)[4])
        gathered = _empty(names)
        first, row = held.first, held.first
        for start, header, points in _points(self.path, held.at):
            if _place(header) != place or header.first + header.rows <= row:
                continue
            at = row - header.first
            while at < header.rows:
                room = series.CHUNK_ROWS - len(gathered.steps)
                end = min(header.rows, at + room)
                gathered.steps.extend(points.steps[at:end])
                gathered.times.extend(points.times[at:end])
                for column, more in zip(gathered.columns, points.columns, strict=True):
                    column.extend(more[at:end])
                row, at = row + end - at, end
                if len(gathered.steps) == series.CHUNK_ROWS:
                    yield gathered, first, start
                    gathered, first = _empty(names), row
        if gathered.steps:
            yield gathered, first, held.at


def _empty(names: tuple[str, ...]) -> series.Chunk:
    return series.Chunk(names=names, steps=array("q"), times=array("q"), columns=tuple(array("d") for _ in names))


def _place(header: journal.PointsHeader) -> str:
    return json.dumps([header.scope, header.execution, header.attempt, header.rank, list(header.names)])


def _seen(state: _State, header: journal.PointsHeader, start: int) -> None:
    place = _place(header)
    held = state.sets.get(place)
    if held is None:
        state.sets[place] = _Set(first=header.first, rows=header.first + header.rows, at=start)
    else:
        held.rows = max(held.rows, header.first + header.rows)


def _points(path: Path, offset: int) -> Iterator[tuple[int, journal.PointsHeader, journal.Points]]:
    start = offset
    for frame in journal.frames(path, offset):
        if frame.tag == journal.POINTS:
            header, _ = journal.parse_points_header(frame.payload)
            yield start, header, journal.parse_points(frame.payload)
        start = frame.end


def tails(folder: Path, store: SqlStore, execution: str, name: str) -> list[tuple[str, int, int, series.Chunk]]:
    """Return (attempt, rank, first row, chunk) of an execution's points that no full chunk holds yet."""
    split = model.split_execution(execution)
    found = []
    for journal_name, text in store.journals().items():
        state = msgspec.json.decode(text, type=_State)
        for place, held in state.sets.items():
            scope, id_, attempt, rank, names = json.loads(place)
            if (scope, id_) != split or name not in names or held.rows == held.first:
                continue
            rows = _empty(tuple(names))
            for _, header, points in _points(folder / "journal" / journal_name, held.at):
                if _place(header) != place:
                    continue
                skip = max(0, held.first + len(rows.steps) - header.first)
                rows.steps.extend(points.steps[skip:])
                rows.times.extend(points.times[skip:])
                for column, more in zip(rows.columns, points.columns, strict=True):
                    column.extend(more[skip:])
            found.append((attempt, rank, held.first, rows))
    return found


class Known(msgspec.Struct, frozen=True):
    """What a resumed run must know of the execution it goes on with."""

    scope: str
    id: str
    attempts: tuple[str, ...]
    last_t: int


def known_execution(folder: Path, prefix: str, clock: Clock) -> Known | None:
    """Collect, then look an execution up by its id or the start of it; None if this store has no such birth."""
    if not folder.is_dir():
        return None
    store = open_store(folder)
    try:
        collect(folder, store, LocalObjects(folder / "objects"), clock)
        try:
            target = store.index.resolve(prefix)
        except NotFoundError:
            return None
        node = target.execution or target.node
        split = model.split_execution(node)
        if split is None:
            raise UsageError(f"'{prefix}' is not an execution.", hint="Resume an execution by its id.")
        found: Any = store.index.executions(list(store.index.nodes([node]).values()))
        view = next(iter(found.values()), None)
        if view is None or not view.known:
            return None
        last = max((write.t for write in store.index.history(node)), default=0)
        return Known(scope=view.scope, id=view.id, attempts=view.attempts, last_t=max(last, view.started or 0))
    finally:
        store.close()
