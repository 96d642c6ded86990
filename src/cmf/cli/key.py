"""`cmf key`: the key that signs what this user records here."""

from __future__ import annotations

import os
import time

import click

from cmf.cli.ask import JSON
from cmf.cli.opening import here as _here


@click.group()
def key() -> None:
    """Show the key that signs your records here, or make another."""


@key.command("show")
@JSON
def key_show(as_json: bool) -> None:
    """Print your public key, since when it is yours, and the keys that it follows."""
    from cmf import collect
    from cmf.cli import render

    with _here() as here:
        held = collect.held_key(here.folder, os.getuid())
    followed = [said.key for said in held.key.vouched]
    if as_json:
        render.to_json({"key": held.key.public.hex(), "since_us": held.since_us, "follows": followed})
        return
    click.echo(f"{held.key.public.hex()} since {_day(held.since_us)}")
    for said in reversed(held.key.vouched):
        click.echo(f"  follows {said.key}, replaced {_day(said.at)}")


@key.command("rotate")
@click.option("--alone", is_flag=True, help="The old key does not vouch: hubs take the new one by an invite only.")
def key_rotate(alone: bool) -> None:
    """Make a new key, and destroy the old one.

    The old key vouches for the new one, so that every hub that trusts it takes what the new one signs: no admin has to
    do anything. What the old key signed stays good. If it was stolen, push, and then revoke it at each hub:

    \b
      cmf key rotate
      cmf push
      cmf hub key revoke OLD-KEY
    """
    from cmf import collect

    with _here() as here, here.store.still():
        old = collect.writer_key(here.folder, os.getuid()).public.hex()
        made = collect.rotate_key(here.folder, os.getuid(), now=time.time_ns() // 1000, alone=alone)
    click.echo(f"Your key is {made.key.public.hex()} from now on; {old} is destroyed.")
    if alone:
        click.echo("Join each hub again with an invite: cmf remote add NAME URL --invite CODE.")


def _day(at_us: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at_us / 1e6))
