"""What a script says about its run and the machine says about the script; and what becomes of a mistake in it."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cmf
from cmf.objects import manifest
from tests.commands import git, script
from tests.commands import run as run_command


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Iterator[cmf.Run]:
    """Give a run that ends with the test, however the test ends."""
    run = cmf.run("p/train")
    yield run
    run.finish()


def recorded(run: cmf.Run) -> Any:
    """Return what was recorded of a run so far."""
    with cmf.open() as repo:
        return repo.execution(run.id)


def dropped() -> int:
    with cmf.open() as repo:
        return repo.status().dropped


# ---- values ------------------------------------------------------------------------------------------------------


def test_a_metric_recorded_twice_is_the_later_one_and_the_history_keeps_both(run: cmf.Run) -> None:
    run.metrics({"f1": 0.5, "n": 1})
    run.metrics({"f1": 0.25}, n=2)
    assert recorded(run).metrics == {"f1": 0.25, "n": 2}
    with cmf.open() as repo:
        writes = [(write.key, write.value) for write in repo.history(run.id) if write.key.startswith("metric/")]
    assert sorted(writes) == [("metric/f1", 0.25), ("metric/f1", 0.5), ("metric/n", 1), ("metric/n", 2)]
    assert [value for key, value in writes if key == "metric/f1"] == [0.25, 0.5], "newest first"


def test_a_property_set_twice_is_the_later_one_and_unset_by_none(run: cmf.Run) -> None:
    run.set("description", "first")
    run.set("description", "second")
    run.set("tag/gone", True)
    run.set("tag/gone", None)
    found = recorded(run).properties
    assert found["description"] == "second"
    assert found.get("tag/gone") is None
    with cmf.open() as repo:
        writes = [write.value for write in repo.history(run.id) if write.key == "description"]
    assert writes == ["second", "first"]


def test_a_parameter_set_later_beats_the_one_it_was_born_with() -> None:
    with cmf.run("p/a", params={"lr": 0.1, "seed": 1}) as run:
        run.set("param/lr", 0.2)
    assert recorded(run).params == {"lr": 0.2, "seed": 1}


def test_values_of_every_shape_come_back(run: cmf.Run) -> None:
    value = {"text": "ä\x00", "list": [1, 2.5, None, True], "deep": {"a": {"$b": "mine"}}, "big": 2**70}
    run.set("note", value)
    found = recorded(run).properties["note"]
    assert found["text"] == value["text"]
    assert found["list"] == value["list"]
    assert dropped() == 0


def test_a_label_moves_to_the_run_that_set_it_last(folder: Path) -> None:
    runs = []
    for text in ("first", "second"):
        (folder / "model.bin").write_text(text * 50)
        with cmf.run("p/train") as run:
            run.output("model.bin", name="model")
            run.label("best")
        runs.append(run)
    with cmf.open() as repo:
        assert repo.execution("model@best").id == runs[1].id
    runs[0].label("best")
    with cmf.open() as repo:
        assert repo.execution("model@best").id == runs[0].id, "a run may say more after its end"


def test_a_label_names_the_output_that_is_asked_for(folder: Path, run: cmf.Run) -> None:
    for name in ("model", "report"):
        (folder / name).write_text(name * 50)
        run.output(name, name=name)
    run.label("good", "model")
    run.label("last")
    with cmf.open() as repo:
        made = {use.name: use.artifact for use in repo.execution(run.id).outputs}
        assert repo.resolve("model@good").node == f"artifact:{made['model']}"
        assert repo.resolve("report@last").node == f"artifact:{made['report']}"


def test_a_link_between_two_nodes_is_one_record() -> None:
    with cmf.run("p/first") as first, cmf.run("p/second") as second, cmf.open() as repo:
        first._description.record()
        second._description.record()  # not meanwhile, in the background
        before = repo.status().counts["pending"]
        second.link(second.node, "derived_from", first.node)
        assert repo.status().counts["pending"] == before + 1
        assert repo.status().dropped == 0


def test_parameters_that_are_large_are_kept_as_an_object() -> None:
    params = {f"layer{number}": [number] * 20 for number in range(1000)}
    with cmf.run("p/a", params=params) as run:
        pass
    found = recorded(run).params
    assert list(found) == ["$object"]
    with cmf.open() as repo:
        assert json.loads(repo.read(found["$object"])) == params
    assert dropped() == 0


def test_parameters_that_are_small_are_kept_as_they_are() -> None:
    params = {"lr": 1e-3, "name": "x" * 20_000, "nested": {"a": [1, 2]}}
    with cmf.run("p/a", params=params) as run:
        pass
    assert recorded(run).params == params


def test_a_command_of_very_many_words_is_cut_and_costs_nothing_else(folder: Path) -> None:
    (folder / "train.py").write_text("import cmf\nwith cmf.run('p/a', params={'lr': 1}) as run: run.metrics(f1=0.5)\n")
    words = [f"data/part-{number:05}.parquet" for number in range(4000)]
    run_command([sys.executable, "train.py", *words], folder)
    with cmf.open() as repo:
        (found,) = repo.executions()
        assert (found.status, found.params, found.metrics) == ("finished", {"lr": 1}, {"f1": 0.5})
        assert found.command[:2] == ("train.py", words[0])
        assert found.environment


# ---- mistakes ----------------------------------------------------------------------------------------------------

START = {
    "a scope of one odd part": lambda: cmf.run("no/../scope"),
    "a scope that is no text": lambda: cmf.run(5),  # type: ignore[arg-type]
    "params that are no dict": lambda: cmf.run("p/a", params=[1]),  # type: ignore[arg-type]
    "params with odd keys": lambda: cmf.run("p/a", params={(1, 2): 3}),  # type: ignore[dict-item]
    "a name that is no text": lambda: cmf.run("p/a", name=5),  # type: ignore[arg-type]
    "a name that is too long": lambda: cmf.run("p/a", name="x" * 100_000),
    "an author that is no text": lambda: cmf.run("p/a", author=5),  # type: ignore[arg-type]
    "a parent that is no node": lambda: cmf.run("p/a", parent="the other one"),
    "a rank below zero": lambda: cmf.run("p/a", rank=-1),
}


@pytest.mark.parametrize("mistake", START.values(), ids=START)
def test_a_run_that_cannot_be_is_refused_before_it_starts(folder: Path, mistake: Callable[[], cmf.Run]) -> None:
    with pytest.raises(cmf.UsageError):
        mistake()
    with cmf.run("p/a", name="good"):
        pass
    with cmf.open() as repo:
        assert [view.name for view in repo.executions()] == ["good"]
        assert repo.status().problems == []


def test_an_input_or_output_that_is_not_there_is_not_found(run: cmf.Run) -> None:
    with pytest.raises(cmf.NotFoundError):
        run.input("nowhere.csv")
    with pytest.raises(cmf.NotFoundError):
        run.output("nowhere.bin", name="model")
    assert (recorded(run).inputs, recorded(run).outputs) == ((), ())


@pytest.mark.parametrize("said", [{"name": 5}, {"type": None}, {"role": ["a"]}, {"name": "x" * 201}])
def test_an_input_or_output_that_cannot_be_described_is_refused(
    folder: Path, run: cmf.Run, said: dict[str, Any]
) -> None:
    (folder / "data.csv").write_text("1,2\n" * 50)
    for use in (run.input, run.output):
        with pytest.raises(cmf.UsageError):
            use("data.csv", **said)


def test_an_attribute_whose_keys_are_no_text_is_refused(folder: Path, run: cmf.Run) -> None:
    (folder / "data.csv").write_text("1,2\n" * 50)
    with pytest.raises(cmf.UsageError):
        run.input("data.csv", columns={(1, 2): "a"})


COUNTED: dict[str, Callable[[Any], object]] = {
    "metrics of a number": lambda run: run.metrics(5),
    "metrics of a list": lambda run: run.metrics([1]),
    "a metric of odd keys": lambda run: run.metrics({"a": {(1, 2): 3}}),
    "a metric's name that is too long": lambda run: run.metrics({"x" * 10_000: 1}),
    "a metric too large to record": lambda run: run.metrics({"a": ["x" * 100] * 1000}),
    "a key that is no text": lambda run: run.set(5, "x"),
    "an empty key": lambda run: run.set("", "x"),
    "a status": lambda run: run.set("status/1-aaaaaaaa/0", {"status": "finished"}),
    "a retraction": lambda run: run.set("retracted", True),
    "a key that is too long": lambda run: run.set("x" * 10_000, "x"),
    "a value with odd keys": lambda run: run.set("note", {(1, 2): "x"}),
    "a value too large to record": lambda run: run.set("note", "x" * 100_000),
    "a label of no output": lambda run: run.label("best"),
    "a label of another name": lambda run: run.label("best", "other"),
    "a label that is no text": lambda run: run.label(None),
    "a link of no nodes": lambda run: run.link("a", "derived_from", "b"),
    "a link of no known relation": lambda run: run.link(run.node, "likes", run.node),
    "a link that is no text": lambda run: run.link(run.node, "derived_from", None),
}


@pytest.mark.parametrize("mistake", COUNTED.values(), ids=COUNTED)
def test_a_mistake_while_it_runs_is_counted_and_never_raised(run: cmf.Run, mistake: Callable[[Any], object]) -> None:
    with pytest.warns(cmf.CmfWarning, match="cmf status"):
        mistake(run)
    run.metrics(f1=0.5)
    run.finish()
    found = recorded(run)
    assert (found.status, found.metrics) == ("finished", {"f1": 0.5})
    assert dropped() == 1


TEXTS: dict[str, Callable[[Any], object]] = {
    "a key": lambda run: run.set("tag/\udcff", 1),
    "a value": lambda run: run.set("tag/a", "\udcff"),
    "a metric": lambda run: run.metrics({"\udcff": 1}),
    "a label": lambda run: run.label("\udcff"),
}


@pytest.mark.filterwarnings("ignore::cmf.CmfWarning")
@pytest.mark.parametrize("said", TEXTS.values(), ids=TEXTS)
def test_text_that_is_no_unicode_never_breaks_the_program(
    folder: Path, run: cmf.Run, said: Callable[[Any], object]
) -> None:
    (folder / "model.bin").write_text("weights" * 20)
    run.output("model.bin", name="model")
    said(run)
    run.finish()
    assert recorded(run).status == "finished"
    with cmf.open() as repo:
        assert repo.status().problems == []


def test_one_warning_stands_for_all_and_status_counts_them(tmp_path: Path) -> None:
    text = "import cmf\nwith cmf.run('p/a') as run:\n    for n in range(5): run.label('best')\n    run.log({})\n"
    done = script(tmp_path, text)
    assert done.err.count("CmfWarning") == 1
    assert dropped() == 6


# ---- code and environment ----------------------------------------------------------------------------------------


def repository(folder: Path, url: str = "") -> Path:
    folder.mkdir()
    git(folder, "init", "-q")
    if url:
        git(folder, "remote", "add", "origin", url)
    (folder / "train.py").write_text("rate = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_dirty_tree_is_kept_as_a_diff_and_the_files_git_does_not_know(folder: Path) -> None:
    repo_folder = repository(folder / "repo")
    (repo_folder / "train.py").write_text("rate = 2\n")
    (repo_folder / "notes").mkdir()
    (repo_folder / "notes" / "new.txt").write_text("untracked\n")
    script(repo_folder, "import cmf\ncmf.run('p/a').finish()")
    with cmf.open(repo_folder) as repo:
        (found,) = repo.executions()
        assert found.code["commit"] == git(repo_folder, "rev-parse", "HEAD").strip()
        assert (found.code["branch"], found.code["dirty"]) == ("main", True)
        diff = repo.read(found.code["diff"]["$object"]).decode()
        assert "-rate = 1\n+rate = 2\n" in diff
        (entry,) = manifest.decode(repo.read(found.code["untracked"]["$object"]))
        assert entry.path == "notes/new.txt"
        assert repo.read(entry.digest) == b"untracked\n"


def test_a_clean_tree_has_neither(folder: Path) -> None:
    repo_folder = repository(folder / "repo")
    script(repo_folder, "import cmf\ncmf.run('p/a').finish()")
    with cmf.open(repo_folder) as repo:
        (found,) = repo.executions()
    assert not found.code.get("dirty")
    assert "diff" not in found.code
    assert "untracked" not in found.code


def test_a_commit_between_two_runs_of_one_program_is_seen(folder: Path) -> None:
    repo_folder = repository(folder / "repo")
    text = (
        "import cmf, subprocess\n"
        "cmf.run('p/a').finish()\n"
        "subprocess.run(['git', 'commit', '-q', '--allow-empty', '-m', 'second'], check=True)\n"
        "cmf.run('p/b').finish()\n"
    )
    script(repo_folder, text)
    with cmf.open(repo_folder) as repo:
        commits = {view.stage: view.code["commit"] for view in repo.executions()}
    assert commits == {
        "a": git(repo_folder, "rev-parse", "HEAD~1").strip(),
        "b": git(repo_folder, "rev-parse", "HEAD").strip(),
    }


@pytest.mark.parametrize(
    "url", ["https://ada:s3cret@example.org/team/repo.git", "https://s3cret@example.org/team/repo.git?token=s3cret"]
)
def test_no_secret_of_a_remotes_address_is_recorded(folder: Path, url: str) -> None:
    repo_folder = repository(folder / "repo", url)
    (repo_folder / "train.py").write_text("rate = 2\n")
    script(repo_folder, "import cmf\ncmf.run('p/a').finish()")
    with cmf.open(repo_folder) as repo:
        (found,) = repo.executions()
        assert found.code["repository"] == "https://example.org/team/repo.git"
    held = [path for path in (repo_folder / ".cmf").rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert held == []


def test_no_variable_that_is_not_on_the_list_is_recorded(folder: Path) -> None:
    env = {"AWS_SECRET_ACCESS_KEY": "s3cret", "SLURM_JOB_ID": "4711"}
    script(folder, "import cmf\ncmf.run('p/a').finish()", env=env)
    with cmf.open() as repo:
        (found,) = repo.executions()
    assert found.process["scheduler"] == {"kind": "slurm", "job": "4711"}
    held = [path for path in (folder / ".cmf").rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert held == []


def test_runs_in_one_environment_share_one_object(folder: Path) -> None:
    text = "import cmf\nfor number in range(3): cmf.run('p/a').finish()\n"
    for _ in range(2):
        script(folder, text)
    with cmf.open() as repo:
        found = repo.executions()
        assert len(found) == 6
        (environment,) = {view.environment for view in found}
        assert "msgspec" in json.loads(repo.read(environment))["packages"]
        (machine,) = {view.process["machine"]["$object"] for view in found}
        assert {digest for digest, _ in repo.objects.list()} == {environment, machine}


def test_a_name_that_is_too_long_costs_a_row_that_name_alone(folder: Path) -> None:
    row = "{'loss': 1.0, 'note': 'text', 'x' * 600: 2.0, 'y' * 513: 3.0}"
    script(folder, f"import cmf\nwith cmf.run('p/a') as run: run.log({row}, step=7)")
    with cmf.open(folder) as repo:
        (found,) = repo.executions()
        assert [(step, value) for step, _, value in repo.series(found, "loss")] == [(7, 1.0)]
        assert len(repo.logged(found)) == 1
    assert dropped() == 2
