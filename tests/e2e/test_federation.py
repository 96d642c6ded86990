"""Hubs and sites as processes of their own: parted and healed, in loops, and after one is a peer no longer."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmf.model import digest as digests
from cmf.model import wire
from cmf.model.exchange import View
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer, transfer
from tests.commands import Done, run
from tests.histories import Writer, chain
from tests.hubs import HubProcess, running, until
from tests.proxy import Proxy

RECORD = """
import cmf, pathlib
pathlib.Path('out.txt').write_text({0!r})
with cmf.run('lab/{1}', params={{'of': {0!r}}}) as run:
    run.output('out.txt')
    run.metrics(f1=0.5)
with cmf.open() as here:
    here.push()
"""


class Place:
    """A machine: a hub there, and its sites. ``within``: what runs a command in its network."""

    def __init__(self, folder: Path, name: str, within: tuple[str, ...] = (), options: tuple[str, ...] = ()) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.within = within
        self.state = self.folder / "state"
        self.hub = HubProcess(self.folder / "hub", self.state, within=within, options=options)
        self.url = f"http://127.0.0.1:{self.hub.port}"

    def command(self, where: Path, *arguments: str, code: int | None = 0) -> Done:
        """Run `cmf` at this place, as its user."""
        command = [*self.within, sys.executable, "-m", "cmf", *arguments]
        return run(command, where, code=code, env={"XDG_STATE_HOME": str(self.state)})

    def admin(self, *arguments: str, code: int | None = 0) -> Done:
        """Run `cmf hub …` as the hub's own user."""
        return self.command(self.folder, "hub", *arguments, "--hub", self.url, code=code)

    def invite(self, role: str) -> str:
        return self.admin("invite", "somebody", "--role", role).out.split()[0]

    def peer(self) -> dict[str, Any]:
        """Return the state of its only peer."""
        (found,) = self.admin("peer", "status", "--json").json
        state: dict[str, Any] = found["state"]
        return state

    def site(self, name: str) -> "Site":
        """Make a site that has joined the hub."""
        folder = self.folder / name
        (folder / ".cmf").mkdir(parents=True)
        self.command(folder, "remote", "add", "origin", self.url, "--invite", self.invite("write"))
        return Site(self, folder, name)

    def close(self) -> None:
        self.hub.stop()


class Site:
    """The folder of one site at a place."""

    def __init__(self, place: Place, folder: Path, name: str) -> None:
        self.place, self.folder, self.name = place, folder, name

    def record(self, what: str) -> None:
        """Record an execution, and push it."""
        command = [*self.place.within, sys.executable, "-c", RECORD.format(f"{what} of {self.name}", self.name)]
        run(command, self.folder, env={"XDG_STATE_HOME": str(self.place.state)})

    def tables(self) -> Any:
        """Pull all; return the derived tables."""
        self.place.command(self.folder, "pull")
        store = SqlStore(Sqlite(self.folder / ".cmf" / "store.db"))
        try:
            return store.dump()
        finally:
            store.close()


def joined(a: Place, b: Place, url: str) -> None:
    """Have the hub at one place sync with that of another, both ways, at an address."""
    a.admin("peer", "add", "other", url, "--invite", b.invite("peer"), "--direction", "both", "--every", "1")


def parted_and_healed(one: list[Site], other: list[Site], part: Any, mend: Any) -> None:
    """Record on both sides of two hubs, part them, record on, mend it; everybody comes to hold the same."""
    a = one[0].place
    for site in (one[0], other[0]):
        site.record("before")
    until(lambda: a.peer()["succeeded_us"] > 0)
    part()
    for site in (*one, *other):
        site.record("meanwhile")
    until(lambda: a.peer()["failures"] > 0)
    said = a.admin("peer", "status").out
    assert re.search(r"other  failing \(\d+ times? in a row\)", said), said
    assert "cannot be reached" in said
    assert one[0].tables() != other[0].tables()
    mend()
    assert "pulled" in a.admin("peer", "sync", "other").out
    assert "Nothing differs from other" in a.admin("peer", "audit", "other").out
    tables = [site.tables() for site in (*one, *other)]
    assert all(found == tables[0] for found in tables)
    assert len(tables[0]["execution"]) == 2 + len(one) + len(other)
    assert (a.peer()["failures"], a.peer()["refused"]) == (0, 0)


