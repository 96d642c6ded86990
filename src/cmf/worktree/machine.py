"""The process, the machine and the packages that a run has. Starts no process and imports no package to find out."""

from __future__ import annotations

import functools
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

from cmf.model import encoding
from cmf.model.process import Process
from cmf.worktree import places

ENVIRONMENT_VERSION = 1
MACHINE_VERSION = 1

_OF_AN_ENVIRONMENT = "OMP_NUM_THREADS MKL_NUM_THREADS PYTHONHASHSEED LANG LC_ALL TZ VIRTUAL_ENV CONDA_DEFAULT_ENV"
OF_AN_ENVIRONMENT = (*_OF_AN_ENVIRONMENT.split(), "CONDA_PREFIX")
"""The variables that make an environment what it is: those of its object."""
_OF_A_PROCESS = (
    "CUDA_VISIBLE_DEVICES HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES PL_GLOBAL_SEED RANK LOCAL_RANK WORLD_SIZE"
)
OF_A_PROCESS = tuple(_OF_A_PROCESS.split())
"""The variables that differ between processes in one environment."""

_ZOMBIE = ("Z", "X", "x")
_DISTRIBUTION = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*?)-(?P<version>[0-9][^-]*)(?:-py[0-9.]+)?(?:-[^-]+)?")
_CPU = re.compile(r"^(?:model name|Model|cpu model|Processor)\s*:\s*(.+)$", re.MULTILINE)


def process() -> Process:
    """Return this process. Asked anew each time, since a fork makes another one."""
    pid = os.getpid()
    found = _stat("self")
    return Process(
        host=os.uname().nodename,
        boot=boot(),
        pid=pid,
        start=found[1] if found else 0,
        uid=os.getuid(),
        space=_space(),
    )


