"""Where a process was put: the container it is in, the job that a scheduler made of it, the modules loaded for it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

SCHEDULERS: dict[str, dict[str, str]] = {
    "slurm": {
        "job": "SLURM_JOB_ID",
        "name": "SLURM_JOB_NAME",
        "array_job": "SLURM_ARRAY_JOB_ID",
        "array_task": "SLURM_ARRAY_TASK_ID",
        "step": "SLURM_STEP_ID",
        "process": "SLURM_PROCID",
        "processes": "SLURM_NTASKS",
        "nodes": "SLURM_JOB_NUM_NODES",
        "queue": "SLURM_JOB_PARTITION",
        "cluster": "SLURM_CLUSTER_NAME",
        "restarts": "SLURM_RESTART_COUNT",
    },
    "pbs": {"job": "PBS_JOBID", "name": "PBS_JOBNAME", "array_task": "PBS_ARRAY_INDEX", "queue": "PBS_QUEUE"},
    "lsf": {"job": "LSB_JOBID", "name": "LSB_JOBNAME", "array_task": "LSB_JOBINDEX", "queue": "LSB_QUEUE"},
    "sge": {
        "job": "JOB_ID",
        "name": "JOB_NAME",
        "array_task": "SGE_TASK_ID",
        "queue": "QUEUE",
        "cluster": "SGE_CLUSTER_NAME",
    },
    "kubernetes": {
        "pod": "POD_NAME",
        "namespace": "POD_NAMESPACE",
        "uid": "POD_UID",
        "node": "NODE_NAME",
        "array_task": "JOB_COMPLETION_INDEX",
    },
}
"""For each scheduler what a record calls a fact, and the environment variable that tells it."""

_MARKS = {
    "slurm": "SLURM_JOB_ID",
    "pbs": "PBS_JOBID",
    "lsf": "LSB_JOBID",
    "sge": "SGE_ROOT",
    "kubernetes": "KUBERNETES_SERVICE_HOST",
}
_NAMESPACE = "var/run/secrets/kubernetes.io/serviceaccount/namespace"
_CONTAINER_ID = re.compile(r"(?:docker|libpod|crio|containerd|containers|kubepods)[^\n]*?([0-9a-f]{64})")


def scheduler(variables: Mapping[str, str], *, root: str = "/") -> dict[str, str]:
    """Return the job that this process belongs to: ``kind`` and the ids that its scheduler gives; or nothing."""
    kind = next((kind for kind, mark in _MARKS.items() if variables.get(mark)), "")
    # Where SGE is installed, every login shell has its root; only a job has an id.
    if not kind or (kind == "sge" and not variables.get("JOB_ID")):
        return {}
    found = {name: variables[variable] for name, variable in SCHEDULERS[kind].items() if variables.get(variable)}
    if kind == "sge" and found.get("array_task") == "undefined":
        del found["array_task"]
    if kind == "kubernetes":
        found.setdefault("pod", variables.get("HOSTNAME", ""))
        found.setdefault("namespace", _text(root, _NAMESPACE).strip())
    return {"kind": kind, **{name: value for name, value in found.items() if value}}


def container(variables: Mapping[str, str], *, root: str = "/") -> dict[str, str]:
    """Return the container that this process is in: ``kind``, and ``image``, ``name`` and ``id`` where they are shown.

    Docker shows no image to those inside; Podman, Apptainer and Singularity do.
    """
    for prefix in ("APPTAINER", "SINGULARITY"):
        if image := variables.get(f"{prefix}_CONTAINER") or variables.get(f"{prefix}_NAME"):
            return _filled(kind=prefix.lower(), image=image, name=variables.get(f"{prefix}_NAME", ""))
    if os.path.exists(os.path.join(root, "run/.containerenv")):
        given = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', _text(root, "run/.containerenv"), re.MULTILINE))
        named = {name: given.get(name, "") for name in ("image", "name", "id")}
        return _filled(kind="podman", image_id=given.get("imageid", ""), **named)
    found = _CONTAINER_ID.search(_text(root, "proc/self/cgroup")) or _CONTAINER_ID.search(
        _text(root, "proc/self/mountinfo")
    )
    identity = found[1] if found else ""
    if os.path.exists(os.path.join(root, ".dockerenv")):
        return _filled(kind="docker", id=identity)
    if variables.get("KUBERNETES_SERVICE_HOST"):
        return _filled(kind="kubernetes", id=identity)
    return _filled(kind=variables.get("container", ""))


def modules(variables: Mapping[str, str]) -> list[str]:
    """Return the environment modules (Lmod, Tcl) that are loaded, in their order."""
    return [name for name in variables.get("LOADEDMODULES", "").split(":") if name]


def _filled(**values: str) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def _text(root: str, path: str) -> str:
    try:
        with open(os.path.join(root, path), "rb") as file:
            return file.read(1 << 20).decode("utf-8", "replace")
    except OSError:
        return ""
