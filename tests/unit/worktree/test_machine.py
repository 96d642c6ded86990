import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import msgspec
import pytest

from cmf.model import encoding
from cmf.model.process import Process
from cmf.worktree import machine


def waiting(python: str | Path = sys.executable) -> subprocess.Popen[bytes]:
    """Start a process that has said who it is and waits to be told to end."""
    script = "from cmf.worktree import machine; import msgspec, sys\n"
    script += "print(msgspec.json.encode(machine.process()).decode(), flush=True); sys.stdin.read()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen([python, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def identity(child: subprocess.Popen[bytes]) -> Process:
    assert child.stdout is not None
    return msgspec.json.decode(child.stdout.readline(), type=Process)


def test_this_process_lives_and_is_the_same_each_time() -> None:
    here = machine.process()
    assert here == machine.process()
    assert (here.pid, here.uid, here.host) == (os.getpid(), os.getuid(), os.uname().nodename)
    assert here.start > 0
    assert len(here.boot) == 36
    assert machine.alive(here) is True


def test_a_process_is_gone_once_it_ended_even_before_it_is_reaped() -> None:
    child = waiting()
    other = identity(child)
    assert other.pid == child.pid
    assert machine.alive(other) is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert machine.alive(other) is False, "a zombie"
    child.communicate()
    assert machine.alive(other) is False


def test_a_process_whose_name_looks_like_its_state_is_read_rightly(tmp_path: Path) -> None:
    trap = tmp_path / "a) Z 1 (b"
    trap.symlink_to(sys.executable)
    child = waiting(trap)
    other = identity(child)
    assert other.start >= machine.process().start
    assert machine.alive(other) is True
    child.communicate()


def test_a_number_used_again_is_another_process() -> None:
    here = machine.process()
    assert machine.alive(msgspec.structs.replace(here, start=here.start - 1)) is False


@pytest.mark.parametrize(
    ("changed", "answer"),
    [
        ({"host": "another"}, None),
        ({"host": "another", "boot": "other", "pid": 2**22 - 1}, None),
        ({"boot": "00000000-0000-0000-0000-000000000000"}, False),
        ({"space": "pid:[1]"}, None),
        ({"space": ""}, True),
    ],
)
def test_what_cannot_be_decided_is_not(changed: dict[str, str | int], answer: bool | None) -> None:
    other = msgspec.convert({**msgspec.to_builtins(machine.process()), **changed}, Process)
    assert machine.alive(other) is answer


def test_the_machine_is_described_in_plain_values() -> None:
    found = machine.machine()
    assert found["cores"] >= found["cores_usable"] >= 1
    assert found["memory_bytes"] > 1 << 20
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["architecture"] == os.uname().machine
    assert encoding.to_value(found) == found
    found["cores"] = -1
    assert machine.machine()["cores"] > 0, "each caller gets a description of its own"


def test_packages_are_those_that_the_metadata_names() -> None:
    expected: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"].replace("_", "-").replace(".", "-").lower()
        expected.setdefault(name, distribution.version)
    assert machine.packages() == expected
    assert list(expected) != []
    assert list(machine.packages()) == sorted(expected)


def test_packages_of_every_kind_of_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for name in ("Foo.Bar_baz-1.0+cu118.dist-info", "zope.interface-5.4-py3.11.egg-info", "two-2-words-3.1.dist-info"):
        (first / name).mkdir(parents=True)
    (second / "foo_bar_baz-0.9.dist-info").mkdir(parents=True)
    (second / "~oo-1.0.dist-info").mkdir()
    (second / "noversion.dist-info").mkdir()
    (second / "in_place.egg-info").mkdir()
    (second / "in_place.egg-info" / "PKG-INFO").write_text("Name: in-place\nVersion: 7.1\n")
    monkeypatch.setattr(sys, "path", [str(first), str(tmp_path / "missing"), str(second)])
    assert machine.packages() == {
        "foo-bar-baz": "1.0+cu118",
        "in-place": "7.1",
        "two-2-words": "3.1",
        "zope-interface": "5.4",
    }


def test_an_environment_is_stored_once_however_often_it_is_met() -> None:
    here = machine.environment_object({"LANG": "C.UTF-8"})
    script = "import sys; from cmf.worktree import machine\n"
    script += "sys.stdout.buffer.write(machine.environment_object({'LANG': 'C.UTF-8'}))"
    there = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout
    assert there == here
    found = json.loads(here)
    assert sorted(found) == ["cmf", "implementation", "packages", "python", "v", "variables"]
    assert found["variables"] == {"LANG": "C.UTF-8"}
    assert encoding.encode(found) == here
    assert str(os.getpid()) not in {found["python"], found["implementation"]}
    assert machine.environment_object({}) != here


def test_accelerators_are_those_that_the_drivers_list(tmp_path: Path) -> None:
    files = {
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n",
        "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA A100\nGPU UUID: \t GPU-1234\n",
        "sys/module/amdgpu/version": "6.7.0\n",
        "sys/class/kfd/kfd/topology/nodes/0/properties": "cpu_cores_count 8\nsimd_count 0\n",
        "sys/class/kfd/kfd/topology/nodes/1/properties": "simd_count 440\nunique_id 77\n",
        "sys/class/kfd/kfd/topology/nodes/1/name": "gfx90a\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.accelerators(str(tmp_path)) == [
        {"model": "NVIDIA A100", "id": "GPU-1234", "driver": "550.54.15"},
        {"model": "gfx90a", "id": "77", "driver": "6.7.0"},
    ]


def test_the_packages_of_a_conda_environment_are_those_that_its_metadata_names(tmp_path: Path) -> None:
    meta = tmp_path / "conda-meta"
    meta.mkdir()
    for name in ("numpy-1.26.4-py311h64a7726_0.json", "ca-certificates-2024.2.2-hbcca054_0.json", "history"):
        (meta / name).write_text("{}")
    packages = {"numpy": "1.26.4 py311h64a7726_0", "ca-certificates": "2024.2.2 hbcca054_0"}
    assert machine.conda(str(tmp_path)) == packages
    held = json.loads(machine.environment_object({"CONDA_PREFIX": str(tmp_path)}))
    assert held["conda"] == packages
    assert "conda" not in json.loads(machine.environment_object({}))
