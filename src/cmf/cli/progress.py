"""What is shown while something takes long: a count on standard error, on a terminal only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[[str, int], None]]:
    """Show what is being done, and how much of what was done so far: the function given out is told of each bit."""
    if not sys.stderr.isatty():
        yield lambda _kind, _count: None
        return
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    from cmf.cli import render

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    counts: dict[str, int] = {}
    with Bar(*columns, console=render.console(error=True), transient=True, refresh_per_second=5) as bar:
        task = bar.add_task(what)

        def advance(kind: str, count: int) -> None:
            counts[kind] = counts.get(kind, 0) + count
            said = ", ".join(f"{number} {name}" for name, number in counts.items())
            bar.update(task, description=f"{what}: {said}")

        yield advance
