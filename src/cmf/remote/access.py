"""A hub administered over HTTP: who may do what, quotas, peers. The hub decides whether the caller may do that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmf.model import wire
from cmf.model.wire import Role

if TYPE_CHECKING:
    from cmf.remote.client import HubClient


class HubAccess:
    """The invites, tokens, roles, keys and quotas of one hub, its audit log, and the hubs that it syncs with."""

    def __init__(self, client: HubClient) -> None:
        self._client = client

    def principals(self) -> list[wire.Principal]:
        """Return who may speak to the hub: all to its admin, else the caller alone."""
        return self._client.ask("GET", "/v1/principals", None, list[wire.Principal])

    def invites(self) -> list[wire.Invite]:
        """Return the invites that wait to be used, in scopes that the caller is admin of."""
        return self._client.ask("GET", "/v1/invites", None, list[wire.Invite])

    def acts(self, before: int = 0) -> list[wire.Act]:
        """Return a page of the audit log, newest first; ``before``: only lines with a smaller number."""
        return self._client.ask("GET", f"/v1/audit?before={before}", None, list[wire.Act])

    def invite(self, name: str, role: Role, *, expires_s: int) -> wire.Issued:
        """Make a one-time code for somebody to join with."""
        asked = wire.AskInvite(name=name, role=role, expires_s=expires_s)
        return self._client.ask("POST", "/v1/invites", asked, wire.Issued)

    def cancel(self, invite: str) -> None:
        """Take an invite back, by its id."""
        self._client.tell("DELETE", f"/v1/invites/{invite}")

    def token(self, principal: int, roles: list[Role], *, expires_s: int) -> wire.Issued:
        """Make a token of a principal (0: ours), narrowed to some roles if any are named."""
        asked = wire.AskToken(principal=principal, roles=roles, expires_s=expires_s)
        return self._client.ask("POST", "/v1/tokens", asked, wire.Issued)

    def revoke_token(self, token: str) -> None:
        """End a token, by its id."""
        self._client.tell("DELETE", f"/v1/tokens/{token}")

    def give(self, principal: int, role: Role) -> None:
        """Give a principal a role."""
        self._client.tell("POST", "/v1/roles", wire.AskRole(principal=principal, role=role))

    def take(self, principal: int, role: Role) -> None:
        """Take a role from a principal."""
        self._client.tell("POST", "/v1/roles/take", wire.AskRole(principal=principal, role=role))

    def revoke_key(self, key: str) -> None:
        """Refuse what a key (hex) signs from now on."""
        self._client.tell("DELETE", f"/v1/keys/{key}")

    # ---- quotas ----------------------------------------------------------------------------------------------------

    def quotas(self) -> list[wire.Quota]:
        """Return the hub's quotas and what is used of them; to who is not its admin, what binds them."""
        return self._client.ask("GET", "/v1/quotas", None, list[wire.Quota])

    def set_quota(self, asked: wire.AskQuota) -> None:
        """Set a quota in the place of the one that was."""
        self._client.tell("POST", "/v1/quotas", asked)

    def clear_quota(self, asked: wire.QuotaOf) -> None:
        """Take a quota away."""
        self._client.tell("POST", "/v1/quotas/clear", asked)

    # ---- other hubs ------------------------------------------------------------------------------------------------

    def peers(self) -> list[wire.PeerInfo]:
        """Return the hubs that this one syncs with, and how that went."""
        return self._client.ask("GET", "/v1/peers", None, list[wire.PeerInfo])

    def add_peer(self, asked: wire.AskPeer) -> None:
        """Have the hub sync with another one from now on."""
        self._client.tell("POST", "/v1/peers", asked)

    def remove_peer(self, name: str) -> None:
        """Have the hub sync with a peer no longer."""
        self._client.tell("DELETE", f"/v1/peers/{name}")

    def sync_peer(self, name: str) -> None:
        """Have the hub sync with a peer next; it does so by itself, and `peers` tells when it is done."""
        self._client.tell("POST", f"/v1/peers/{name}/sync")
