"""`Recorder`: what all the runs of one process share.

Knows the process's journal, its objects, the state of code and machine, and the thread that flushes. Refuses to know
what a run is beyond `Live`.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import sys
import threading
import time as clocks
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from cmf import config, ending, notebook
from cmf.errors import CmfError, CorruptError
from cmf.journal import JournalWriter
from cmf.model import digest as digests
from cmf.model import encoding
from cmf.model import records as model
from cmf.objects.local import LocalObjects
from cmf.redaction import Redactor
from cmf.worktree import machine
from cmf.worktree.files import Files
from cmf.worktree.surroundings import Surroundings
from cmf.worktree.usage import Usage

FLUSH_SECONDS = 1.0
SYNC_SECONDS = 5.0
WAIT_SECONDS = 10.0
"""How long a record waits for a disk that takes another's bytes. Rows of step metrics never wait."""


class CmfWarning(UserWarning):
    """Something could not be recorded. The program goes on."""


class Live(Protocol):
    """A run as its recorder sees it."""

    @property
    def told(self) -> str:
        """How a child process is told of the run: ``SCOPE:ID:ATTEMPT``."""
        ...

    def flush(self) -> None:
        """Hand the rows logged so far to the journal."""
        ...

    def tell(self, used: Mapping[str, float]) -> None:
        """Record what program and machine use, if this run tells it."""
        ...

    def finish(self) -> None:
        """End the run as finished."""
        ...

    def fail(self, error: BaseException) -> None:
        """End the run as what an exception says."""
        ...

    def killed(self, number: int) -> None:
        """Write that a signal ends the run, without waiting for the disk."""
        ...

    def settle(self) -> bool:
        """Hand over everything but how the run ended; return whether that is still open."""
        ...

    def forked(self) -> None:
        """Forget what the parent will write."""
        ...

    def buffers(self, *, is_sure: bool) -> None:
        """Say whether rows are sure to be flushed before the process ends."""
        ...


