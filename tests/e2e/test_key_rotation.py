"""A site's key is stolen, revoked and replaced, with commands alone: nothing that was recorded is lost."""

import json
import re
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
