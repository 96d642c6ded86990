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
    from cmf.checking import Verified
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
    help="Read what this remote holds, instead of what is here; of a hub, its log, too.",
)
@JSON
def verify(*, repair: bool, remote: str, as_json: bool) -> None:
    """Check everything that is here: each segment's form, chain and signature, and each object's hash.

    Segments that a hub sent or acknowledged are held against what is kept of its signed log, too, without any network:
    one that is not here any more is named. With --remote a hub shows anew that its log only grew and holds them.

    \b
      cmf verify --repair
      cmf verify --remote disk --repair
    """
    from cmf.cli import render

    with _here() as here, counting("Verifying") as progress:
        if remote:
            logged = here.verify_log(remote)
            checked = here.space.check_remote(remote, repair=repair, progress=progress)
            left = [(problem.where, problem.what) for problem in logged.problems]
            left += [
                (f"object {digest}", why) for digest, why in checked.damaged.items() if digest not in checked.mended
            ]
            counted = f"{_objects(checked.objects, checked.object_bytes)} read"
            _say({"checked": checked, "log": logged}, left, checked.mended, counted, as_json)
            if not as_json and not logged.problems and logged.shown:
                click.echo(f"  its log only grew, and holds {render.count(logged.shown, 'segment')} of those here")
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
    if not as_json:
        _say_logged(found)
    _end(left, "A damaged object comes back with 'cmf verify --repair', or when its file is recorded again.")


def _say_logged(found: Verified) -> None:
    from cmf.cli import render

    if found.logged:
        click.echo(f"  in the signed log of a hub: {render.count(found.logged, 'segment')}")
    if found.unproven:
        click.echo(f"  not shown to be in one yet: {render.count(found.unproven, 'segment')} (--remote NAME asks)")


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
