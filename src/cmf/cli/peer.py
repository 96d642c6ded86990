"""`cmf hub peer`: the other hubs that a running hub syncs with."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from cmf.cli.access import AT, access
from cmf.cli.ask import JSON
from cmf.errors import ConflictError, NotFoundError, UsageError

if TYPE_CHECKING:
    from cmf.model.wire import PeerInfo, PeerState
    from cmf.remote.access import HubAccess

POLL_SECONDS = 0.2
DIRECTION = click.Choice(["pull", "push", "both"])


TIMEOUT = click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for it.",
)


@click.group()
def peer() -> None:
    """Sync a hub with other hubs: pull from them, push to them, in any graph."""


@peer.command("add")
@AT
@click.option("--scope", "scopes", multiple=True, metavar="PREFIX", help="Only these scopes (repeatable); else all.")
@click.option(
    "--direction",
    type=DIRECTION,
    default="pull",
    show_default=True,
    help="Take what is there, bring what is here, or both.",
)
@click.option(
    "--every", type=click.IntRange(min=1), default=300, show_default=True, metavar="SECONDS", help="How often it syncs."
)
@click.option("--data", is_flag=True, help="Take bytes of any size, not only the small ones that a push sends.")
@click.option("--invite", default="", metavar="CODE", help="A code from that hub's admin: cmf hub invite.")
@click.option("--token", "with_token", is_flag=True, help="Read a token of that hub from standard input.")
@click.argument("name")
@click.argument("url")
def add(
    *,
    at: str,
    scopes: tuple[str, ...],
    direction: str,
    every: int,
    data: bool,
    invite: str,
    with_token: bool,
    name: str,
    url: str,
) -> None:
    """Have a hub sync with the hub at URL, called NAME here.

    What it brings in these scopes is trusted to be its sites' own. To push to it, or to do both, it must give us the
    role peer there: or relay, if all whose records we bring have joined it themselves.
    """
    from cmf.model.wire import AskPeer

    if invite and with_token:
        raise UsageError("An invite gives a token: name one of them.")
    token = sys.stdin.readline().strip() if with_token else ""
    with access(at) as hub:
        hub.add_peer(
            AskPeer(
                name=name,
                url=url,
                scopes=list(scopes),
                direction=direction,  # type: ignore[arg-type]  # one of the choices
                every_s=every,
                data=data,
                invite=invite,
                token=token,
            )
        )
    click.echo(f"{name} is a peer now: {direction} of {', '.join(scopes) or 'everything'}, every {every} s.")
    click.echo("  next: cmf hub peer status", err=True)


@peer.command("remove")
@AT
@click.argument("name")
def remove(at: str, name: str) -> None:
    """Sync with a peer no longer. What it brought stays; its token is forgotten."""
    with access(at) as hub:
        hub.remove_peer(name)
    click.echo(f"{name} is no longer a peer. What it brought stays.")


@peer.command("sync")
@AT
@TIMEOUT
@click.argument("name")
def sync(at: str, timeout: float, name: str) -> None:
    """Have a hub sync with a peer now, wait for it, and say what moved."""
    from cmf.cli import render

    with access(at) as hub:
        old, new = _synced(hub, name, timeout)
    moved = new.pulled - old.pulled, new.pushed - old.pushed, new.objects - old.objects
    click.echo(
        f"Synced with {name}: pulled {render.count(moved[0], 'segment')}, pushed {render.count(moved[1], 'segment')}, "
        f"{render.count(moved[2], 'object')}."
    )
    for warning in new.warnings:
        click.echo(f"warning: {warning}", err=True)
    if new.refused:
        raise ConflictError(
            f"{render.count(new.refused, 'segment')} were refused: {new.why}",
            hint="They stay where they are until they are accepted; all others came.",
        )


@peer.command("audit")
@AT
@TIMEOUT
@JSON
@click.argument("name")
def audit(at: str, timeout: float, as_json: bool, name: str) -> None:
    """Find every difference between a hub and a peer, heal it, and say what differed.

    Digests over all streams of both are compared, so nothing that one of them lost stays unseen. It ends with an error
    if they still differ.
    """
    from cmf.cli import render

    with access(at) as hub:
        _, found = _synced(hub, name, timeout)
        left = _synced(hub, name, timeout)[1] if found.differed else found
    if as_json:
        render.to_json({"differed": found.differed, "differences": found.differences, "left": left.differed})
    else:
        for one in found.differences:
            where = one.scope or f"stream {one.stream[:12]}"
            click.echo(f"{where}: {_position(one.here)} here, {_position(one.there)} there")
        if found.differed > len(found.differences):
            click.echo(f"… and {found.differed - len(found.differences)} more")
    if left.differed:
        raise ConflictError(
            f"{render.count(left.differed, 'stream')} still differ from {name}. {left.why}".strip(),
            hint="Records may have come meanwhile; if it stays so, 'cmf hub peer status' says what is refused.",
        )
    if not as_json:
        healed = f"{render.count(found.differed, 'stream')} differed and are healed." if found.differed else ""
        click.echo(healed or f"Nothing differs from {name}.")


@peer.command("status")
@AT
@JSON
def status(at: str, as_json: bool) -> None:
    """Show every peer: what is synced with it, when it was last in step, what moved in all, and what is wrong."""
    from cmf.cli import render

    with access(at) as hub:
        found = hub.peers()
    if as_json:
        render.to_json(found)
        return
    for one in found:
        state = one.state
        click.echo(f"{one.name}  {_how(one)}")
        click.echo(f"     {one.direction} of {_scopes(one)}, every {one.every_s} s, {one.url}")
        click.echo(
            f"     pulled {render.count(state.pulled, 'segment')}, pushed {render.count(state.pushed, 'segment')}, "
            f"{render.count(state.objects, 'object')} ({render.size(state.object_bytes)}); "
            f"{render.count(state.differed, 'stream')} differed when the last turn began"
        )
        if state.why:
            click.echo(f"     {'failed' if state.failures else 'refused'}: {state.why}")
        for warning in state.warnings:
            click.echo(f"     warning: {warning}")
    if not found:
        click.echo("It syncs with no other hub.")


def _how(one: PeerInfo) -> str:
    """Say in a few words how syncing with a peer goes."""
    from cmf.cli import render

    state = one.state
    if one.is_syncing:
        return "syncing now"
    last = f"last in step {_ago(state.succeeded_us)}" if state.succeeded_us else "never in step yet"
    if state.failures:
        return f"failing ({render.count(state.failures, 'time')} in a row), {last}"
    if state.refused:
        return f"{render.count(state.refused, 'segment')} refused, synced {_ago(state.tried_us)}"
    return last


def _ago(at_us: int) -> str:
    from cmf.cli import render

    return f"{render.duration(max(0.0, time.time() - at_us / 1e6))} ago"


def _position(n: int) -> str:
    return f"up to segment {n}" if n >= 0 else "nothing"


def _synced(hub: HubAccess, name: str, timeout: float) -> tuple[PeerState, PeerState]:
    """Have a hub sync with a peer; return how it went before, and now. `ConflictError` if it failed."""
    before = _one(hub, name)
    hub.sync_peer(name)
    after = _awaited(hub, before, timeout)
    if after.state.failures:
        raise ConflictError(
            f"Syncing with {name} failed: {after.state.why}", hint="'cmf hub peer status' shows all peers."
        )
    return before.state, after.state


def _awaited(hub: HubAccess, before: PeerInfo, timeout: float) -> PeerInfo:
    """Wait until a peer had a turn that began after it was looked at."""
    ends = time.monotonic() + timeout
    turns = before.state.turns + 1 + before.is_syncing
    while (found := _one(hub, before.name)).state.turns < turns:
        if time.monotonic() > ends:
            raise ConflictError(
                f"{before.name} is still being synced after {timeout:g} s.", hint="It goes on: cmf hub peer status."
            )
        time.sleep(POLL_SECONDS)
    return found


def _one(hub: HubAccess, name: str) -> PeerInfo:
    for one in hub.peers():
        if one.name == name:
            return one
    raise NotFoundError(f"This hub has no peer '{name}'.", hint="'cmf hub peer status' shows them.")


def _scopes(one: PeerInfo) -> str:
    return ", ".join(prefix or "everything" for prefix in one.scopes) or "nothing: its roles were taken"
