"""A file of another machine, looked at and read where it lies, by SFTP over ssh."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cmf.errors import UsageError
from cmf.objects.bucket import WINDOW_BYTES, in_flight
from cmf.objects.ssh.line import Address, Line

if TYPE_CHECKING:
    from asyncssh import SFTPClient


class SshFile:
    """What lies at ``ssh://[user@]host[:port]/path``. Who we are and whom we trust is as for a remote."""

    def __init__(self, url: str) -> None:
        address = Address.of(url)
        host = f"[{address.host}]" if ":" in address.host else address.host
        self._shown = f"ssh://{host}{f':{address.port}' if address.port else ''}{address.path}"
        self._path = address.path
        self._line = Line(self._shown, address)

    def look(self) -> tuple[str, int]:
        """Return when it was changed last, to the second, as the other machine tells it, and its size in bytes."""

        async def work(client: SFTPClient) -> tuple[int, int, int]:
            found = await client.stat(self._path)
            return found.permissions or 0, found.mtime or 0, found.size or 0

        mode, modified, size = self._line.run(work)
        if not stat.S_ISREG(mode):
            raise UsageError(f"{self._shown} is no file.", hint="Name one file; a folder is recorded from a copy.")
        return datetime.fromtimestamp(modified, UTC).isoformat(), size

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield the first bytes of it; fewer if it has become shorter."""

        def window(at: int) -> bytes:
            async def work(client: SFTPClient) -> bytes:
                async with client.open(self._path, "rb", encoding=None) as file:
                    return await file.read(min(WINDOW_BYTES, size - at), at)

            return self._line.run(work)

        for _, found in in_flight(window, range(0, size, WINDOW_BYTES)):
            yield found

    def close(self) -> None:
        """End the connection."""
        self._line.close()
