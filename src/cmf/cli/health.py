"""`cmf doctor`: what is wrong here, and how to mend it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cmf.cli.ask import JSON
from cmf.errors import ConflictError


@click.command()
@click.option("--fix", is_flag=True, help="Mend what is safe to mend: rights of keys, leftovers, a missing .gitignore.")
@click.option("--unlock", is_flag=True, help="Break the lock of a store on a shared file system, after asking.")
@JSON
def doctor(fix: bool, unlock: bool, as_json: bool) -> None:
    """Look at everything cmf depends on here, and say of each thing whether it is well and what to do if not."""
    from cmf import config
    from cmf import doctor as doctors
    from cmf.cli import render

    environment = config.environment()
    place = doctors.Place(
        start=Path.cwd(),
        folder=config.find(Path.cwd(), override=environment.dir),
        environment=environment,
        path=os.environ.get("PATH", ""),
        mend=fix,
    )
    if unlock and place.folder is not None:
        _unlock(place.folder)
    found = []
    out = render.console()
    for finding in doctors.examine(place):
        found.append(finding)
        if as_json:
            continue
        sign, style = ("✔", "green") if finding.is_well else ("✔", "yellow") if finding.is_mended else ("✘", "red")
        out.print(f"[{style}]{sign}[/{style}] {finding.check:<14}", finding.said, markup=True, highlight=False)
        if finding.is_mended:
            out.print(" " * 17 + "mended", style="yellow")
        elif finding.hint and not finding.is_well:
            out.print(" " * 17 + finding.hint, style="dim", markup=False)
    if as_json:
        render.to_json(found)
    elif place.folder is None:
        out.print("  No store here yet: it appears when something is recorded.", style="dim")
    wrong = [finding for finding in found if not finding.is_well and not finding.is_mended]
    if wrong:
        raise ConflictError(
            f"{render.count(len(wrong), 'thing')} here {'is' if len(wrong) == 1 else 'are'} not well.",
            hint="What to do stands beside each.",
            kind="unwell",
        )


def _unlock(folder: Path) -> None:
    """Break the lock once a person has said that its holder is dead."""
    from cmf import collect

    holder = collect.holder(folder)
    if holder is None:
        click.echo("There is no lock.")
        return
    who = f"process {holder.pid} on {holder.host}"
    click.echo(f"The lock is held by {who}. If that process still runs, breaking it damages the database.")
    if not click.confirm("Is it gone for good?"):
        raise ConflictError("The lock was left as it is.", kind="locked")
    collect.unlock(folder)
    click.echo(f"The lock of {who} is broken.")
