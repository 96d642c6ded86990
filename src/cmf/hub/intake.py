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
        self._turn = threading.Lock()
        self._waiting: list[_Brought] = []

    def insert(self, arriving: Sequence[Arriving]) -> list[Outcome]:
        """Commit segments as `SqlStore.insert` does, and say the same of each."""
        mine = _Brought(arriving)
        self._waiting.append(mine)
        while not mine.outcomes and mine.failure is None:
            with self._turn:
                if not mine.outcomes and mine.failure is None:
                    self._commit()
        if mine.failure is not None:
            raise mine.failure
        return mine.outcomes

    def _commit(self) -> None:
        """Commit what waits, oldest first."""
        taken, count = [], 0
        while self._waiting and count < SEGMENTS_AT_ONCE:
            taken.append(self._waiting.pop(0))
            count += len(taken[-1].arriving)
        try:
            outcomes = iter(self._store.insert([one for brought in taken for one in brought.arriving]))
        except Exception as error:  # noqa: BLE001  # every request that shares the transaction raises it
            for brought in taken:
                brought.failure = error
            return
        for brought in taken:
            brought.outcomes = [next(outcomes) for _ in brought.arriving]


class _Brought:
    """What one request brought, one segment at least, and what became of it once it is known."""

    __slots__ = ("arriving", "failure", "outcomes")

    def __init__(self, arriving: Sequence[Arriving]) -> None:
        self.arriving = arriving
        self.outcomes: list[Outcome] = []
        self.failure: Exception | None = None
