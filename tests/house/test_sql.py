"""The statements of the store stay in the subset that its databases share: see `cmf.store.dialect`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf.store import schema

ROOT = Path(__file__).resolve().parents[2]
DIALECTS = {"sqlite.py", "postgres.py"}
WORDS = (
    "LIKE", "GLOB", "ILIKE", "REGEXP", "AUTOINCREMENT", "TRIGGER", "PROCEDURE", "FUNCTION", "LISTEN", "NOTIFY",
    "REFERENCES", "FOREIGN", "TEMP", "TEMPORARY", "ROWID", "REPLACE INTO", "INSERT OR", "pg_advisory_lock", "NEXTVAL",
    "strftime", "datetime", "json_extract", "group_concat", "PRAGMA", "IFNULL", "||",
)  # fmt: skip
STATEMENT = re.compile(r"^\s*(SELECT|INSERT|UPDATE|DELETE|CREATE|WITH|DROP|ALTER)\s")


def statements() -> Iterator[tuple[str, str]]:
    for folder in ("store", "hub"):
        for path in sorted((ROOT / "src/cmf" / folder).glob("*.py")):
            if path.name in DIALECTS:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and STATEMENT.match(node.value):
                    yield path.name, node.value
                elif isinstance(node, ast.JoinedStr):
                    text = "".join(str(part.value) if isinstance(part, ast.Constant) else "?" for part in node.values)
                    if STATEMENT.match(text):
                        yield path.name, text


def test_there_are_statements_to_look_at() -> None:
    assert len(list(statements())) > 100
    assert len({name for name, _ in statements()}) > 5


@pytest.mark.parametrize("word", WORDS)
def test_no_statement_uses_a_word_outside_the_subset(word: str) -> None:
    edge = r"\b" if word[0].isalpha() else ""
    found = [
        (name, text)
        for name, text in statements()
        if re.search(edge + re.escape(word) + edge, re.sub(r"'[^']*'", "''", text), re.IGNORECASE)
    ]
    assert found == []


def test_every_table_that_is_dropped_is_a_derived_one() -> None:
    made = {re.search(r"CREATE TABLE (\w+)", text) for text in schema.DERIVED}
    assert {match[1] for match in made if match} == set(schema.DERIVED_TABLES)
