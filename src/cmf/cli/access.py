"""`cmf hub who|uninvite|token|role|key|audit`: who may do what at a running hub."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmf.cli.ask import JSON
from cmf.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from cmf.model.wire import Principal, Role
    from cmf.remote.access import HubAccess
    from cmf.remote.client import HubClient

LOCAL_URL = "http://127.0.0.1:8899"
ID = re.compile(r"[0-9a-f]{16}")

AT = click.option(
    "--hub",
    "at",
    default="",
    metavar="REMOTE|URL",
    help=f"The hub: a remote's name or a URL. If left out, the store's remote, else {LOCAL_URL}.",
)
SCOPE = click.option("--scope", default="", metavar="PREFIX", help="The scopes it holds on; all if left out.")
ROLE = click.Choice(["read", "write", "relay", "peer", "redact", "admin"])


@click.command()
@AT
@JSON
def who(at: str, as_json: bool) -> None:
    """List who may speak to a hub: their roles, tokens and keys, and the invites that wait.

    Who is not the hub's admin sees only themselves.
    """
    from cmf.cli import render

    with access(at) as hub:
        found, waiting = hub.principals(), hub.invites()
    if as_json:
        render.to_json({"principals": found, "invites": waiting})
        return
    for one in found:
        click.echo(f"{one.id}  {one.name}: {_roles(one.roles)}")
        for token in one.tokens:
            narrowed = f", only {_roles(token.roles)}" if token.roles else ""
            click.echo(f"     token {token.id} until {_day(token.expires_us)}{narrowed}")
        for key in one.keys:
            revoked = f", revoked {_day(key.revoked_us)}" if key.revoked_us else ""
            follows = f", follows {key.follows[:16]}" if key.follows else ""
            click.echo(f"     key {key.key}{follows}{revoked}")
    for invite in waiting:
        click.echo(f"invited: {invite.name}, {_roles([invite.role])}, {invite.id} until {_day(invite.expires_us)}")


@click.command()
@AT
@click.argument("invite")
def uninvite(at: str, invite: str) -> None:
    """Take an invite back, by the id that 'cmf hub who' shows."""
    with access(at) as hub:
        hub.cancel(_checked(invite))
    click.echo(f"Invite {invite} is no longer good.")


@click.group()
def token() -> None:
    """Make and revoke tokens of a hub."""


@token.command("add")
@AT
@SCOPE
@click.option("--role", type=ROLE, help="Narrow it to one role; if left out, it may what its owner may.")
@click.option("--days", type=click.FloatRange(min=0.001), default=90.0, show_default=True, help="How long it is good.")
@click.option("--for", "owner", default="", metavar="WHO", help="Whose: a name or number; your own if left out.")
def token_add(*, at: str, scope: str, role: str | None, days: float, owner: str) -> None:
    """Print a new token, this once.

    With --role and --scope it may less than its owner, such as read one scope for a nightly job. Use it with 'cmf
    remote add NAME URL --token'.
    """
    from cmf.model.wire import Role

    if scope and role is None:
        raise UsageError("--scope narrows a role: name that too.", hint="Such as --role read.")
    with access(at) as hub:
        of = principal(hub, owner).id if owner else 0
        issued = hub.token(of, [Role(scope, role)] if role else [], expires_s=int(days * 86_400))
    click.echo(issued.secret)
    click.echo(f"Token {issued.id} is good until {_day(issued.expires_us)}; it is not shown again.", err=True)


@token.command("revoke")
@AT
@click.argument("token")
def token_revoke(at: str, token: str) -> None:
    """End a token, by the id that 'cmf hub who' shows."""
    with access(at) as hub:
        hub.revoke_token(_checked(token))
    click.echo(f"Token {token} is revoked.")


@click.group()
def role() -> None:
    """Give and take roles at a hub."""


@role.command("give")
@AT
@SCOPE
@click.argument("who")
@click.argument("role", type=ROLE)
def role_give(at: str, scope: str, who: str, role: str) -> None:
    """Give WHO, by name or number, a ROLE."""
    from cmf.model.wire import Role

    with access(at) as hub:
        found = principal(hub, who)
        hub.give(found.id, Role(scope, role))
    click.echo(f"{found.name} may {_roles([Role(scope, role)])}.")


@role.command("take")
@AT
@SCOPE
@click.argument("who")
@click.argument("role", type=ROLE)
def role_take(at: str, scope: str, who: str, role: str) -> None:
    """Take a ROLE from WHO, by name or number. What they wrote stays."""
    from cmf.model.wire import Role

    with access(at) as hub:
        found = principal(hub, who)
        hub.take(found.id, Role(scope, role))
    click.echo(f"{found.name} may no longer {_roles([Role(scope, role)])}.")


@click.group()
def key() -> None:
    """Say which keys a hub takes records from."""


@key.command("revoke")
@AT
@click.argument("key")
def key_revoke(at: str, key: str) -> None:
    """Refuse all that a KEY signs from now on, whoever brings it. What the hub holds of it stays.

    It takes the hub's admin, or the key's owner.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise UsageError(f"'{key[:80]}' is not a key.", hint="'cmf hub who' shows them.")
    with access(at) as hub:
        hub.revoke_key(key)
    click.echo(f"Key {key[:16]} is revoked.")


@click.command()
@AT
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many lines.")
@JSON
def audit(at: str, limit: int, as_json: bool) -> None:
    """Show who changed access to a hub, when, and how: newest first."""
    from cmf.cli import render

    with access(at) as hub:
        found = hub.acts()
        while found and len(found) < limit and (older := hub.acts(found[-1].n)):
            found += older
    found = found[:limit]
    if as_json:
        render.to_json(found)
        return
    for act in found:
        scope = f" on {act.scope}" if act.scope else ""
        click.echo(f"{_time(act.at_us)}  {act.actor}  {act.action}{scope}: {act.subject}")


@contextlib.contextmanager
def access(at: str) -> Iterator[HubAccess]:
    """Lend the administration of a hub that is named as `AT` says."""
    from cmf import config, repo
    from cmf.remote.client import HubClient

    environment = config.environment()
    if config.find(Path.cwd(), override=environment.dir) is not None:
        with repo.open_repo() as here:
            yield here.remotes.hub(at or ("" if here.remotes.named else LOCAL_URL)).access
        return
    if at and "://" not in at:
        raise NotFoundError(f"There is no store here that knows a remote '{at}'.", hint="Give the hub's URL.")
    client: HubClient = HubClient(at or LOCAL_URL, state_home=environment.state_home, keys=environment.state_home)
    yield client.access


def principal(hub: HubAccess, text: str) -> Principal:
    """Return the principal of a number or a name."""
    found = [one for one in hub.principals() if text in (str(one.id), one.name)]
    if len(found) == 1:
        return found[0]
    if found:
        numbers = ", ".join(str(one.id) for one in found)
        raise UsageError(f"Several are called '{text}'.", hint=f"Give a number: {numbers}.")
    raise NotFoundError(f"Nobody at this hub is called '{text}'.", hint="'cmf hub who' lists them.")


def _checked(text: str) -> str:
    if not ID.fullmatch(text):
        raise UsageError(f"'{text[:80]}' is no id of a token or an invite.", hint="'cmf hub who' shows them.")
    return text


def _roles(roles: list[Role]) -> str:
    return ", ".join(f"{held.role} {held.prefix or 'everything'}" for held in roles) or "nothing"


def _day(at_us: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at_us / 1e6))


def _time(at_us: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_us / 1e6))


COMMANDS = (who, uninvite, token, role, key, audit)
