"""Requests that are answered together: what comes while some are answered is answered next, all at once."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from cmf.errors import DeniedError
from cmf.hub.gathered import Gathered

WAIT_SECONDS = 30


class Answering:
    """Answers with capital letters, refuses "no", and holds the first of what it is asked until it is let go."""

    def __init__(self, size_max: int = 1000) -> None:
        self.calls: list[list[str]] = []
        self.entered, self.go = threading.Event(), threading.Event()
        self.failure: Exception | None = None
        self.gathered = Gathered(self.answer, size=len, size_max=size_max)

    def answer(self, asked: Sequence[str]) -> list[str | Exception]:
        self.calls.append(list(asked))
        if len(self.calls) == 1:
            self.entered.set()
            self.go.wait(WAIT_SECONDS)
            if self.failure is not None:
                raise self.failure
        return [DeniedError("No.") if one == "no" else one.upper() for one in asked]

    async def asked(self, *words: str) -> list[asyncio.Task[str]]:
        """Ask the first, and while that is answered the others."""
        tasks = [asyncio.create_task(self.gathered.ask(words[0]))]
        await asyncio.to_thread(self.entered.wait, WAIT_SECONDS)
        tasks += [asyncio.create_task(self.gathered.ask(word)) for word in words[1:]]
        await asyncio.sleep(0)  # each of them asks
        return tasks


def test_what_comes_meanwhile_is_answered_next_all_at_once_and_each_learns_its_own() -> None:
    answering = Answering()

    async def day() -> None:
        tasks = await answering.asked("a", "b", "no", "c")
        answering.go.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [one if isinstance(one, str) else type(one) for one in found] == ["A", "B", DeniedError, "C"]
        assert await answering.gathered.ask("later") == "LATER"

    asyncio.run(day())
    assert answering.calls == [["a"], ["b", "no", "c"], ["later"]]


def test_no_more_is_answered_at_once_than_the_greatest_size_or_one() -> None:
    answering = Answering(size_max=5)

    async def day() -> None:
        tasks = await answering.asked("a", "bb", "ccc", "d", "eeeeeeeee", "f")
        answering.go.set()
        assert "".join(await asyncio.gather(*tasks)) == "ABBCCCDEEEEEEEEEF"

    asyncio.run(day())
    assert answering.calls == [["a"], ["bb", "ccc"], ["d"], ["eeeeeeeee"], ["f"]]


def test_a_failure_is_raised_to_all_that_shared_it_and_the_next_goes_on() -> None:
    answering = Answering()
    answering.failure = KeyError("disk")

    async def day() -> None:
        first, second = await answering.asked("a", "b")
        answering.go.set()
        with pytest.raises(KeyError):
            await first
        assert await second == "B"

    asyncio.run(day())


def test_who_has_gone_meanwhile_keeps_nobody_from_an_answer() -> None:
    answering = Answering()

    async def day() -> None:
        first, second, third = await answering.asked("a", "b", "c")
        first.cancel()
        second.cancel()
        answering.go.set()
        assert await third == "C"

    asyncio.run(day())
