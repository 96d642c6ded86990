"""Write the reference pages that follow from the code, or check that none is stale.

The pages are written in full from what the code says of itself: the tree of commands, the public names with their
docstrings, the table of errors, and the recorded description of the hub's API. Nothing in them is edited by hand.
"""

import importlib
import inspect
import json
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

import cmf
from cmf import errors
from cmf.cli import cli

ROOT = Path(__file__).parents[1]
OPENAPI = ROOT / "tests" / "golden" / "openapi.json"
WIDTH = 120
SIGNATURE_WIDTH = 100
MADE = "<!-- Written by `python -m tools.reference`: edit the code, not this page. -->"

RESULTS = {
    "cmf.graph.views": ("Page", "Execution", "Artifact", "Use", "Write"),
    "cmf.graph.index": ("Target",),
    "cmf.graph.lineage": ("Lineage", "Step"),
    "cmf.series": ("Points", "Point"),
    "cmf.repo": ("Status", "Reference", "Verified"),
    "cmf.transfer": ("Problem",),
    "cmf.sync": ("Moved",),
    "cmf.model.exchange": ("Admission",),
}
"""What the methods of `Repo` answer with: module -> classes."""

FACES = (("cmf.remotes", "Remotes"), ("cmf.space", "Space"))
"""What properties of `Repo` return, to be asked further: module, class."""

INTERNAL = {"Run.start", "Run.settle", "Run.dropped", "Run.killed", "Run.forked", "Run.buffers"}
"""Public to the package's other modules, but called by `cmf.run` and by a fork, never by a script."""


# ---- text ------------------------------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """Return a docstring as Markdown: paragraphs wrapped, lines that are to stay as they are in a fence."""
    found = []
    for paragraph in inspect.cleandoc(text).replace("``", "`").split("\n\n"):
        if paragraph.startswith("\b\n"):
            found.append(f"```\n{textwrap.dedent(paragraph[2:])}\n```")
        else:
            found.append(wrapped(paragraph))
    return "\n\n".join(found)


def wrapped(text: str) -> str:
    """Return text on lines of the house's width; nothing that renders as a tag or list by accident."""
    words = " ".join(text.split())
    return textwrap.fill(words, WIDTH, break_long_words=False, break_on_hyphens=False)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(title: str, *parts: str) -> str:
    """Return a page of its parts."""
    return "\n\n".join([f"# {title}", MADE, *filter(None, parts)]) + "\n"


# ---- the command line ------------------------------------------------------------------------------------------------


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and all below it, by the words that call them."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, f"{path} {name}")


def value_name(parameter: click.Parameter) -> str:
    """Return what stands for a parameter's value, "" for a flag."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return ""
    if parameter.metavar:
        return parameter.metavar
    if isinstance(parameter.type, click.Choice):
        return "|".join(parameter.type.choices)
    if isinstance(parameter, click.Argument):
        name = (parameter.name or "").upper()
        return name if parameter.required else f"[{name}]"
    kinds = {"integer": "NUMBER", "float": "NUMBER"}
    return kinds.get(parameter.type.name.partition(" ")[0], parameter.type.name.upper())


def option_row(option: click.Option) -> tuple[str, str]:
    """Return an option's spellings, and what it does."""
    value = value_name(option)
    spelled = ", ".join(f"`{name}{' ' + value if value else ''}`" for name in option.opts)
    help_text = option.help or ""
    if option.show_default is True:
        help_text += f" Default: `{option.default}`."
    return spelled, help_text


def command_part(path: str, command: click.Command) -> str:
    """Return the part of the page that is about one command."""
    arguments = [value_name(p) for p in command.params if isinstance(p, click.Argument)]
    options = [p for p in command.params if isinstance(p, click.Option)]
    usage = [path, *(["[OPTION]..."] if options else []), *arguments]
    if isinstance(command, click.Group):
        usage.append("COMMAND")
    parts = [f"## {path}", prose(command.help or ""), f"```\n{' '.join(usage)}\n```"]
    if options:
        parts.append(table(("option", "meaning"), [option_row(option) for option in options]))
    return "\n\n".join(parts)


