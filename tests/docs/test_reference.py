"""The reference pages: what the code says of itself is what they say, and nothing public is left out."""

import inspect
import json
import re
from pathlib import Path

import click
import pytest

import cmf
from cmf.cli import cli
from cmf.errors import OUTCOMES
from tools import reference

ROOT = Path(__file__).parents[2]
COMMANDS = dict(reference.commands(cli, "cmf"))


def read(name: str) -> str:
    return (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", reference.PAGES)
def test_a_reference_page_says_what_the_code_says_now(page: str) -> None:
    written = (ROOT / page).read_text(encoding="utf-8")
    assert written == reference.PAGES[page](), "write it anew: python -m tools.reference"


def test_a_stale_page_is_named_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for page in reference.PAGES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text(reference.PAGES[page](), encoding="utf-8")
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    assert reference.main(["--check"]) == 0

    errors_page = tmp_path / "docs/reference/errors.md"
    errors_page.write_text(errors_page.read_text(encoding="utf-8").replace("409", "410"), encoding="utf-8")
    (tmp_path / "docs/reference/cli.md").unlink()

    assert reference.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert "docs/reference/errors.md" in said
    assert "docs/reference/cli.md" in said
    assert "docs/reference/python.md" not in said
    assert not (tmp_path / "docs/reference/cli.md").exists(), "checking writes nothing"

    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0


def test_an_unknown_argument_is_refused() -> None:
    assert reference.main(["--chekc"]) == 2


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_is_documented(path: str) -> None:
    _, found, rest = read("cli.md").partition(f"\n## {path}\n")
    assert found
    part = re.split(r"\n## ", rest)[0]
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts[-1]} says nothing"
            for name in parameter.opts:
                assert f"`{name}" in part
                assert parameter.help.replace("|", "\\|") in part


def test_every_error_is_documented_with_its_codes() -> None:
    page = read("errors.md")
    for error, (code, status) in OUTCOMES.items():
        assert f"\n## {error.__name__}\n" in page
        assert re.search(rf"^\| `{error.__name__}` \| {code} \| {status}\b", page, flags=re.MULTILINE)
    public = {name for name in cmf.__all__ if inspect.isclass(found := getattr(cmf, name)) and found in OUTCOMES}
    assert public == {error.__name__ for error in OUTCOMES}


@pytest.mark.parametrize("name", cmf.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    page = read("python.md")
    assert f"`cmf.{name}`" in page or f"\n## cmf.{name}\n" in page


@pytest.mark.parametrize("owner", [cmf.Run, cmf.Repo])
def test_every_method_for_scripts_is_documented_and_says_what_it_does(owner: type) -> None:
    page = read("python.md")
    names = [name for name, found in vars(owner).items() if not name.startswith("_") and callable(found)]
    shown = [name for name in names if f"{owner.__name__}.{name}" not in reference.INTERNAL]
    assert len(shown) > 5
    for name in shown:
        assert f"\n### cmf.{owner.__name__}.{name}\n" in page
        assert inspect.getdoc(getattr(owner, name)), name


def test_every_route_of_the_hub_is_documented() -> None:
    page = read("http.md")
    for path, methods in json.loads(reference.OPENAPI.read_text(encoding="utf-8"))["paths"].items():
        for method in methods:
            assert f"\n## {method.upper()} {path}\n" in page


def test_the_index_leads_to_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("**/*.md"):
        relative = str(page.relative_to(ROOT / "docs"))
        assert relative == "README.md" or f"({relative})" in index
