"""A hub that is restored from a backup: sites heal it, and nothing that any of them holds is lost."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import databases
from tests.commands import cmf, script
from tests.hubs import HubProcess, running

pytestmark = pytest.mark.xdist_group("postgres")
RECORD = """
from pathlib import Path
import cmf
with cmf.run("{site}/train", name="{name}") as run:
    Path("model.txt").write_text("{name}")
    run.output("model.txt")
"""


def site(folder: Path) -> Path:
    folder.mkdir()
    cmf(folder, "init", "--site", folder.name)
    return folder


def record(site: Path, name: str) -> None:
    script(site, RECORD.format(site=site.name, name=name))


def names(site: Path, *options: str) -> list[str]:
    return sorted(found["name"] for found in json.loads(cmf(site, "log", "--json", *options).out)["executions"])


def join(site: Path, hub: HubProcess, *roles: str) -> None:
    database = ("--database", hub.database) if hub.database else ()
    for role in roles:
        said = cmf(site, "hub", "invite", site.name, "--role", role, "--folder", str(hub.folder), *database).out
        cmf(site, "remote", "add", "origin", hub.url, "--invite", said.split()[0])


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Callable[[], None], Callable[[], str]]:
    """Return a hub's database, how to back the whole hub up, and how to restore it: that returns its database."""
    kept = tmp_path / "backup"
    if request.param == "sqlite":

        def restore() -> str:
            shutil.rmtree(tmp_path / "hub")
            shutil.copytree(kept, tmp_path / "hub")
            return ""

        def copy() -> None:
            shutil.copytree(tmp_path / "hub", kept)

        return "", copy, restore
    server = request.getfixturevalue("database")
    url = databases.another(server)

    def command(*words: str) -> None:
        program = databases.binaries() / "pginstall" / "bin" / words[0]
        subprocess.run([program, *words[1:]], check=True, capture_output=True, env={**os.environ})

    def backup() -> None:
        shutil.copytree(tmp_path / "hub", kept)
        command("pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}", url)

    def restored() -> str:
        shutil.rmtree(tmp_path / "hub")
        shutil.copytree(kept, tmp_path / "hub")
        fresh = databases.another(server)
        command("pg_restore", "--no-owner", f"--dbname={fresh}", str(tmp_path / "dump"))
        return fresh

    return url, backup, restored


def test_sites_heal_a_hub_that_was_restored_from_an_older_backup(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: tuple[str, Callable[[], None], Callable[[], str]],
) -> None:
    database, backup, restore = place
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    edge, lab, late = (site(tmp_path / name) for name in ("edge", "lab", "late"))
    with running(tmp_path / "hub", tmp_path / "state", database=database) as hub:
        port = hub.port
        join(edge, hub, "write")
        join(lab, hub, "write", "relay")
        record(edge, "before")
        cmf(edge, "push")
        cmf(lab, "pull", "--data")
    backup()
    with running(tmp_path / "hub", tmp_path / "state", port=port, database=database):
        record(edge, "after")
        cmf(edge, "push")
        cmf(lab, "pull", "--data")
        record(lab, "own")
        cmf(lab, "push")
    with running(tmp_path / "hub", tmp_path / "state", port=port, database=restore()) as hub:
        assert names(lab, "--remote", "origin") == ["before"]
        shutil.rmtree(edge)  # only the lab still has what the edge pushed after the backup
        warned = cmf(lab, "pull")
        assert "lost" in warned.out + warned.err
        assert "Pushed" in cmf(lab, "push", "--relay", "--data").out
        join(late, hub, "read")
        cmf(late, "pull", "--data")
        assert names(late) == ["after", "before", "own"]
        found = json.loads(cmf(late, "show", "after", "--json").out)
        assert found["outputs"][0]["size"] == len("after")
        cmf(late, "verify")
