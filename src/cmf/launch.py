"""Which execution a process writes: its scope, id, name and attempt, from what the caller and the environment say."""

from __future__ import annotations

import os
import sys
import time as clocks
from pathlib import Path
from typing import TYPE_CHECKING

from cmf.errors import NotFoundError
from cmf.model import records as model

if TYPE_CHECKING:
    from cmf import collect

_FIRST = "amber bold brave brisk calm clear crisp deep eager fair fleet fresh gentle glad golden grand keen kind light "
_FIRST += "lively lucid mellow merry neat noble plain prime proud quick quiet rapid royal sharp silent solid steady "
_FIRST += "still sunny swift tidy true vivid warm wise"
_SECOND = "aspen badger birch bison brook cedar comet coral crane delta dune eagle ember falcon fern finch fjord gull "
_SECOND += (
    "harbor hawk heron ibis jay lark linden lynx maple marten meadow otter pebble pine plover puffin quail raven "
)
_SECOND += "reef ridge river robin sable spruce tern willow"


def known(folder: Path, prefix: str) -> collect.Known:
    """Return what a resumed run must know of the execution that it goes on with; `NotFoundError` if it isn't here."""
    from cmf import collect

    clock = collect.Clock(clocks.time_ns() // 1000, clocks.monotonic())
    known = collect.known_execution(folder, prefix, clock)
    if known is None:
        raise NotFoundError(
            f"There is no execution '{prefix}' here to resume.",
            hint="If another site recorded it, 'cmf pull' it first.",
        )
    return known


def scope(given: str, root: Path) -> str:
    """Return a whole scope: what is left out comes from the folder and the script."""
    if "/" not in given:
        script = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "notebook"
        stage = given or model.slug(script) or "main"
        given = f"{model.slug(root.name) or 'main'}/{stage}"
    return model.check_scope(given)


def uuid7(now_ns: int) -> str:
    """Return a UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits."""
    value = (now_ns // 1_000_000 & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def two_words(id_: str) -> str:
    """Return the name of an execution that was given none: two words, always the same for one id."""
    first, second = _FIRST.split(), _SECOND.split()
    number = int(id_[24:], 16)
    return f"{first[number % len(first)]}-{second[number // len(first) % len(second)]}"
