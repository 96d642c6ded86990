"""What a person is told of a store as a whole."""

from __future__ import annotations

import msgspec

from cmf import beside
from cmf.checking import Reference


class Status(msgspec.Struct, kw_only=True):
    """What `cmf status` tells."""

    folder: str
    site: str
    site_id: str
    counts: dict[str, int]
    running: int
    dropped: int
    dropped_first: str
    problems: list[str]
    promised: int
    promised_executions: int
    scarce: int
    copies: int
    references: int
    drifted: list[Reference]
    pointers: list[beside.Pointed]
    remotes: dict[str, str]
