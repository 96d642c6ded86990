"""`cmf retract` and `cmf redact`: what was recorded is hidden again, or its bytes are dropped for ever."""

from __future__ import annotations

import click

from cmf.cli.ask import JSON
from cmf.errors import UsageError

REASON = click.option("--reason", default="", metavar="TEXT", help="Why: kept as a property of what it is about.")


@click.command()
@click.argument("what", metavar="EXECUTION|RECORD")
@click.option("--undo", is_flag=True, help="Show again what was hidden.")
@REASON
@JSON
def retract(what: str, undo: bool, reason: str, as_json: bool) -> None:
    """Hide an execution with its inputs and outputs, or one record, from everybody. Nothing is deleted.

    The next push tells the others. A record is named by its id: 'cmf show --history' shows those of properties, 'cmf
    redact --find TEXT' those of all records that contain a text.
    """
    from cmf import repo
    from cmf.cli import render

    with repo.open_repo() as here:
        done = here.retract(what, undo=undo, reason=reason)
    if as_json:
        render.to_json(done)
        return
    name = _short(done.node)
    if not done.scopes:
        click.echo(f"{name} {'is not retracted' if undo else 'was retracted already'}.")
        return
    click.echo(
        f"{name} is {'shown again' if undo else 'retracted'} in {', '.join(done.scopes)}; 'cmf push' tells others."
    )


@click.command()
@click.argument("records", nargs=-1, metavar="[RECORD]...")
@click.option("--find", "text", metavar="TEXT", help="Instead: list the records that contain a text; '-' asks for it.")
@click.option("--objects", is_flag=True, help="Also remove the objects here that only these records name.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@REASON
@JSON
def redact(records: tuple[str, ...], *, text: str | None, objects: bool, yes: bool, reason: str, as_json: bool) -> None:
    """Drop the bytes of records for ever: here now, and at every hub and site that hears of it.

    For a secret that was recorded, or what the law wants gone. It cannot be taken back. A hub takes it only from who
    holds the roles write and redact in the record's scope. A record that was never pushed just goes, without a trace.

    \b
      cmf redact --find -              which records hold it? (asks, so that it is in no shell's history)
      cmf redact 5f0c2a91 --reason "a password"
      cmf push                         tell the others
    """
    from cmf import repo, withdrawing
    from cmf.cli import render

    if (text is None) == (not records):
        raise UsageError("Name the records to redact, or look for them with --find TEXT.")
    with repo.open_repo() as here:
        if text is not None:
            wanted = click.prompt("Text", hide_input=True, err=True) if text == "-" else text
            here.collect(cut=True)
            found = withdrawing.find(here.store, wanted)
            if as_json:
                render.to_json(found)
                return
            for one in found:
                click.echo(f"{one.record[:16]}  {one.scope}  {one.kind} {one.about}".rstrip())
            if not found:
                click.echo("No record here contains it.")
            return
        if not yes:
            click.confirm(
                f"The bytes of {render.count(len(records), 'record')} will be gone for ever. Go on?", abort=True
            )
        done = here.redact(*records, reason=reason, objects=objects)
    if as_json:
        render.to_json(done)
        return
    click.echo(f"Redacted {render.count(len(done.records), 'record')}.")
    if done.unsent:
        click.echo(f"  {render.count(len(done.unsent), 'record')} had been sent nowhere: gone without a trace.")
    if done.scopes:
        click.echo(f"  'cmf push' tells others, in {', '.join(done.scopes)}.")
    if objects:
        click.echo(f"  {render.count(len(done.objects), 'object')} removed here.")


def _short(node: str) -> str:
    kind, _, rest = node.partition(":")
    return f"Execution {rest.rpartition(':')[2][-12:][:7]}" if kind == "execution" else f"Record {rest[:16]}"
