"""How one thing is shown in full: an execution, an artifact, a store's status, a history."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cmf import labelling, media
from cmf.capturing import UNDECLARED, UNOPENED
from cmf.cli import render
from cmf.comparison import Changes, Difference
from cmf.graph import views
from cmf.model import encoding
from cmf.overview import Status
from cmf.series import Points
from cmf.slicing import FOLDER, PART_OF

PATCH_STYLE = {b"diff ": "1", b"index ": "1", b"--- ": "1", b"+++ ": "1", b"@@": "36", b"-": "31", b"+": "32"}
"""How lines of a diff begin, the longer first, and the terminal's number of their colour."""

_COMMANDS = re.compile(rb"\x1b(?!\[[0-9;:]*m)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]")
"""What a terminal obeys, but for colours, tabs and the ends of lines."""

CHILDREN_MAX = 20
"""How many children of an execution are shown with it."""

CHART_WIDTH, CHART_HEIGHT = 72, 12
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""The bits of a braille character: two columns of four dots."""


def execution(
    view: views.Execution, series: Sequence[str], machine: Mapping[str, object], parent: views.Execution | None = None
) -> None:
    """Write one execution, with the names of its series, the machine that it ran on and what it is a part of."""
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
        "last heard": render.moment(view.heard),
        "command": " ".join(view.command),
        "parent": f"{parent.name} · {render.short(parent.id)}" if parent and parent.known else view.parent,
        "attempts": ", ".join(view.attempts) if len(view.attempts) > 1 else "",
        "code": _code(view),
        **_repositories(view),
        "environment": render.digest(view.environment) if view.environment else "",
        "wrote": f"{render.size(view.terminal['bytes'])} (cmf show {render.short(view.id)} --output)"
        if isinstance(view.terminal.get("bytes"), int)
        else "",
        "notebook": f"{render.count(view.terminal['count'], 'cell')} (cmf show {render.short(view.id)} --cells)"
        if isinstance(view.terminal.get("count"), int)
        else "",
        "machine": " · ".join(_machine(machine)),
        "container": " ".join(str(value) for value in _dict(view.process.get("container")).values()),
        "scheduler": " · ".join(_pairs(_dict(view.process.get("scheduler")))),
        "variables": " ".join(_pairs(_dict(view.process.get("variables")))),
    }
    for name, value in rows.items():
        if value:
            out.print(f"  [dim]{name:<12}[/dim]{escape(value)}")
    if view.error:
        out.print(f"  [red]{'error':<12}{escape(str(view.error.get('type', '')))}[/red] ", end="")
        out.print(escape(str(view.error.get("message", ""))))
    differing = {
        UNDECLARED: "used without being declared",
        UNOPENED: "declared, and never opened",
    }
    for key, said in differing.items():
        if isinstance(paths := view.properties.get(key), list):
            out.print(f"  [yellow]{said}[/yellow]: {escape(', '.join(map(str, paths)))}")
    if view.conflict:
        out.print("  [yellow]Two different births were recorded for this id; the first by record id is shown.[/yellow]")
    if view.retracted:
        out.print("  [yellow]Retracted.[/yellow]")
    for table in (
        render.mapping("parameter", view.params),
        render.mapping("metric", view.metrics),
        render.mapping("property", {key: value for key, value in view.properties.items() if key not in differing}),
        render.uses("input", view.inputs),
        render.uses("output", [use for use in view.outputs if use.role != media.ROLE]),
        render.logged([use for use in view.outputs if use.role == media.ROLE]),
    ):
        if table is not None:
            out.print()
            out.print(table)
    if series:
        out.print()
        out.print(f"  [dim]step metrics[/dim]  {escape(', '.join(series))}")


def children(page: views.Page) -> None:
    """Write the newest children of an execution with the parameters that differ among them."""
    if not page.executions:
        return
    out = render.console()
    out.print()
    out.print(render.children(page.executions))
    if page.cursor:
        out.print(f"  [dim]the newest {len(page.executions)}; 'cmf log' with parent = … lists them all[/dim]")


def columns(points: Points) -> dict[str, list[Any]]:
    """Return points as columns of JSON: a value that is not finite is tagged, as in a record."""
    return {
        "steps": points.steps.tolist(),
        "times": points.times.tolist(),
        "values": [value if math.isfinite(value) else encoding.to_value(value) for value in points.values],
    }


def chart(name: str, points: Points) -> None:
    """Draw a step metric in dots: values upwards over steps."""
    out = render.console()
    dots = [(point.step, point.value) for point in points if math.isfinite(point.value)]
    out.print(
        f"[bold]{escape(name)}[/bold] [dim]{len(points) - len(dots)} not finite[/dim]"
        if len(dots) < len(points)
        else f"[bold]{escape(name)}[/bold]"
    )
    if not dots:
        out.print("  No finite point.", style="dim")
        return
    left, right = min(step for step, _ in dots), max(step for step, _ in dots)
    low, high = min(value for _, value in dots), max(value for _, value in dots)
    wide, tall = 2 * CHART_WIDTH - 1, 4 * CHART_HEIGHT - 1
    cells = [[0] * CHART_WIDTH for _ in range(CHART_HEIGHT)]
    before: tuple[int, int] | None = None
    for step, value in dots:
        x = round(wide * (step - left) / (right - left)) if right > left else 0
        # Halved, since the difference of two doubles may be more than a double holds.
        y = round(tall * ((high / 2 - value / 2) / (high / 2 - low / 2))) if high / 2 > low / 2 else tall // 2
        from_x, from_y = before or (x, y)
        parts = max(abs(x - from_x), abs(y - from_y), 1)
        for part in range(parts + 1):
            at_x, at_y = (round(a + (b - a) * part / parts) for a, b in ((from_x, x), (from_y, y)))
            cells[at_y // 4][at_x // 2] |= _DOTS[at_x % 2][at_y % 4]
        before = x, y
    marks = {0: f"{high:.4g}", CHART_HEIGHT - 1: f"{low:.4g}"} if high > low else {CHART_HEIGHT // 2: f"{high:.4g}"}
    margin = max(map(len, marks.values()))
    for row, line in enumerate(cells):
        mark = Text(f"  {marks.get(row, ''):>{margin}} ", style="dim")
        out.print(mark.append("".join(chr(0x2800 + bits) for bits in line), style="cyan not dim"), no_wrap=True)
    ends = f"{left}{right:>{CHART_WIDTH - len(str(left))}}" if right > left else str(left)
    out.print(f"  {'':>{margin}} {ends}", style="dim")


def _machine(known: Mapping[str, object]) -> list[str]:
    memory = known.get("memory_bytes")
    gpus = known.get("accelerators")
    parts = [str(known.get("cpu") or ""), f"{known['cores']} cores" if "cores" in known else ""]
    parts += [render.size(memory) if isinstance(memory, int) else "", str(known.get("os") or "")]
    parts += [str(_dict(gpu).get("model", "")) for gpu in gpus] if isinstance(gpus, list) else []
    return [part for part in parts if part]


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _pairs(values: dict[str, object]) -> list[str]:
    return [str(value) if name == "kind" else f"{name}={value}" for name, value in values.items()]


def _repositories(view: views.Execution) -> dict[str, str]:
    """Return a line for each other repository that code came from."""
    found = {}
    others = view.code.get("repositories")
    for number, state in enumerate(others if isinstance(others, list) else []):
        if isinstance(state, dict):
            said = " · ".join(filter(None, [str(state.get("path", "")), *_state(state)]))
            said += " + uncommitted changes" if state.get("dirty") else ""
            found["also code" if number == 0 else " " * (number % 12 + 1)] = said
    return found


def _state(code: dict[str, object]) -> list[str]:
    return [str(code.get("repository") or ""), str(code.get("branch") or ""), str(code.get("commit") or "")[:12]]


def _code(view: views.Execution) -> str:
    code = view.code
    if not code:
        return ""
    said = " · ".join(part for part in _state(code) if part)
    if code.get("dirty"):
        said += f" + uncommitted changes (cmf show {render.short(view.id)} --diff)"
    return said


def artifact(found: views.Artifact, maker: views.Execution | None, places: str) -> None:
    """Write one artifact with every event about it; ``places`` says where its bytes are."""
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
    out.print(f"  [dim]{'bytes':<12}[/dim]{escape(places)}", soft_wrap=True)
    pointers = dict.fromkeys(
        f"{use.pointer['path']} @ {use.pointer.get('commit', '')[:12]}" for use in found.uses if use.pointer
    )
    if pointers:
        out.print(f"  [dim]{'pointer':<12}[/dim]{escape(', '.join(pointers))}")
    wholes = dict.fromkeys(
        f"{use.attributes.get(FOLDER)} · {render.digest(str(use.attributes[PART_OF]))}"
        for use in found.uses
        if PART_OF in use.attributes
    )
    if wholes:
        out.print(f"  [dim]{'part of':<12}[/dim]{escape(', '.join(wholes))}")
    said = [use.attributes for use in found.uses]
    for digest, path in labelling.files(said).items():
        out.print(f"  [dim]{'labelled by':<12}[/dim]{escape(path)} · {escape(render.digest(digest))}")
    if datasets := labelling.datasets(said):
        out.print(f"  [dim]{'labels of':<12}[/dim]{escape(', '.join(map(render.digest, datasets)))}")
    if maker is not None:
        out.print(Text("  made by     ", style="dim").append_text(render.execution_line(maker)))
        if maker.code:
            out.print(f"  [dim]{'code':<12}[/dim]{escape(_code(maker))}")
    for title, direction in (("made as", "output"), ("used as", "input")):
        table = render.uses(title, [use for use in found.uses if use.direction == direction], with_execution=True)
        if table is not None:
            out.print()
            out.print(table)


def difference(found: Difference) -> None:
    """Write what two executions differ in."""
    out = render.console()
    tables = ("params", "metrics", "packages", "environment", "machine", "inputs", "outputs")
    if not (found.commit or found.code or any(getattr(found, name) for name in tables)):
        out.print("There is no difference in what was recorded.", style="dim")
    if found.commit:
        first, second = (str(commit)[:12] or "none" for commit in found.commit)
        out.print(f"[bold]commit[/bold]  [red]{escape(first)}[/red] → [green]{escape(second)}[/green]")
        out.print(f"  [dim]git diff {escape(first)} {escape(second)}[/dim]")
    if found.code:
        out.print("[bold]code[/bold], uncommitted")
        styles = {"+": "green", "-": "red", "@": "cyan"}
        for line in found.code.splitlines():
            out.print(Text(f"  {line}", style=styles.get(line[:1], "")), soft_wrap=True)
    for name in tables:
        pairs = getattr(found, name)
        if pairs:
            out.print(f"[bold]{name}[/bold]")
        for key, (before, after) in pairs.items():
            text = Text(f"  {key}  ").append(_value(before), style="red").append(" → ")
            out.print(text.append(_value(after), style="green"), soft_wrap=True)
    for what in found.unknown:
        out.print(f"Not here, and not compared: {what}.", style="yellow")


def changes(found: Changes) -> None:
    """Write which files differ between two versions of a folder."""
    out = render.console()
    for sign, style, paths in (
        ("M", "yellow", found.changed),
        ("A", "green", found.added),
        ("D", "red", found.removed),
    ):
        for path in paths:
            shown = path.translate({code: f"\\x{code:02x}" for code in (*range(32), 127)})
            out.print(Text(f"{sign}  {shown}", style=style), soft_wrap=True)
    out.print(
        f"{len(found.changed)} changed, {len(found.added)} added, {len(found.removed)} removed, {found.same} the same",
        style="dim",
    )


def _value(value: object) -> str:
    return "none" if value is None else render.digest(str(value)) if _is_digest(value) else render.number(value)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and value.startswith(("sha256:", "tree:sha256:"))


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
        count, them = render.count(found.promised, "object"), "it" if found.promised == 1 else "them"
        out.print(f"  {count} known but not here ('cmf pull --data' brings {them})")
    if found.promised_executions:
        count = render.count(found.promised_executions, "execution")
        out.print(f"  {count} named here but not here ('cmf pull --promised' brings them)")
    if found.scarce:
        said = f"{render.count(found.scarce, 'object')} of data with fewer than {found.copies} copies"
        out.print(f"  [yellow]{said}[/yellow] ('cmf push --data' makes one)")
    if found.references:
        out.print(f"  {render.count(found.references, 'reference')} to data that no copy was kept of")
    for reference in found.drifted:
        out.print(f"  [yellow]{escape(reference.path)} {reference.state} since it was recorded[/yellow]")
    if found.pointers:
        out.print(f"  {render.count(len(found.pointers), 'pointer file')} beside the code")
    for each in found.pointers:
        if each.state != "same":
            why = each.problem or f"{each.path} is {each.state}"
            out.print(f"  [yellow]{escape(why)}[/yellow] [dim]({escape(each.pointer)})[/dim]")
        if not each.tracked:
            out.print(f"  [yellow]{escape(each.pointer)} is not in git yet[/yellow]")
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


def ranks(found: Sequence[views.Rank]) -> None:
    """Write the processes of an execution that was written by more than one."""
    if len(found) < 2:
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("attempt", "rank", "status", "site", "host"):
        table.add_column(column)
    for one in found[:CHILDREN_MAX]:
        status = Text(one.status, style=render.STATUS_STYLE.get(one.status, ""))
        table.add_row(one.attempt, str(one.rank), status, escape(one.site), escape(one.host))
    out = render.console()
    out.print()
    out.print(table)
    if len(found) > CHILDREN_MAX:
        out.print(f"({len(found) - CHILDREN_MAX} more: --json)", style="dim")


def patch(data: bytes) -> None:
    """Write a diff as git made it; on a terminal in git's colours."""
    if render.console().no_color or not sys.stdout.isatty():
        raw(data)
        return
    for line in data.splitlines(keepends=True):
        style = next((PATCH_STYLE[start] for start in PATCH_STYLE if line.startswith(start)), "")
        text = line.rstrip(b"\r\n")
        raw(b"\x1b[%sm%s\x1b[m%s" % (style.encode(), text, line[len(text) :]) if style else line)


def raw(data: bytes) -> None:
    """Write recorded bytes as they are; to a terminal only what colours it, since anybody may have recorded them."""
    if sys.stdout.isatty():
        data = _COMMANDS.sub(lambda found: b"^" + bytes((found[0][0] ^ 0x40,)), data)
    sys.stdout.buffer.write(data)
