"""`cmf doctor`: every red tick is seen, says what to do, and goes when it is mended."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cmf import reaching
from cmf.config import Remote
from tests import buckets
from tests.commands import Done, cmf, git, run, script
from tests.hubs import running
from tests.sshd import Sshd


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init")
    script(folder, "import cmf; cmf.run('a/b').metrics({'x': 1})")
    cmf(folder, "remote", "list")
    return folder


def doctor(folder: Path, *options: str, code: int | None = None) -> tuple[Done, dict[str, Any]]:
    done = cmf(folder, "doctor", "--json", *options, code=code)
    assert "Traceback" not in done.err
    return done, {finding["check"]: finding for finding in json.loads(done.out) if not finding["is_well"]}


def test_all_is_well_and_the_exit_code_says_so(project: Path) -> None:
    _, wrong = doctor(project, code=0)
    assert wrong == {}
    shown = cmf(project, "doctor").out
    assert "✔" in shown
    assert "✘" not in shown


def test_without_a_store_it_looks_at_the_machine_and_makes_nothing(project: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _, wrong = doctor(tmp_path / "empty", code=0)
    assert wrong == {}
    assert list((tmp_path / "empty").iterdir()) == []


def test_another_command_of_that_name_is_seen(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    other = tmp_path / "bin" / "cmf"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{tmp_path / 'bin'}")
    _, wrong = doctor(project, code=4)
    assert str(other) in wrong["command"]["said"]


def test_another_distribution_that_installs_cmf_is_seen(project: Path, tmp_path: Path) -> None:
    info = tmp_path / "site" / "cmflib-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cmflib\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[console_scripts]\ncmf = cmflib.cli:main\n")
    done = run(
        [sys.executable, "-m", "cmf", "doctor", "--json"], project, code=4, env={"PYTHONPATH": str(tmp_path / "site")}
    )
    (finding,) = [found for found in json.loads(done.out) if not found["is_well"]]
    assert "cmflib" in finding["said"]
    assert "pip uninstall cmflib" in finding["hint"]


def test_a_key_that_others_can_read_is_seen_and_mended(project: Path) -> None:
    cmf(project, "bundle", "create", "out.bundle")  # sealing makes the key
    key = project / ".cmf" / "keys" / str(os.getuid())
    key.chmod(0o644)
    _, wrong = doctor(project, code=4)
    assert str(key) in wrong["keys"]["said"]
    _, wrong = doctor(project, "--fix", code=0)
    assert wrong["keys"]["is_mended"]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert doctor(project, code=0)[1] == {}


def test_leftovers_and_a_missing_ignore_file_are_mended(project: Path) -> None:
    folder = project / ".cmf" / "objects" / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    left = folder / f"{os.getpid()}-0123456789abcdef"
    left.write_bytes(b"half")
    long_ago = time.time() - 10 * 86_400
    os.utime(left, (long_ago, long_ago))
    (project / ".cmf" / ".gitignore").unlink()
    _, wrong = doctor(project, code=4)
    assert {"leftovers", "settings"} <= set(wrong)
    doctor(project, "--fix", code=0)
    assert not left.exists()
    assert (project / ".cmf" / ".gitignore").read_text() == "*\n"


def test_settings_that_cannot_be_read_are_one_finding_among_others(project: Path) -> None:
    (project / ".cmf" / "config.yaml").write_text("site: [")
    _, wrong = doctor(project, code=4)
    assert "not valid YAML" in wrong["settings"]["said"]


def test_a_damaged_database_is_seen(project: Path) -> None:
    cmf(project, "log")
    database = project / ".cmf" / "store.db"
    database.write_bytes(b"this is no database" * 500)
    for extra in ("store.db-wal", "store.db-shm"):
        (project / ".cmf" / extra).unlink(missing_ok=True)
    _, wrong = doctor(project, code=4)
    assert "damaged" in wrong["database"]["said"]


def test_a_journal_of_a_newer_version_is_seen_and_left_alone(project: Path) -> None:
    newer = project / ".cmf" / "journal" / "host-1-1-00000000.j"
    newer.write_bytes(b"cmf-jrn\x63" + b"x" * 40)
    _, wrong = doctor(project, code=4)
    assert "format version" in wrong["journals"]["said"]
    assert newer.exists()


def test_what_was_not_recorded_is_told(project: Path) -> None:
    script(project, "import cmf; cmf.run('a/b').set('status/1', 'mine')")
    _, wrong = doctor(project, code=4)
    assert "could not be recorded" in wrong["recording"]["said"]


def test_a_copied_store_is_not_given_an_identity_by_looking(project: Path, tmp_path: Path) -> None:
    cmf(project, "log")
    shutil.copytree(project, tmp_path / "copy")
    before = (tmp_path / "copy" / ".cmf" / "site").read_bytes()
    done, _ = doctor(tmp_path / "copy", code=None)
    (keys,) = [finding for finding in json.loads(done.out) if finding["check"] == "keys"]
    assert "copied" in keys["said"]
    assert (tmp_path / "copy" / ".cmf" / "site").read_bytes() == before


def test_a_hub_is_asked_and_one_that_is_away_or_foreign_is_named(project: Path, tmp_path: Path) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        cmf(project, "remote", "add", "origin", hub.url)
        done, wrong = doctor(project, code=0)
        assert wrong == {}
        assert "as local" in done.out
        cmf(project, "doctor", code=0)
        stranger = run(
            [sys.executable, "-m", "cmf", "doctor", "--json"],
            project,
            code=4,
            env={"XDG_STATE_HOME": str(tmp_path / "no")},
        )
        assert "does not know us" in stranger.out
    _, wrong = doctor(project, code=4)
    assert "cannot be reached" in wrong["hub origin"]["said"]


def test_a_lock_is_named_and_broken_only_when_a_person_says_so(project: Path) -> None:
    held = {"host": "node17", "boot": "another-boot", "pid": 4711, "start": 1, "uid": 0}
    lock = project / ".cmf" / "store.lock"
    lock.write_text(json.dumps(held))
    done, wrong = doctor(project, code=0)
    assert wrong == {}
    assert "process 4711 on node17" in done.out
    command = [sys.executable, "-m", "cmf", "doctor", "--unlock"]
    refused = subprocess.run(command, cwd=project, input="n\n", capture_output=True, text=True, check=False)
    assert (refused.returncode, lock.exists()) == (4, True)
    broken = subprocess.run(command, cwd=project, input="y\n", capture_output=True, text=True, check=False)
    assert (broken.returncode, lock.exists()) == (0, False), broken.stderr
    assert "process 4711 on node17 is broken" in broken.stdout


def test_places_for_data_are_asked_and_each_that_does_not_answer_or_let_in_is_named(
    project: Path, tmp_path: Path, home: Path, sshd: Sshd, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in buckets.environment(s3).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "disk").mkdir()
    private = sshd.introduce(home)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and not listening: who connects is refused
        away = f"ssh://127.0.0.1:{nobody.getsockname()[1]}{tmp_path / 'disk'}"
        remotes = {
            "bucket": f"s3://{buckets.NAME}/doctor",
            "machine": sshd.url(tmp_path / "disk"),
            "folder": str(tmp_path / "disk"),
        }
        for name, url in remotes.items():
            cmf(project, "remote", "add", name, url)
        done, wrong = doctor(project, code=0)
        assert wrong == {}
        assert {f"remote {name}" for name in remotes} <= {found["check"] for found in json.loads(done.out)}

        cmf(project, "remote", "add", "away", away)
        cmf(project, "remote", "add", "no-bucket", "s3://nobodys/doctor")
        (tmp_path / "gone").mkdir()
        cmf(project, "remote", "add", "unmounted", str(tmp_path / "gone" / "disk"))
        (tmp_path / "gone").rmdir()
        (private / "known_hosts").write_text("")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        _, wrong = doctor(project, code=4)
    assert set(wrong) == {f"remote {name}" for name in ("bucket", "machine", "away", "no-bucket", "unmounted")}
    assert all(found["hint"] for found in wrong.values())
    assert "known" in wrong["remote machine"]["said"] + wrong["remote machine"]["hint"]
    assert "no folder" in wrong["remote unmounted"]["said"]
    assert "wrong" not in json.dumps([wrong["remote bucket"]])
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_remote_that_never_answers_is_waited_for_no_longer_than_the_limit() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        asker = reaching.Asker(Path("/nowhere"), Path("/nowhere"), {})
        (found,) = reaching.reach({"origin": Remote(url=url)}, asker, limit_s=0.2)
    assert found.title == "hub origin"
    assert f"{url} did not answer" in found.said
    assert found.hint
