"""Which launcher started a process: read from the environments that torchrun, MPI and Slurm really leave."""

import pytest

from cmf.worktree import launcher

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_CLUSTER_NAME": "big",
    "SLURM_JOB_USER": "ada",
    "SLURM_SUBMIT_HOST": "login1",
    "SLURM_SUBMIT_DIR": "/home/ada/work",
    "SLURM_JOB_START_TIME": "1764000000",
}
TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "PMIX_NAMESPACE": "prterun-node1-77@1",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"}


@pytest.mark.parametrize(
    ("variables", "name", "rank", "unique"),
    [
        (SLURM, "srun", 3, True),
        (TORCHRUN, "torchrun", 5, False),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "8"}, "torchrun", 5, True),
        (TORCHRUN | SLURM, "torchrun", 5, True),
        (OPEN_MPI, "mpirun", 2, True),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "mpirun", 2, False),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"} | SLURM, "mpirun", 2, True),
        (MPICH, "mpiexec", 1, True),
        (MPICH | {"PMI_SIZE": "4"}, "mpiexec", 1, False),
        (MPICH | SLURM, "mpiexec", 1, True),
        ({"PMI_RANK": "3", "PMI_SIZE": "4"} | SLURM, "srun", 3, True),
        ({"PMIX_RANK": "1", "PMIX_NAMESPACE": "prterun-node1-77@1"}, "prterun", 1, False),
    ],
)
def test_a_launcher_is_known_by_its_environment(variables: dict[str, str], name: str, rank: int, unique: bool) -> None:
    found = launcher.find(variables)
    assert found is not None
    assert (found.launcher, found.rank, found.unique) == (name, rank, unique)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RANK": "1"},
        {"RANK": "one", "WORLD_SIZE": "2", "MASTER_ADDR": "node1"},
        {"RANK": "²", "WORLD_SIZE": "2", "MASTER_ADDR": "node1"},
        {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"},
        SLURM | {"SLURM_STEP_ID": "4294967291"},
    ],
    ids=["nothing", "a rank alone", "no number", "no ASCII number", "a batch script", "the batch step"],
)
def test_what_is_no_launch_is_none(variables: dict[str, str]) -> None:
    assert launcher.find(variables) is None


def test_a_job_that_is_queued_again_keeps_its_key_and_counts_on() -> None:
    first, second = launcher.find(SLURM), launcher.find(SLURM | {"SLURM_RESTART_COUNT": "1"})
    assert first is not None
    assert second is not None
    assert first.key == second.key
    assert first.turn != second.turn
    assert (first.restarts, second.restarts) == (0, 1)


def test_a_later_start_of_a_job_counts_above_every_restart_of_workers_within_the_earlier_one() -> None:
    both = TORCHRUN | SLURM
    worker = launcher.find(both | {"TORCHELASTIC_RESTART_COUNT": "7"})
    requeued = launcher.find(both | {"SLURM_RESTART_COUNT": "1"})
    assert worker is not None
    assert requeued is not None
    assert worker.key == requeued.key
    assert 0 < worker.restarts < requeued.restarts


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_CLUSTER_NAME", "SLURM_SUBMIT_DIR"])
def test_another_job_step_cluster_or_folder_is_other_work(name: str) -> None:
    one, other = launcher.find(SLURM), launcher.find(SLURM | {name: "9"})
    assert one is not None
    assert other is not None
    assert one.key != other.key


def test_what_the_program_says_of_its_rank_beats_the_launcher() -> None:
    found = launcher.find(SLURM, rank=0)
    assert found is not None
    assert (found.rank, found.launcher) == (0, "srun")


def test_a_rank_without_a_launcher_belongs_to_its_parent() -> None:
    one, other = launcher.find({}, rank=0), launcher.find({}, rank=7)
    assert one is not None
    assert other is not None
    assert one.key == other.key
    assert (one.rank, other.rank) == (0, 7)
