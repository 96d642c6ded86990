"""The options that choose what of a hub is meant: scopes, sites, executions by time or filter."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from cmf.cli.ask import SCOPES
from cmf.errors import UsageError

SITES = click.option(
    "--site", "sites", multiple=True, metavar="NAME", help="Only what this site recorded, by its name or id."
)
_OPTIONS = (
    SCOPES,
    SITES,
    click.option("--since", default="", metavar="TIME", help="Only executions that started then or later."),
    click.option("--until", default="", metavar="TIME", help="Only executions that started before."),
    click.option("--where", default="", metavar="FILTER", help="Only executions that this finds, as 'cmf log' has it."),
)


def choosing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose, and hand it what they say as ``view``."""

    @functools.wraps(command)
    def chosen(
        *args: Any,
        scopes: tuple[str, ...],
        sites: tuple[str, ...],
        since: str,
        until: str,
        where: str,
        **options: Any,
    ) -> None:
        from cmf.model.exchange import View

        view = View(scopes=scopes, sites=sites, where=_filter(where, since, until))
        command(*args, view=view, **options)

    for option in reversed(_OPTIONS):
        chosen = option(chosen)
    return chosen


def _filter(where: str, since: str, until: str) -> str:
    """Return one filter of executions that says all three."""
    from cmf.graph import filter as filters

    filters.parse(where)
    parts = [where.strip()] if where.strip() else []
    for option, operator, time in (("--since", ">=", since), ("--until", "<", until)):
        if not time:
            continue
        condition = f"started {operator} {time.strip().replace(' ', 'T')}"
        try:
            filters.parse(condition)
        except UsageError as error:
            raise UsageError(
                f"'{time[:80]}' is no time that {option} takes.", hint="Such as 2026-11-23 or 2026-11-23T10:00 (UTC)."
            ) from error
        parts.append(condition)
    return " and ".join(parts)
