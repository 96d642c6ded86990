"""What every request to a hub carries: the hub that serves it, and who calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litestar import Request

from cmf.errors import CmfError, DeniedError
from cmf.hub.auth import Caller
from cmf.hub.federation import Federation
from cmf.hub.rates import Rates, TooManyError
from cmf.hub.service import Hub

AnyRequest = Request[Any, Any, Any]


def hub_of(request: AnyRequest) -> Hub:
    """Return the hub that this request is for."""
    hub = request.app.opt["hub"]
    assert isinstance(hub, Hub)
    return hub


def federation_of(request: AnyRequest) -> Federation:
    """Return what syncs that hub with its peers."""
    federation = request.app.opt["federation"]
    assert isinstance(federation, Federation)
    return federation


def rates_of(request: AnyRequest) -> Rates:
    """Return how much anybody may ask of this process."""
    rates = request.app.opt["rates"]
    assert isinstance(rates, Rates)
    return rates


def count_stranger(request: AnyRequest) -> None:
    """Count a request of somebody whom no token names; `TooManyError` if their address sends too many."""
    rates_of(request).stranger(request.client.host if request.client else "")


def caller_of(request: AnyRequest) -> Caller:
    """Return who calls: whose token the request carries. It is counted; `TooManyError` if they ask too much."""
    (found,) = callers_of([request])
    if isinstance(found, CmfError):
        raise found
    return found


def callers_of(requests: Sequence[AnyRequest]) -> list[Caller | CmfError]:
    """Return who makes each of some requests to one hub, asked for all at once, or what `caller_of` raises of it."""
    tokens = [_token_of(request) for request in requests]
    hub = hub_of(requests[0])
    asked = iter(hub.auth.callers([token for token in tokens if token], now=hub.now()))
    return [_counted(request, next(asked) if token else None) for request, token in zip(requests, tokens, strict=True)]


def _token_of(request: AnyRequest) -> str:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _counted(request: AnyRequest, found: Caller | DeniedError | None) -> Caller | CmfError:
    try:
        if isinstance(found, Caller):
            rates_of(request).caller(found.principal, found.name)
            return found
        count_stranger(request)
    except TooManyError as error:
        return error
    return found or DeniedError(
        "This needs a token.", hint="Join with an invite: cmf remote add NAME URL --invite CODE.", kind="token"
    )
