"""Whether remotes can be reached, and let us in; and whether a hub's clock and ours agree.

All are asked at once, and none is waited for longer than a limit. Nothing is written: whether a place for data takes
files, only a push can tell.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cmf.config import Remote
from cmf.errors import CmfError
from cmf.remote import HubClient
from cmf.remote.data import bucket, is_data

LIMIT_SECONDS = 20.0
RETRY_SECONDS = 5.0
CLOCK_SECONDS_MAX = 60
NOTHING = "doctor/"
"""No file's name starts so; whoever may list may ask for it."""


class Reached(NamedTuple):
    """What is to be said of a remote; ``hint``: what to do about it, "" if it is well."""

    title: str
    said: str
    hint: str = ""


class Asker(NamedTuple):
    """Who asks: where tokens lie, where keys lie, and the settings of a cloud's client."""

    state_home: Path
    keys: Path
    options: Mapping[str, str]


def reach(remotes: Mapping[str, Remote], asker: Asker, *, limit_s: float = LIMIT_SECONDS) -> Iterator[Reached]:
    """Ask all remotes at once, and yield what became of it, ordered by their names."""
    found: dict[str, Reached] = {}

    def ask(name: str, url: str) -> None:
        try:
            said, hint = _data(url, asker.options) if is_data(url) else _hub(name, url, asker)
        except CmfError as error:
            said, hint = error.message, error.hint or "Run 'cmf --debug pull' from it to see more."
        except Exception as error:  # noqa: BLE001 - how a library fails is told, and the others are asked all the same
            said, hint = f"{type(error).__name__}: {error}", "Run 'cmf --debug pull' from it to see more."
        found[name] = Reached(_title(name, url), said, hint)

    ends = time.monotonic() + limit_s
    threads = {}
    for name, remote in sorted(remotes.items()):
        # A daemon: the process does not wait for a remote that never answers.
        threads[name] = threading.Thread(target=ask, args=(name, remote.url), name="cmf-reach", daemon=True)
        threads[name].start()
    for name, thread in threads.items():
        thread.join(max(0.0, ends - time.monotonic()))
        url = remotes[name].url
        yield found.get(name) or Reached(
            _title(name, url),
            f"{url} did not answer within {limit_s:g} s.",
            "Look at the network, and at the machine at its other end.",
        )


def _title(name: str, url: str) -> str:
    return f"{'remote' if is_data(url) else 'hub'} {name}"


def _hub(name: str, url: str, asker: Asker) -> tuple[str, str]:
    found = HubClient(url, state_home=asker.state_home, keys=asker.keys).hub()
    away = abs(found.time_us / 1e6 - time.time())
    if not found.principal:
        hint = f"Join with an invite: cmf remote add {name} {url} --invite CODE"
        return f"{url} answers, but does not know us.", hint
    if away > CLOCK_SECONDS_MAX:
        return f"The hub's clock and this one differ by {int(away)} s.", "Set the one that is wrong."
    return f"{url} as {found.principal}", ""


def _data(url: str, options: Mapping[str, str]) -> tuple[str, str]:
    if url.startswith("/"):
        return _folder(url)
    with contextlib.closing(bucket(url, options, seconds=RETRY_SECONDS)) as place:
        next(iter(place.names(NOTHING)), None)
    return f"{url} lets us in", ""


def _folder(path: str) -> tuple[str, str]:
    """Look at a folder: it is made with the first push, so the one above it must be there."""
    there = path if os.path.isdir(path) else os.path.dirname(path)
    if not os.path.isdir(there):
        return f"There is no folder {there}.", "Mount its disk, or make it."
    if not os.access(there, os.W_OK):
        return f"{there} cannot be written.", "Change its permissions."
    return path, ""