def cli_page() -> str:
    """Return the page of the command line."""
    intro = (
        "Every command and option. `-h` and `--help` show the same on a terminal. With `--json` a command answers in "
        "JSON, with the fields of the classes in [Python](python.md). How a command ends is in [errors](errors.md)."
    )
    settings = [
        ("`CMF_DIR`", "The `.cmf` folder to use, instead of the nearest one above."),
        ("`CMF_REMOTE`", "The remote that `push` and `pull` use if none is named: a name or a URL."),
        ("`CMF_MODE`", "`off` records nothing; the program runs as it would without CMF."),
        ("`CMF_SYSTEM`", "`off`: runs do not tell what they and the machine use."),
        ("`CMF_EXECUTION`, `CMF_ATTEMPT`, `CMF_RANK`", "What processes that write one execution together share."),
        ("`CMF_PARENT`", "The run that runs of this process are a part of, as `run.node` names it."),
        ("`NO_COLOR`", "Any value: no colours."),
        ("`CMF_PAGER`, `PAGER`", "What shows answers higher than the terminal: `less` if unset, nothing if empty."),
        ("`AWS_ENDPOINT_URL` and others", "Where S3 is, and the credentials for it: see [data](../how-to/data.md)."),
        ("`XDG_STATE_HOME`", "Where a hub of this machine leaves its token for your commands."),
    ]
    found = [command_part(path, command) for path, command in commands(cli, "cmf")]
    variables = ["## Environment variables", table(("variable", "meaning"), settings)]
    return page("Command line", wrapped(intro), *found, *variables)


# ---- Python ----------------------------------------------------------------------------------------------------------


def public_methods(owner: type) -> Iterator[tuple[str, Any]]:
    """Yield the methods and properties that a class itself defines for its callers."""
    for name, found in vars(owner).items():
        public = not name.startswith("_") and f"{owner.__name__}.{name}" not in INTERNAL
        if public and (isinstance(found, property) or inspect.isfunction(found)):
            yield name, found


def annotated(text: object) -> str:
    """Return an annotation as written."""
    if isinstance(text, typing.ForwardRef):  # what a NamedTuple makes of an annotation
        return text.__forward_arg__
    return text if isinstance(text, str) else inspect.formatannotation(text)


def literal(value: object) -> str:
    """Return a default as code in this project writes it."""
    if inspect.isfunction(value):
        return value.__name__
    return json.dumps(value) if isinstance(value, str) else repr(value)


def signature(name: str, function: Callable[..., Any]) -> str:
    """Return a call as one would write its `def`, without the instance; on several lines if it is long."""
    found = inspect.signature(function)
    words: list[str] = []
    starred = False
    for parameter in found.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            words.append("*")
            starred = True
        starred = starred or parameter.kind is parameter.VAR_POSITIONAL
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else "*" * (parameter.kind is parameter.VAR_POSITIONAL)
        word = f"{stars}{parameter.name}"
        if parameter.annotation is not parameter.empty:
            word += f": {annotated(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            word += f" = {literal(parameter.default)}"
        words.append(word)
    ending = f" -> {annotated(found.return_annotation)}" if found.return_annotation is not found.empty else ""
    line = f"{name}({', '.join(words)}){ending}"
    if len(line) <= SIGNATURE_WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){ending}"


def function_part(name: str, function: Callable[..., Any], level: int, title: str = "") -> str:
    """Return the part of the page that is about one function or method."""
    docs = prose(inspect.getdoc(function) or "")
    return f"{'#' * level} {title or name}\n\n```python\n{signature(name, function)}\n```\n\n{docs}"


