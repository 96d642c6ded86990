"""LightGBM: every `lightgbm.train`, also that of its scikit-learn estimators."""

from __future__ import annotations

import sys
from typing import Any

from cmf.integrations import fitting


def install(patches: fitting.Patches) -> None:
    """Replace `train` in every module of LightGBM that holds it."""
    import lightgbm

    train = lightgbm.train
    stand_in = fitting.recorded(train, _begin, _end, by_name=True)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "lightgbm" and getattr(module, "train", None) is train:
            patches.set(module, "train", stand_in)


def _begin(fit: fitting.Fit, _: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    def telling(environment: Any) -> None:
        fit.safely(_log, environment)

    telling.order = 25  # type: ignore[attr-defined]  # before early stopping (30), which ends an iteration by raising
    fit.params(kwargs.get("params", {}))
    fit.params({"num_boost_round": kwargs.get("num_boost_round", 100)})
    raw = getattr(kwargs.get("train_set"), "data", None)
    if hasattr(raw, "shape"):
        fit.data("train", raw)
    return {**kwargs, "callbacks": [*(kwargs.get("callbacks") or []), telling]}


def _log(fit: fitting.Fit, environment: Any) -> None:
    row = {f"{found[0]}/{found[1]}": float(found[2]) for found in environment.evaluation_result_list or ()}
    if row:
        fit.run.log(row, step=environment.iteration)


def _end(fit: fitting.Fit, _: tuple[Any, ...], booster: Any) -> None:
    import lightgbm

    fit.model(
        type(booster).__name__,
        lambda: str(booster.model_to_string()).encode(),
        framework="lightgbm",
        version=lightgbm.__version__,
        format="text",
    )
