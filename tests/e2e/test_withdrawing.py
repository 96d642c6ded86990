"""What was recorded is hidden from everybody and shown again; a secret that was recorded is gone everywhere."""

import hashlib
from pathlib import Path

import pytest

from tests.commands import cmf, script
from tests.e2e.test_team import admin
from tests.hubs import HubProcess, running

SECRET = "correct-horse-battery"
RECORD = f"""
import cmf
with cmf.run('vision/train', params={{'seed': 1, 'note': '{SECRET}'}}) as run:
    open('model.bin', 'wb').write(b'm' * 100)
    run.output('model.bin', type='model', name='detector')
    run.metrics(f1=0.5)
"""


def joined(hub: HubProcess, folder: Path, name: str, *roles: str) -> Path:
    """Make a store that joined the hub with some roles on the pipeline."""
    place = folder / name
    place.mkdir()
    cmf(place, "init")
    code = admin(hub, folder, "invite", name, "--scope", "vision", "--role", roles[0]).split()[0]
    cmf(place, "remote", "add", "origin", hub.url, "--invite", code)
    for role in roles[1:]:
        number = cmf(place, "hub", "who").out.split()[0]
        admin(hub, folder, "role", "give", number, role, "--scope", "vision")
    return place


def listed(place: Path) -> list[str]:
    return [execution["id"] for execution in cmf(place, "log", "--json").json["executions"]]


def bytes_below(*folders: Path) -> bytes:
    """Return the bytes of every database below some folders."""
    return b"".join(path.read_bytes() for folder in folders for path in folder.rglob("*.db*"))


def test_a_retracted_execution_is_hidden_from_everybody_and_shown_again(tmp_path: Path) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        ada, bob = joined(hub, tmp_path, "ada", "write"), joined(hub, tmp_path, "bob", "read")
        script(ada, RECORD)
        cmf(ada, "push")
        cmf(bob, "pull")
        (execution,) = listed(ada)
        assert listed(bob) == [execution]
        assert "is an artifact" in cmf(ada, "retract", "detector", code=2).err
        assert "tells others" in cmf(ada, "retract", execution, "--reason", "wrong labels").out
        assert "already" in cmf(ada, "retract", execution).out
        cmf(ada, "push")
        cmf(bob, "pull")
        for place, remote in ((ada, ()), (bob, ()), (bob, ("--remote", "origin"))):
            assert cmf(place, "log", "--json", *remote).json["executions"] == []
        cmf(bob, "show", "detector", code=3)
        assert cmf(bob, "show", execution, "--json").json["properties"]["retracted/reason"] == "wrong labels"
        cmf(ada, "retract", execution, "--undo")
        cmf(ada, "push")
        cmf(bob, "pull")
        assert listed(bob) == [execution]
        cmf(bob, "show", "detector")


def test_a_secret_that_was_recorded_is_gone_from_hub_and_sites(tmp_path: Path) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        ada, bob = joined(hub, tmp_path, "ada", "write"), joined(hub, tmp_path, "bob", "write", "redact")
        script(ada, RECORD)
        cmf(ada, "push")
        cmf(bob, "pull")
        (found,) = cmf(bob, "redact", "--find", SECRET, "--json").json
        assert found["kind"] == "execution"
        denied = cmf(ada, "redact", found["record"], "--yes", code=6)
        assert "may not redact in vision/train" in denied.err
        said = cmf(bob, "redact", found["record"][:12], "--yes", "--reason", "a password")
        assert "Redacted 1 record" in said.out
        cmf(bob, "push")
        cmf(ada, "pull")
        for place in (ada, bob):
            assert cmf(place, "redact", "--find", SECRET, "--json").json == []
            assert cmf(place, "verify").code == 0
        clone = tmp_path / "new"
        code = admin(hub, tmp_path, "invite", "new", "--scope", "vision", "--role", "read").split()[0]
        clone.mkdir()
        cmf(clone, "init")
        cmf(clone, "remote", "add", "origin", hub.url, "--invite", code)
        cmf(clone, "pull")
        assert cmf(clone, "redact", "--find", SECRET, "--json").json == []
        assert SECRET.encode() not in bytes_below(clone)
        assert "note" not in cmf(clone, "show", "detector").out
        # Whoever still has the old bytes brings nothing back: the hub holds that segment, without them.
        script(ada, "import cmf\nwith cmf.run('vision/train') as run: run.metrics(f1=1.0)")
        cmf(ada, "push")
        cmf(clone, "pull")
        assert cmf(clone, "redact", "--find", SECRET, "--json").json == []


def test_what_was_never_pushed_is_redacted_by_anybody_without_a_trace(tmp_path: Path) -> None:
    cmf(tmp_path, "init")
    script(tmp_path, RECORD)
    (found,) = cmf(tmp_path, "redact", "--find", SECRET, "--json").json
    said = cmf(tmp_path, "redact", found["record"], "--yes", "--objects").out
    assert "sent nowhere" in said
    assert cmf(tmp_path, "redact", "--find", SECRET, "--json").json == []
    assert cmf(tmp_path, "redact", "--find", found["record"], "--json").json == []
    assert "There is no record" in cmf(tmp_path, "redact", found["record"], "--yes", code=3).err


@pytest.mark.parametrize("arguments", [(), ("zz",), ("abc",), ("12345678", "--find", "x")])
def test_what_names_no_record_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    cmf(tmp_path, "init")
    cmf(tmp_path, "redact", *arguments, "--yes", code=2)


def test_objects_that_only_a_redacted_record_names_go_with_it_if_asked(tmp_path: Path) -> None:
    cmf(tmp_path, "init")
    script(tmp_path, RECORD)
    digest = "sha256:" + hashlib.sha256(b"m" * 100).hexdigest()
    (found,) = [r for r in cmf(tmp_path, "redact", "--find", digest, "--json").json if r["kind"] == "event"]
    assert cmf(tmp_path, "cat", digest).out == "m" * 100
    done = cmf(tmp_path, "redact", found["record"], "--yes", "--objects", "--json").json
    assert done["objects"] == [digest]
    cmf(tmp_path, "cat", digest, code=3)
