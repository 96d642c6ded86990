"""A site's key is stolen, revoked and replaced, with commands alone: nothing that was recorded is lost."""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

from tests.commands import cmf, script
from tests.e2e.test_team import RECORD, admin, site
from tests.hubs import running


def recorded(folder: Path) -> int:
    return len(json.loads(cmf(folder, "log", "--json").out)["executions"])


def key_of(folder: Path) -> str:
    return str(json.loads(cmf(folder, "key", "show", "--json").out)["key"])


def test_what_a_revoked_key_sealed_goes_under_the_next_key_and_nothing_is_lost(tmp_path: Path) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        ada = site(tmp_path, "ada")
        code = admin(hub, tmp_path, "invite", "ada", "--scope", "vision", "--role", "write").split()[0]
        cmf(ada, "remote", "add", "origin", hub.url, "--invite", code)
        cmf(ada, "push")
        first = key_of(ada)
        script(ada, RECORD)
        cmf(ada, "bundle", "create", "seals.bundle")  # sealed with the first key, and not sent
        assert first in cmf(ada, "key", "rotate").out
        assert key_of(ada) != first
        script(ada, RECORD)
        cmf(ada, "hub", "key", "revoke", first)
        # A hub that did not see the rotation before the revocation lets the new key in by an invite only.
        assert "revoked" in cmf(ada, "push", code=4).err
        code = admin(hub, tmp_path, "invite", "ada", "--scope", "vision", "--role", "write").split()[0]
        cmf(ada, "remote", "add", "origin", hub.url, "--invite", code)
        cmf(ada, "push")
        assert "nothing" in cmf(ada, "push").out.lower()
        bob = site(tmp_path, "bob")
        code = admin(hub, tmp_path, "invite", "bob", "--scope", "vision", "--role", "read").split()[0]
        cmf(bob, "remote", "add", "origin", hub.url, "--invite", code)
        cmf(bob, "pull")
        assert recorded(bob) == 3 + 1
        cmf(bob, "verify")
        assert re.search(r"key [0-9a-f]{16} since", cmf(ada, "doctor", code=None).out)


ROTATIONS, KILLS = 3, 3
ROTATES = f"""
import os, sys, time
from pathlib import Path
from cmf import collect

for _ in range({ROTATIONS}):
    made = collect.rotate_key(Path(".cmf"), os.getuid(), now=time.time_ns() // 1000)
    print(made.key.public.hex(), flush=True)
sys.stdin.read()
"""


def killed_after(folder: Path, rotations: int) -> list[str]:
    """Have a process rotate the key, and kill it once it told of so many, in the midst of the next; return these."""
    command = [sys.executable, "-c", ROTATES]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(rotations)]
        process.kill()
        return said + [line.strip() for line in process.stdout]


def test_a_rotation_that_is_killed_anywhere_leaves_a_key_that_two_hubs_take(tmp_path: Path) -> None:
    places = [(tmp_path / name, tmp_path / f"{name}-state") for name in ("near", "far")]
    with running(*places[0]) as near, running(*places[1]) as far:
        ada = site(tmp_path, "ada")
        for hub in (near, far):
            code = admin(hub, tmp_path, "invite", "ada", "--scope", "vision", "--role", "write").split()[0]
            cmf(ada, "remote", "add", hub.folder.name, hub.url, "--invite", code)
            cmf(ada, "push", hub.folder.name)
        for kill in range(KILLS):
            before = key_of(ada)
            said = killed_after(ada, kill % ROTATIONS)
            shown = json.loads(cmf(ada, "key", "show", "--json").out)
            assert {before, *said} <= {shown["key"], *shown["follows"]}, "a key that was told is gone"
            script(ada, RECORD)
            for hub in (near, far)[:: 1 - 2 * (kill % 2)]:
                cmf(ada, "push", hub.folder.name)
        for hub in (near, far):
            listed = cmf(ada, "log", "--remote", hub.folder.name, "--json").out
            assert len(json.loads(listed)["executions"]) == KILLS + 1
        kept = [path for path in (ada / ".cmf" / "keys").iterdir() if path.is_file()]
        assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}, "a file that a kill left, too"
        cmf(ada, "verify")
