"""`cmf verify`: what is not as recorded, here or at a remote, and making it whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cmf.cli import completion
from cmf.cli.ask import JSON
from cmf.cli.opening import here as _here
from cmf.cli.progress import counting
from cmf.errors import CorruptError

if TYPE_CHECKING:
    from cmf.moving import Progress
    from cmf.repo import Repo


@click.command()
@click.option(
    "--repair", is_flag=True, help="Fetch damaged objects again from a remote; with --remote, send them there again."
)
@click.option(
    "--remote",
    default="",
    metavar="NAME",
    shell_complete=completion.remotes,
    help="Read what this remote holds, instead of what is here.",
)
@JSON
def verify(*, repair: bool, remote: str, as_json: bool) -> None:
    """Check everything that is here: each segment's form, chain and signature, and each object's hash.

    \b
      cmf verify --repair
      cmf verify --remote disk --repair
    """
    with _here() as here, counting("Verifying") as progress:
        if remote:
            checked = here.space.check_remote(remote, repair=repair, progress=progress)
            left = [
                (f"object {digest}", why) for digest, why in checked.damaged.items() if digest not in checked.mended
            ]
            _say(checked, left, checked.mended, f"{_objects(checked.objects, checked.object_bytes)} read", as_json)
            _end(left, f"Send them again from a site that has them: cmf verify --remote {remote} --repair")
            return
        _verify_here(here, repair, as_json, progress)


def _verify_here(here: Repo, repair: bool, as_json: bool, progress: Progress) -> None:
    from cmf.cli import render

    found = here.verify(progress=progress)
    mended = here.space.mend(found.damaged) if repair and found.damaged else None
    whole = mended.mended if mended else []
    left = []
    for problem in found.problems:
        digest = problem.where.removeprefix("object ")
        if digest not in whole:
            why = mended.left.get(digest, "") if mended else ""
            left.append((problem.where, f"{problem.what} Not mended: {why}." if why else problem.what))
    counted = f"{render.count(found.segments, 'segment')} and {_objects(found.objects, found.object_bytes)} checked"
    _say({"verified": found, "mended": whole} if repair else found, left, whole, counted, as_json)
    _end(left, "A damaged object comes back with 'cmf verify --repair', or when its file is recorded again.")


def _objects(count: int, size: int) -> str:
    from cmf.cli import render

    return f"{render.count(count, 'object')} ({render.size(size)})"


def _say(found: object, left: Sequence[tuple[str, str]], mended: Sequence[str], counted: str, as_json: bool) -> None:
    from cmf.cli import render

    if as_json:
        render.to_json(found)
        return
    for where, what in left:
        click.echo(f"{click.style('wrong', fg='red')}   {where}: {what}")
    for digest in mended:
        click.echo(f"{click.style('mended', fg='yellow')}  object {digest}")
    click.echo(f"{counted}." if left or mended else f"{counted}, all good.")


def _end(left: Sequence[tuple[str, str]], hint: str) -> None:
    if left:
        raise CorruptError(
            f"{len(left)} of them {'is' if len(left) == 1 else 'are'} not as recorded; see above.", hint=hint
        )
