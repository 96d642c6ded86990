"""Results as tables: every library says the same, and a notebook shows what was recorded and obeys none of it."""

import datetime as dt
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import cmf
from cmf import tables
from cmf.graph import views
from cmf.model import encoding

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(0, 3), max_size=2),
)
ROWS = st.lists(st.dictionaries(st.sampled_from("abc"), VALUES), max_size=6)


def plain(value: Any) -> Any:
    """Return a library's value as Python's own."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).replace(tzinfo=None)
    return value


@given(ROWS)
def test_every_library_has_the_same_columns_and_values(rows: list[dict[str, Any]]) -> None:
    found = tables.Results(rows, lambda row: row)
    columns = found.columns()
    assert list(found) == rows
    frames = {
        "pandas": {name: list(found.to_pandas()[name]) for name in columns},
        "polars": found.to_polars().to_dict(as_series=False),
        "arrow": found.to_arrow().to_pydict(),
    }
    for library, held in frames.items():
        assert list(held) == list(columns), library
        for name, values in columns.items():
            assert [plain(value) for value in held[name]] == [plain(value) for value in values], library
    assert found.to_arrow().num_rows == (len(rows) if columns else 0)


@given(ROWS)
@example([{"a": math.inf}, {"a": "x"}])
@example([{"a": [-math.inf, 1]}])
def test_a_column_has_one_type_and_says_what_was_there(rows: list[dict[str, Any]]) -> None:
    for name, values in tables.Results(rows, lambda row: row).columns().items():
        assert len({type(value) for value in values if value is not None}) <= 1
        for row, value in zip(rows, values, strict=True):
            given = row.get(name)
            if isinstance(value, str) and not isinstance(given, str):
                assert encoding.from_value(json.loads(value)) == given
            elif isinstance(value, float) and isinstance(given, int):
                assert value == float(given)
            else:
                assert value == given


def test_executions_artifacts_and_uses_are_lists_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        with cmf.run("lab/train", params={"lr": 10.0**-number, "deep": {"x": number}}, name=f"run{number}") as run:
            (tmp_path / "model").write_text(str(number))
            run.output("model", name="net", type="model")
            run.log({"note": f"day {number}"}, step=number)
            run.metrics(f1=number)
    with cmf.open() as repo:
        found = repo.executions()
        frame = found.to_pandas()
        assert list(frame["name"]) == ["run2", "run1", "run0"]
        assert list(frame["params.lr"]) == [0.01, 0.1, 1.0]
        assert list(frame["metrics.f1"]) == [2, 1, 0]
        assert frame["params.deep"][0] == '{"x":2}'
        assert frame["started"].dt.tz is not None
        assert found[0].name == "run2"
        assert list(found[1:].to_pandas()["name"]) == ["run1", "run0"]
        assert pickle.loads(pickle.dumps(found)).columns() == found.columns()
        models = repo.artifacts(type="model").to_polars()
        assert models["name"].to_list() == ["net"] * 3
        notes = repo.logged("run1").to_arrow()
        assert notes.column("attributes.step").to_pylist() == [1]
        assert "run2" in found._repr_html_()
        assert repo.executions("metrics.f1 > 5").to_polars().is_empty()


def test_a_notebook_obeys_nothing_that_was_recorded() -> None:
    bad = "<script>alert(1)</script>"
    shown = tables.executions([views.Execution(node="n", id="i", scope="a/b", name=bad, params={bad: bad})])
    text = shown._repr_html_()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_notebook_shows_the_beginning_of_a_long_table_and_says_so() -> None:
    rows = [{f"c{number}": number for number in range(30)} for _ in range(70)]
    text = tables.Results(rows, lambda row: row)._repr_html_()
    assert "20 more rows, 10 more columns" in text
    assert text.count("<tr>") == 51


def test_times_that_no_calendar_holds_are_left_out() -> None:
    found = tables.executions([views.Execution(node="n", id="i", scope="a/b", started=2**62)])
    assert found.columns()["started"] == [None]
    assert pl.DataFrame(found.to_polars()).height == 1


def test_without_a_library_that_is_said() -> None:
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "import cmf\nfrom cmf import tables\n"
        "try: tables.executions(()).to_pandas()\n"
        "except cmf.UnsupportedError as error: print(error, error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pandas is not installed" in done.stdout
