"""A run in a notebook: a real kernel executes cells, and ends in every way that kernels end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from tests.commands import cmf

WAIT_SECONDS = 60


class Kernel:
    """A kernel that executes cells in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(cwd=str(folder))
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=WAIT_SECONDS)

    def execute(self, text: str) -> str:
        """Execute a cell; return "ok", or the name of what it raised."""
        reply = self._client.execute_interactive(text, timeout=WAIT_SECONDS, output_hook=lambda _: None)["content"]
        return str(reply["status"] if reply["status"] == "ok" else reply["ename"])

    def end(self, *, now: bool = False) -> None:
        self._client.stop_channels()
        if self._manager.has_kernel:
            self._manager.shutdown_kernel(now=now)

    def only(self) -> dict[str, Any]:
        """Return the one execution that was recorded."""
        (found,) = cmf(self.folder, "log", "--json").json["executions"]
        return dict(cmf(self.folder, "show", found["id"], "--json").json)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    made = Kernel(tmp_path)
    yield made
    made.end(now=True)


def test_executed_cells_are_kept_in_order_and_without_secrets(kernel: Kernel) -> None:
    assert kernel.execute("import cmf\nrun = cmf.run('lab/explore')") == "ok"
    assert kernel.execute("token = 'ghp_012345678901234567890123456789abcdef'") == "ok"
    assert kernel.execute("%time run.metrics(f1=1)") == "ok"
    assert kernel.execute("run.finish()") == "ok"
    assert kernel.execute("after = 1") == "ok"
    kernel.end()
    found = kernel.only()
    assert (found["status"], found["metrics"]) == ("finished", {"f1": 1})
    shown = cmf(kernel.folder, "show", found["id"], "--cells").out
    parts = [part.split("]\n", 1)[1].strip() for part in shown.split("# %% [")[1:]]
    assert parts[0] == "import cmf\nrun = cmf.run('lab/explore')"
    assert parts[2:] == ["%time run.metrics(f1=1)", "run.finish()"]
    assert "ghp_0" not in shown
    assert "4 cells" in cmf(kernel.folder, "show", found["id"]).out


def test_a_cell_that_raised_last_is_how_a_run_that_was_left_open_ended(kernel: Kernel) -> None:
    kernel.execute("import cmf\nrun = cmf.run('lab/explore')")
    assert kernel.execute("1 / 0") == "ZeroDivisionError"
    kernel.end()
    found = kernel.only()
    assert (found["status"], found["error"]["type"]) == ("failed", "ZeroDivisionError")


def test_a_cell_that_raised_and_was_mended_is_no_failure(kernel: Kernel) -> None:
    kernel.execute("import cmf\nrun = cmf.run('lab/explore')")
    assert kernel.execute("1 / 0") == "ZeroDivisionError"
    assert kernel.execute("1 / 1") == "ok"
    kernel.end()
    assert kernel.only()["status"] == "finished"


def test_a_block_that_raises_in_a_cell_has_failed_at_once(kernel: Kernel) -> None:
    kernel.execute("import cmf")
    assert kernel.execute("with cmf.run('lab/explore'):\n    int('x')") == "ValueError"
    found = kernel.only()
    assert (found["status"], found["error"]["type"]) == ("failed", "ValueError")


def test_of_a_kernel_that_is_killed_the_cells_so_far_are_kept(kernel: Kernel) -> None:
    kernel.execute("import cmf\nrun = cmf.run('lab/explore')")
    kernel.execute("run.log({'loss': 1.0})")
    kernel.end(now=True)
    found = kernel.only()
    assert found["status"] == "lost"
    assert "run.log" in cmf(kernel.folder, "show", found["id"], "--cells").out
