"""W0 and W1: what an install weighs, and what a start costs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from benchmarks import processes
from benchmarks.work import sizes


def measure(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W0 and W1."""
    with _installed(tiny=tiny) as core:
        return _weight(core) | _starts(core, tiny=tiny)


def start(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W1."""
    with _installed(tiny=tiny) as core:
        return _starts(core, tiny=tiny)


@contextlib.contextmanager
def _installed(*, tiny: bool) -> Iterator[Path]:
    """Lend an environment with the core, where nothing else is. A trial installs our own wheel alone."""
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
        yield core


def _weight(core: Path) -> dict[str, list[float]]:
    """Weigh an install, with the bytecode that pip makes of every module, and count its distributions."""
    (packages,) = core.glob("lib/python*/site-packages")
    weight = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    count = len(list(metadata.distributions(path=[str(packages)])))
    return {"install_size": [weight / 1e6], "install_count": [count]}


def _starts(core: Path, *, tiny: bool) -> dict[str, list[float]]:
    """Time imports and the command, each in processes of their own.

    In the core's own environment: some of what it needs imports more where more is installed. A trial has only this.
    """
    repeats = sizes(tiny=tiny).starts
    python = Path(sys.executable) if tiny else core / "bin" / "python"
    with processes.empty_folder() as folder:
        times, memory = processes.starts(python, "import cmf", folder, repeats)
        recorder_times, recorder_memory = processes.starts(python, "import cmf; cmf.run", folder, repeats)
        version = (python.parent / "cmf", "--version")
        processes.seconds(version, folder)
        versions = [processes.seconds(version, folder) for _ in range(repeats)]
    return {
        "import_time": times,
        "import_memory": memory,
        "recorder_time": recorder_times,
        "recorder_memory": recorder_memory,
        "version": versions,
    }
