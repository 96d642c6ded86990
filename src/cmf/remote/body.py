"""What a request carries."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

PIECE_BYTES = 256 << 10


class Body:
    """What a request carries, to be sent as often as it takes; in pieces, so that each has its own time on a slow line.

    What breaks a source is kept in ``broken``: it is not taken for a connection that is cut.
    """

    def __init__(self, source: bytes | BinaryIO, start: int = 0) -> None:
        """Send a source from where it stands, or ``start`` bytes behind that."""
        self._source = io.BytesIO(source) if isinstance(source, bytes) else source
        self.is_repeatable = self._source.seekable()
        self._start = self._source.tell() + start if self.is_repeatable else 0
        self.broken: OSError | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            if self.is_repeatable:
                self._source.seek(self._start)
            while data := self._source.read(PIECE_BYTES):
                yield data
        except OSError as error:
            self.broken = error
            raise
