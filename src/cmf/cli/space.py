"""`cmf gc` and `du`: what takes space here, and what of it may go; and where an artifact's bytes are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from cmf.cli import completion, render
from cmf.cli.ask import JSON
from cmf.cli.opening import here as _here
from cmf.cli.progress import counting

if TYPE_CHECKING:
    from cmf.costs import Cost
    from cmf.freeing import Count, Freed
    from cmf.whereabouts import Whereabouts

_UNITS = {"": 86_400.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


class _Age(click.ParamType[float]):
    """A length of time, such as `14d` or `12h`, in seconds; days if no unit is given."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([dhms]?)", str(value))
        if match is None:
            self.fail(f"'{value}' is no length of time: give a number and d, h, m or s, as in 14d.", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


@click.command()
@click.option("-f", "--force", is_flag=True, help="Do it. Without this, only say what would go.")
@click.option(
    "--older-than",
    type=_Age(),
    default="14d",
    show_default=True,
    metavar="AGE",
    help="Keep what was recorded or fetched since, such as 36h. 0 only if nothing records or adds data meanwhile.",
)
@click.option("--elsewhere", is_flag=True, help="Free the bytes of artifacts, too, that enough remotes hold as well.")
@click.option("--copies", type=click.IntRange(min=1), help="With --elsewhere: how many remotes that is [the setting].")
@click.option(
    "--remote",
    default="",
    metavar="NAME",
    shell_complete=completion.remotes,
    help="With --elsewhere: ask this remote alone.",
)
@JSON
def gc(*, force: bool, older_than: float, elsewhere: bool, copies: int | None, remote: str, as_json: bool) -> None:
    """Free space: what no record and no pointer file refers to, caches, and leftovers of processes that died.

    With --elsewhere also bytes that remotes hold: each is asked right then, and the last known copy always stays.
    'cmf get' and 'cmf pull --data' bring them back. Nothing at a remote is ever removed.

    \b
      cmf gc                                 what would go
      cmf gc --force
      cmf gc --elsewhere --older-than 0 --force    after 'cmf push --data': make room here
    """
    if (copies or remote) and not elsewhere:
        raise click.UsageError("--copies and --remote say which copies count: give --elsewhere.")
    with _here() as here, counting("Freeing") as progress:
        freed = here.space.free(
            older_than=older_than,
            elsewhere=elsewhere,
            remote=remote,
            copies=copies or 0,
            force=force,
            progress=progress,
        )
    if as_json:
        render.to_json(freed)
    else:
        _freed(freed)


def _freed(found: Freed) -> None:
    rows = (
        (found.unreferenced, "object", "nothing refers to"),
        (found.elsewhere, "object", "held elsewhere"),
        (found.thinned, "file", "cached for charts"),
        (found.leftovers, "file", "left by processes that died"),
    )
    click.echo(f"{'Freed' if found.done else 'Would free'} {render.size(found.bytes)}.")
    _counts(rows)
    kept = (
        (found.young, "object", "too young (--older-than)"),
        (found.shared, "object", "linked to a file of yours: removing it would free nothing"),
        (found.alone, "object", "that too few remotes hold"),
    )
    if any(each.count for each, _, _ in kept):
        click.echo("Kept for now:")
        _counts(kept)
    for url, why in found.silent.items():
        click.echo(f"{click.style('warning', fg='yellow')}  {url} could not be asked: {why}", err=True)
    if not found.done and found.bytes:
        click.echo("Nothing was removed. To do it: the same with --force")


def _counts(rows: tuple[tuple[Count, str, str], ...]) -> None:
    for each, what, why in rows:
        if each.count:
            click.echo(f"  {render.size(each.bytes):>10}  {render.count(each.count, what)} {why}")


@click.command()
@click.option("-n", "--limit", default=10, show_default=True, help="How many scopes and names at most.")
@JSON
def du(limit: int, as_json: bool) -> None:
    """Tell what the objects here cost: by kind, by the scopes that refer to them, and by name.

    An object that several scopes or names share is counted in each; 'alone' is what no other shares.
    """
    with _here() as here:
        found, scarce, copies = here.space.costs(), here.space.scarce(), here.config.copies
    if as_json:
        render.to_json({**msgspec.to_builtins(found), "copies": copies, "scarce": scarce})
        return
    click.echo(f"{render.size(found.bytes)} in {render.count(found.objects, 'object')}")
    _costs("kind", found.kinds, len(found.kinds), shared=False)
    _costs("scope", found.scopes, limit)
    _costs("name", found.names, limit)
    click.echo("")
    click.echo(f"  {render.size(found.disk):>10}  on disk, {render.size(found.packs)} of it packs")
    if found.removed:
        click.echo(f"  {render.size(found.removed):>10}  in packs was removed; merging gives it back")
    click.echo(f"  {render.size(found.records):>10}  records")
    click.echo(f"  {render.size(found.caches):>10}  caches")
    if scarce:
        click.echo("")
        click.echo(
            f"{render.count(scarce, 'object')} of data with fewer than {copies} copies; 'cmf push --data' makes one"
        )


def _costs(what: str, costs: Sequence[Cost], limit: int, *, shared: bool = True) -> None:
    if not costs:
        return
    click.echo("")
    click.secho(f"  {'size':>10}{'  ' + format('alone', '>10') if shared else ''}  {what}", dim=True)
    for cost in costs[:limit]:
        alone = f"  {render.size(cost.own):>10}" if shared else ""
        click.echo(f"  {render.size(cost.bytes):>10}{alone}  {cost.name}  ({render.count(cost.objects, 'object')})")
    if len(costs) > limit:
        click.echo(f"  and {len(costs) - limit} more: --limit, or --json for all")


def places(found: Whereabouts) -> str:
    """Return in a line which places hold an artifact's bytes, and when that was last seen."""
    said = []
    for place in found.places:
        part = "" if place.objects == found.objects else f" {place.objects} of {found.objects} objects"
        checked = "" if place.checked is None else f" (checked {render.ago(place.checked)})"
        said.append(f"{place.name}{part}{checked}")
    if not found.places:
        said.append("not here, and at no remote that was asked")
    if not found.complete:
        said.append("the folder's files are not known here")
    recorded = [f"{site} ({render.moment(t)})" for site, t in sorted(found.sites.items())]
    return " · ".join([*said, *([f"recorded at {', '.join(recorded)}"] if recorded else [])])
