"""Which launcher started this process among others that do one piece of work: torchrun, MPI, Slurm, or its parent.

Reads what they leave in the environment, which is handed in. Knows no store: who shares which execution is `launch`'s.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cmf.worktree import machine

RANK_DIGITS_MAX = 9
STEPS_MAX = 0xFFFF_0000
"""Slurm's steps are numbered from 0; what lies above are the batch script itself and its like."""

RESTARTS_MAX = 1000
"""Restarts by torchrun within one start of a Slurm job: a later start of the job counts above all of them."""


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How a launcher started this process: as number ``rank`` of all those that share ``key``.

    ``key`` stays the same when the launcher starts the work again; ``turn`` is one such start, ``restarts`` how many
    came before it. ``unique``: no other work ever has this key. Otherwise it may be met again, tomorrow or elsewhere.
    """

    launcher: str
    rank: int
    key: tuple[str, ...]
    turn: tuple[str, ...] = ()
    restarts: int = 0
    unique: bool = True


def find(variables: Mapping[str, str], rank: int | None = None) -> Launch | None:
    """Return how this process was started among others; None if nothing says that it was.

    ``rank`` is what the program itself says: it beats the launcher's, and without any launcher it makes the processes
    of one parent belong together.
    """
    found = _torchrun(variables) or _mpi(variables) or _slurm(variables)
    if found is None and rank is not None:
        found = Launch(launcher="parent", rank=rank, key=("parent", *machine.parent()))
    if found is not None and rank is not None:
        found = msgspec.structs.replace(found, rank=rank)
    return found


def _torchrun(env: Mapping[str, str]) -> Launch | None:
    rank = _number(env, "RANK")
    if rank is None or "WORLD_SIZE" not in env or "MASTER_ADDR" not in env:
        return None
    run = env.get("TORCHELASTIC_RUN_ID", "")
    restarts = _number(env, "TORCHELASTIC_RESTART_COUNT") or 0
    turn = (str(restarts), env.get("MASTER_PORT", ""))
    if step := _slurm(env):
        restarts += RESTARTS_MAX * step.restarts
        return Launch(launcher="torchrun", rank=rank, key=(*step.key, run), turn=step.turn + turn, restarts=restarts)
    if env.get("LOCAL_WORLD_SIZE") == env["WORLD_SIZE"]:
        key = ("torchrun", *machine.above("RANK"))
        return Launch(launcher="torchrun", rank=rank, key=key, turn=turn, restarts=restarts)
    key = ("torchrun", run, env["MASTER_ADDR"], env["WORLD_SIZE"])
    return Launch(launcher="torchrun", rank=rank, key=key, turn=turn, restarts=restarts, unique=False)


def _mpi(env: Mapping[str, str]) -> Launch | None:
    job = _job(env)
    restarts = _number(env, "SLURM_RESTART_COUNT") or 0
    if (rank := _number(env, "OMPI_COMM_WORLD_RANK")) is not None:
        if env.get("OMPI_COMM_WORLD_LOCAL_SIZE") == env.get("OMPI_COMM_WORLD_SIZE"):
            return Launch(launcher="mpirun", rank=rank, key=("mpi", *machine.above("OMPI_COMM_WORLD_RANK")))
        name = env.get("PMIX_NAMESPACE") or env.get("OMPI_MCA_ess_base_jobid", "")
        key = ("mpi", *job, name)
        return Launch(launcher="mpirun", rank=rank, key=key, restarts=restarts, unique=bool(job))
    hydra = "MPI_LOCALNRANKS" in env or "SLURM_STEP_ID" not in env
    if hydra and (rank := _number(env, "PMI_RANK")) is not None:
        if env.get("MPI_LOCALNRANKS", env.get("PMI_SIZE")) == env.get("PMI_SIZE"):
            return Launch(launcher="mpiexec", rank=rank, key=("mpi", *machine.above("PMI_RANK")))
        key = ("mpi", *job, env.get("SLURM_STEP_ID", ""), env["PMI_SIZE"])
        return Launch(launcher="mpiexec", rank=rank, key=key, restarts=restarts, unique=bool(job))
    if "SLURM_STEP_ID" not in env and (rank := _number(env, "PMIX_RANK")) is not None:
        return Launch(launcher="prterun", rank=rank, key=("mpi", *job, env.get("PMIX_NAMESPACE", "")), unique=False)
    return None


def _slurm(env: Mapping[str, str]) -> Launch | None:
    rank, step, job = _number(env, "SLURM_PROCID"), _number(env, "SLURM_STEP_ID", 10), _job(env)
    if rank is None or step is None or step >= STEPS_MAX or not job:
        return None
    restarts = _number(env, "SLURM_RESTART_COUNT") or 0
    turn = (str(restarts), env.get("SLURM_JOB_START_TIME", ""))
    return Launch(launcher="srun", rank=rank, key=(*job, str(step)), turn=turn, restarts=restarts)


def _job(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return what no other Slurm job has: clusters of one name are told apart by who submits where."""
    if not env.get("SLURM_JOB_ID"):
        return ()
    names = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_JOB_USER", "SLURM_SUBMIT_HOST", "SLURM_SUBMIT_DIR")
    return ("slurm", *(env.get(name, "") for name in names))


def _number(env: Mapping[str, str], name: str, digits_max: int = RANK_DIGITS_MAX) -> int | None:
    text = env.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= digits_max else None
