"""What a hub does not take of a key that its user had before: sealed again with the present one, under the same ids.

The old segments stay: another hub may hold them or take them. Which streams a hub is not offered any more is noted,
with where they ended, and only saves asking: without the note they are refused again, and nothing is left to seal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from cmf.model.exchange import Admission, View
from cmf.store.sql import SqlStore

KINDS = frozenset({"revoked", "key", "relay", "rotated"})
"""Why a hub refuses a key, and not what it signed."""


def left(store: SqlStore, key: bytes, refused: Sequence[Admission]) -> dict[bytes, int]:
    """Return the own streams of other keys than the present one that were refused for their key, and from where on."""
    own = {bytes(one["stream"]) for one in store.streams() if one["own"] and one["writer"] != key}
    found: dict[bytes, int] = {}
    for one in refused:
        stream = bytes.fromhex(one.stream)
        if one.kind in KINDS and stream in own:
            found[stream] = min(one.n, found.get(stream, one.n))
    return found


def note(store: SqlStore, url: str, streams: Mapping[bytes, int]) -> None:
    """Note that a hub is not offered some streams any more. Only once what they hold is sealed again."""
    noted = _noted(store, url) | _ends(store, streams)
    store.set_meta(_place(url), msgspec.json.encode(noted, order="sorted").decode())


def without(store: SqlStore, url: str, view: View) -> View:
    """Return a view without the streams that a hub is not offered any more.

    One that has grown since is offered: the file of its key is back from a backup, and the key signed more.
    """
    noted = _noted(store, url)
    if not noted:
        return view
    ends = _ends(store, [bytes.fromhex(stream) for stream in noted])
    streams = {bytes(one["stream"]).hex() for one in store.streams()}
    offered = (stream for stream in streams if stream not in noted or ends.get(stream) != noted[stream])
    return msgspec.structs.replace(view, streams=frozenset(map(bytes.fromhex, offered)))


def _ends(store: SqlStore, streams: Iterable[bytes]) -> dict[str, list[str]]:
    """Return the hashes of the last segments of some streams."""
    found = store.heads(View(streams=frozenset(streams)))
    return {stream.hex(): sorted(head.hash.hex() for head in heads) for stream, heads in found.items()}


def _noted(store: SqlStore, url: str) -> dict[str, list[str]]:
    return msgspec.json.decode(store.meta(_place(url)) or "{}", type=dict[str, list[str]])


def _place(url: str) -> str:
    return f"not offered {url}"
