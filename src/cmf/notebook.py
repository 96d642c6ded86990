"""The notebook, or IPython's prompt, that this process runs: its cells, and how the last of them ended.

IPython catches what a cell raises, so that the process goes on. It is asked by its events: nothing of it is patched.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

MARK = "# %%"
"""How a cell begins in a script of cells, which editors show as a notebook."""


class Notebook:
    """One shell of IPython. ``error`` is what the last cell raised, or None."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._watching: list[Callable[[], bool]] = []
        self.error: BaseException | None = None
        shell.events.register("post_run_cell", self._ran)

    def cells(self) -> list[tuple[int, str]]:
        """Return (number, text) of the cells that were executed in this session, in their order."""
        texts = getattr(self._shell.history_manager, "input_hist_raw", ())
        return [(number, str(text)) for number, text in enumerate(texts) if str(text).strip()]

    def text(self) -> str:
        """Return the executed cells as one script."""
        return "\n".join(f"{MARK} [{number}]\n{text.rstrip()}\n" for number, text in self.cells())

    def after_each(self, act: Callable[[], bool]) -> None:
        """Have something done after each cell, for as long as it returns True."""
        self._watching.append(act)

    def _ran(self, result: Any = None) -> None:
        self.error = getattr(result, "error_before_exec", None) or getattr(result, "error_in_exec", None)
        self._watching = [act for act in self._watching if act()]


_known: list[Notebook] = []


def here() -> Notebook | None:
    """Return the notebook that this process runs, or None: IPython may be imported and not run it."""
    if not _known and (module := sys.modules.get("IPython")) is not None:
        with contextlib.suppress(Exception):  # another version of IPython: its cells are not known then
            shell = module.get_ipython()
            if shell is not None:
                _known.append(Notebook(shell))
    return _known[0] if _known else None
