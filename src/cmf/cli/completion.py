"""`cmf completion`: what a shell needs to complete commands, options, and names that are in the store here."""

from __future__ import annotations

import contextlib

import click
from click.shell_completion import CompletionItem, get_completion_class

from cmf.errors import CmfError

SHELLS = {"bash": "~/.bashrc", "zsh": "~/.zshrc", "fish": "~/.config/fish/completions/cmf.fish"}
ITEMS_MAX = 50


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print what makes a shell complete cmf's commands and names.

    \b
      cmf completion bash >> ~/.bashrc
      cmf completion zsh >> ~/.zshrc
      cmf completion fish > ~/.config/fish/completions/cmf.fish
    """
    from cmf.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "cmf", "_CMF_COMPLETE").source())


def names(_: click.Context, __: click.Parameter, start: str) -> list[CompletionItem]:
    """Complete what a person may name: labels, artifacts, executions by name or short id."""
    with contextlib.suppress(CmfError, OSError):
        from cmf import repo

        with repo.open_repo() as here:
            return [CompletionItem(text, help=said) for text, said in here.store.index.named(start, ITEMS_MAX)]
    return []


def remotes(_: click.Context, __: click.Parameter, start: str) -> list[CompletionItem]:
    """Complete the names of remotes."""
    with contextlib.suppress(CmfError, OSError):
        from pathlib import Path

        from cmf import config

        folder = config.find(Path.cwd(), override=config.environment().dir)
        if folder is not None:
            found = config.read(folder).remotes
            return [CompletionItem(name, help=found[name].url) for name in sorted(found) if name.startswith(start)]
    return []


def scopes(_: click.Context, __: click.Parameter, start: str) -> list[CompletionItem]:
    """Complete scopes that are in the store here."""
    with contextlib.suppress(CmfError, OSError):
        from cmf import repo

        with repo.open_repo() as here:
            found = sorted({stream["scope"] for stream in here.store.streams()} | set(here.store.pending_scopes()))
            return [CompletionItem(scope) for scope in found if scope.startswith(start)][:ITEMS_MAX]
    return []
