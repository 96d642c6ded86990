"""Parameters that argparse, click, hydra and omegaconf hold are a run's, without a word about them to `run`."""

from pathlib import Path
from typing import Any

import pytest

import cmf
from tests.commands import run, script


def params(folder: Path) -> dict[str, Any]:
    with cmf.open(folder) as repo:
        (found,) = repo.executions()
    return found.params


ARGPARSE = """
import argparse, cmf, pathlib
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("in.csv"))
    parser.add_argument("--hub-token")
    parser.add_argument("--layers", nargs="*", type=int)
    parser.set_defaults(function=main)
    args = parser.parse_args(["--lr", "0.1", "--hub-token", "plainword", "--layers", "1", "2"])
    train(args.lr)
    assert vars(args)["hub_token"] == "plainword"
def train(lr):
    cmf.run("p/a", params={"lr": 0.5}%s).finish()
main()
"""


def test_what_argparse_parsed_is_seen_from_a_function_below_and_what_is_given_wins(tmp_path: Path) -> None:
    script(tmp_path, ARGPARSE % "")
    assert params(tmp_path) == {"lr": 0.5, "batch": 32, "data": "in.csv", "hub_token": "***", "layers": [1, 2]}


def test_it_is_not_seen_if_the_run_or_the_store_says_so(tmp_path: Path) -> None:
    script(tmp_path, ARGPARSE % ", see_params=False")
    assert params(tmp_path) == {"lr": 0.5}
    other = tmp_path / "other"
    (other / ".cmf").mkdir(parents=True)
    (other / ".cmf" / "config.yaml").write_text("v: 1\nsee_params: false\n")
    script(other, ARGPARSE % "")
    assert params(other) == {"lr": 0.5}


def test_a_namespace_in_the_main_module_is_seen_from_another_module(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import cmf\ndef go(): cmf.run('p/a').finish()\n")
    script(tmp_path, "import argparse, train\nargs = argparse.Namespace(lr=0.1)\ntrain.go()", env={"PYTHONPATH": "."})
    assert params(tmp_path) == {"lr": 0.1}


def test_options_of_click_and_of_the_group_above_are_seen_and_hidden_ones_are_masked(tmp_path: Path) -> None:
    text = """
import click, cmf
@click.group()
@click.option("--verbose/--quiet")
def cli(verbose): pass
@cli.command()
@click.option("--lr", type=float)
@click.option("--pin", hide_input=True)
@click.argument("data")
def train(**_): cmf.run("p/a").finish()
cli(["--verbose", "train", "--lr", "0.1", "--pin", "1234", "in.csv"])
"""
    script(tmp_path, text)
    assert params(tmp_path) == {"verbose": True, "lr": 0.1, "pin": "***", "data": "in.csv"}


def test_a_config_of_omegaconf_is_seen_flat_and_no_resolver_of_it_is_run(tmp_path: Path) -> None:
    text = """
import cmf
from omegaconf import OmegaConf
def boom(*_): raise SystemExit("a resolver was run")
OmegaConf.register_new_resolver("boom", boom)
cfg = OmegaConf.create({"optim": {"lr": 0.1, "same": "${optim.lr}"}, "odd": "${boom:1}", "none": "???", "l": [1, 2]})
optim = cfg.optim
cmf.run("p/a").finish()
"""
    script(tmp_path, text)
    assert params(tmp_path) == {"optim.lr": 0.1, "optim.same": 0.1, "odd": "${boom:1}", "l": [1, 2]}


def test_a_hydra_app_is_recorded_with_its_config_and_overrides(tmp_path: Path) -> None:
    import sys

    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text(
        "lr: 0.1\ndb:\n  password: plainword\nhydra:\n  job:\n    chdir: false\n"
    )
    text = """
import hydra, cmf
@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    cmf.run("p/a").finish()
main()
"""
    (tmp_path / "app.py").write_text(text)
    run([sys.executable, "app.py", "lr=0.2"], tmp_path)
    assert params(tmp_path) == {"lr": 0.2, "db.password": "***", "hydra.overrides": ["lr=0.2"]}


@pytest.mark.parametrize("value", ["Odd()", "[Odd()]", "lambda: 1"])
def test_a_value_with_code_of_its_own_is_left_out_and_none_of_it_runs(tmp_path: Path, value: str) -> None:
    text = f"""
import argparse, cmf
class Odd:
    def __getattribute__(self, name): raise SystemExit("its code was run")
    __repr__ = __str__ = __eq__ = __hash__ = __bool__ = None
odd = Odd
args = argparse.Namespace(lr=0.1, odd={value})
cmf.run("p/a").finish()
"""
    script(tmp_path, text)
    assert params(tmp_path) == {"lr": 0.1}
