"""The current value of a property, and what an execution's status registers say together.

A register is last writer wins by ``(t, record id)``, with one exception: ``lost``, which only an observer writes,
loses to any state in which a run ended by its own account.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

ENDED = frozenset({"finished", "failed", "killed"})
STATUS = "status/"
PROCESS = "process/"
TERMINAL = "terminal/"
PARAM = "param/"
METRIC = "metric/"
SYSTEM = "system/"
"""What names of step metrics begin with that tell what program and machine use: no result of anybody's."""
RETRACTED = "retracted"


class Write(NamedTuple):
    """One write to a register, ordered as the merge rule orders them."""

    t: int
    record: bytes
    value: Any


def current(key: str, writes: Iterable[Write]) -> Write | None:
    """Return the write that counts among those that are not retracted, or None if there is none."""
    ranked = sorted(writes, key=lambda write: (write.t, write.record))
    if not ranked:
        return None
    if key.startswith(STATUS) and state(ranked[-1].value) == "lost":
        ended = [write for write in ranked if state(write.value) in ENDED]
        return ended[-1] if ended else ranked[-1]
    return ranked[-1]


def state(value: Any) -> str:
    """Return the state that a status value names; an unknown form reads as ``running``."""
    found = value.get("status") if isinstance(value, dict) else None
    return found if isinstance(found, str) else "running"


def split(key: str) -> tuple[str, int] | None:
    """Return (attempt, rank) of a ``status/…`` or ``process/…`` key, or None if it has another form."""
    parts = key.split("/")
    rank = _number(parts[2]) if len(parts) == 3 else None
    return None if rank is None else (parts[1], rank)


def _number(text: str) -> int | None:
    """Return a number, if it has the one spelling that is allowed: two keys must never name the same rank."""
    plain = text.isascii() and text.isdigit() and len(text) < 10 and (text == "0" or text[0] != "0")
    return int(text) if plain else None


def attempt_order(attempt: str) -> tuple[int, str]:
    """Return what attempts are ordered by: their number, then their text."""
    return (_number(attempt.partition("-")[0]) or 0, attempt)


class Status(NamedTuple):
    """What an execution's newest attempt says: state, exit code, when it ended (µs), and its first rank's value."""

    state: str
    exit: int | None
    ended: int | None
    attempt: str
    value: Mapping[str, Any]


NO_STATUS = Status("unknown", None, None, "", {})


def status(registers: Mapping[str, Any]) -> Status:
    """Fold status registers (key -> value) into one: newest attempt; failed, then killed, lost, running, finished.

    Keys of another family, or of no valid form, are passed over.
    """
    by_attempt: dict[str, dict[int, Any]] = {}
    for key, value in registers.items():
        place = split(key) if key.startswith(STATUS) else None
        if place is not None:
            by_attempt.setdefault(place[0], {})[place[1]] = value
    if not by_attempt:
        return NO_STATUS
    attempt = max(by_attempt, key=attempt_order)
    ranks = by_attempt[attempt]
    states = {rank: state(value) for rank, value in ranks.items()}
    combined = next((s for s in ("failed", "killed", "lost", "running") if s in states.values()), "finished")
    deciding = ranks[min(rank for rank in ranks if states[rank] == combined or combined == "finished")]
    value = deciding if isinstance(deciding, dict) else {}
    ends = [ended for v in ranks.values() if isinstance(v, dict) and isinstance(ended := v.get("ended"), int)]
    code = value.get("exit")
    return Status(
        combined,
        code if isinstance(code, int) else None,
        max(ends) if ends and combined != "running" else None,
        attempt,
        value,
    )


def process(registers: Mapping[str, Any], attempt: str) -> Mapping[str, Any]:
    """Return what the first rank of an attempt says of its process: site, host, user, command, code, environment."""
    return _of_first_rank(registers, attempt, PROCESS)


def terminal(registers: Mapping[str, Any], attempt: str) -> Mapping[str, Any]:
    """Return what was kept of what an attempt's command wrote: ``object`` and ``bytes``; empty if nothing was."""
    return _of_first_rank(registers, attempt, TERMINAL)


def _of_first_rank(registers: Mapping[str, Any], attempt: str, family: str) -> Mapping[str, Any]:
    ranks: dict[int, Any] = {}
    for key, value in registers.items():
        place = split(key) if key.startswith(family) else None
        if place is not None and place[0] == attempt:
            ranks[place[1]] = value
    value = ranks[min(ranks)] if ranks else None
    return value if isinstance(value, dict) else {}


def site(process: Mapping[str, Any]) -> str:
    """Return the name of the site that a process says it ran at, or ""."""
    found = process.get("site")
    name = found.get("name") if isinstance(found, dict) else None
    return name if isinstance(name, str) else ""


def user(process: Mapping[str, Any]) -> str:
    """Return the user that a process says it ran as, or ""."""
    found = process.get("user")
    return found if isinstance(found, str) else ""