class Recorder:
    """What the runs of one process share: the journal, the objects, and what is known of code and machine."""

    def __init__(self, folder: Path, environment: config.Environment) -> None:
        self.folder = folder
        self.environment = environment
        self.objects = LocalObjects(folder / "objects")
        self.redactor = Redactor(environment.secrets)
        self.process = machine.process()
        self.lock = threading.RLock()
        self.describing = threading.RLock()
        self.runs: list[Live] = []
        self._journal: JournalWriter | None = None
        self.dropped, self.last_dropped = 0, ""
        self._unsaid, self._why = 0, ""
        self._late: list[tuple[str, model.Record]] = []
        self._warned = False
        self._last_t = 0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._synced = clocks.monotonic()
        self._is_closing = False
        self._is_stuck = False
        try:
            self.config = config.read(folder)
        except CorruptError as error:  # the program is not to blame, and must run
            self.config = config.Config()
            self.drop(error.message)
        self.files = Files(self.objects, folder.parent, rules=self.config.data)
        self.surroundings = Surroundings(
            folder.parent,
            self.keep,
            variables=environment.variables,
            redactor=self.redactor,
            record_path=self.files.record_path,
            untracked_bytes_max=self.config.untracked_bytes_max,
        )

    def now(self) -> int:
        """Return the time in µs, always later than the time before."""
        with self.lock:
            t = clocks.time_ns() // 1000
            if not self._last_t < t <= encoding.INTEGER_MAX:
                t = min(max(t, self._last_t + 1), encoding.INTEGER_MAX)
            self._last_t = t
            return t

    def seen(self, t: int) -> None:
        """Make every later write of this process later than this time."""
        self._last_t = max(self._last_t, t)

    def journal(self) -> JournalWriter:
        """Return this process's journal; a forked child gets one of its own."""
        with self.lock:
            if self._journal is None:
                self._journal = JournalWriter(self.folder / "journal", self.process)
            return self._journal

    def forked(self) -> None:
        """Leave the parent's journal and points to the parent: called in a forked child."""
        if self._journal is not None:
            self._journal.abandon()
        self._journal = None
        self._thread = None
        self.lock, self.describing = threading.RLock(), threading.RLock()
        self._wake = threading.Event()
        self._unsaid, self._late, self._is_stuck = 0, [], False
        self.files.forked()
        self.process = machine.process()
        for run in self.runs:
            run.forked()
        if (workers := sys.modules.get("multiprocessing.util")) is not None:
            # If it is a worker of multiprocessing that was forked, this is called next.
            workers.register_after_fork(self, Recorder._serve_worker)

    def _serve_worker(self) -> None:
        """In a worker of multiprocessing: have what it leaves open ended when its function ends.

        Such a worker ends by `os._exit`, without the handlers at exit.
        """
        from multiprocessing.util import Finalize

        Finalize(None, self._end_worker, exitpriority=0)
        for run in self.runs:
            run.buffers(is_sure=True)

    def _end_worker(self) -> None:
        error = sys.exception()  # what ended the worker's function
        for run in list(self.runs):
            if error is None:
                run.finish()
            else:
                run.fail(error)
        self._note_dropped()

    def write(self, scope: str, *records: model.Record) -> None:
        """Append drafts without the secrets in them; raises `OSError` if the disk refuses, or does not answer."""
        if self._is_stuck or not self.lock.acquire(blocking=False):
            self._take_turn()
        try:
            journal = self._journal or self.journal()
            for record in records:
                journal.record(scope, self._redacted(record))
        finally:
            self.lock.release()

    def _redacted(self, record: model.Record) -> model.Record:
        redact = self.redactor
        if isinstance(record, model.Property):
            value = redact.value(record.value, record.key.rpartition("/")[2])
            return record if value is record.value else msgspec.structs.replace(record, value=value)
        if isinstance(record, model.Event):
            path = redact.text(record.path) if isinstance(record.path, str) else record.path
            attributes = redact.value(record.attributes)
            return msgspec.structs.replace(record, path=path, name=redact.text(record.name), attributes=attributes)
        if isinstance(record, model.Execution):
            command, params = redact.words(record.command), redact.value(record.params)
            return msgspec.structs.replace(record, command=command, params=params)
        return record

    def _take_turn(self) -> None:
        """Take the lock; `OSError` if another thread's write hangs: waited for once, not at every record."""
        if not self.lock.acquire(timeout=0 if self._is_stuck else WAIT_SECONDS):
            self._is_stuck = True
            raise OSError(errno.EAGAIN, "The disk does not answer")
        self._is_stuck = False

    def write_late(self, scope: str, record: model.Record) -> None:
        """Append what must not be missing, such as how a run ended: as soon as the disk takes it."""
        self._late.append((scope, self._redacted(record)))
        self._note_dropped()

    def tell(self, *fields: str) -> None:
        """Tell the `cmf run` above, if there is one, what was recorded here: it does not record that again."""
        if not self.environment.told:
            return
        data = b"".join(os.fsencode(field) + b"\0" for field in fields)
        try:
            handle = os.open(self.environment.told, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                os.write(handle, data)
            finally:
                os.close(handle)
        except (OSError, ValueError) as error:
            self.drop(f"what was recorded could not be told to cmf run: {error}")

    def drop(self, why: str, count: int = 1) -> None:
        """Count something that could not be recorded, warn once, and note it where it can be noted."""
        why = self.redactor.text(str(encoding.to_value(why)))  # what a name or a message holds need not be Unicode
        self._unsaid += count
        self.dropped += count
        self.last_dropped = why
        if not self._warned:
            self._warned = True
            _warn(f"cmf could not record something: {why} 'cmf status' counts it.")
        self._why = self._why or why
        self._note_dropped()

    def _note_dropped(self) -> None:
        if not (self._unsaid or self._late) or not self.lock.acquire(blocking=False):
            return  # who holds the journal may be waiting for the disk: tried again with what is recorded next
        try:
            while self._late:
                self.journal().record(self._late[0][0], self._late[0][1])
                del self._late[0]
            if count := self._unsaid:
                self.journal().dropped(count, self._why)
                self._unsaid -= count  # not 0: another thread may have dropped something meanwhile
                self._why = self._why if self._unsaid else ""
        except (OSError, CmfError):
            pass  # the disk refuses this too: tried again, and told at the end
        finally:
            self.lock.release()

    def keep(self, data: bytes) -> str:
        """Keep some bytes as an object, synced with the next flush."""
        digest = digests.file_digest(data)
        self.objects.put(digest, data, durable=False)
        return digest

    def started(self, run: Live) -> None:
        """Take a run into care: its points are flushed in the background until it ends."""
        self.runs.append(run)
        self._announce()
        _signals.catch()
        self.keep_flushing()

    def _announce(self) -> None:
        """Let child processes find the newest open run, or else the one that this process itself was started in."""
        folder = os.path.abspath(self.folder)
        config.announce(f"{self.runs[-1].told}:{folder}" if self.runs else self.environment.run)

    def keep_flushing(self) -> None:
        """Start the thread that flushes; a forked child has none until it logs."""
        if self._thread is None:
            with contextlib.suppress(RuntimeError):  # no thread can be had: rows wait for the end of the run
                self._thread = ending.start_thread(self._background, name="cmf")

    def flush_soon(self) -> None:
        """Have the thread that flushes do so now; never waits."""
        if not self._wake.is_set():  # to set it takes a lock, for which that thread would wait at every row
            self._wake.set()

    def ended(self, run: Live) -> None:
        """Make a run that ended durable."""
        with contextlib.suppress(ValueError):
            self.runs.remove(run)
        self._announce()
        self._note_dropped()
        try:
            self.files.flush()
            with self.lock:
                self.journal().sync()
        except (OSError, CmfError) as error:
            self.drop(f"the end of a run could not be synced: {error}")
        if not any(recorder.runs for recorder in _recorders.values()):
            _signals.release()

    def killed(self, number: int) -> None:
        """End every open run as killed by a signal: written first, made durable after."""
        for run in list(self.runs):
            run.killed(number)
        self._note_dropped()
        with contextlib.suppress(OSError, CmfError):
            if self._journal is not None:
                self._journal.sync()
            self.files.flush()

    def _look(self, usage: Usage) -> None:
        now = clocks.monotonic()
        if not self.runs or not usage.due(now):
            return
        spent = clocks.thread_time()
        try:
            used = usage.look(now)
        except Exception as error:  # noqa: BLE001  # a kernel may say what this has never seen
            self.drop(f"what the machine uses: {error}")
            return
        usage.rest(clocks.thread_time() - spent)
        for run in list(self.runs):
            run.tell(used)

    def _background(self) -> None:
        usage = Usage(self.folder, clocks.monotonic())
        while not self._is_closing:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            self._look(usage)
            for run in list(self.runs):
                run.flush()
            self._note_dropped()
            if clocks.monotonic() - self._synced >= SYNC_SECONDS and self.runs:
                self._synced = clocks.monotonic()
                try:
                    with self.lock:
                        self.journal().heartbeat(self.now())
                    self.files.flush()
                    self.journal().sync()
                except (OSError, CmfError) as error:
                    self.drop(f"the journal could not be synced: {error}")

    def close(self, program: ending.Program) -> None:
        """End what is open, and close the journal: the interpreter is about to exit."""
        error, returned = program.error(), program.returned()
        if error is None and (shell := notebook.here()) is not None:
            error = shell.error
        is_left = False
        for run in list(self.runs):
            if error is not None:
                run.fail(error)
            elif returned:
                run.finish()
            else:
                is_left = run.settle() or is_left
        self._is_closing = True
        self._wake.set()
        if self._thread is not None:  # it may hold the journal just now, and what it drops is to be told here
            self._thread.join(WAIT_SECONDS)
        self._note_dropped()
        with contextlib.suppress(CmfError):
            self.files.close()
        if self._journal is not None:
            with contextlib.suppress(OSError), self.lock:
                if is_left:
                    ending.write_exit_code(self._journal.leave(self.now()))
                else:
                    self._journal.close()
            self._journal = None
        if self._late:
            _warn(f"cmf could not record how {len(self._late)} runs ended: they will read as lost.")
        if self._unsaid:
            _warn(f"cmf could not record {self._unsaid} things, and nowhere could they be counted: {self._why}")


def _warn(text: str) -> None:
    with contextlib.suppress(Exception):  # even where the program makes errors of warnings
        warnings.warn(text, CmfWarning, stacklevel=4)


_recorders: dict[Path, Recorder] = {}


def of(folder: Path, environment: config.Environment) -> Recorder:
    """Return this process's recorder for the store in a folder; it is closed when the interpreter exits."""
    recorder = _recorders.get(folder)
    if recorder is None:
        if not _recorders:
            atexit.register(_close_all, ending.Program())
            os.register_at_fork(after_in_child=_forked)
        recorder = _recorders[folder] = Recorder(folder, environment)
    return recorder


def live() -> list[Live]:
    """Return the runs of this process that have not ended, of all its stores."""
    return [run for recorder in _recorders.values() for run in recorder.runs]


def _close_all(program: ending.Program) -> None:
    for recorder in _recorders.values():
        recorder.close(program)
    _signals.release()


def _forked() -> None:
    for recorder in _recorders.values():
        recorder.forked()


def _killed(number: int) -> None:
    for recorder in _recorders.values():
        recorder.killed(number)


def _is_recording() -> bool:
    """Tell whether this thread holds a journal: a signal has interrupted it there."""
    return any(recorder.lock._is_owned() for recorder in _recorders.values())  # type: ignore[attr-defined]  # noqa: SLF001  # as `Condition` does


_signals = ending.Signals(_killed, _is_recording)
