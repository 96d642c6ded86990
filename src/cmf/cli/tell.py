"""`cmf event`, `metric` and `param`: what any process that a run started has to say of it."""

from __future__ import annotations

import click

from cmf.errors import UsageError


@click.command()
@click.argument("direction", type=click.Choice(["input", "output"]))
@click.argument("path")
@click.option("--type", "type_", default="", metavar="TYPE", help="What it is: dataset, model, metrics, or any word.")
@click.option("--role", default="", help="What for, such as train or test.")
@click.option("--name", default="", help="What people call it.")
@click.option("--labels", default=None, metavar="FILE", help="The file that holds its labels.")
@click.option("--hash", "hash_", is_flag=True, help="Of data at a URL: read it once for its SHA-256.")
def event(direction: str, path: str, *, type_: str, role: str, name: str, labels: str | None, hash_: bool) -> None:
    """Record that the run around this command used or made a file or folder, or what lies at a URL.

    The run is the one that started this process: with 'cmf run', or with cmf.run in Python.

    \b
      cmf event input data/train.csv
      cmf event input images --labels labels.csv
      cmf event input s3://survey/sheep.csv
      cmf event output model.bin --type model --name detector
    """
    from cmf import telling

    with telling.joined() as run:
        record = run.input if direction == "input" else run.output
        record(path, type=type_, role=role, name=name, labels=labels, hash=hash_)


@click.command()
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option("--step", type=int, default=None, help="They are one row of step metrics; final metrics, if left out.")
def metric(values: tuple[str, ...], step: int | None) -> None:
    """Record numbers of the run around this command.

    \b
      cmf metric f1=0.91
      cmf metric loss=0.25 accuracy=0.88 --step 100
    """
    from cmf import telling

    numbers = {name: telling.number(text) for name, text in map(_pair, values)}
    with telling.joined() as run:
        if step is None:
            run.metrics(numbers)
        else:
            telling.row(run, numbers, step)


@click.command()
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...")
def param(values: tuple[str, ...]) -> None:
    """Record parameters of the run around this command; a value that is JSON is taken as such.

    \b
      cmf param lr=0.001 'layers=[64, 64]' optimizer=adam
    """
    import json

    from cmf import telling

    with telling.joined() as run:
        for name, text in map(_pair, values):
            try:
                value = json.loads(text)
            except ValueError:
                value = text
            run.set(f"param/{name}", value)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"'{text}' is not a name and a value.", hint="Write NAME=VALUE, such as loss=0.25.")
    return name, value
