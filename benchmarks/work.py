"""The work itself: sizes, parameters, files and histories. The same call always gives the same data.

Standard library only, because every peer does this work too, in an environment where CMF isn't installed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of each piece of work is done, and how often."""

    starts: int
    executions: int
    steps: int
    reads: int
    pushed: int
    small_moves: int
    chain: int
    layers: int
    width: int
    walks: int
    writers: int
    records: int
    repeats: int
    pairs: int
    large_mib: int
    many: int
    small: int
    runs: int
    run_steps: int
    loop_pairs: int
    loop_slow: int
    loop_fast: int
    peer_steps: int
    peer_writers: int
    peer_records: int
    peer_points: int
    listed: tuple[int, int, int]
    mass_executions: int
    held: tuple[int, int, int]


FULL = Sizes(
    starts=21,
    executions=200,
    steps=100_000,
    reads=15,
    pushed=1_000,
    small_moves=15,
    chain=300,
    layers=50,
    width=100,
    walks=15,
    writers=64,
    records=10_000,
    repeats=3,
    pairs=7,
    large_mib=1024,
    many=10_000,
    small=200_000,
    runs=34,
    run_steps=1_000_000,
    loop_pairs=5,
    loop_slow=1_000_000,
    loop_fast=200_000,
    peer_steps=10_000,
    peer_writers=8,
    peer_records=100,
    peer_points=100_000,
    listed=(1_000, 10_000, 1_000_000),
    mass_executions=100_000,
    held=(10_000, 100_000, 1_000_000),
)
TINY = Sizes(
    starts=2,
    executions=4,
    steps=500,
    reads=2,
    pushed=6,
    small_moves=2,
    chain=8,
    layers=4,
    width=6,
    walks=2,
    writers=4,
    records=50,
    repeats=1,
    pairs=1,
    large_mib=20,
    many=100,
    small=200,
    runs=2,
    run_steps=3_000,
    loop_pairs=1,
    loop_slow=20,
    loop_fast=500,
    peer_steps=50,
    peer_writers=2,
    peer_records=5,
    peer_points=100,
    listed=(20, 40, 80),
    mass_executions=100,
    held=(30, 60, 90),
)
FAN_IN = (0, 7, 31)
"""Which artifacts of the layer before an execution reads, counted from its own place on."""


def sizes(*, tiny: bool) -> Sizes:
    """Return the sizes of results, or those of a trial."""
    return TINY if tiny else FULL


def params(number: int) -> dict[str, Any]:
    """Return ten parameters, half of them texts."""
    numbers: dict[str, Any] = {f"size{k}": number * 10 + k for k in range(5)}
    return numbers | {f"mode{k}": f"choice-{(number + k) % 89}" for k in range(5)}


def scores(number: int) -> dict[str, float]:
    """Return three final metrics."""
    return {"loss": 2 / (number + 2), "accuracy": 1 - 1 / (number + 3), "f1": number % 97 / 97}


def files(folder: Path, number: int) -> tuple[Path, Path]:
    """Write an input and an output of 1 KiB that no other execution has; return their paths."""
    made = (folder / f"data-{number:05}.bin", folder / f"model-{number:05}.bin")
    for path in made:
        path.write_bytes(hashlib.shake_128(path.name.encode()).digest(1024))
    return made


def rows(count: int) -> list[dict[str, float]]:
    """Return rows of three step metrics, the first of which falls with some noise, as a loss does."""
    return [
        {"loss": math.exp(-3 * n / count) + n * 7919 % 1000 / 1e5, "accuracy": n / count, "lr": 1e-3 * (1 - n / count)}
        for n in range(count)
    ]


class Made(NamedTuple):
    """One execution of a history: its stage, what it reads, and the one artifact that it writes."""

    stage: str
    reads: tuple[str, ...]
    writes: str


def chain(length: int) -> Iterator[Made]:
    """Make a history in which each execution reads what the one before wrote."""
    for n in range(1, length + 1):
        yield Made(f"step{n:04}", (f"link-{n - 1}",), f"link-{n}")


def layered(layers: int, width: int) -> Iterator[Made]:
    """Make a history of layers in which each artifact is made from three of the layer before."""
    for layer in range(1, layers):
        for place in range(width):
            reads = sorted({(place + step) % width for step in FAN_IN})
            yield Made(f"layer{layer:03}", tuple(f"part-{layer - 1}-{at}" for at in reads), f"part-{layer}-{place}")


def ancestors(history: list[Made]) -> tuple[int, int]:
    """Return how many executions and how many artifacts the last artifact of a history came from, itself left out."""
    makers = {made.writes: made for made in history}
    executions: set[str] = set()
    artifacts: set[str] = set()
    following = [history[-1].writes]
    while following:
        name = following.pop()
        if name in makers and name not in executions:
            executions.add(name)
            artifacts.update(makers[name].reads)
            following += makers[name].reads
    return len(executions), len(artifacts)
