"""Segments that many requests bring at once, committed together.

The first request to come commits what has come; those that come meanwhile wait for it, and one of them commits them all
next. So under load a transaction, its sync to disk and its fold are shared, and alone nobody waits.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from cmf.store.arriving import Arriving, Outcome
from cmf.store.sql import SqlStore

SEGMENTS_AT_ONCE = 512


class Intake:
    """The way into one hub's store, for all its threads."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._waiting: list[_Brought] = []
        self._leads = False

    def insert(self, arriving: Sequence[Arriving]) -> list[Outcome]:
        """Commit segments as `SqlStore.insert` does, and say the same of each."""
        mine = _Brought(arriving)
        with self._lock:
            self._waiting.append(mine)
            follows, self._leads = self._leads, True
        if follows:
            mine.told.acquire()  # committed by another, or the oldest that waits
        if not mine.outcomes and mine.failure is None:
            self._commit()
        if mine.failure is not None:
            raise mine.failure
        return mine.outcomes

    def _commit(self) -> None:
        """Commit what waits, oldest first: the caller's and others'. Of those that came meanwhile, the oldest leads."""
        taken, count = [], 0
        with self._lock:
            while self._waiting and count < SEGMENTS_AT_ONCE:
                taken.append(self._waiting.pop(0))
                count += len(taken[-1].arriving)
        try:
            outcomes = iter(self._store.insert([one for brought in taken for one in brought.arriving]))
            for brought in taken:
                brought.outcomes = [next(outcomes) for _ in brought.arriving]
        except BaseException as error:  # noqa: BLE001  # every request that shares the transaction raises it
            for brought in taken:
                brought.failure = error
        with self._lock:
            self._leads = bool(self._waiting)
            told = taken[1:] + self._waiting[:1]
        for brought in told:
            brought.told.release()


class _Brought:
    """What one request brought, one segment at least, and what became of it once it is known."""

    __slots__ = ("arriving", "failure", "outcomes", "told")

    def __init__(self, arriving: Sequence[Arriving]) -> None:
        self.arriving = arriving
        self.outcomes: list[Outcome] = []
        self.failure: BaseException | None = None
        self.told = threading.Lock()
        """Released once: each thread that waits is woken for itself alone."""
        self.told.acquire()
