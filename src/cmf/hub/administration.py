"""The routes by which a hub is administered: access, whose acts are in `access`; `quotas`; peers, in `federation`."""

from __future__ import annotations

from typing import Annotated

from litestar import delete, get, post
from litestar.params import Parameter

from cmf.hub.calls import AnyRequest, caller_of, federation_of, hub_of
from cmf.model import wire

Before = Annotated[int, Parameter(ge=0, le=1 << 53, description="Only lines with a smaller number; 0: the newest.")]


@get("/v1/principals", sync_to_thread=True)
def principals(request: AnyRequest) -> list[wire.Principal]:
    """Return who may speak to this hub, with roles, tokens (no secrets) and keys: all to its admin, else the caller."""
    return hub_of(request).access.principals(caller_of(request))


@get("/v1/invites", sync_to_thread=True)
def invites(request: AnyRequest) -> list[wire.Invite]:
    """Return the invites that wait to be used, in scopes that the caller is admin of."""
    return hub_of(request).access.invites(caller_of(request))


@post("/v1/invites", sync_to_thread=True, status_code=200)
def invite(request: AnyRequest, data: wire.AskInvite) -> wire.Issued:
    """Make a one-time code; the caller is admin of the scope prefix that it gives a role on."""
    return hub_of(request).access.invite(caller_of(request), data)


@delete("/v1/invites/{invite_id:str}", sync_to_thread=True, status_code=204)
def cancel(request: AnyRequest, invite_id: str) -> None:
    """Take an invite back."""
    hub_of(request).access.cancel(caller_of(request), invite_id)


@post("/v1/tokens", sync_to_thread=True, status_code=200)
def token(request: AnyRequest, data: wire.AskToken) -> wire.Issued:
    """Make a token: of the caller, who may narrow it; or, for the hub's admin, of any principal."""
    return hub_of(request).access.token(caller_of(request), data)


@delete("/v1/tokens/{token_id:str}", sync_to_thread=True, status_code=204)
def revoke_token(request: AnyRequest, token_id: str) -> None:
    """End a token: one's own, or, for the hub's admin, any."""
    hub_of(request).access.revoke_token(caller_of(request), token_id)


@post("/v1/roles", sync_to_thread=True, status_code=204)
def give_role(request: AnyRequest, data: wire.AskRole) -> None:
    """Give a principal a role on a scope prefix that the caller is admin of."""
    hub_of(request).access.give(caller_of(request), data)


@post("/v1/roles/take", sync_to_thread=True, status_code=204)
def take_role(request: AnyRequest, data: wire.AskRole) -> None:
    """Take a role on a scope prefix that the caller is admin of from a principal."""
    hub_of(request).access.take(caller_of(request), data)


@delete("/v1/keys/{key:str}", sync_to_thread=True, status_code=204)
def revoke_key(request: AnyRequest, key: str) -> None:
    """Refuse what a key signs from now on; it takes the hub's admin, or the key's owner."""
    hub_of(request).access.revoke_key(caller_of(request), wire.raw(key))


@get("/v1/audit", sync_to_thread=True)
def acts(request: AnyRequest, before: Before = 0) -> list[wire.Act]:
    """Return the audit log, newest first, a page at a time; it takes the hub's admin."""
    return hub_of(request).access.acts(caller_of(request), before)


@get("/v1/quotas", sync_to_thread=True)
def quotas(request: AnyRequest) -> list[wire.Quota]:
    """Return every quota and what is used, also by each principal; to who is not the hub's admin, what binds them."""
    return hub_of(request).quotas.shown(caller_of(request))


@post("/v1/quotas", sync_to_thread=True, status_code=204)
def set_quota(request: AnyRequest, data: wire.AskQuota) -> None:
    """Set how much may be kept below a scope prefix, of a principal, or of each; it takes the hub's admin."""
    hub_of(request).quotas.set(caller_of(request), data)


@post("/v1/quotas/clear", sync_to_thread=True, status_code=204)
def clear_quota(request: AnyRequest, data: wire.QuotaOf) -> None:
    """Take a quota away; it takes the hub's admin."""
    hub_of(request).quotas.clear(caller_of(request), data)


@get("/v1/peers", sync_to_thread=True)
def peers(request: AnyRequest) -> list[wire.PeerInfo]:
    """Return the hubs that this one syncs with, and how that went; it takes the hub's admin."""
    return hub_of(request).peers.shown(caller_of(request))


@post("/v1/peers", sync_to_thread=True, status_code=204)
def add_peer(request: AnyRequest, data: wire.AskPeer) -> None:
    """Join another hub and sync with it from now on; it takes the hub's admin."""
    federation_of(request).add(caller_of(request), data)


@delete("/v1/peers/{name:str}", sync_to_thread=True, status_code=204)
def remove_peer(request: AnyRequest, name: str) -> None:
    """Sync with another hub no longer; what it brought stays. It takes the hub's admin."""
    federation_of(request).remove(caller_of(request), name)


@post("/v1/peers/{name:str}/sync", sync_to_thread=True, status_code=202)
def sync_peer(request: AnyRequest, name: str) -> None:
    """Sync with a peer next, whatever its schedule: its ``turns`` tell when that is done. It takes the hub's admin."""
    federation_of(request).hasten(caller_of(request), name)


ROUTES = (
    *(principals, invites, invite, cancel, token, revoke_token, give_role, take_role, revoke_key, acts),
    *(quotas, set_quota, clear_quota),
    *(peers, add_peer, remove_peer, sync_peer),
)
