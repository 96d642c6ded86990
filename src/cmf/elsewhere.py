"""Data at a URL, versioned where it lies: its server's word for which version it is, or a hash of its bytes.

A program never waits long for it: a look-up has its time, and a host that let it pass is not asked again for a while.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cmf.errors import UnreachableError, UnsupportedError
from cmf.model import alias
from cmf.worktree import uri

if TYPE_CHECKING:
    from cmf.remote.address import Looked

LOOK_SECONDS = 10.0
PATIENCE_SECONDS = 2.0
SILENT_SECONDS = 60.0
"""So long a host is not asked again that took more than the time above, and then failed."""


class Version(NamedTuple):
    """Which bytes lie at an address: their digest, or the alias that stands for them; size in bytes.

    ``alias`` is the alias's bytes, empty if the server names no version. ``attributes`` are what an event says of it.
    """

    digest: str
    size: int | None
    alias: bytes
    attributes: dict[str, Any]


class Elsewhere:
    """The addresses that one run uses. ``options``: settings of a cloud's client."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self._options = options
        self._silent: dict[str, float] = {}

    def version(self, address: str, *, read: bool) -> Version:
        """Look up which version lies at an address; with ``read``, read it once for its digest.

        A look-up takes some seconds at most, reading as long as it takes. `UsageError` for an address of a kind that
        can't be looked up; what the network does is an error, too: see `cmf.remote.address.look`. A server that names
        no version is an `UnsupportedError`, unless its bytes are read.
        """
        from cmf.remote import address as addresses

        host = address.partition("://")[2].partition("/")[0].rpartition("@")[2]
        if time.monotonic() < self._silent.get(host, 0.0):
            raise UnreachableError(f"{uri.bare(address)} is not looked up: its host did not answer before.")
        began = time.monotonic()
        try:
            found = addresses.look(address, self._options, read=True) if read else _in_time(address, self._options)
        except UnreachableError:
            if time.monotonic() > began + PATIENCE_SECONDS:
                self._silent[host] = time.monotonic() + SILENT_SECONDS
            raise
        said = {"etag": found.etag, "version": found.version, "modified": found.modified}
        attributes: dict[str, Any] = {name: value for name, value in said.items() if value}
        of = _alias_of(found.etag, found.modified, found.size, uri.bare(address))
        spelled = alias.encode(of) if of else b""
        if found.digest:
            return Version(found.digest, found.size, spelled, {**attributes, "policy": "reference"})
        if not of:
            raise UnsupportedError(
                f"The server of {uri.bare(address)} names no version.", hint="Read it for its hash: hash=True."
            )
        return Version(alias.digest(of), found.size, spelled, {**attributes, alias.ATTRIBUTE: True})


def _alias_of(etag: str, modified: str, size: int | None, address: str) -> str:
    if etag:
        return f"etag:{etag} {address}"
    return f"modified:{modified} {size} {address}" if modified and size is not None else ""


def _in_time(address: str, options: Mapping[str, str]) -> Looked:
    """Look an address up in another thread: a name server, or a proxy, keeps to no time-out of ours."""
    from cmf.remote import address as addresses

    found: list[Looked] = []
    failed: list[Exception] = []

    def look() -> None:
        try:
            found.append(addresses.look(address, options, read=False))
        except Exception as error:  # noqa: BLE001  # raised again in the thread that waits
            failed.append(error)

    thread = threading.Thread(target=look, name="cmf-look", daemon=True)
    thread.start()
    thread.join(LOOK_SECONDS)
    if failed:
        raise failed[0]
    if not found:
        raise UnreachableError(f"{uri.bare(address)} does not answer within {LOOK_SECONDS:g} s.", kind="remote")
    return found[0]
