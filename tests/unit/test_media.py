"""What a script logs beside numbers: texts, images, tables and figures come back, by step, as bytes anyone reads."""

import json
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from PIL import Image

import cmf

mpl.use("Agg")
ROWS = [{"word": "cat", "score": 0.5}, {"word": "dog", "score": None}]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def logged(value: Any) -> tuple[str, str, bytes]:
    """Log one value and return its type, its format and its bytes."""
    with cmf.run("p/train") as run:
        run.log({"it": value}, step=3)
    with cmf.open() as repo:
        assert repo.status().dropped == 0
        (found,) = repo.logged(run.id)
        assert (found.name, found.attributes["step"]) == ("it", 3)
        return found.type, found.attributes["format"], repo.read(found.artifact)


@pytest.mark.parametrize(
    ("array", "pixels"),
    [
        (np.array([[0, 255], [128, 7]], dtype="u1"), [[0, 255], [128, 7]]),
        (np.array([[0.0, 1.0, 2.0, np.nan]]), [[0, 255, 255, 0]]),
        (np.array([[True, False]]), [[255, 0]]),
        (np.arange(24, dtype="i8").reshape(2, 4, 3), np.arange(24).reshape(2, 4, 3)),
        (np.arange(16, dtype="u1").reshape(2, 2, 4), np.arange(16).reshape(2, 2, 4)),
    ],
)
def test_an_array_is_kept_as_an_image_with_the_same_pixels(folder: Path, array: Any, pixels: Any) -> None:
    type_, format_, data = logged(array)
    assert (type_, format_) == ("image", "image/png")
    (folder / "it.png").write_bytes(data)
    read = (plt.imread(folder / "it.png") * 255).round().astype(int)
    assert read.tolist() == np.array(pixels).tolist()


@pytest.mark.parametrize(
    "table",
    [ROWS, pd.DataFrame(ROWS), pl.DataFrame(ROWS), pa.Table.from_pylist(ROWS)],
    ids=lambda t: type(t).__module__,
)
def test_a_table_of_any_kind_is_kept_as_its_rows(table: Any) -> None:
    type_, format_, data = logged(table)
    assert (type_, format_) == ("table", "application/json")
    rows = json.loads(data)
    assert rows == ROWS


def test_a_figure_is_kept_as_it_was_when_it_was_logged() -> None:
    figure, axes = plt.subplots()
    axes.plot([1, 2, 3])
    type_, format_, data = logged(figure)
    plt.close(figure)
    assert (type_, format_) == ("figure", "image/png")
    assert data.startswith(b"\x89PNG")
    type_, format_, data = logged(go.Figure(go.Scatter(y=[1, 2])))
    assert (type_, format_) == ("figure", "application/vnd.plotly.v1+json")
    assert json.loads(data)["data"][0]["type"] == "scatter"


def test_an_image_of_pillow_is_kept_as_png() -> None:
    image = Image.new("RGB", (2, 2), (255, 0, 0))
    type_, format_, data = logged(image)
    assert (type_, format_, data[:4]) == ("image", "image/png", b"\x89PNG")


def test_texts_bytes_and_files_are_kept_as_they_are(folder: Path) -> None:
    assert logged("a prompt, and ✓") == ("text", "text/plain; charset=utf-8", "a prompt, and ✓".encode())
    assert logged(b"\xff\xd8\xff\xe0jpeg")[:2] == ("image", "image/jpeg")
    assert logged(b"\x00\x01")[0] == "file"
    (folder / "heard.wav").write_bytes(b"RIFFWAVE")
    assert logged(folder / "heard.wav") == ("file", "", b"RIFFWAVE")


def test_numbers_and_rich_values_of_one_row_share_its_step_and_come_back_in_order_of_steps() -> None:
    with cmf.run("p/train") as run:
        run.log({"loss": 0.5, "sample": "first", "nothing": None})
        run.log({"loss": 0.4, "sample": "second", "nothing": None})
        run.log({"loss": 0.3, "sample": None, "nothing": None})
        run.log({"sample": "earlier"}, step=-1)
    with cmf.open() as repo:
        found = repo.logged(run.id, "sample")
        assert [(use.attributes["step"], repo.read(use.artifact)) for use in found] == [
            (-1, b"earlier"),
            (0, b"first"),
            (1, b"second"),
        ]
        assert [(point.step, point.value) for point in repo.series(run.id, "loss")] == [(0, 0.5), (1, 0.4), (2, 0.3)]
        assert repo.logged(run.id, "other") == []
        assert repo.status().dropped == 0


class Torn:
    """A figure whose library fails while it is drawn."""

    def savefig(self, file: Any, format: str) -> None:
        raise RuntimeError("no fonts")


@pytest.mark.parametrize("value", [Torn(), np.zeros((2, 2, 7)), np.zeros((0, 4)), Path("gone.png")])
def test_a_value_that_cannot_be_kept_is_counted_and_its_neighbours_are_kept(value: Any) -> None:
    with cmf.run("p/train") as run, pytest.warns(cmf.CmfWarning, match="it at step 0"):
        run.log({"it": value, "loss": 1.0, "said": "hello"})
    with cmf.open() as repo:
        assert [use.name for use in repo.logged(run.id)] == ["said"]
        assert list(repo.series(run.id, "loss").values) == [1.0]
        assert repo.status().dropped == 1


def test_a_frame_of_pandas_keeps_infinities_and_what_it_lacks_is_null() -> None:
    frame = pd.DataFrame({"loss": [math.inf, math.nan], "word": ["cat", None], "n": [1, 2]})
    rows = json.loads(logged(frame)[2])
    assert rows == [{"loss": {"$f": "inf"}, "word": "cat", "n": 1}, {"loss": None, "word": None, "n": 2}]


def test_a_table_keeps_numbers_for_which_json_has_no_word_and_those_of_numpy() -> None:
    row = {"loss": math.inf, "least": -math.inf, "f1": math.nan, "lr": np.float64(0.5), "n": np.int64(3), "none": None}
    (found,) = json.loads(logged([row])[2])
    assert found == {
        "loss": {"$f": "inf"}, "least": {"$f": "-inf"}, "f1": {"$f": "nan"}, "lr": 0.5, "n": 3, "none": None
    }  # fmt: skip
