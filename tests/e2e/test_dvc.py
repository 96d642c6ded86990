"""A DVC repository that real DVC made becomes records: complete, and the same however often it is imported."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from cmf.graph import views
from cmf.repo import Repo, init
from tests import dvc
from tests.commands import cmf, git

COMMITS = 20

# The first of them makes the environment that real DVC is in, and that takes pip minutes on a busy machine.
pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("dvc")]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a repository of three stages and twenty commits."""
    folder = tmp_path_factory.mktemp("dvc") / "detector"
    dvc.history(folder, COMMITS)
    return folder


@pytest.fixture
def repository(history: Path, tmp_path: Path) -> Path:
    """Give a copy that a test may change."""
    return Path(shutil.copytree(history, tmp_path / "detector", symlinks=True))


def changed_stages(folder: Path) -> set[tuple[str, str]]:
    """Return (commit, stage) of each entry of dvc.lock that a commit changed, found without the code under test."""
    from ruamel.yaml import YAML

    found = set()
    before: dict[str, object] = {}
    for commit in git(folder, "rev-list", "--reverse", "HEAD").split():
        after = YAML(typ="safe", pure=True).load(git(folder, "show", f"{commit}:dvc.lock"))["stages"]
        found |= {(commit, stage) for stage, entry in after.items() if before.get(stage) != entry}
        before = after
    return found


def facts(repo: Repo) -> dict[str, object]:
    """Return all that a store's records say."""
    repo.collect()
    return dict(repo.store.dump())


def test_every_changed_stage_of_twenty_commits_is_an_execution(repository: Path) -> None:
    expected = changed_stages(repository)
    with init(repository) as repo:
        done = repo.import_dvc(repository)
        ran = [view for view in repo.executions() if view.stage != "add"]
        added = [view for view in repo.executions() if view.stage == "add"]
        assert {(view.code["commit"], view.name) for view in ran} == expected
        assert len(ran) == len(expected) > 3 * 8
        assert len(added) == 5  # the first version of raw, and those of commits 1, 6, 11 and 16
        assert (done.aliased, done.unnamed, done.problems) == (0, 0, [])
        assert {view.status for view in ran} == {"finished"}


