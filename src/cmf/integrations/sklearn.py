"""scikit-learn: the outermost `fit` of any estimator; those inside it are a part of it."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

from cmf.integrations import fitting

METHODS = ("fit", "fit_predict", "fit_transform")
ELSEWHERE = ("xgboost", "lightgbm")
"""Packages whose estimators call a `train` that is recorded by itself; the encoders they fit are their own."""


def install(patches: fitting.Patches) -> None:
    """Replace the fit methods of every estimator class, of those defined later as well."""
    from sklearn.base import BaseEstimator

    seen, waiting = {BaseEstimator}, [BaseEstimator]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            if kind not in seen:
                seen.add(kind)
                waiting.append(kind)
                _replace(patches, kind)

    def __init_subclass__(cls: Any, /, **kwargs: Any) -> None:  # noqa: N807  # it becomes that method
        super(BaseEstimator, cls).__init_subclass__(**kwargs)
        _replace(patches, cls)

    patches.set(BaseEstimator, "__init_subclass__", classmethod(__init_subclass__))


def _replace(patches: fitting.Patches, kind: Any) -> None:
    if kind.__module__.partition(".")[0] in ELSEWHERE:
        return
    for name in METHODS:
        method = vars(kind).get(name)
        if inspect.isfunction(method):
            patches.set(kind, name, fitting.recorded(method, _begin, _end, not_from=ELSEWHERE))
        elif inspect.isfunction(getattr(method, "fn", None)):  # a method that some objects of the class have
            patches.set(method, "fn", fitting.recorded(method.fn, _begin, _end, not_from=ELSEWHERE))


def _begin(fit: fitting.Fit, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    estimator = args[0]
    fit.params({"estimator": type(estimator).__name__, **estimator.get_params(deep=True)})
    given = dict(zip(("X", "y"), args[1:], strict=False)) | kwargs
    for name in ("X", "y"):
        if hasattr(given.get(name), "__len__") or hasattr(given.get(name), "shape"):
            fit.data(name, given[name])


def _end(fit: fitting.Fit, args: tuple[Any, ...], _: Any) -> None:
    import sklearn

    estimator = args[0]
    if isinstance(best := getattr(estimator, "best_params_", None), dict):
        fit.params({f"best/{name}": value for name, value in best.items()})
    if (score := getattr(estimator, "best_score_", None)) is not None:
        fit.run.metrics(best_score=float(score))
    if isinstance(table := getattr(estimator, "cv_results_", None), dict):
        columns = {name: getattr(values, "tolist", lambda values=values: values)() for name, values in table.items()}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        fit.run.log({"cv_results": rows})
    fit.model(
        type(estimator).__name__,
        lambda: pickle.dumps(estimator),
        framework="sklearn",
        version=sklearn.__version__,
        format="pickle",
        note="Loading a pickle runs code: load only what you trust.",
    )