def alive(other: Process) -> bool | None:
    """Tell whether a process lives; None if that can't be decided here.

    Another host's process, or that of another process-number space, can't be decided; one of an earlier boot of this
    host is gone. A process that has ended but is not yet reaped is gone too.
    """
    if other.host != os.uname().nodename:
        return None
    if other.boot != boot():
        return False
    if other.space and other.space != _space():
        return None
    try:
        os.kill(other.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    found = _stat(str(other.pid))
    if found is None:
        return None  # it exists, but /proc hides it, or there is none
    state, start, _ = found
    return start == other.start and state not in _ZOMBIE


def parent() -> tuple[str, ...]:
    """Return who started this process, named so that no other process ever has the same name."""
    return _named(os.getppid())


def above(variable: str) -> tuple[str, ...]:
    """Return, named as `parent` does, the nearest ancestor that was started without a variable: it is who set it."""
    pid = os.getppid()
    while pid > 1 and f"\0{variable}=" in "\0" + _text(f"/proc/{pid}/environ"):
        found = _stat(str(pid))
        if found is None:
            break
        pid = found[2]
    return _named(pid)


def _named(pid: int) -> tuple[str, ...]:
    found = _stat(str(pid))
    return (os.uname().nodename, boot(), str(pid), str(found[1] if found else 0))


def started(process: Process) -> float:
    """Return when a process of this boot started, in seconds since 1970; 0 where that can't be found out."""
    up = _text("/proc/uptime").split()
    return time.time() - float(up[0]) + process.start / os.sysconf("SC_CLK_TCK") if up else 0.0


def machine() -> dict[str, Any]:
    """Return what this machine is: names, counts, and sizes in bytes. What can't be found out is left out."""
    return dict(_machine())


def machine_object() -> bytes:
    """Return the bytes of the object that describes this machine: the same for all its processes."""
    return encoding.encode({"cmf": "machine", "v": MACHINE_VERSION, **encoding.to_value(machine())})


def accelerators(root: str = "") -> list[dict[str, str]]:
    """Return the accelerators that the drivers list: model, identity and driver version.

    ``root`` stands before `/proc` and `/sys`.
    """
    version = re.search(r"Kernel Module\s+(?:for \S+\s+)?([0-9.]+)", _text(f"{root}/proc/driver/nvidia/version"))
    found = []
    for item in _items(f"{root}/proc/driver/nvidia/gpus"):
        fields = dict(re.findall(r"^([^:\n]+):\s*(.*?)\s*$", _text(f"{item}/information"), re.MULTILINE))
        named = {"model": fields.get("Model", ""), "id": fields.get("GPU UUID", "")}
        if version:
            named["driver"] = version[1]
        found.append({name: value for name, value in named.items() if value})
    return found + _amd(root)


def _amd(root: str) -> list[dict[str, str]]:
    """Return AMD's accelerators as its kernel driver lists them; its nodes without vector units are CPUs."""
    found = []
    version = _text(f"{root}/sys/module/amdgpu/version").strip()
    for item in _items(f"{root}/sys/class/kfd/kfd/topology/nodes"):
        fields = dict(re.findall(r"^(\w+) (\d+)$", _text(f"{item}/properties"), re.MULTILINE))
        if int(fields.get("simd_count", 0)):
            named = {
                "model": _text(f"{item}/name").strip() or "AMD",
                "id": fields.get("unique_id", ""),
                "driver": version,
            }
            found.append({name: value for name, value in named.items() if value})
    return found


def conda(prefix: str) -> dict[str, str]:
    """Return the packages of a conda environment, name to version and build, from the names of its metadata."""
    found = {}
    for item in _items(os.path.join(prefix, "conda-meta")) if prefix else []:
        name, _, kind = os.path.basename(item).rpartition(".")
        parts = name.rsplit("-", 2)
        if kind == "json" and len(parts) == 3:
            found[parts[0]] = f"{parts[1]} {parts[2]}"
    return found


def packages() -> dict[str, str]:
    """Return the installed distributions, normalised name to version, sorted by name.

    Read from the names of the folders that hold their metadata, not from the metadata: a thousand take milliseconds.
    Of two of one name, the first on the path counts, as it does for `import`. Looked up once a process.
    """
    return dict(_packages(tuple(sys.path)))


def environment_object(variables: Mapping[str, str]) -> bytes:
    """Return the bytes of the object that describes a Python environment: equal environments give equal bytes.

    It holds nothing of the machine, the process or the time. ``variables`` are those that may be recorded: of these,
    what makes an environment is taken.
    """
    found: dict[str, Any] = {
        "cmf": "environment",
        "v": ENVIRONMENT_VERSION,
        "python": sys.version.split()[0],
        "implementation": sys.implementation.name,
        "packages": packages(),
        "variables": encoding.to_value({name: variables[name] for name in OF_AN_ENVIRONMENT if name in variables}),
    }
    if loaded := places.modules(variables):
        found["modules"] = encoding.to_value(loaded)
    if installed := conda(variables.get("CONDA_PREFIX", "")):
        found["conda"] = encoding.to_value(installed)
    if image := places.container(variables).get("image"):
        found["image"] = encoding.to_value(image)
    return encoding.encode(found)


@functools.cache
def _machine() -> dict[str, Any]:
    names = os.uname()
    release = re.search(r'^PRETTY_NAME="?([^"\n]*)"?$', _text("/etc/os-release"), re.MULTILINE)
    cpu = _CPU.search(_text("/proc/cpuinfo", 8192))
    found: dict[str, Any] = {
        "host": names.nodename,
        "os": release[1] if release else names.sysname,
        "kernel": f"{names.sysname} {names.release}",
        "architecture": names.machine,
        "cpu": cpu[1].strip() if cpu else "",
        "cores": os.cpu_count() or 0,
        "memory_bytes": _memory_bytes(),
        "python": sys.version.split()[0],
    }
    if hasattr(os, "sched_getaffinity"):
        found["cores_usable"] = len(os.sched_getaffinity(0))
    if gpus := accelerators():
        found["accelerators"] = gpus
    return {name: value for name, value in found.items() if value}


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


@functools.cache
def _packages(path: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for folder in path:
        for item in _items(folder or "."):
            name, _, kind = os.path.basename(item).rpartition(".")
            if kind not in ("dist-info", "egg-info"):
                continue
            match = _DISTRIBUTION.fullmatch(name)
            if match:
                found.setdefault(_normal(match["name"]), match["version"])
            elif kind == "egg-info" and not name.startswith("~"):
                # A source folder that was installed in place names no version.
                version = re.search(r"^Version: (\S+)$", _text(f"{item}/PKG-INFO", 65536), re.MULTILINE)
                found.setdefault(_normal(name), version[1] if version else "")
    return dict(sorted(found.items()))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _stat(pid: str) -> tuple[str, int, int] | None:
    """Return a process's state, start time and parent, or None if /proc doesn't say."""
    # The command's name, in parentheses, may itself hold parentheses and blanks: what follows the last one counts.
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (fields[0], int(fields[19]), int(fields[1])) if len(fields) > 19 else None


@functools.cache
def boot() -> str:
    """Return what names this machine's present boot; "" where the system doesn't tell."""
    return _text("/proc/sys/kernel/random/boot_id").strip()


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _text(path: str, bytes_max: int = 1 << 20) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(bytes_max).decode("utf-8", "replace")
    except OSError:
        return ""


def _items(folder: str) -> list[str]:
    try:
        return sorted(os.path.join(folder, name) for name in os.listdir(folder))
    except OSError:
        return []
