"""`autolog`: what a framework trains, recorded without a line in the script.

Knows when a framework is imported and how to put back what was replaced. What a framework's training looks like is one
file a framework, named for the package; see docs/how-to/autolog.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from cmf.integrations import fitting

FRAMEWORKS = ("lightgbm", "sklearn", "xgboost")
"""Packages that have a file here: it offers ``install(patches)``, called when the package has been imported."""


def autolog(*, disable: bool = False, models: bool = True) -> None:
    """Record what scikit-learn, XGBoost and LightGBM train from here on, whether they are imported already or later.

    Parameters, metrics, the trained model and the shape of the data go to the run that is open, else to one made for
    each outermost fit. Without ``models`` the bytes of models are left out. ``disable`` restores everything. Never
    changes what training returns or raises.
    """
    _Finder.remove()
    fitting.stop()
    if disable:
        return
    fitting.start(models=models)
    sys.meta_path.insert(0, _Finder())
    for name in FRAMEWORKS:
        module = sys.modules.get(name)
        if module is not None:
            _install(name)


def _install(name: str) -> None:
    try:
        import_module(f"cmf.integrations.{name}").install(fitting.patches)
    except Exception as error:  # noqa: BLE001  # another version of the framework: it trains unrecorded
        import warnings

        from cmf.recorder import CmfWarning

        warnings.warn(f"{name} is not recorded: {type(error).__name__}: {error}", CmfWarning, stacklevel=3)


class _Finder:
    """Finds nothing itself: has the finders after it look, and is told when a framework has been imported."""

    @staticmethod
    def remove() -> None:
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in FRAMEWORKS:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find and not isinstance(finder, _Finder) else None
            if spec is not None:
                _tell_when_run(spec, name)
                return spec
        return None


def _tell_when_run(spec: ModuleSpec, name: str) -> None:
    """Install a framework's file once its package has been run; its loader stays the one it had."""
    loader: Any = spec.loader
    run = getattr(loader, "exec_module", None)
    if run is None:
        return

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module
        run(module)
        if fitting.is_active():
            _install(name)

    loader.exec_module = exec_module
