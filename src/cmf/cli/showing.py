"""How one thing is shown in full: an execution, an artifact, a store's status, a history."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.text import Text

from cmf.cli import render
from cmf.graph import views
from cmf.repo import Status


def execution(view: views.Execution, series: Sequence[str]) -> None:
    """Write one execution."""
    out = render.console()
    head = Text()
    head.append(view.name or "execution", style="bold").append(" · ")
    head.append(render.short(view.id), style="yellow").append(" · ").append(view.scope).append(" · ")
    head.append_text(render.status_text(view))
    out.print(head)
    rows = {
        "id": view.id,
        "site": " · ".join(part for part in (view.site, view.host) if part),
        "author": view.author,
        "started": render.moment(view.started)
        + (f", took {render.duration(view.duration)}" if view.duration is not None else ""),
        "command": " ".join(view.command),
        "parent": view.parent,
        "attempts": ", ".join(view.attempts) if len(view.attempts) > 1 else "",
        "code": _code(view),
        "environment": render.digest(view.environment) if view.environment else "",
    }
    for name, value in rows.items():
        if value:
            out.print(f"  [dim]{name:<12}[/dim]{escape(value)}")
    if view.error:
        out.print(f"  [red]{'error':<12}{escape(str(view.error.get('type', '')))}[/red] ", end="")
        out.print(escape(str(view.error.get("message", ""))))
    if view.conflict:
        out.print("  [yellow]Two different births were recorded for this id; the first by record id is shown.[/yellow]")
    if view.retracted:
        out.print("  [yellow]Retracted.[/yellow]")
    for table in (
        render.mapping("parameter", view.params),
        render.mapping("metric", view.metrics),
        render.mapping("property", view.properties),
        render.uses("input", view.inputs),
        render.uses("output", view.outputs),
    ):
        if table is not None:
            out.print()
            out.print(table)
    if series:
        out.print()
        out.print(f"  [dim]step metrics[/dim]  {escape(', '.join(series))}")


def _code(view: views.Execution) -> str:
    code = view.code
    if not code:
        return ""
    parts = [str(code.get("repository") or ""), str(code.get("branch") or ""), str(code.get("commit") or "")[:12]]
    said = " · ".join(part for part in parts if part)
    if code.get("dirty"):
        said += f" + uncommitted changes (cmf show {render.short(view.id)} --diff)"
    return said


def artifact(found: views.Artifact, maker: views.Execution | None) -> None:
    """Write one artifact with every event about it."""
    out = render.console()
    head = Text()
    head.append(found.name or "artifact", style="bold magenta").append(" · ")
    head.append(render.digest(found.digest), style="yellow")
    for part in (found.type, render.size(found.size)):
        if part:
            head.append(f" · {part}")
    out.print(head)
    out.print(f"  [dim]{'digest':<12}[/dim]{found.digest}", soft_wrap=True)
    others = [name for name in found.names if name != found.name]
    if others:
        out.print(f"  [dim]{'also named':<12}[/dim]{escape(', '.join(others))}")
    pointers = dict.fromkeys(
        f"{use.pointer['path']} @ {use.pointer.get('commit', '')[:12]}" for use in found.uses if use.pointer
    )
    if pointers:
        out.print(f"  [dim]{'pointer':<12}[/dim]{escape(', '.join(pointers))}")
    if maker is not None:
        out.print(Text("  made by     ", style="dim").append_text(render.execution_line(maker)))
        if maker.code:
            out.print(f"  [dim]{'code':<12}[/dim]{escape(_code(maker))}")
    for title, direction in (("made as", "output"), ("used as", "input")):
        table = render.uses(title, [use for use in found.uses if use.direction == direction], with_execution=True)
        if table is not None:
            out.print()
            out.print(table)


def history(writes: Sequence[views.Write]) -> None:
    """Write every value of every property, newest first."""
    out = render.console()
    if not writes:
        out.print("No property was ever set.", style="dim")
    for write in writes:
        line = Text(render.moment(write.t), style="dim").append("  ").append(write.key, style="bold")
        line.append(f" = {render.number(write.value)}", style="strike" if write.retracted else "")
        line.append(f"  {write.scope} {write.record[:12]}", style="dim")
        out.print(line)


def status(found: Status) -> None:
    """Write what `cmf status` found."""
    out = render.console()
    counts = found.counts
    out.print(
        f"Site [bold cyan]{escape(found.site)}[/bold cyan] [dim]({found.site_id[:12]})[/dim] in {escape(found.folder)}"
    )
    out.print(
        f"  {', '.join(render.count(counts[kind], kind) for kind in ('execution', 'artifact', 'event'))} in "
        f"{render.count(counts['segment'], 'segment')} of {render.count(counts['stream'], 'stream')}"
    )
    if found.running:
        out.print(f"  [cyan]{found.running} running[/cyan]")
    waiting = counts["pending"]
    out.print(
        f"  waiting to be sealed and pushed: {render.count(waiting, 'record')}"
        if waiting
        else "  Everything recorded is sealed."
    )
    if found.promised:
        out.print(f"  {found.promised} objects are known but not here ('cmf pull --data' brings them)")
    for name, url in found.remotes.items():
        out.print(f"  remote [bold]{escape(name)}[/bold] {escape(url)}")
    if not found.remotes:
        out.print("  No remote: 'cmf remote add origin URL' names a hub.", style="dim")
    if found.dropped:
        out.print(
            f"  [yellow]{render.count(found.dropped, 'thing')} could not be recorded, the first: "
            f"{escape(found.dropped_first)}[/yellow]"
        )
    for problem in found.problems:
        out.print(f"  [red]A journal cannot be read: {escape(problem)}[/red]")
