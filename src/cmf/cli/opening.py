"""What most commands begin with: the store that holds here, opened."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cmf.repo import Repo


@contextlib.contextmanager
def here(or_make: Callable[[], Repo] | None = None) -> Iterator[Repo]:
    """Open the store that holds here; ``or_make`` makes one if there is none."""
    from cmf import repo
    from cmf.errors import NotFoundError

    try:
        found = repo.open_repo()
    except NotFoundError as error:
        if error.kind != "no-store" or or_make is None:
            raise
        found = or_make()
    with found:
        yield found
