"""W0 and W1: what an install weighs, and what a start costs."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from benchmarks import processes
from benchmarks.work import sizes

BIN = Path(sys.executable).parent


def measure(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W0 and W1."""
    return install(tiny=tiny) | start(tiny=tiny)


def install(*, tiny: bool) -> dict[str, list[float]]:
    """Install the core where nothing else is; count and weigh it. A trial installs our own wheel alone."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    with processes.empty_folder() as folder:
        # What builds the wheel is here already: the build needs no network.
        run = processes.run
        run(
            (*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheel", processes.ROOT),
            folder,
        )
        (wheel,) = (folder / "wheel").glob("*.whl")
        core = folder / "core"
        run((sys.executable, "-m", "venv", "--without-pip", core), folder)
        into = (*pip, "--python", core / "bin/python", "install")
        if not tiny:
            requirements = processes.ROOT / "requirements" / "core.txt"
            run((*into, "--require-hashes", "--requirement", requirements), folder)
        run((*into, "--no-deps", wheel), folder)
        (packages,) = core.glob("lib/python*/site-packages")
        # pip keeps bytecode of its own making for every module.
        weight = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
        count = len(list(metadata.distributions(path=[str(packages)])))
    return {"install_size": [weight / 1e6], "install_count": [count]}


def start(*, tiny: bool) -> dict[str, list[float]]:
    """Time imports and the command, each in processes of their own."""
    repeats = sizes(tiny=tiny).starts
    python = Path(sys.executable)
    with processes.empty_folder() as folder:
        times, memory = processes.starts(python, "import cmf", folder, repeats)
        recorder_times, recorder_memory = processes.starts(python, "import cmf; cmf.run", folder, repeats)
        version = (BIN / "cmf", "--version")
        processes.seconds(version, folder)
        versions = [processes.seconds(version, folder) for _ in range(repeats)]
    return {
        "import_time": times,
        "import_memory": memory,
        "recorder_time": recorder_times,
        "recorder_memory": recorder_memory,
        "version": versions,
    }
