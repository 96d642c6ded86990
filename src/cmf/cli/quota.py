"""`cmf hub quota`: how much may be kept at a running hub, and what is used."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from cmf.cli.access import AT, access, principal
from cmf.cli.ask import JSON
from cmf.errors import UsageError

if TYPE_CHECKING:
    from cmf.model.wire import Quota, QuotaOf
    from cmf.remote.access import HubAccess

UNITS = {unit.lower(): 1000**power for power, unit in enumerate(("B", "kB", "MB", "GB", "TB", "PB"))} | {
    unit.lower(): 1024**power for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB", "PiB"), 1)
}
ANY = "any"
_NUMBER_MAX = 1 << 53


class _Amount(click.ParamType["int | str"]):
    """A number that may have a unit, or `ANY`, which is None."""

    name = "amount"

    def __init__(self, units: dict[str, int], such_as: str) -> None:
        self._units = units
        self._such_as = such_as

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the number, or `ANY`."""
        if value == ANY or isinstance(value, int):
            return value  # type: ignore[no-any-return]  # one of the two, as was just seen
        match = re.fullmatch(r"(\d{1,16}(?:\.\d{1,6})?) ?([A-Za-z]*)", value)
        unit = self._units.get(match[2].lower() or "b") if match else None
        if match is None or unit is None or (found := int(float(match[1]) * unit)) > _NUMBER_MAX:
            self.fail(f"'{value[:40]}' is no number of these. Such as {self._such_as}, or '{ANY}'.", param, ctx)
        return found


SCOPE = click.option("--scope", default="", metavar="PREFIX", help="Of all that is kept at or below a scope.")
EACH = click.option("--each", is_flag=True, help="Of each principal that has no quota of its own.")
EVERYTHING = click.option("--everything", is_flag=True, help="Of all that the hub keeps.")
WHO = click.argument("who", default="")


@click.group()
def quota() -> None:
    """Say how much may be kept at a hub, and see what is used.

    What comes counts for who brings it, and for its scope. What would be too much is refused; what is there stays.
    """


@quota.command("list")
@AT
@JSON
def quota_list(at: str, as_json: bool) -> None:
    """List the quotas, and what everybody uses.

    Who is not the hub's admin sees only what binds them.
    """
    from cmf.cli import render

    with access(at) as hub:
        found = hub.quotas()
    if as_json:
        render.to_json(found)
        return
    for one in found:
        click.echo(_line(one))


@quota.command("set")
@AT
@WHO
@SCOPE
@EACH
@EVERYTHING
@click.option("--bytes", "bytes_max", type=_Amount(UNITS, "500GB"), help="Such as 500GB, 20GiB; 'any' is any number.")
@click.option("--streams", "streams_max", type=_Amount({"b": 1}, "1000"), help="Such as 1000; 'any' is any number.")
def quota_set(
    *,
    at: str,
    who: str,
    scope: str,
    each: bool,
    everything: bool,
    bytes_max: int | str | None,
    streams_max: int | str | None,
) -> None:
    """Limit what WHO, by name or number, may bring; or what is kept in a scope, or what each may bring.

    What is not named stays as it was. A quota may be smaller than what is there: then nothing more is taken.
    """
    from cmf.model.wire import AskQuota

    if bytes_max is None and streams_max is None:
        raise UsageError("Say how much: --bytes, --streams, or both.", hint="Such as --bytes 500GB.")
    with access(at) as hub:
        of = _of(hub, who=who, scope=scope, each=each, everything=everything)
        had = next((one for one in hub.quotas() if _is(one, of)), None)
        hub.set_quota(
            AskQuota(
                kind=of.kind,
                whom=of.whom,
                bytes_max=_most(bytes_max, had.bytes_max if had else None),
                streams_max=_most(streams_max, had.streams_max if had else None),
            )
        )
        for one in hub.quotas():
            if _is(one, of):
                click.echo(_line(one))


@quota.command("clear")
@AT
@WHO
@SCOPE
@EACH
@EVERYTHING
def quota_clear(*, at: str, who: str, scope: str, each: bool, everything: bool) -> None:
    """Take a quota away. WHO has that of each then; that of each is what it is at first."""
    with access(at) as hub:
        hub.clear_quota(_of(hub, who=who, scope=scope, each=each, everything=everything))
    click.echo("The quota is cleared.")


def _of(hub: HubAccess, *, who: str, scope: str, each: bool, everything: bool) -> QuotaOf:
    from cmf.model.wire import QuotaOf

    if [bool(who), bool(scope), each, everything].count(True) != 1:
        raise UsageError("Say whose quota it is: WHO, --scope PREFIX, --each or --everything.")
    if who:
        return QuotaOf(kind="principal", whom=str(principal(hub, who).id))
    return QuotaOf(kind="each") if each else QuotaOf(kind="scope", whom=scope)


def _is(one: Quota, of: QuotaOf) -> bool:
    return (one.kind, one.whom) == (of.kind, of.whom)


def _most(asked: int | str | None, before: int | None) -> int | None:
    """Return a limit that was asked for; as it was before, if none was."""
    return before if asked is None else None if isinstance(asked, str) else asked


def _line(one: Quota) -> str:
    from cmf.cli import render

    names = {"principal": f"{one.whom}  {one.name}", "each": "each principal", "scope": f"scope {one.whom}"}
    whose = names[one.kind] if one.whom or one.kind == "each" else "everything"
    most = [render.size(one.bytes_max), "" if one.streams_max is None else f"{one.streams_max:,}"]
    if one.kind == "each":
        limits = [f"{limit} {unit}".strip() for limit, unit in zip(most, ("", "streams"), strict=True) if limit]
        return f"{whose}: at most {', '.join(limits)}" if limits else f"{whose}: any number of bytes and streams"
    held = [render.size(one.bytes), f"{one.streams:,}"]
    bytes_, streams = (f"{had} of {limit}" if limit else had for had, limit in zip(held, most, strict=True))
    return f"{whose}: {bytes_}, {streams} {'stream' if streams == '1' else 'streams'}"