def test_an_execution_has_its_params_metrics_files_and_commit(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD").strip()
    with init(repository) as repo:
        repo.import_dvc(repository)
        newest = {view.name: view for view in reversed(repo.executions())}
        train, evaluate, prepare = newest["train"], newest["evaluate"], newest["prepare"]
        assert train.params == {"train.lr": 0.19}
        assert train.command == ("cat clean/all.csv params.yaml > model.bin",)
        assert evaluate.metrics == {"score.size": (repository / "model.bin").stat().st_size}
        (model,) = train.outputs
        assert model.artifact == "sha256:" + hashlib.sha256((repository / "model.bin").read_bytes()).hexdigest()
        assert (model.path, model.type, model.pointer["path"]) == ("model.bin", "model", "dvc.lock")
        assert model.pointer["commit"] == train.code["commit"] == head
        assert {use.path for use in prepare.inputs} == {"raw", "prepare.py"}
        above = repo.lineage(evaluate.node).ancestors()
        assert [view.name for view in above][:3] == ["train", "prepare", "raw"]


def test_a_folder_is_the_artifact_that_recording_it_here_gives(repository: Path) -> None:
    with init(repository) as repo:
        repo.import_dvc(repository)
        newest = next(view for view in repo.executions() if view.name == "raw")
        assert newest.outputs[0].artifact == repo.files.keep(repository / "raw").digest


def test_importing_twice_or_in_parts_gives_the_same_records(repository: Path, tmp_path: Path) -> None:
    middle = git(repository, "rev-parse", "HEAD~9").strip()
    with init(repository) as repo:
        first = repo.import_dvc(repository)
        whole = facts(repo)
        assert first.records > 0
        assert repo.import_dvc(repository).records == 0
        assert facts(repo) == whole
        repo.import_dvc(repository, revisions=[f"{middle}..HEAD"])
        repo.import_dvc(repository, revisions=[middle])
        assert facts(repo) == whole
    ids = {view.node for view in views_of(repository, tmp_path / "other")}
    with init(repository) as repo:
        assert {view.node for view in repo.executions()} == ids


def views_of(repository: Path, elsewhere: Path) -> list[views.Execution]:
    """Return the executions that another site gets from the same repository, in two parts."""
    elsewhere.mkdir()
    with init(elsewhere) as other:
        other.import_dvc(repository, revisions=["HEAD~9"])
        other.import_dvc(repository, revisions=["HEAD~9..HEAD"])
        return list(other.executions())


def test_without_bytes_a_file_is_known_by_dvcs_hash_and_gets_its_own_when_they_come(repository: Path) -> None:
    cache, away = repository / ".dvc/cache", repository.parent / "away"
    cache.rename(away)
    with init(repository) as repo:
        assert repo.import_dvc(repository).aliased > 0
        train = next(view for view in repo.executions() if view.name == "train")
        (model,) = train.outputs
        md5 = hashlib.md5((repository / "model.bin").read_bytes(), usedforsecurity=False).hexdigest()
        assert json.loads(repo.read(model.artifact)) == {"cmf": "alias", "of": f"md5:{md5}", "v": 1}
        assert f"not known here: an alias of md5:{md5}\n" in cmf(repository, "show", model.artifact).out
        evaluate = next(view for view in repo.executions() if view.name == "evaluate")
        assert "train" in {view.name for view in repo.lineage(evaluate.node).ancestors()}
        away.rename(cache)
        assert repo.import_dvc(repository).aliased == 0
        train = next(view for view in repo.executions() if view.name == "train")
        (model,) = train.outputs
        assert model.artifact == "sha256:" + hashlib.sha256((repository / "model.bin").read_bytes()).hexdigest()


def test_bytes_that_have_gone_since_an_import_are_not_told_as_unknown(repository: Path) -> None:
    with init(repository) as repo:
        repo.import_dvc(repository)
        before = facts(repo)
        shutil.rmtree(repository / ".dvc/cache")
        done = repo.import_dvc(repository)
        assert done.aliased > 0
        assert done.records == 0
        assert facts(repo) == before


def test_a_damaged_or_linked_file_in_the_cache_is_never_taken_for_what_its_name_says(repository: Path) -> None:
    md5 = hashlib.md5((repository / "model.bin").read_bytes(), usedforsecurity=False).hexdigest()
    place = repository / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    place.chmod(0o644)
    place.write_bytes(b"other bytes")
    with init(repository) as repo:
        assert repo.import_dvc(repository, revisions=["HEAD~1..HEAD"]).aliased > 0
        train = next(view for view in repo.executions() if view.name == "train")
        assert train.outputs[0].attributes == {"dvc": f"md5:{md5}", "alias": True}
        place.unlink()
        place.symlink_to(repository / "model.bin")
        assert repo.import_dvc(repository, revisions=["HEAD~1..HEAD"]).aliased > 0


def test_the_command_says_what_it_did_and_copies_bytes_only_if_asked(repository: Path) -> None:
    done = cmf(repository, "import", "dvc", "--json")
    assert done.json["commits"] == COMMITS - 3  # those that change nothing of DVC's tell nothing
    digest = "sha256:" + hashlib.sha256((repository / "model.bin").read_bytes()).hexdigest()
    with init(repository) as repo:
        assert repo.objects.absent([digest]) == [digest]
    assert "0 new records" in cmf(repository, "import", "dvc", "--data").out
    with init(repository) as repo:
        assert repo.read(digest) == (repository / "model.bin").read_bytes()
    assert not git(repository, "status", "--short").replace("?? .cmf/\n", "")
    assert "no DVC repository" in cmf(repository.parent, "import", "dvc", code=3).err
