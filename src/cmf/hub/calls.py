"""What every request to a hub carries: the hub that serves it, and who calls."""

from __future__ import annotations

from typing import Any

from litestar import Request

from cmf.errors import DeniedError
from cmf.hub.auth import Caller
from cmf.hub.federation import Federation
from cmf.hub.rates import Rates
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
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token:
        count_stranger(request)
        raise DeniedError(
            "This needs a token.",
            hint="Join with an invite: cmf remote add NAME URL --invite CODE.",
            kind="token",
        )
    hub = hub_of(request)
    try:
        caller = hub.auth.caller(token.strip(), now=hub.now())
    except DeniedError:
        count_stranger(request)
        raise
    rates_of(request).caller(caller.principal, caller.name)
    return caller
