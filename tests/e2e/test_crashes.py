"""Kill -9 of the hub in the middle of a push, and of the client in the middle of a push and of a pull.

A proxy between the two counts the bytes and kills at a point of the conversation. Then the command is run again:
nothing is lost, nothing is double, objects included.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf import collect
from cmf.hub import serve as serving
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.model.exchange import View
from cmf.objects.local import LocalObjects
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from tests.commands import cmf, script
from tests.histories import execution_nodes
from tests.hubs import HubProcess, running
from tests.objects import flip
from tests.proxy import Proxy

POINTS = 12

RECORD = """
import os, cmf
for number in range(8):
    with cmf.run(f"detector/stage{number % 3}", params={"number": number}) as run:
        if number:
            run.input(f"file{number - 1}")
        with open(f"file{number}", "wb") as file:
            file.write(os.urandom(20_000))
        run.output(f"file{number}", name=f"file{number}")
        for step in range(50):
            run.log({"loss": 1 / (step + number + 1)}, step=step)
os.makedirs("folder/deep")
for name in ("a", "deep/b"):
    open(f"folder/{name}", "wb").write(os.urandom(5_000))
with cmf.run("detector/model") as run:
    run.input("file7")
    run.output("folder", name="model")
    run.label("best")
"""


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with Proxy() as found:
        yield found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "detector"
    folder.mkdir()
    script(folder, RECORD)
    cmf(folder, "status")
    return folder


def join(hub: HubProcess, proxy: Proxy, folder: Path, name: str) -> None:
    proxy.target = hub.port
    proxy.arm(0, None)
    code = serving.invite(hub.folder, scope="", role="write", expires_s=600, name=name)
    cmf(folder, "remote", "add", "origin", proxy.url, "--invite", code)


def size_of(proxy: Proxy, folder: Path, *command: str) -> int:
    """Return how many bytes a command passes through the proxy when nothing is in its way."""
    proxy.arm(0, None)
    cmf(folder, *command)
    return proxy.bytes


def killed(proxy: Proxy, folder: Path, after: int, *command: str) -> None:
    """Run a command and kill it once so many bytes have passed."""
    child = subprocess.Popen(
        [sys.executable, "-m", "cmf", *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    proxy.arm(after, lambda: os.kill(child.pid, signal.SIGKILL))
    child.wait(timeout=60)
    assert child.returncode == -signal.SIGKILL


@contextlib.contextmanager
def opened(path: Path) -> Iterator[SqlStore]:
    store = SqlStore(Sqlite(path))
    try:
        yield store
    finally:
        store.close()


def everything_is_at_the_hub(hub: Path, project: Path) -> None:
    with opened(hub / "hub.db") as there, opened(project / ".cmf" / collect.DATABASE) as here:
        assert there.dump() == here.dump()
        assert there.promised() == []
        assert len(list(there.segments(View(), {}))) == len(list(here.segments(View(), {})))
        named = {digest for digests_ in here.index.artifacts_by_scope(_scopes(here)).values() for digest in digests_}
        evidence = {
            digest
            for view in here.index.executions(list(here.index.nodes(execution_nodes(here)).values())).values()
            for digest in (view.environment, *here.index.series_objects(view.node))
        }
    objects = LocalObjects(hub / "objects")
    wanted = sorted({digests.object_of(digest) for digest in named | evidence})
    assert objects.absent(wanted) == []
    for digest, _ in objects.list():
        objects.check(digest)


def _scopes(store: SqlStore) -> list[str]:
    return [str(stream["scope"]) for stream in store.streams()]


@pytest.mark.timeout(400)
def test_a_hub_that_is_killed_in_a_push_loses_nothing_and_doubles_nothing(
    project: Path, proxy: Proxy, tmp_path: Path
) -> None:
    with running(tmp_path / "whole", tmp_path / "state") as hub:
        join(hub, proxy, project, "whole")
        total = size_of(proxy, project, "push")
    assert total > 100_000
    for point in range(1, POINTS + 1):
        folder = tmp_path / f"hub{point}"
        with running(folder, tmp_path / "state") as hub:
            join(hub, proxy, project, f"hub{point}")
            proxy.arm(total * point // (POINTS + 1), hub.kill)
            done = cmf(project, "push", code=None)
            assert done.code == 7, (point, done)
            assert "Nothing is lost" in done.err or "Run the command again" in done.err
        with running(folder, tmp_path / "state", port=hub.port):
            proxy.arm(0, None)
            cmf(project, "push")
        everything_is_at_the_hub(folder, project)


@pytest.mark.timeout(400)
def test_a_client_that_is_killed_in_a_push_goes_on_where_it_was(project: Path, proxy: Proxy, tmp_path: Path) -> None:
    with running(tmp_path / "whole", tmp_path / "state") as hub:
        join(hub, proxy, project, "whole")
        total = size_of(proxy, project, "push")
    for point in range(1, POINTS + 1):
        folder = tmp_path / f"hub{point}"
        with running(folder, tmp_path / "state") as hub:
            join(hub, proxy, project, f"client{point}")
            killed(proxy, project, total * point // (POINTS + 1), "push")
            cmf(project, "push")
            assert cmf(project, "push").out == "Nothing new.\n"
        everything_is_at_the_hub(folder, project)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("command", [("pull", "--data"), ("pull", "--ancestors", "model@best", "--data")])
def test_a_client_that_is_killed_in_a_pull_goes_on_where_it_was(
    project: Path, proxy: Proxy, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        join(hub, proxy, project, "filler")
        cmf(project, "push", "--data")
        whole = tmp_path / "whole"
        cmf(tmp_path, "init", make(whole))
        join(hub, proxy, whole, "whole")
        total = size_of(proxy, whole, *command)
        for point in range(1, POINTS + 1):
            site = tmp_path / f"site{point}"
            cmf(tmp_path, "init", make(site))
            join(hub, proxy, site, f"site{point}")
            killed(proxy, site, total * point // (POINTS + 1), *command)
            cmf(site, *command)
            assert "all good" in cmf(site, "verify").out
            with (
                opened(site / ".cmf" / collect.DATABASE) as found,
                opened(whole / ".cmf" / collect.DATABASE) as expected,
            ):
                assert found.dump() == expected.dump()
                assert found.promised() == expected.promised()
            assert list(LocalObjects(site / ".cmf" / "objects").list()) == list(
                LocalObjects(whole / ".cmf" / "objects").list()
            )


def make(folder: Path) -> str:
    folder.mkdir()
    return str(folder)


def test_a_flipped_byte_in_an_object_on_its_way_is_refused_by_name(project: Path, tmp_path: Path) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        cmf(project, "remote", "add", "direct", hub.url)
        cmf(project, "push", "direct", "--data", env={"XDG_STATE_HOME": str(hub.state)})
        digest = cmf(project, "show", "file3", "--json").json["artifact"]["digest"]
        flip(hub.folder / "objects", digest, at=10_000)
        site = tmp_path / "site"
        cmf(tmp_path, "init", make(site))
        cmf(site, "remote", "add", "origin", hub.url)
        done = cmf(site, "pull", "--ancestors", "file4", "--data", code=5, env={"XDG_STATE_HOME": str(hub.state)})
        assert digest in done.err
        assert LocalObjects(site / ".cmf" / "objects").absent([digest]) == [digest]


def test_every_record_that_a_pull_brings_is_one_that_was_recorded(project: Path) -> None:
    with opened(project / ".cmf" / collect.DATABASE) as store:
        kinds = {
            type(record).__name__
            for wire in store.segments(View(own=True), {})
            for _, _, record in _read(wire)
            if record is not None
        }
    assert kinds == {
        kind.__name__
        for kind in (model.Execution, model.Artifact, model.Event, model.Link, model.Property, model.Series)
    }


def _read(wire: bytes) -> list[tuple[bytes, bytes, model.Record | None]]:
    from cmf.model import segment as segments

    return segments.check_body(segments.from_wire(wire))
