"""A team runs a hub: who may do what is given, seen and taken back with commands alone."""

import re
import subprocess
import sys
from pathlib import Path

from tests.commands import cmf, script
from tests.hubs import HubProcess, running

RECORD = "import cmf\nwith cmf.run('vision/train', params={'seed': 1}) as run:\n    run.metrics(f1=0.5)\n"


def site(folder: Path, name: str) -> Path:
    """Make the folder of a site that recorded one execution."""
    place = folder / name
    (place / ".cmf").mkdir(parents=True)
    script(place, RECORD)
    return place


def admin(hub: HubProcess, folder: Path, *arguments: str, code: int = 0) -> str:
    """Run `cmf hub …` as the hub's own user; return what it said."""
    done = cmf(folder, "hub", *arguments, "--hub", hub.url, code=code, env={"XDG_STATE_HOME": str(hub.state)})
    return done.out + done.err


def test_a_full_quota_is_told_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        ada = site(tmp_path, "ada")
        code = admin(hub, tmp_path, "invite", "ada").split()[0]
        cmf(ada, "remote", "add", "origin", hub.url, "--invite", code)
        assert "each principal: at most 953.7 MiB" in admin(hub, tmp_path, "quota", "set", "--each", "--bytes", "1GB")
        (name,) = re.findall(r"ada \(.*\)", cmf(ada, "hub", "quota", "list").out) or ["ada"]
        admin(hub, tmp_path, "quota", "set", name, "--streams", "0")
        refused = cmf(ada, "push", code=4).err
        assert "has 0 of at most 0 streams" in refused
        assert "nothing is lost" in refused
        assert "not admin" in cmf(ada, "hub", "quota", "set", name, "--streams", "9", code=6).err
        assert "0 of 9 streams" in admin(hub, tmp_path, "quota", "set", name, "--streams", "9")
        cmf(ada, "push")
        assert "1 of 9 streams" in cmf(ada, "hub", "quota", "list").out
        for wrong in (("set", name), ("set", "--each"), ("set", "--streams", "1"), ("set", "--each", "--bytes", "1XB")):
            cmf(ada, "hub", "quota", *wrong, code=2)
        admin(hub, tmp_path, "quota", "clear", name)
        assert "no quota of" in admin(hub, tmp_path, "quota", "clear", name, code=3)


def test_access_is_given_seen_and_taken_back_with_commands(tmp_path: Path) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        ada = site(tmp_path, "ada")
        code = admin(hub, tmp_path, "invite", "ada", "--scope", "vision", "--role", "read").split()[0]
        cmf(ada, "remote", "add", "origin", hub.url, "--invite", code)
        assert "may not write in vision/train" in cmf(ada, "push", code=4).err
        who = re.search(r"(\d+)  (ada[^:]*): read vision", admin(hub, tmp_path, "who"))
        assert who is not None
        admin(hub, tmp_path, "role", "give", who[1], "write", "--scope", "vision")
        cmf(ada, "push")
        key = re.search(r"key ([0-9a-f]{64})", cmf(ada, "hub", "who").out)
        assert key is not None

        narrow = cmf(ada, "hub", "token", "add", "--role", "read", "--scope", "vision", "--days", "1")
        job = site(tmp_path, "job")
        subprocess.run(
            [sys.executable, "-m", "cmf", "remote", "add", "origin", hub.url, "--token"],
            input=narrow.out, text=True, cwd=job, check=True, capture_output=True,
        )  # fmt: skip
        cmf(job, "pull")
        assert "seed" in cmf(job, "log", "--json").out
        assert cmf(job, "push", code=4).err

        token = re.search(r"Token ([0-9a-f]{16})", narrow.err)
        assert token is not None
        cmf(ada, "hub", "token", "revoke", token[1])
        assert "does not know the token" in cmf(job, "pull", code=6).err

        admin(hub, tmp_path, "key", "revoke", key[1])
        script(ada, RECORD)
        assert "revoked" in cmf(ada, "push", code=4).err
        assert "not admin" in cmf(ada, "hub", "audit", code=6).err
        said = admin(hub, tmp_path, "audit")
        assert [line.split("  ")[2].split(":")[0] for line in said.splitlines()] == [
            "revoked a key",
            "revoked a token",
            "made a token",
            "gave write on vision",
            "joined as read on vision",
            "invited as read on vision",
        ]
        waiting = admin(hub, tmp_path, "invite", "bob", "--scope", "vision")
        id_ = re.search(r"invited: bob, write vision, ([0-9a-f]{16})", admin(hub, tmp_path, "who"))
        assert id_ is not None
        admin(hub, tmp_path, "uninvite", id_[1])
        bob = site(tmp_path, "bob")
        cmf(bob, "remote", "add", "origin", hub.url, "--invite", waiting.split()[0], code=6)
        assert "Nobody at this hub is called 'zed'" in admin(hub, tmp_path, "role", "give", "zed", "read", code=3)
