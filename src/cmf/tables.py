"""Results as people go on with them: lists that are also tables of pandas, polars and pyarrow, and of a notebook.

None of these libraries is needed until its table is asked for. A column has one type: where values differ in kind, or
are nested, it holds their JSON.
"""

from __future__ import annotations

import datetime as dt
import html
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, SupportsIndex, TypeVar, overload

import msgspec

from cmf.errors import UnsupportedError
from cmf.graph import views
from cmf.model import encoding

T = TypeVar("T")
SHOWN_ROWS_MAX = 50
SHOWN_COLUMNS_MAX = 20
_INT_MAX = (1 << 63) - 1
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Results(list[T], Generic[T]):
    """Some results, in order. Times in its tables are moments in UTC."""

    def __init__(self, found: Iterable[T], row: Callable[[T], Mapping[str, Any]]) -> None:
        super().__init__(found)
        self._row = row

    @overload
    def __getitem__(self, at: SupportsIndex) -> T: ...

    @overload
    def __getitem__(self, at: slice) -> Results[T]: ...

    def __getitem__(self, at: SupportsIndex | slice) -> T | Results[T]:
        """Return one result, or some of them as results."""
        return Results(super().__getitem__(at), self._row) if isinstance(at, slice) else super().__getitem__(at)

    def columns(self) -> dict[str, list[Any]]:
        """Return every column by name, each as long as this list: None where a result has no such value.

        A column holds either booleans, integers, floats, texts or moments.
        """
        rows = [self._row(one) for one in self]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: _of_one_type([row.get(name) for row in rows]) for name in names}

    def to_pandas(self) -> Any:
        """Return a pandas data frame; integers that may lack are ``Int64``, booleans ``boolean``."""
        pandas = library("pandas")
        columns = self.columns()
        kinds = {bool: "boolean", int: "Int64", float: "float64", dt.datetime: "datetime64[us, UTC]"}
        series = {
            name: pandas.Series(values, dtype=kinds.get(_kind(values) or str, "object"))
            for name, values in columns.items()
        }
        return pandas.DataFrame(series, columns=list(columns))

    def to_polars(self) -> Any:
        """Return a polars data frame."""
        polars = library("polars")
        kinds = {
            bool: polars.Boolean,
            int: polars.Int64,
            float: polars.Float64,
            dt.datetime: polars.Datetime("us", "UTC"),
        }
        return polars.DataFrame(
            [
                polars.Series(name, values, dtype=kinds.get(_kind(values) or str, polars.String))
                for name, values in self.columns().items()
            ]
        )

    def to_arrow(self) -> Any:
        """Return a pyarrow table."""
        arrow = library("pyarrow")
        kinds = {
            bool: arrow.bool_(),
            int: arrow.int64(),
            float: arrow.float64(),
            dt.datetime: arrow.timestamp("us", "UTC"),
        }
        return arrow.table(
            {
                name: arrow.array(values, kinds.get(_kind(values) or str, arrow.string()))
                for name, values in self.columns().items()
            }
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the first rows and columns."""
        columns = list(self.columns().items())
        shown = columns[:SHOWN_COLUMNS_MAX]
        head = "".join(f"<th>{html.escape(name)}</th>" for name, _ in shown)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_shown(values[at]))}</td>" for _, values in shown) + "</tr>"
            for at in range(min(len(self), SHOWN_ROWS_MAX))
        )
        more = [
            f"{left} more {what}"
            for left, what in ((len(self) - SHOWN_ROWS_MAX, "rows"), (len(columns) - SHOWN_COLUMNS_MAX, "columns"))
            if left > 0
        ]
        caption = f"<caption>and {', '.join(more)}</caption>" if more else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def executions(found: Iterable[views.Execution]) -> Results[views.Execution]:
    """Return executions as results: parameters and metrics are columns ``params.NAME`` and ``metrics.NAME``."""
    return Results(found, _execution)


def artifacts(found: Iterable[views.Artifact]) -> Results[views.Artifact]:
    """Return artifacts as results."""
    return Results(found, _artifact)


def uses(found: Iterable[views.Use]) -> Results[views.Use]:
    """Return events as results: their attributes are columns ``attributes.NAME``."""
    return Results(found, _use)


def ranks(found: Iterable[views.Rank]) -> Results[views.Rank]:
    """Return processes as results."""
    return Results(found, _rank)


def library(name: str) -> Any:
    """Return a module that is not one of ours to require; `UnsupportedError` if it isn't installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnsupportedError(f"{name} is not installed.", hint=f"pip install {name}", kind="library") from error


def _execution(one: views.Execution) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "scope": one.scope,
        "site": one.site,
        "status": one.status,
        "started": _moment(one.started),
        "duration": one.duration,
        **{f"params.{name}": value for name, value in one.params.items()},
        **{f"metrics.{name}": value for name, value in one.metrics.items()},
    }


def _artifact(one: views.Artifact) -> dict[str, Any]:
    return {"name": one.name, "type": one.type, "size": one.size, "digest": one.digest}


def _rank(one: views.Rank) -> dict[str, Any]:
    return {**msgspec.structs.asdict(one), "ended": _moment(one.ended)}


def _use(one: views.Use) -> dict[str, Any]:
    return {
        "direction": one.direction,
        "path": one.path,
        "name": one.name,
        "type": one.type,
        "role": one.role,
        "size": one.size,
        "digest": one.artifact,
        "time": _moment(one.t),
        **{f"attributes.{name}": value for name, value in one.attributes.items()},
    }


def _moment(us: int | None) -> dt.datetime | None:
    """Return a time in µs as a moment; None for one that no calendar holds: times in records are anybody's."""
    try:
        return None if us is None else _EPOCH + dt.timedelta(microseconds=us)
    except OverflowError:
        return None


def _of_one_type(values: Sequence[Any]) -> list[Any]:
    """Return a column's values as one type: numbers as floats if some are, anything mixed or nested as JSON."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int} and all(value is None or abs(value) <= _INT_MAX for value in values):
        return list(values)
    if kinds <= {int, float}:
        try:
            return [None if value is None else float(value) for value in values]
        except OverflowError:
            pass
    if len(kinds) == 1 and kinds <= {bool, str, dt.datetime}:
        return list(values)
    return [None if value is None else _json(value) for value in values]


def _kind(values: Sequence[Any]) -> type | None:
    return next((type(value) for value in values if value is not None), None)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else encoding.to_json(value, order="sorted").decode()


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dt.datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    text = str(value)
    return text if len(text) <= 80 else text[:79] + "…"