def test_two_hubs_and_five_sites_are_parted_and_come_to_hold_the_same(tmp_path: Path) -> None:
    a, b = Place(tmp_path, "a"), Place(tmp_path, "b")
    proxy = Proxy(target=b.hub.port)
    try:
        joined(a, b, proxy.url)
        one = [a.site(name) for name in ("one", "two", "three")]
        other = [b.site(name) for name in ("four", "five")]

        def mend() -> None:
            proxy.mend()
            proxy.cut(3_000)  # and once more, in the middle of what was lacking
            a.admin("peer", "sync", "other", code=None)

        parted_and_healed(one, other, proxy.part, mend)
        far = digests.file_digest(b"meanwhile of five")
        assert a.command(one[0].folder, "cat", far).out == "meanwhile of five"
    finally:
        proxy.close()
        a.close()
        b.close()


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[tuple[Place, Place, str, tuple[str, str]]]:
    """Two machines, each in a network namespace, with one wire between them."""
    names = [f"cmf{os.getpid()}{side}" for side in "ab"]
    wires = tuple(f"v{os.getpid()}{side}"[:15] for side in "ab")

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)

    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("network namespaces take iproute2 and root")
    places: list[Place] = []
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", wires[0], "netns", names[0], "type", "veth", "peer", "name", wires[1], "netns", names[1])
            for number, (name, wire_) in enumerate(zip(names, wires, strict=True), start=1):
                ip("-n", name, "address", "add", f"10.213.77.{number}/24", "dev", wire_)
                ip("-n", name, "link", "set", wire_, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine makes no network namespaces: {error.stderr.strip()}")
        for name in names:
            within = ("ip", "netns", "exec", name)
            places.append(Place(tmp_path, name[-1], within, ("--host", "0.0.0.0", "--insecure")))
        yield places[0], places[1], f"http://10.213.77.2:{places[1].hub.port}", (names[0], wires[0])
    finally:
        for place in places:
            place.close()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_hubs_whose_network_is_cut_and_comes_back_hold_the_same(
    networks: tuple[Place, Place, str, tuple[str, str]],
) -> None:
    a, b, url, (name, wire_) = networks

    def link(state: str) -> None:
        subprocess.run(["ip", "-n", name, "link", "set", wire_, state], check=True)

    joined(a, b, url)
    parted_and_healed([a.site("one")], [b.site("two")], lambda: link("down"), lambda: link("up"))


def test_three_hubs_in_a_loop_come_to_hold_the_same_and_then_move_nothing(tmp_path: Path) -> None:
    with (
        running(tmp_path / "h0", tmp_path / "s0") as h0,
        running(tmp_path / "h1", tmp_path / "s1") as h1,
        running(tmp_path / "h2", tmp_path / "s2") as h2,
    ):
        hubs = (h0, h1, h2)
        access = [hub.client(tmp_path / f"k{number}").access for number, hub in enumerate(hubs)]

        def peer(at: int) -> wire.PeerInfo:
            return access[at].peers()[0]

        def turned(at: int) -> None:
            """Have a hub sync with the one behind it, once."""
            turns = peer(at).state.turns
            access[at].sync_peer("next")
            until(lambda: peer(at).state.turns > turns)
            assert peer(at).state.why == ""

        def tables() -> list[Any]:
            found = []
            for number, hub in enumerate(hubs):
                store = SqlStore(Sqlite(None))
                list(transfer(hub.client(tmp_path / f"k{number}").peer, LocalPeer(store), View()))
                found.append(store.dump())
            return found

        for number, hub in enumerate(hubs):
            writer = Writer(f"site{number}", seed=60 + number)
            chain(writer, f"lab{number}", 3)
            list(transfer(LocalPeer(writer.store), hub.client(tmp_path / f"k{number}").peer, View(own=True)))
        for number in range(3):
            behind = (number + 1) % 3
            code = access[behind].invite(f"hub{number}", wire.Role("", "read"), expires_s=600).secret
            asked = wire.AskPeer(name="next", url=hubs[behind].url, invite=code, every_s=86_400)
            access[number].add_peer(asked)
            until(lambda at=number: peer(at).state.turns > 0)  # type: ignore[misc]
        for number in (2, 1, 0):
            turned(number)
        found = tables()
        assert found[0] == found[1] == found[2]
        assert len(found[0]["execution"]) == 9
        counts = [peer(at).state.pulled for at in range(3)]
        for number in range(3):
            turned(number)
        assert [peer(at).state.pulled for at in range(3)] == counts

        access[0].remove_peer("next")
        writer = Writer("late", seed=69)
        chain(writer, "late", 1)
        list(transfer(LocalPeer(writer.store), h1.client(tmp_path / "k1").peer, View(own=True)))
        turned(2)
        turned(1)
        found = tables()
        assert len(found[0]["execution"]) == 9
        assert len(found[1]["execution"]) == 10
