"""How answers look on a terminal: tables, trees, times and sizes. Colour only on a terminal."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cmf import labelling, media
from cmf.config import environment
from cmf.graph import views
from cmf.graph.lineage import Lineage
from cmf.model import encoding
from cmf.slicing import FOLDER, PART_OF

STATUS_STYLE = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "killed": "red",
    "lost": "yellow",
    "unknown": "dim",
}
SHORT = 7


def console(*, error: bool = False) -> Console:
    """Return where to write: coloured on a terminal, plain text elsewhere, never cut to a width elsewhere."""
    stream = sys.stderr if error else sys.stdout
    terminal = stream.isatty()
    return Console(
        file=stream,
        highlight=False,
        no_color=not environment().color,
        soft_wrap=not terminal,
        width=None if terminal else 200,
    )


def to_json(value: Any) -> None:
    """Write an answer as JSON; NaN and the infinities in it are tagged as in records."""
    click.echo(msgspec.json.format(encoding.to_json(value, order="sorted"), indent=2))


def short(execution_id: str) -> str:
    """Return the short id: the first digits of the id's last group, which are random."""
    return execution_id[24 : 24 + SHORT]


def digest(text: str) -> str:
    """Return a digest cut to what a person reads."""
    kind, _, rest = text.rpartition(":")
    return f"{'folder ' if kind.startswith('tree') else ''}{rest[:12]}"


def number(value: Any) -> str:
    """Return a value for a table: floats with four significant digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return value if len(value) <= 40 else value[:39] + "…"
    return encoding.to_json(value).decode() if isinstance(value, dict | list) else str(value)


def size(count: int | None) -> str:
    """Return a size in bytes as people read it."""
    if count is None:
        return ""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return ""


def count(number: int, noun: str) -> str:
    """Return a number of things: "1 object", "2,001 objects"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def moment(us: int | None) -> str:
    """Return a time in µs as local date and time."""
    if us is None:
        return ""
    try:
        return dt.datetime.fromtimestamp(us / 1e6).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{us} µs"


def ago(us: int) -> str:
    """Return how long ago a time in µs was, to the greatest unit."""
    seconds = int(dt.datetime.now(dt.UTC).timestamp() - us / 1e6)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return "just now"


def duration(seconds: float | None) -> str:
    """Return how long something took."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def status_text(view: views.Execution) -> Text:
    """Return an execution's status, coloured."""
    said = view.status if view.exit in (None, 0) else f"{view.status} ({view.exit})"
    return Text(said if view.known else "not here", style=STATUS_STYLE.get(view.status, ""))


def executions(found: Sequence[views.Execution]) -> Table:
    """Return the table of `cmf log`."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("id", "name", "scope", "site", "status", "started", "took", "metrics"):
        table.add_column(column, no_wrap=column != "metrics", overflow="ellipsis")
    for view in found:
        shown = list(view.metrics.items())
        headline = "  ".join(f"{name} {number(value)}" for name, value in shown[:4])
        more = f"  +{len(shown) - 4}" if len(shown) > 4 else ""
        table.add_row(
            Text(short(view.id), style="yellow"),
            escape(view.name),
            escape(view.scope),
            escape(view.site),
            status_text(view),
            moment(view.started),
            _took(view),
            escape(headline + more),
        )
    return table


def children(found: Sequence[views.Execution]) -> Table:
    """Return the table of an execution's children: each with the parameters in which they differ, and its metrics."""
    names = sorted({name for view in found for name in view.params})
    names = [name for name in names if len({repr(view.params.get(name)) for view in found}) > 1]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("child", "id", "status", "parameters that differ", "metrics"):
        table.add_column(column, overflow="fold")
    for view in found:
        # Four of each: `cmf show` of the child tells all.
        params = [f"{name}={number(view.params[name])}" for name in names if name in view.params]
        metrics = [f"{name} {number(value)}" for name, value in view.metrics.items()]
        table.add_row(
            escape(view.name),
            Text(short(view.id), style="yellow"),
            status_text(view),
            escape(_first_four(params)),
            escape(_first_four(metrics)),
        )
    return table


def _first_four(cells: Sequence[str]) -> str:
    return "  ".join(cells[:4]) + (f"  +{len(cells) - 4}" if len(cells) > 4 else "")


def _took(view: views.Execution) -> str:
    if view.heard is not None and view.started is not None and view.duration is None:
        return f"> {duration(max(view.heard - view.started, 0) / 1e6)}"
    return duration(view.duration)


def execution_line(view: views.Execution) -> Text:
    """Return one execution on a line, as in a tree."""
    text = Text()
    text.append(view.scope, style="bold")
    if not view.known:
        return text.append(f" · {short(view.id)} (not here; 'cmf pull --promised' brings it)", style="dim")
    text.append(f" {view.name} · ")
    text.append(short(view.id), style="yellow")
    text.append(" · ")
    text.append_text(status_text(view))
    if view.site:
        text.append(f" · {view.site}", style="cyan")
    if view.params:
        text.append("  " + " ".join(f"{k}={number(v)}" for k, v in list(view.params.items())[:5]), style="dim")
    if view.metrics:
        text.append("  " + " ".join(f"{k} {number(v)}" for k, v in list(view.metrics.items())[:5]), style="green")
    return text


