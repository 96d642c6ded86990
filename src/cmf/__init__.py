"""Git for the story of data and models: record code, data and metadata of every run, merge them across sites, ask.

import cmf

with cmf.run("detector/train", params={"lr": 3e-4}) as run:
    data = run.input("data/train.parquet")
    run.log({"loss": 0.3}, step=1)
    run.output("model.bin", type="model", name="detector")
    run.metrics({"f1": 0.91})
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError("cmf does not support Windows yet; it runs on Linux, and on macOS untested.")

if TYPE_CHECKING:
    from cmf.errors import (
        CmfError,
        ConflictError,
        CorruptError,
        DeniedError,
        NotFoundError,
        UnreachableError,
        UnsupportedError,
        UsageError,
    )
    from cmf.integrations import autolog
    from cmf.recorder import CmfWarning
    from cmf.recording import Run, current
    from cmf.repo import Repo, init
    from cmf.repo import open_repo as open
    from cmf.stages import stage
    from cmf.starting import run

    __version__: str

__all__ = [
    "CmfError",
    "CmfWarning",
    "ConflictError",
    "CorruptError",
    "DeniedError",
    "NotFoundError",
    "Repo",
    "Run",
    "UnreachableError",
    "UnsupportedError",
    "UsageError",
    "autolog",
    "current",
    "init",
    "open",
    "run",
    "stage",
]

_HOMES = {
    "run": ("cmf.starting", "run"),
    "autolog": ("cmf.integrations", "autolog"),
    "stage": ("cmf.stages", "stage"),
    "current": ("cmf.recording", "current"),
    "Run": ("cmf.recording", "Run"),
    "CmfWarning": ("cmf.recorder", "CmfWarning"),
    "open": ("cmf.repo", "open_repo"),
    "init": ("cmf.repo", "init"),
    "Repo": ("cmf.repo", "Repo"),
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that ``import cmf`` itself costs next to nothing."""
    import importlib

    if name == "__version__":
        from importlib.metadata import version

        return version("common-metadata-framework")
    if name not in __all__:
        raise AttributeError(f"module 'cmf' has no attribute '{name}'")
    module, attribute = _HOMES.get(name, ("cmf.errors", name))
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