def class_part(name: str, owner: type, level: int = 2) -> str:
    """Return the part of the page that is about one class: what it is, its fields, its methods."""
    parts = [f"{'#' * level} {name}", prose(owner.__doc__ or "")]
    if issubclass(owner, msgspec.Struct) or hasattr(owner, "_fields"):
        annotations = {key: annotated(value) for key, value in owner.__annotations__.items()}
        parts.append(table(("field", "type"), [(f"`{key}`", f"`{value}`") for key, value in annotations.items()]))
    for method, found in public_methods(owner):
        if isinstance(found, property):
            assert found.fget is not None
            parts.append(f"{'#' * (level + 1)} {name}.{method}\n\nA property. {prose(found.fget.__doc__ or '')}")
        else:
            parts.append(function_part(method, found, level + 1, f"{name}.{method}"))
    return "\n\n".join(filter(None, parts))


def python_page() -> str:
    """Return the page of the public Python names."""
    intro = (
        "Every public name of `cmf`. `import cmf` loads a name when it is first used. Times are µs since 1970 unless "
        "a text says otherwise. What can be raised is in [errors](errors.md)."
    )
    parts = [f"```python\n{inspect.cleandoc(cmf.__doc__ or '').partition(chr(10))[2].strip()}\n```"]
    for name in ("run", "Run", "stage", "current", "autolog", "open", "init", "Repo", "CmfWarning"):
        found = getattr(cmf, name)
        title = f"cmf.{name}"
        parts.append(class_part(title, found) if inspect.isclass(found) else function_part(title, found, 2))
    parts += [class_part(name, getattr(importlib.import_module(module), name)) for module, name in FACES]
    rest = [f"`cmf.{name}`" for name in cmf.__all__ if name.endswith("Error")]
    parts.append(f"## Errors\n\n{wrapped(', '.join(rest) + ': see [errors](errors.md).')}")
    parts.append("## What questions are answered with\n\nThese are read, never made by a script.")
    for module, names in RESULTS.items():
        parts += [class_part(name, getattr(importlib.import_module(module), name), 3) for name in names]
    return page("Python", wrapped(intro), *parts)


# ---- errors ----------------------------------------------------------------------------------------------------------


def errors_page() -> str:
    """Return the page of the errors."""
    intro = (
        "Everything that CMF raises on purpose is one of these classes. A class says what the caller should do; "
        "`message` says what happened to what, `hint` what to try, and `kind` is a code for programs. Kinds are only "
        "ever added. A command prints message and hint on standard error and ends with the class's exit code. A hub "
        "answers with its HTTP status and a JSON body of `kind`, `message` and `hint`; the client raises the same "
        "class again."
    )
    rows = []
    special = {kind: (type(errors.from_http(status, "")), status) for kind, status in errors.STATUSES.items()}
    for error, (code, status) in errors.OUTCOMES.items():
        bases = [base.__name__ for base in error.__bases__ if base is not errors.CmfError]
        also = ", ".join(f"`{base}`" for base in bases if base != "Exception")
        own = [f"{other} if `kind` is `{kind}`" for kind, (known, other) in special.items() if known is error]
        shown = ", ".join((str(status), *own))
        rows.append((f"`{error.__name__}`", str(code), shown, f"`{error.kind_default}`", also))
    heads = ("class", "exit code", "HTTP status", "`kind` unless told otherwise", "is also a")
    parts = [f"## {error.__name__}\n\n{prose(error.__doc__ or '')}" for error in errors.OUTCOMES]
    others = [
        ("0", "It is done."),
        ("2", "The command line itself is wrong, too."),
        ("7", "The system refused, a full disk for example. Nothing recorded is lost."),
        ("130", "Stopped with ctrl-C."),
        ("141", "Nobody reads the output any more."),
        ("any", "`cmf run` and `cmf demo` pass on the code of what they ran; 128 and the signal if it was killed."),
    ]
    ending = ["## Other exit codes", table(("exit code", "meaning"), others)]
    warning = (
        "Once a run has started, recording raises no error into your program, but for a wrong call of `cmf.run`, "
        "`Run.input` or `Run.output`. What could not be recorded is counted, warned about once as `cmf.CmfWarning`, "
        "and told by `cmf status`."
    )
    return page("Errors", wrapped(intro), table(heads, rows), *parts, *ending, "## While recording", wrapped(warning))


