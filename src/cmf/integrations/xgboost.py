"""XGBoost: every `xgboost.train`, also that of its scikit-learn estimators."""

from __future__ import annotations

import sys
from typing import Any

from cmf.integrations import fitting


def install(patches: fitting.Patches) -> None:
    """Replace `train` in every module of XGBoost that holds it."""
    import xgboost

    train = xgboost.train
    stand_in = fitting.recorded(train, _begin, _end, by_name=True)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "xgboost" and getattr(module, "train", None) is train:
            patches.set(module, "train", stand_in)


def _begin(fit: fitting.Fit, _: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    from xgboost.callback import TrainingCallback

    class Telling(TrainingCallback):  # type: ignore[misc]  # no types are installed for it
        """Logs the newest value of each metric; never stops the training."""

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            fit.safely(_log, epoch, evals_log)
            return False

    fit.params(kwargs.get("params", {}))
    fit.params({"num_boost_round": kwargs.get("num_boost_round", 10)})
    changed = {**kwargs, "callbacks": [Telling(), *(kwargs.get("callbacks") or [])]}  # one that stops is the last
    data = kwargs.get("dtrain")
    if data is not None:
        fit.run.set("data/train", {"type": type(data).__name__, "shape": [data.num_row(), data.num_col()]})
    return changed


def _log(fit: fitting.Fit, epoch: int, evals: Any) -> None:
    row = {f"{data}/{name}": float(values[-1]) for data, of in evals.items() for name, values in of.items()}
    if row:
        fit.run.log(row, step=epoch)


def _end(fit: fitting.Fit, _: tuple[Any, ...], booster: Any) -> None:
    import xgboost

    fit.model(
        type(booster).__name__,
        lambda: bytes(booster.save_raw(raw_format="ubj")),
        framework="xgboost",
        version=xgboost.__version__,
        format="ubj",
    )
