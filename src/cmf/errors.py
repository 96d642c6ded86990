"""What can go wrong, grouped by what the caller should do about it.

Knows the eight classes, and the one table that maps each to an exit code and an HTTP status. Refuses to know how a
face shows them.
"""

from __future__ import annotations


class CmfError(Exception):
    """Say what happened to what, and what to try next.

    ``message`` is one clear sentence, ``hint`` is what to type or change (may be empty), ``kind`` is a stable code for
    programs: codes are only ever added.
    """

    kind_default = "error"

    def __init__(self, message: str, *, hint: str = "", kind: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.kind = kind or self.kind_default

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(CmfError, ValueError):
    """The call is wrong: a bad scope, an unknown option, an ambiguous prefix."""

    kind_default = "usage"


class NotFoundError(CmfError, LookupError):
    """There is no such record, object, remote or repository."""

    kind_default = "not-found"


class ConflictError(CmfError):
    """The present state forbids it."""

    kind_default = "conflict"


class CorruptError(CmfError):
    """Bytes do not match their hash, or cannot be decoded."""

    kind_default = "corrupt"


class DeniedError(CmfError, PermissionError):
    """The caller is not allowed to do that."""

    kind_default = "denied"


class UnreachableError(CmfError, ConnectionError):
    """A network, a disk or a database did not answer; the same call may succeed later."""

    kind_default = "unreachable"


class UnsupportedError(CmfError):
    """A newer format, or an extra that is not installed; the message says which."""

    kind_default = "unsupported"


OUTCOMES: dict[type[CmfError], tuple[int, int]] = {
    CmfError: (1, 500),
    UsageError: (2, 400),
    NotFoundError: (3, 404),
    ConflictError: (4, 409),
    CorruptError: (5, 422),
    DeniedError: (6, 403),
    UnreachableError: (7, 503),
    UnsupportedError: (8, 501),
}
"""Class -> (exit code of a command, HTTP status)."""

STATUSES = {"token": 401, "rate": 429, "quota": 507}
"""Kind -> the HTTP status it has instead: who has no token is denied; to who asks too much a hub is unreachable; a full
quota is a state that forbids it."""


def exit_code(error: CmfError) -> int:
    """Return the exit code of a command that ends with this error."""
    return OUTCOMES[_class(error)][0]


def http_status(error: CmfError) -> int:
    """Return the HTTP status of a request that ends with this error."""
    return STATUSES.get(error.kind) or OUTCOMES[_class(error)][1]


def from_http(status: int, message: str, *, hint: str = "", kind: str = "") -> CmfError:
    """Make again the error that a hub answered with: the class follows from the status."""
    if status == 401:
        return DeniedError(message, hint=hint, kind=kind or "token")
    status = {429: 503, 502: 503, 504: 503, 507: 409}.get(status, status)
    for error, (_, known) in OUTCOMES.items():
        if known == status:
            return error(message, hint=hint, kind=kind)
    return CmfError(message, hint=hint, kind=kind)


def _class(error: CmfError) -> type[CmfError]:
    return next(known for known in type(error).__mro__ if known in OUTCOMES)
