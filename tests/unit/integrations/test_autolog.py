"""Training of real frameworks, recorded without a line in the script."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import lightgbm
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import xgboost
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cmf
from cmf import integrations
from cmf.graph import views

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 3))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    place = tmp_path / "lab"
    (place / ".cmf").mkdir(parents=True)
    monkeypatch.chdir(place)
    cmf.autolog()
    yield place
    cmf.autolog(disable=True)


def recorded() -> list[views.Execution]:
    with cmf.open() as repo:
        assert repo.status().dropped == 0
        return repo.executions()[::-1]


def only() -> views.Execution:
    (found,) = recorded()
    return found


def model_of(execution: views.Execution) -> tuple[Any, bytes]:
    with cmf.open() as repo:
        (use,) = [use for use in repo.execution(execution.id).outputs if use.type == "model"]
        return use, repo.read(use.artifact)


def test_a_fit_without_a_run_is_a_run_with_parameters_and_the_model() -> None:
    fitted = LogisticRegression(C=0.5).fit(pd.DataFrame(X, columns=["a", "b", "c"]), Y)
    run = only()
    assert run.status == "finished"
    assert run.params["estimator"] == "LogisticRegression"
    assert run.params["C"] == 0.5
    use, data = model_of(run)
    assert (use.name, use.attributes["framework"]) == ("LogisticRegression", "sklearn")
    assert (pickle.loads(data).coef_ == fitted.coef_).all()


def test_fits_go_to_the_run_that_is_open() -> None:
    with cmf.run("lab/train") as run:
        PCA(2).fit_transform(X)
        StandardScaler().fit_transform(X)
    assert only().id == run.id
    assert only().params["n_components"] == 2


def test_only_the_outermost_fit_is_recorded() -> None:
    make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    make_pipeline(StandardScaler(), PCA(2)).fit_transform(X)
    make_pipeline(StandardScaler(), KMeans(2, n_init=1)).fit_predict(X)
    RandomForestClassifier(5, n_jobs=2).fit(X, Y)
    assert [run.params["estimator"] for run in recorded()] == [*["Pipeline"] * 3, "RandomForestClassifier"]


def test_a_search_records_its_best_and_a_table_of_all() -> None:
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2).fit(X, Y)
    run = only()
    assert run.params["best/C"] == search.best_params_["C"]
    assert run.metrics["best_score"] == pytest.approx(search.best_score_)
    with cmf.open() as repo:
        (table,) = repo.logged(run.id, "cv_results")
        assert b'"param_C":0.1' in repo.read(table.artifact)


def test_what_training_gives_and_the_random_state_are_the_same_with_and_without() -> None:
    def results() -> list[bytes]:
        np.random.seed(7)  # noqa: NPY002  # the state that scikit-learn draws from
        forest = RandomForestClassifier(5).fit(X, Y).predict_proba(X)
        boosted = xgboost.train({"subsample": 0.5}, xgboost.DMatrix(X, Y), 5).predict(xgboost.DMatrix(X))
        light = lightgbm.train({"verbose": -1}, lightgbm.Dataset(X, Y), 5).predict(X)
        return [np.asarray(found).tobytes() for found in (forest, boosted, light, np.random.rand(3))]  # noqa: NPY002

    with_it = results()
    assert len(recorded()) == 3
    cmf.autolog(disable=True)
    assert results() == with_it
    assert len(recorded()) == 3


def test_an_error_of_the_framework_is_the_programs_own_and_the_run_has_failed() -> None:
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LogisticRegression().fit(X, Y[:-1])
    assert only().status == "failed"
    LogisticRegression().fit(X, Y)
    assert [run.status for run in recorded()] == ["failed", "finished"]


def test_disabling_puts_every_function_back() -> None:
    cmf.autolog(disable=True)
    before = (LogisticRegression.fit, PCA.fit_transform, xgboost.train, lightgbm.train, list(sys.meta_path))
    cmf.autolog()
    cmf.autolog()
    assert LogisticRegression.fit is not before[0]
    assert xgboost.train is not before[2]
    cmf.autolog(disable=True)
    after = (LogisticRegression.fit, PCA.fit_transform, xgboost.train, lightgbm.train, list(sys.meta_path))
    assert after == before
    assert "__init_subclass__" not in vars(BaseEstimator)


def test_estimators_are_cloned_pickled_and_fitted_in_workers_as_ever() -> None:
    cmf.autolog(models=False)  # an object of a local class has no pickle

    class Own(BaseEstimator):  # type: ignore[misc]
        def fit(self, X: Any, y: Any) -> "Own":  # noqa: N803
            self.sum_ = y.sum()
            return self

    assert clone(Own()).fit(X, Y).sum_ == Y.sum()
    pickle.loads(pickle.dumps(LogisticRegression().fit(X, Y)))
    joblib.wrap_non_picklable_objects(Own())
    cmf_runs = len(recorded())
    (found,) = joblib.Parallel(n_jobs=2)([joblib.delayed(_fit_elsewhere)(Own())])
    assert found == Y.sum()
    assert len(recorded()) == cmf_runs == 2


def _fit_elsewhere(estimator: Any) -> int:
    return int(estimator.fit(X, Y).sum_)


@pytest.mark.parametrize("sklearn_api", [False, True])
def test_xgboost_tells_each_iteration_and_keeps_the_model(sklearn_api: bool) -> None:
    if sklearn_api:
        trained = xgboost.XGBClassifier(n_estimators=4, eval_metric="logloss", max_depth=2)
        trained.fit(X, Y, eval_set=[(X, Y)], verbose=False)
        history = trained.evals_result()["validation_0"]["logloss"]
    else:
        history = {}
        data = xgboost.DMatrix(X, Y)
        told = {"max_depth": 2, "objective": "binary:logistic", "eval_metric": "logloss"}
        xgboost.train(told, data, 4, evals=[(data, "train")], evals_result=history, verbose_eval=False)
        history = history["train"]["logloss"]
    run = only()
    assert (run.params["max_depth"], run.params["num_boost_round"]) == (2, 4)
    with cmf.open() as repo:
        points = repo.series(run.id, "validation_0/logloss" if sklearn_api else "train/logloss")
        assert [(point.step, point.value) for point in points] == list(enumerate(history))
    use, data = model_of(run)
    assert use.attributes["format"] == "ubj"
    assert xgboost.Booster(model_file=bytearray(data)).num_boosted_rounds() == 4


@pytest.mark.parametrize("sklearn_api", [False, True])
def test_lightgbm_tells_each_iteration_and_keeps_the_model(sklearn_api: bool) -> None:
    if sklearn_api:
        lightgbm.LGBMClassifier(n_estimators=4, num_leaves=3, verbose=-1).fit(X, Y, eval_X=X, eval_y=Y)
    else:
        data = lightgbm.Dataset(X, Y)
        other = lightgbm.Dataset(X[::-1], Y[::-1], reference=data)
        told = {"objective": "binary", "num_leaves": 3, "verbose": -1}
        lightgbm.train(told, data, 4, valid_sets=[data, other], callbacks=[lightgbm.early_stopping(2, verbose=False)])
    run = only()
    assert run.params["num_leaves"] == 3
    with cmf.open() as repo:
        points = list(repo.series(run.id, "valid_0/binary_logloss" if sklearn_api else "training/binary_logloss"))
        assert [point.step for point in points] == [0, 1, 2, 3]
    _, data = model_of(run)
    assert lightgbm.Booster(model_str=data.decode()).num_trees() == 4


def test_callbacks_of_lightgbm_that_are_given_by_position_are_called_and_ours_beside_them() -> None:
    data, seen = lightgbm.Dataset(pd.DataFrame(X, columns=["a", "b", "c"]), Y), []
    told = {"objective": "binary", "verbose": -1}
    lightgbm.train(told, data, 3, [data], None, None, None, False, [lambda env: seen.append(env.iteration)])
    run = only()
    assert seen == [0, 1, 2]
    assert run.params["num_boost_round"] == 3
    with cmf.open() as repo:
        assert len(list(repo.series(run.id, "training/binary_logloss"))) == 3


@pytest.mark.parametrize("framework", ["sklearn", "xgboost", "lightgbm"])
def test_the_shape_and_columns_of_the_data_are_told(framework: str) -> None:
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    if framework == "sklearn":
        LogisticRegression().fit(frame, Y)
    elif framework == "xgboost":
        xgboost.train({}, xgboost.DMatrix(frame, Y), 1)
    else:
        lightgbm.train({"verbose": -1}, lightgbm.Dataset(frame, Y, free_raw_data=False), 1)
    told = only().properties["data/X" if framework == "sklearn" else "data/train"]
    assert told["shape"] == [60, 3]
    if framework != "xgboost":  # its matrix is its own type
        assert told["columns"] == ["a", "b", "c"]


def test_a_fit_that_no_run_can_be_made_for_goes_on_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMF_RANK", "none")
    with pytest.warns(cmf.CmfWarning, match="a fit is not recorded"):
        fitted = LogisticRegression().fit(X, Y)
    assert fitted.coef_.shape == (1, 3)


def test_a_framework_that_is_imported_later_is_recorded_and_its_loader_is_its_own(folder: Path) -> None:
    code = """
import sys, cmf
cmf.autolog()
assert not {"sklearn", "xgboost", "lightgbm"} & set(sys.modules)
import sklearn
assert "exec_module" not in vars(sklearn.__spec__.loader)
from sklearn.dummy import DummyClassifier
DummyClassifier().fit([[0], [1]], [0, 1])
"""
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    assert only().params["estimator"] == "DummyClassifier"


@pytest.mark.parametrize("framework", integrations.FRAMEWORKS)
def test_a_framework_is_one_file_of_less_than_100_lines(framework: str) -> None:
    file = Path(integrations.__file__).with_name(f"{framework}.py")
    assert len(file.read_text().splitlines()) < 100
