"""One journal being taken into the store: from its frames, through its state, to records that are complete."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from cmf import journal
from cmf.collect import chunks
from cmf.collect.identity import Site
from cmf.errors import CmfError, CorruptError, UsageError
from cmf.graph import registers
from cmf.model import digest as digests
from cmf.model import encoding, series
from cmf.model import records as model
from cmf.model.process import Process
from cmf.objects.local import LocalObjects
from cmf.store.sql import Read, SqlStore
from cmf.worktree import machine

TAKE_RECORDS = 100_000
UNSAID = f"{registers.STATUS}1-00000000/0"
"""Whose status a lost run has that was gone before its first attempt had a name."""
YOUNG_SECONDS = 60
"""How long a file that names no writer yet may be one whose writer is just about to."""
SILENT_SECONDS = 600
"""How long a journal of another host may stay as it is, by this host's monotonic clock, before its runs are lost."""


class Clock(msgspec.Struct, frozen=True):
    """The time handed in: wall time in µs, and monotonic seconds since boot."""

    wall_us: int
    monotonic_s: float

    @classmethod
    def now(cls) -> Self:
        """Return the time of this machine."""
        return cls(time.time_ns() // 1000, time.monotonic())


class Collected(msgspec.Struct):
    """What a collection did and saw."""

    records: int = 0
    journals: int = 0
    lost: int = 0
    dropped: int = 0
    dropped_first: str = ""
    problems: list[str] = []


class State(msgspec.Struct):
    """How far a journal has been read, and what is still open in it."""

    offset: int = 0
    process: Process | None = None
    closed: bool = False
    left: int = 0
    lost: bool = False
    open: dict[str, int] = {}
    born: dict[str, int] = {}
    sets: dict[str, chunks.Waiting] = {}
    heard: int = 0
    dropped: int = 0
    dropped_first: str = ""
    watched: tuple[str, int, float] | None = None


def take(journals: Iterable[Journal], store: SqlStore, done: Collected, *, cut: bool) -> list[Path]:
    """Take in what is new in some journals; return those from which nothing more can come, with all of it committed.

    What was read is committed many records at once, of several journals: that costs less for each. A journal that
    cannot be read is one of ``problems``, kept as it is, and holds nobody else up.
    """
    finished: list[Path] = []
    read: list[Journal] = []
    for each in journals:
        with _reported(each, done):
            each.read(cut=cut)
            read.append(each)
        if sum(len(one.found.records) for one in read) >= TAKE_RECORDS:
            finished += _commit(read, store, done, cut=cut)
            read = []
    return finished + _commit(read, store, done, cut=cut)


def _commit(read: Sequence[Journal], store: SqlStore, done: Collected, *, cut: bool) -> list[Path]:
    """Commit what was read from some journals; return those from which nothing more can come."""
    fresh = [each for each in read if each.is_fresh]
    try:
        committed = store.take([each.found for each in fresh]) if fresh else []
    except CmfError:
        committed = [False] * len(fresh)  # each is tried alone, so that the others come in
    refused = {each.path for each, is_in in zip(fresh, committed, strict=True) if not is_in}
    finished = []
    for each in read:
        with _reported(each, done):
            if each.path not in refused:
                each.count()
            if each.take(cut=cut) if each.path in refused or each.has_more else each.is_over:
                finished.append(each.path)
    return finished


@contextlib.contextmanager
def _reported(each: Journal, done: Collected) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        pass  # another collector finished it
    except CmfError as error:
        done.problems.append(f"{each.path.name}: {error.message}")


class Journal:
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
        self.found = Read(path.name, "", "", ())
        self.has_more = False
        self.is_over = False

    @property
    def is_fresh(self) -> bool:
        """Tell whether there is anything to commit of what was read."""
        return self.found.after != self.found.before

    def take(self, *, cut: bool) -> bool:
        """Take in what is new; return whether nothing more can come and all of it is committed."""
        for _ in range(1000):
            self.read(cut=cut)
            if self.is_fresh and not self.store.take([self.found])[0]:
                continue  # another collector was faster: look again
            self.count()
            if not self.has_more:
                return self.is_over
        raise CorruptError(f"{self.path} changes faster than it can be read.", kind="busy")

    def count(self) -> None:
        """Count what was read and is committed."""
        self.done.records += len(self.found.records)
        self.done.journals += bool(self.found.records)

    def read(self, *, cut: bool) -> None:
        """Read what is new, to be committed as ``found``.

        Then it ``has_more`` if that stops before the end, and ``is_over`` if nothing more can come.
        """
        before = self.store.journal(self.path.name)
        state = msgspec.json.decode(before, type=State) if before else State()
        dead = self._dead(state)
        records: list[tuple[str, bytes, bytes]] = []
        waiting: list[tuple[str, bytes]] = []
        self.has_more = self._read(state, records, waiting)
        if not self.has_more:
            if state.left and (code := journal.exit_code(self.path, state.offset)) is not None:
                self._leave(state, records, code)
            ended = dead is True or state.closed
            if ended or dead is None:
                self._lose(state, records)
            self._cut_points(state, records, everything=ended, part=cut or ended)
        self._count_dropped(state, before)
        self.is_over = (state.closed or dead is True) and not state.sets
        self.found = Read(self.path.name, before, msgspec.json.encode(state).decode(), records, waiting)

    def _read(self, state: State, records: list[tuple[str, bytes, bytes]], waiting: list[tuple[str, bytes]]) -> bool:
        """Read new frames into the state; return True if it stopped before the end, to commit what it has."""
        for frame in journal.frames(self.path, state.offset):
            start, state.offset = state.offset, frame.end
            if frame.tag == journal.RECORD:
                scope, draft = journal.parse_record(frame.payload)
                self._record(state, scope, model.draft(draft), records, waiting)
            elif frame.tag == journal.POINTS:
                header, _ = journal.parse_points_header(frame.payload)
                chunks.seen(state.sets, header, start)
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
            elif frame.tag == journal.LEAVE:
                state.left = int.from_bytes(frame.payload[:8], "little")
            if len(records) >= TAKE_RECORDS:
                return True
        return False

    def _record(
        self,
        state: State,
        scope: str,
        record: model.Record,
        records: list[tuple[str, bytes, bytes]],
        waiting: list[tuple[str, bytes]],
    ) -> None:
        complete = self._completed(state, scope, record)
        if complete is None:
            return
        records.append(complete)
        if (t := model.time_of(record)) is not None and t > state.heard:
            state.heard = t
        if isinstance(record, model.Event) and record.direction == "input":
            waiting.append((scope, complete[1]))
        elif isinstance(record, model.Execution):
            state.born[json.dumps([scope, model.execution_node(scope, record.id)])] = record.started
        elif isinstance(record, model.Property) and record.key.startswith(registers.STATUS):
            place = json.dumps([scope, record.subject, record.key])
            state.born.pop(json.dumps([scope, record.subject]), None)
            if registers.state(record.value) == "running":
                state.open[place] = record.t
            else:
                state.open.pop(place, None)

    def _completed(self, state: State, scope: str, record: model.Record) -> tuple[str, bytes, bytes] | None:
        """Add the salt. What no peer would take is counted as dropped: sealed, it would block its stream for ever."""
        try:
            if not model.is_scope(scope):
                raise CorruptError(f"'{scope[:80]}' is not a scope.", kind="scope")
            id_, data = model.completed(record, self.identity.secret)
        except (CorruptError, UsageError) as error:
            state.dropped += 1
            state.dropped_first = state.dropped_first or error.message
            return None
        return scope, id_, data

    def _count_dropped(self, state: State, before: str) -> None:
        known = msgspec.json.decode(before, type=State).dropped if before else 0
        self.done.dropped += state.dropped - known
        self.done.dropped_first = self.done.dropped_first or state.dropped_first

    def _dead(self, state: State) -> bool | None:
        """Tell whether the writer is gone for good: True, False, or None if only its long silence says so."""
        process = state.process or self._opened()
        if process is None:
            return self._is_stillborn()
        alive = machine.alive(process)
        if alive is not None:
            return not alive
        here = machine.process().boot
        size = self.path.stat().st_size
        if state.watched is None or state.watched[:2] != (here, size):
            state.watched = (here, size, self.clock.monotonic_s)
            return False
        return None if self.clock.monotonic_s - state.watched[2] >= SILENT_SECONDS else False

    def _is_stillborn(self) -> bool:
        """Tell whether the process that made this file died before it wrote its name into it."""
        host, pid, start, _ = self.path.stem.rsplit("-", 3) if self.path.stem.count("-") >= 3 else ("", "", "", "")
        here = machine.process()
        age_us = self.clock.wall_us - self.path.stat().st_mtime_ns // 1000
        if host != journal.host_in_name(here.host) or not (pid + start).isdigit() or age_us < YOUNG_SECONDS * 1_000_000:
            return False
        return machine.alive(msgspec.structs.replace(here, pid=int(pid), start=int(start))) is False

    def _opened(self) -> Process | None:
        for frame in journal.frames(self.path, 0):
            return journal.parse_open(frame.payload) if frame.tag == journal.OPEN else None
        return None

    def _lose(self, state: State, records: list[tuple[str, bytes, bytes]]) -> None:
        """Record as lost every run that this journal left without an end."""
        for place, t in state.born.items():  # gone before it could say that it runs
            scope, subject = json.loads(place)
            state.open[json.dumps([scope, subject, UNSAID])] = t
        state.born = {}
        self.done.lost += len(state.open)
        self._end(state, records, {"status": "lost", "heard": state.heard}, self.clock.wall_us)

    def _leave(self, state: State, records: list[tuple[str, bytes, bytes]], code: int) -> None:
        """Record how the process ended, which its exit code says, of every run that it left open."""
        value = {"status": "failed" if code else "finished", "exit": code, "ended": state.left}
        self._end(state, records, value, state.left)
        state.closed = True

    def _end(self, state: State, records: list[tuple[str, bytes, bytes]], value: dict[str, Any], now: int) -> None:
        for place, t in state.open.items():
            scope, subject, key = json.loads(place)
            ended = model.Property(subject=subject, key=key, value=value, t=min(max(now, t + 1), encoding.INTEGER_MAX))
            records.append((scope, *model.salted(ended, self.identity.secret)))
        state.open = {}

    def _cut_points(
        self, state: State, records: list[tuple[str, bytes, bytes]], *, everything: bool, part: bool
    ) -> None:
        """Cut each set of names that has a full chunk; all of it if its execution ended, or the rest if asked to."""
        running = {json.loads(place)[1] for place in state.open}
        for place, held in list(state.sets.items()):
            scope, execution, attempt, rank, names = json.loads(place)
            ended = everything or model.execution_node(scope, execution) not in running
            waiting = held.rows - held.first
            if waiting < series.CHUNK_ROWS and not (waiting > held.cut and (ended or part)) and not ended:
                continue
            for chunk, first, at in chunks.gathered(self.path, place, held):
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
