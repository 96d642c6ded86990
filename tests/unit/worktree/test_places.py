"""The job and the container that a process is told of, as each scheduler and each engine tells it."""

from pathlib import Path

import pytest

from cmf.worktree import places


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({}, {}),
        (
            {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_PARTITION": "gpu"},
            {"kind": "slurm", "job": "7", "array_task": "3", "queue": "gpu"},
        ),
        ({"PBS_JOBID": "7.head", "PBS_ARRAY_INDEX": "2"}, {"kind": "pbs", "job": "7.head", "array_task": "2"}),
        ({"LSB_JOBID": "7", "LSB_QUEUE": "long"}, {"kind": "lsf", "job": "7", "queue": "long"}),
        ({"SGE_ROOT": "/sge", "JOB_ID": "7", "SGE_TASK_ID": "undefined"}, {"kind": "sge", "job": "7"}),
        ({"SGE_ROOT": "/sge"}, {}),
        ({"JOB_ID": "of something else"}, {}),
    ],
)
def test_a_scheduler_is_known_by_what_it_sets(variables: dict[str, str], job: dict[str, str], tmp_path: Path) -> None:
    assert places.scheduler(variables, root=str(tmp_path)) == job


def test_a_pod_is_known_by_its_name_and_namespace(tmp_path: Path) -> None:
    namespace = tmp_path / "var/run/secrets/kubernetes.io/serviceaccount/namespace"
    namespace.parent.mkdir(parents=True)
    namespace.write_text("team\n")
    variables = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "train-0"}
    assert places.scheduler(variables, root=str(tmp_path)) == {
        "kind": "kubernetes",
        "pod": "train-0",
        "namespace": "team",
    }


def test_no_container_is_seen_where_none_is(tmp_path: Path) -> None:
    assert places.container({}, root=str(tmp_path)) == {}


def test_docker_is_known_by_its_file_and_the_containers_id(tmp_path: Path) -> None:
    (tmp_path / ".dockerenv").touch()
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"0::/system.slice/docker-{'ab' * 32}.scope\n")
    assert places.container({}, root=str(tmp_path)) == {"kind": "docker", "id": "ab" * 32}


def test_podman_tells_the_image(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    text = 'engine="podman-4.9"\nname="brisk"\nid="abc"\nimage="docker.io/library/python:3.12"\nimageid="def"\n'
    (tmp_path / "run/.containerenv").write_text(text)
    found = places.container({"container": "podman"}, root=str(tmp_path))
    assert found == {
        "kind": "podman",
        "image_id": "def",
        "image": "docker.io/library/python:3.12",
        "name": "brisk",
        "id": "abc",
    }


@pytest.mark.parametrize("kind", ["apptainer", "singularity"])
def test_apptainer_and_singularity_tell_the_image(kind: str, tmp_path: Path) -> None:
    variables = {f"{kind.upper()}_CONTAINER": "/images/a.sif", f"{kind.upper()}_NAME": "a.sif"}
    found = places.container(variables, root=str(tmp_path))
    assert found == {"kind": kind, "image": "/images/a.sif", "name": "a.sif"}


def test_loaded_modules_keep_their_order() -> None:
    assert places.modules({"LOADEDMODULES": "gcc/12:cuda/12.4"}) == ["gcc/12", "cuda/12.4"]
    assert places.modules({}) == []