def _label(name: str, path: str, of: str, type_: str = "") -> Text:
    text = Text(name or path or digest(of), style="magenta")
    if name and path and name != path:
        text.append(f" ({path})", style="dim")
    text.append(f" · {digest(of)}", style="dim")
    if type_:
        text.append(f" · {type_}", style="dim")
    return text


HOW = {"content": "same bytes", "possible": "possibly", "claimed": "claimed", "via": "", "source": ""}


def lineage(found: Lineage) -> Iterable[Tree | Text]:
    """Return the tree of `cmf lineage`: executions, between them the artifacts that passed, last what others claim."""
    up = found.direction == "up"
    passed: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for step in (*found.steps, *found.claims):
        start, other = (step.consumer, step.producer) if up else (step.producer, step.consumer)
        passed.setdefault(start, {}).setdefault(step.artifact, []).append((other, step.how))
    seen: set[str] = set()

    def items(node: str) -> Iterator[tuple[str, str, str, bool]]:
        for artifact, others in passed.get(node, {}).items():
            for number, (other, how) in enumerate(others):
                yield artifact, other, how, number == 0

    def branch(tree: Tree, node: str) -> None:
        # In the order of the page, so that an execution is told in full where it is met first.
        stack = [(tree, node, items(node))]
        while stack:
            here, at, left = stack[-1]
            item = next(left, None)
            if item is None:
                stack.pop()
                continue
            artifact, other, how, is_first = item
            leaf = here.add(_passed(found, at, artifact)) if is_first else here.children[-1]
            if not other:
                continue
            line = execution_line(found.executions[other]) if other in found.executions else _stranger(other)
            if HOW[how]:
                line.append(f"  [{HOW[how]}]", style="dim italic")
            if other in seen:
                leaf.add(line.append("  (shown above)", style="dim"))
            elif other in found.depth:
                seen.add(other)
                stack.append((leaf.add(line), other, items(other)))
            else:
                leaf.add(line)

    for root in found.roots:
        seen.add(root)
        tree = Tree(execution_line(found.executions[root]), guide_style="dim")
        branch(tree, root)
        yield tree
    if not found.roots:
        yield Text(f"{found.target.node.removeprefix('artifact:')}: no execution here made it.", style="dim")
    if found.truncated:
        yield Text(f"The walk was cut: it reached its limit of {found.truncated}.", style="yellow")


def _stranger(node: str) -> Text:
    """Return the line of an execution of which nothing is told but that it makes a claim."""
    scope, _, id_ = node.removeprefix("execution:").partition(":")
    return Text(f"{scope} {short(id_)}", style="dim")


def _passed(found: Lineage, at: str, artifact: str) -> Text:
    view = found.executions[at]
    uses = view.inputs if found.direction == "up" else view.outputs
    use = next((u for u in uses if u.artifact == artifact), None)
    known = found.artifacts.get(artifact)
    name = (use.name if use else "") or (known.name if known else "")
    type_ = (use.type if use else "") or (known.type if known else "")
    return _label(name, use.path if use else "", artifact, type_)


def uses(title: str, found: Sequence[views.Use], *, with_execution: bool = False) -> Table | None:
    """Return a table of events, or None if there are none."""
    if not found:
        return None
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim", padding=(0, 2, 0, 2))
    columns = (title, "name", "type", "size", "digest", *(("execution",) if with_execution else ()))
    for column in columns:
        table.add_column(column, overflow="fold")
    for use in found:
        row: list[Any] = [
            escape(_place(use)),
            escape(use.name),
            escape(use.type),
            size(use.size),
            Text(digest(use.artifact), style="dim"),
        ]
        if with_execution:
            row.append(Text(f"{use.scope} {short(use.execution.rpartition(':')[2])}"))
        table.add_row(*row)
    return table


def _place(use: views.Use) -> str:
    if PART_OF in use.attributes:
        return f"part of {use.attributes.get(FOLDER)}"
    labels = ", ".join(labelling.files([use.attributes]).values())
    return f"{use.path}, labelled by {labels}" if labels else use.path


def logged(found: Sequence[views.Use]) -> Table | None:
    """Return a table of what was logged besides numbers, the latest of each name, or None if there is nothing."""
    if not found:
        return None
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim", padding=(0, 2, 0, 2))
    for column in ("logged", "type", "times", "last step", "size", "digest"):
        table.add_column(column, overflow="fold")
    named: dict[str, list[views.Use]] = {}
    for use in found:
        named.setdefault(use.name, []).append(use)
    for name, uses_ in sorted(named.items()):
        last = max(uses_, key=lambda use: (media.step_of(use.attributes), use.t))
        table.add_row(
            *(escape(name), escape(last.type), str(len(uses_)), str(media.step_of(last.attributes)), size(last.size)),
            Text(digest(last.artifact), style="dim"),
        )
    return table


def mapping(title: str, values: dict[str, Any]) -> Table | None:
    """Return a table of names and values, or None if it is empty."""
    if not values:
        return None
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim", padding=(0, 2, 0, 2))
    table.add_column(title)
    table.add_column("")
    for name, value in values.items():
        table.add_row(escape(str(name)), escape(number(value)))
    return table