# ---- the hub's API ---------------------------------------------------------------------------------------------------


def type_name(schema: dict[str, Any]) -> str:
    """Return a JSON schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "oneOf" in schema or "anyOf" in schema:
        return " or ".join(type_name(found) for found in schema.get("oneOf") or schema["anyOf"])
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(type_name(found) for found in schema['prefixItems'])}]"
        return f"list of {type_name(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {type_name(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


def content(found: dict[str, Any]) -> str:
    """Return what a body or an answer holds."""
    for media, said in found.get("content", {}).items():
        return type_name(said["schema"]) if media == "application/json" else "bytes"
    return ""


def route_part(method: str, path: str, route: dict[str, Any]) -> str:
    """Return the part of the page that is about one route."""
    parts = [f"## {method.upper()} {path}", wrapped(route.get("description", "").replace("``", "`"))]
    rows = []
    for found in route.get("parameters", []):
        needed = "yes" if found["required"] else "no"
        said = found.get("description") or ""
        rows.append((f"`{found['name']}`", found["in"], type_name(found["schema"]), needed, said))
    if rows:
        parts.append(table(("parameter", "in", "type", "required", "meaning"), rows))
    body = content(route.get("requestBody", {})) or ("bytes" if method in ("put", "post") else "")
    answer = content(route["responses"].get("200", {}))  # 204 has none
    parts.append("\n".join(f"- {name}: `{said}`" for name, said in (("Body", body), ("Answer", answer)) if said))
    return "\n\n".join(parts)


def http_page() -> str:
    """Return the page of the hub's API."""
    described = json.loads(OPENAPI.read_text(encoding="utf-8"))
    intro = (
        "What a hub answers, under `/v1`. A request carries its token as `Authorization: Bearer TOKEN`; `/v1/hub` and "
        "`/v1/enrol` take none. Bodies are JSON unless they are bytes; segments travel as the "
        "[hub's frames](format.md). An error has the status of its class and a JSON body: see [errors](errors.md)."
    )
    routes = [
        (method, path, route)
        for path, methods in sorted(described["paths"].items())
        for method, route in sorted(methods.items())
    ]
    rows = [
        (f"`{method.upper()}`", f"`{path}`", re.split(r"(?<=[.:])\s", route["description"].replace("``", "`"))[0])
        for method, path, route in routes
    ]
    overview = table(("method", "path", "summary"), [(m, p, said.rstrip(":.") + ".") for m, p, said in rows])
    parts = [route_part(method, path, route) for method, path, route in routes]
    types = ["## Types", "A field that is not required may be left out."]
    for name, schema in sorted(described["components"]["schemas"].items()):
        fields = [
            (f"`{key}`", type_name(found), "yes" if key in schema.get("required", []) else "no")
            for key, found in schema.get("properties", {}).items()
        ]
        types.append(
            f"### {name}\n\n" + (table(("field", "type", "required"), fields) if fields else type_name(schema))
        )
    return page("The hub's API", wrapped(intro), overview, *parts, *types)


PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/cli.md": cli_page,
    "docs/reference/python.md": python_page,
    "docs/reference/errors.md": errors_page,
    "docs/reference/http.md": http_page,
}


def stale() -> list[str]:
    """Return the pages that are not what the code says now."""
    return [
        name
        for name, made in PAGES.items()
        if not (ROOT / name).is_file() or (ROOT / name).read_text(encoding="utf-8") != made()
    ]


def main(arguments: list[str]) -> int:
    """Write the pages; with ``--check`` only name those that are stale, and return 1 if there is one."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m tools.reference [--check]", file=sys.stderr)
        return 2
    found = stale()
    for name in found:
        if arguments:
            print(f"{name} is stale. Write it anew: python -m tools.reference")
        else:
            (ROOT / name).write_text(PAGES[name](), encoding="utf-8")
            print(f"{name} is written")
    return int(bool(arguments and found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
