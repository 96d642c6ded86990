"""The page about what is proved names tests: they exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/proof.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`", PAGE)


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_a_test_that_the_page_names_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_each_of_the_twelve_properties_has_a_test() -> None:
    rows = dict(re.findall(r"^\| (P\d+) \|(.*)$", PAGE, flags=re.MULTILINE))
    assert sorted(rows, key=lambda name: int(name[1:])) == [f"P{number}" for number in range(1, 13)]
    assert all("::test_" in row for row in rows.values())
