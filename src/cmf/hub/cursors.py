"""Where a pull ended: a position of the log with the root that it had there, and the view that was pulled.

A number alone would lose data silently: a hub restored from an old backup gives the same numbers to other segments.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cmf.errors import UsageError
from cmf.model.digest import sha256
from cmf.model.exchange import View
from cmf.model.wire import encode

_TEXT = re.compile(r"(0|[1-9][0-9]{0,15})\.([0-9a-f]{64})\.([0-9a-f]{32})")


class Cursor(NamedTuple):
    """``size`` entries of the log, under this root, have been looked through for a view."""

    size: int
    root: bytes
    view: str


def of(view: View) -> str:
    """Return the name of a view: what was asked for, what that means now, and what its caller may read.

    ``sites`` are resolved: a site that is called so from now on, whose streams were passed over, makes another view.
    """
    chosen = [view.sites, view.where] if view.sites or view.where else []
    return sha256(encode([view.scopes, view.below, *chosen])).hex()[:32]


def to_text(cursor: Cursor) -> str:
    """Write a cursor."""
    return f"{cursor.size}.{cursor.root.hex()}.{cursor.view}"


def from_text(text: str) -> Cursor:
    """Read a cursor; `UsageError` for what is none."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise UsageError("That is not a cursor of a pull.", kind="cursor")
    return Cursor(int(match[1]), bytes.fromhex(match[2]), match[3])
