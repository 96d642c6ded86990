"""Processes that a launcher started together write one execution; what is shared, and what is not, is found out here.

Each test starts real processes with the environment that a launcher gives them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cmf
from cmf import launch
from cmf.errors import NotFoundError, UsageError
from cmf.graph import views

TRAIN = """
import cmf, json, os, sys
with cmf.run("team/train") as run:
    run.metrics({f"seen{run.rank}": 1})
    run.log({"loss": float(run.rank)})
print(json.dumps([run.id, run.attempt, run.rank]))
"""
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_CLUSTER_NAME": "big",
    "SLURM_SUBMIT_DIR": "/home/ada/work",
    "SLURM_JOB_START_TIME": "1764000000",
}
TORCHRUN = {
    "WORLD_SIZE": "3",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "100",
    "TORCHELASTIC_RESTART_COUNT": "0",
}


def started(folder: Path, env: dict[str, str], text: str = TRAIN) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text], cwd=folder, env=os.environ | env, text=True, stdout=subprocess.PIPE
    )


def said(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    id_, attempt, rank = json.loads(out.splitlines()[-1])
    return id_, attempt, rank


def ranks(folder: Path, env: dict[str, str], name: str, count: int = 3) -> list[tuple[str, str, int]]:
    """Run a script as ranks, the last one first, and return what each wrote."""
    made = [started(folder, env | {name: str(rank)}) for rank in reversed(range(count))]
    return [said(process) for process in reversed(made)]


def executions(folder: Path) -> list[views.Execution]:
    with cmf.open(folder) as repo:
        return list(repo.executions())


@pytest.mark.parametrize(
    ("env", "name"),
    [
        (SLURM, "SLURM_PROCID"),
        (TORCHRUN, "RANK"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, "RANK"),
        ({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "3"}, "OMPI_COMM_WORLD_RANK"),
        ({"PMI_SIZE": "3", "MPI_LOCALNRANKS": "3"}, "PMI_RANK"),
        ({"CMF_EXECUTION": "0192f0c1-2d3e-8f4a-8b5c-6d7e8f901234"}, "CMF_RANK"),
        ({}, "CMF_RANK"),
    ],
    ids=["srun", "torchrun on several hosts", "torchrun on one host", "mpirun", "mpiexec", "CMF_EXECUTION", "CMF_RANK"],
)
def test_the_ranks_of_a_launch_write_one_attempt_of_one_execution(
    tmp_path: Path, env: dict[str, str], name: str
) -> None:
    wrote = ranks(tmp_path, env, name)
    assert len({(id_, attempt) for id_, attempt, _ in wrote}) == 1
    assert [rank for _, _, rank in wrote] == [0, 1, 2]
    (view,) = executions(tmp_path)
    assert (view.status, view.conflict, view.attempts) == ("finished", False, (wrote[0][1],))
    assert {f"seen{rank}" for rank in range(3)} <= set(view.metrics)
    with cmf.open(tmp_path) as repo:
        assert [list(repo.series(view, "loss", rank=rank).values) for rank in range(3)] == [[0.0], [1.0], [2.0]]


@pytest.mark.parametrize(
    ("env", "name", "again"),
    [
        (SLURM, "SLURM_PROCID", {"SLURM_RESTART_COUNT": "1", "SLURM_JOB_START_TIME": "1764009999"}),
        (TORCHRUN, "RANK", {"TORCHELASTIC_RESTART_COUNT": "1", "MASTER_PORT": "40001"}),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, "RANK", {"TORCHELASTIC_RESTART_COUNT": "1"}),
    ],
    ids=["a job queued again", "workers on several hosts", "workers on one host"],
)
def test_work_that_its_launcher_starts_again_is_a_new_attempt(
    tmp_path: Path, env: dict[str, str], name: str, again: dict[str, str]
) -> None:
    first = ranks(tmp_path, env, name)
    second = ranks(tmp_path, env | again, name)
    assert {id_ for id_, _, _ in first} == {id_ for id_, _, _ in second}
    (view,) = executions(tmp_path)
    assert view.attempts == (first[0][1], second[0][1])
    assert [attempt.partition("-")[0] for attempt in view.attempts] == ["1", "2"]
    assert not view.conflict


def test_what_a_rank_starts_is_not_taken_for_that_rank(tmp_path: Path) -> None:
    env = SLURM | {"SLURM_PROCID": "0"}
    first, second = said(started(tmp_path, env)), said(started(tmp_path, env))
    assert first[0] != second[0]
    assert len(executions(tmp_path)) == 2


def test_the_runs_of_a_rank_one_after_the_other_are_shared_one_by_one(tmp_path: Path) -> None:
    text = 'import cmf, json\nfor _ in range(2):\n    with cmf.run("team/train") as run: pass\n    print(run.id)'
    made = [started(tmp_path, SLURM | {"SLURM_PROCID": str(rank)}, text) for rank in range(2)]
    ids = [process.communicate(timeout=60)[0].split() for process in made]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2
    assert len(executions(tmp_path)) == 2


def test_another_launch_of_the_same_name_is_another_execution(tmp_path: Path) -> None:
    # What the first one published is made as old as if its rank 0 had ended long before the second began.
    first = ranks(tmp_path, TORCHRUN, "RANK", 1)
    for path in (tmp_path / ".cmf/launch").iterdir():
        held = json.loads(path.read_bytes())
        held["launcher"][2] = "1"
        path.write_text(json.dumps(held | {"t": held["t"] - 3_600_000_000}))
    second = ranks(tmp_path, TORCHRUN, "RANK")
    assert first[0][0] != second[0][0]
    assert len({id_ for id_, _, _ in second}) == 1
    assert sorted(len(view.attempts) for view in executions(tmp_path)) == [1, 1]


def test_a_rank_that_rank_0_leaves_alone_records_its_own_execution_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "WAIT_SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)
    for name, value in (TORCHRUN | {"RANK": "2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning, match="rank 2 found nothing that rank 0 published"), cmf.run("team/train") as run:
        run.log({"loss": 1.0})
    (view,) = executions(tmp_path)
    assert (view.id, view.status, run.rank) == (run.id, "finished", 0)
    with cmf.open(tmp_path) as repo:
        assert repo.status().dropped == 1


def test_a_launch_folder_that_cannot_be_written_stops_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".cmf").mkdir()
    (tmp_path / ".cmf/launch").write_text("in the way")
    monkeypatch.chdir(tmp_path)
    for name, value in (SLURM | {"SLURM_PROCID": "1"}).items():
        monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning, match="cannot be written"), cmf.run("team/train"):
        pass
    assert [view.status for view in executions(tmp_path)] == ["finished"]


def test_resuming_at_the_same_moment_gives_each_its_own_attempt(tmp_path: Path) -> None:
    id_, first, _ = said(started(tmp_path, {}))
    text = TRAIN.replace('cmf.run("team/train")', f'cmf.run(resume="{id_}")')
    again = [said(process) for process in [started(tmp_path, {}, text) for _ in range(4)]]
    attempts = {attempt for _, attempt, _ in again}
    assert len(attempts) == 4
    (view,) = executions(tmp_path)
    assert (view.id, view.status, view.conflict) == (id_, "finished", False)
    assert set(view.attempts) == attempts | {first}


def test_ranks_that_resume_together_share_the_new_attempt(tmp_path: Path) -> None:
    id_, first, _ = said(started(tmp_path, {}))
    text = TRAIN.replace('cmf.run("team/train")', f'cmf.run(resume="{id_}")')
    made = [started(tmp_path, SLURM | {"SLURM_PROCID": str(rank)}, text) for rank in range(3)]
    assert {said(process)[:2] for process in made} == {(id_, executions(tmp_path)[0].attempts[-1])}
    (view,) = executions(tmp_path)
    assert len(view.attempts) == 2
    assert view.attempts[0] == first


def test_what_is_not_here_cannot_be_resumed_by_any_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMF_RANK", "3")
    with pytest.raises(NotFoundError):
        cmf.run(resume="0192f0c1-2d3e-8f4a-8b5c-6d7e8f901234")


def test_an_execution_that_is_no_uuid_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMF_EXECUTION", "mine")
    with pytest.raises(UsageError, match="CMF_EXECUTION"):
        cmf.run("team/train")


def test_what_processes_agreed_on_is_forgotten_after_a_month(tmp_path: Path) -> None:
    ranks(tmp_path, SLURM, "SLURM_PROCID", 2)
    kept, old, *_ = sorted((tmp_path / ".cmf/launch").iterdir())
    os.utime(old, (0, 0))
    executions(tmp_path)
    assert kept.exists()
    assert not old.exists()


def test_a_process_learns_from_its_environment_what_it_is_a_part_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with cmf.run("team/sweep") as sweep:
        said(started(tmp_path, {"CMF_PARENT": sweep.node}))
    assert sorted(view.parent for view in executions(tmp_path)) == ["", sweep.node]


@pytest.mark.parametrize("env", [SLURM, {"CMF_EXECUTION": "0192f0c1-2d3e-8f4a-8b5c-6d7e8f901234"}], ids=["srun", "id"])
def test_if_rank_0_never_records_another_rank_records_the_birth_at_its_end_once(
    tmp_path: Path, env: dict[str, str]
) -> None:
    text = 'import cmf\nwith cmf.run("team/train", params={"lr": 0.1}) as run: run.metrics({f"seen{run.rank}": 1})'
    made = [started(tmp_path, env | {"SLURM_PROCID": str(rank), "CMF_RANK": str(rank)}, text) for rank in (1, 2)]
    for process in made:
        process.communicate(timeout=60)
        assert process.returncode == 0
    (view,) = executions(tmp_path)
    assert (view.known, view.status, view.conflict, view.params) == (True, "finished", False, {"lr": 0.1})
    assert set(view.metrics) == {"seen1", "seen2"}


def test_under_cmf_run_too_one_rank_records_the_birth(tmp_path: Path) -> None:
    for rank in (1, 0):
        command = [sys.executable, "-m", "cmf", "run", "--scope", "team/train", "--name", f"by-{rank}", "--", "true"]
        process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | SLURM | {"SLURM_PROCID": str(rank)})
        assert process.wait(timeout=60) == 0
    (view,) = executions(tmp_path)
    assert (view.known, view.conflict) == (True, False)


def test_what_rank_0_knows_counts_even_if_another_rank_ended_before_it_began(tmp_path: Path) -> None:
    for rank, params in ((1, "None"), (0, '{"lr": 0.1}')):
        text = f'import cmf\nwith cmf.run("team/train", params={params}): pass'
        process = started(tmp_path, SLURM | {"SLURM_PROCID": str(rank)}, text)
        process.communicate(timeout=60)
        assert process.returncode == 0
    (view,) = executions(tmp_path)
    assert (view.status, view.conflict, view.params) == ("finished", False, {"lr": 0.1})
