"""Who writes a journal: one process, named so that no other ever has the same name."""

from __future__ import annotations

import msgspec


class Process(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A process as no other is, ever: its host, the host's boot, its number, and when it started (in clock ticks).

    ``space`` names the process-number space (of a container, say) that the number belongs to.
    """

    host: str
    boot: str
    pid: int
    start: int
    uid: int
    space: str = ""
