"""Requests that are answered together: those that come while some are being answered are answered next, all at once.

One thread answers for all, so that what costs as much for many as for one (a question to the database, a commit) is
shared the more, the more is asked; and alone nobody waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Told = TypeVar("Told")


class Gathered(Generic[Asked, Told]):
    """What answers many. Asked from one event loop; ``answer`` is called in a thread, once at a time.

    It returns of each what it is told, or the error that is raised there. ``size`` tells how large one is; together
    they are of ``size_max`` at most, or one.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Asked]], Sequence[Told | Exception]],
        *,
        size: Callable[[Asked], int],
        size_max: int,
    ) -> None:
        self._answer = answer
        self._size = size
        self._size_max = size_max
        self._waiting: deque[tuple[Asked, asyncio.Future[Told]]] = deque()
        self._working: asyncio.Task[None] | None = None

    async def ask(self, asked: Asked) -> Told:
        """Return what is answered, together with what others ask."""
        told: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, told))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await told

    async def _work(self) -> None:
        try:
            while self._waiting:
                taken = self._take()
                try:
                    answers = await asyncio.to_thread(self._answer, [asked for asked, _ in taken])
                except Exception as error:  # noqa: BLE001  # everybody who shares the work raises it
                    answers = [error] * len(taken)
                for (_, told), answer in zip(taken, answers, strict=True):
                    if told.done():  # whoever asked has gone
                        continue
                    if isinstance(answer, Exception):
                        told.set_exception(answer)
                    else:
                        told.set_result(answer)
        finally:
            self._working = None

    def _take(self) -> list[tuple[Asked, asyncio.Future[Told]]]:
        taken = [self._waiting.popleft()]
        left = self._size_max - self._size(taken[0][0])
        while self._waiting and (left := left - self._size(self._waiting[0][0])) >= 0:
            taken.append(self._waiting.popleft())
        return taken
