"""Hubs that sync with each other: real processes, each with its database and its worker."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cmf.errors import CmfError, ConflictError, DeniedError, NotFoundError, UsageError
from cmf.hub import federation
from cmf.hub.access import console
from cmf.hub.auth import Auth
from cmf.hub.peers import LEASE_US, Peers
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.model import wire
from cmf.model.exchange import View
from cmf.objects import manifest
from cmf.remote import HubClient
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer, transfer
from tests.histories import Writer, chain
from tests.hubs import HubProcess, running, until
from tests.proxy import Proxy

Two = tuple[HubProcess, HubProcess]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("hubs")
    with running(folder / "a", folder / "sa") as a, running(folder / "b", folder / "sb") as b:
        yield a, b


@pytest.fixture
def hubs(started: Two) -> Iterator[Two]:
    """Two hubs without peers; what other tests recorded there is in other scopes."""
    yield started
    for hub in started:
        for peer in admin(hub).access.peers():
            admin(hub).access.remove_peer(peer.name)


def admin(hub: HubProcess) -> HubClient:
    return hub.client(hub.folder.parent / "keys")


def code(hub: HubProcess, role: str, scope: str = "") -> str:
    return admin(hub).access.invite("another hub", wire.Role(scope, role), expires_s=600).secret


def pushed(writer: Writer, hub: HubProcess) -> None:
    assert {a.outcome for a in transfer(LocalPeer(writer.store), admin(hub).peer, View(own=True))} <= {"new"}


def synced(hub: HubProcess, name: str) -> wire.PeerState:
    """Have a hub sync with a peer; return how it went."""
    access = admin(hub).access
    before = state(hub, name)
    access.sync_peer(name)
    until(lambda: state(hub, name).turns > before.turns)
    return state(hub, name)


def state(hub: HubProcess, name: str) -> wire.PeerState:
    return next(peer.state for peer in admin(hub).access.peers() if peer.name == name)


def held(hub: HubProcess, *pipelines: str) -> SqlStore:
    """Return the store of who pulled all that a hub holds of some pipelines."""
    store = SqlStore(Sqlite(None))
    list(transfer(admin(hub).peer, LocalPeer(store), View(scopes=pipelines)))
    return store


def test_what_a_peer_holds_is_pulled_under_its_writers_keys(hubs: Two) -> None:
    a, b = hubs
    writer = Writer("pulled", seed=31)
    chain(writer, "pulled", 6)
    pushed(writer, b)
    asked = wire.AskPeer(name="b", url=b.url, invite=code(b, "read"), scopes=["pulled"], every_s=3600)
    admin(a).access.add_peer(asked)
    until(lambda: state(a, "b").turns > 0)
    assert held(a, "pulled").dump() == writer.store.dump()
    assert state(a, "b").pulled == sum(1 for _ in writer.store.segments(View(), {}))


def test_what_is_here_is_pushed_to_a_hub_whose_peer_we_are(hubs: Two) -> None:
    a, b = hubs
    near, far = Writer("near", seed=32), Writer("far", seed=33)
    chain(near, "near", 3)
    chain(far, "far", 3)
    pushed(near, a)
    pushed(far, b)
    asked = wire.AskPeer(name="b", url=b.url, invite=code(b, "peer"), direction="both", every_s=3600)
    admin(a).access.add_peer(asked)
    until(lambda: state(a, "b").turns > 0)
    assert state(a, "b").why == ""
    assert held(a, "near", "far").dump() == held(b, "near", "far").dump()
    assert held(a, "near", "far").counts()["execution"] == 6
    said = metrics(a)
    assert 'cmf_hub_peer_failures{peer="b"} 0.0' in said
    assert f'cmf_hub_peer_pulled{{peer="b"}} {state(a, "b").pulled}.0' in said
    assert any(line.startswith('cmf_hub_peer_lag_seconds{peer="b"} ') for line in said)
    first = state(a, "b")
    again = synced(a, "b")
    assert (again.pulled, again.pushed) == (first.pulled, first.pushed)


def test_a_peer_brings_nothing_outside_of_the_scopes_it_was_added_for(hubs: Two) -> None:
    a, b = hubs
    writer = Writer("scoped", seed=34)
    chain(writer, "vision", 2)
    chain(writer, "speech", 2)
    pushed(writer, b)
    admin(a).access.add_peer(wire.AskPeer(name="b", url=b.url, invite=code(b, "read"), scopes=["vision"], every_s=3600))
    until(lambda: state(a, "b").turns > 0)
    assert held(a, "vision").counts()["execution"] == 2
    assert held(a, "speech").counts()["stream"] == 0


def test_a_peer_vouches_in_its_scopes_alone_and_not_for_whom_this_hub_knows(hubs: Two, tmp_path: Path) -> None:
    _, b = hubs
    unknown, reader = Writer("unknown", seed=35), Writer("reader", seed=36)
    admin_b = admin(b).access
    invite = admin_b.invite("reader", wire.Role("known", "read"), expires_s=600).secret
    HubClient(b.url, state_home=tmp_path, keys=tmp_path / "reader").enrol(invite, reader.key, "reader")
    for writer, pipeline in ((unknown, "known"), (unknown, "outside"), (reader, "known")):
        chain(writer, pipeline, 1)
    carriers = {}
    for seed, role in ((37, "peer"), (41, "relay")):
        carriers[role] = HubClient(b.url, state_home=tmp_path, keys=tmp_path / role)
        carriers[role].enrol(code(b, role, "known"), Writer(role, seed=seed).key, role)
    found = list(transfer(LocalPeer(unknown.store), carriers["relay"].peer, View(own=True)))
    assert {one.outcome for one in found} == {"refused"}
    found = list(transfer(LocalPeer(unknown.store), carriers["peer"].peer, View(own=True)))
    assert {one.scope.partition("/")[0] for one in found if one.outcome == "new"} == {"known"}
    assert "not enrolled" in next(one.detail for one in found if one.outcome == "refused")
    found = list(transfer(LocalPeer(reader.store), carriers["peer"].peer, View(own=True)))
    assert {one.outcome for one in found} == {"refused"}
    assert "may not write" in found[0].detail
    admin_b.revoke_key(unknown.key.public.hex())  # which is enrolled nowhere here
    chain(unknown, "known", 2)
    found = list(transfer(LocalPeer(unknown.store), carriers["peer"].peer, View(own=True)))
    assert "revoked" in {one.kind for one in found if one.scope.startswith("known/")}


def test_only_an_admin_of_everything_has_to_do_with_peers(hubs: Two, tmp_path: Path) -> None:
    a, b = hubs
    client = HubClient(a.url, state_home=tmp_path, keys=tmp_path / "ada")
    invite = admin(a).access.invite("ada", wire.Role("vision", "admin"), expires_s=600).secret
    client.enrol(invite, Writer("ada", seed=38).key, "ada")
    acts: list[Callable[[], object]] = [
        client.access.peers,
        lambda: client.access.add_peer(wire.AskPeer(name="b", url=b.url, scopes=["vision"])),
        lambda: client.access.sync_peer("b"),
        lambda: client.access.remove_peer("b"),
    ]
    for act in acts:
        with pytest.raises(DeniedError):
            act()


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"name": "b c"}, UsageError, "no name for a peer"),
        ({"every_s": 0}, UsageError, "no schedule"),
        ({"scopes": ["../etc"]}, UsageError, "not a scope"),
        ({"url": "file:///etc/passwd"}, UsageError, "not a hub's address"),
        ({"token": "x" * 43}, DeniedError, "does not know the token"),
        ({}, DeniedError, "does not let us read everything"),
    ],
)
def test_a_peer_that_cannot_be_is_refused_and_nothing_is_kept(
    hubs: Two, asked: dict[str, object], error: type[CmfError], says: str
) -> None:
    a, b = hubs
    with pytest.raises(error, match=says):
        admin(a).access.add_peer(wire.AskPeer(**{"name": "b", "url": b.url, **asked}))  # type: ignore[arg-type]
    assert admin(a).access.peers() == []


def test_a_hub_is_no_peer_of_itself_and_nobody_is_one_twice(hubs: Two) -> None:
    a, b = hubs
    with pytest.raises(UsageError, match="this hub itself"):
        admin(a).access.add_peer(wire.AskPeer(name="me", url=a.url))
    admin(a).access.add_peer(wire.AskPeer(name="b", url=b.url, invite=code(b, "read"), every_s=3600))
    for name, url in (("b", "http://127.0.0.1:9"), ("c", b.url)):
        with pytest.raises(ConflictError, match="has a peer 'b' already"):
            admin(a).access.add_peer(wire.AskPeer(name=name, url=url))
    kept = list((a.folder / "keys" / "tokens").iterdir())
    assert [path.stat().st_mode & 0o777 for path in kept] == [0o600]
    admin(a).access.remove_peer("b")
    assert list((a.folder / "keys" / "tokens").iterdir()) == []
    with pytest.raises(NotFoundError):
        admin(a).access.remove_peer("b")
    assert "peer b" not in {one.name for one in admin(a).access.principals()}


def test_small_objects_follow_their_records_under_their_own_scope_alone(hubs: Two) -> None:
    a, b = hubs
    mine, secret = b"made in mine", b"a secret of theirs"
    thief = Writer("thief", seed=39)
    node = thief.execution("mine/train", 1)
    for data in (mine, secret):
        _output(thief, node, "mine/train", digests.file_digest(data), len(data))
    thief.seal()
    pushed(thief, b)
    admin(b).objects("mine/train").put(digests.file_digest(mine), mine)
    admin(b).objects("theirs/train").put(digests.file_digest(secret), secret)
    admin(a).access.add_peer(wire.AskPeer(name="b", url=b.url, invite=code(b, "read"), every_s=3600))
    until(lambda: state(a, "b").turns > 0)
    assert state(a, "b").objects == 1
    assert admin(a).objects("").open(digests.file_digest(mine)).read() == mine
    with pytest.raises(NotFoundError):
        admin(a).objects("").open(digests.file_digest(secret))


def test_with_data_large_files_and_whole_folders_follow_their_records(hubs: Two) -> None:
    a, b = hubs
    writer = Writer("bytes", seed=45)
    node = writer.execution("bytes/train", 1)
    large, member = b"x" * 300_000, b"a file of a folder"
    folder = manifest.encode([manifest.Entry("a.txt", digests.file_digest(member), len(member))])
    tree = digests.TREE + digests.file_digest(folder).removeprefix(digests.FILE)
    for digest, size in ((digests.file_digest(large), 2 << 20), (tree, 2 << 20)):
        _output(writer, node, "bytes/train", digest, size)
    writer.seal()
    pushed(writer, b)
    there = admin(b).objects("bytes/train")
    for data, is_folder in ((large, False), (member, False), (folder, True)):
        there.put(digests.file_digest(data), data, folder=is_folder)
    asked = wire.AskPeer(name="b", url=b.url, invite=code(b, "read"), scopes=["bytes"], every_s=3600)
    admin(a).access.add_peer(asked)
    until(lambda: state(a, "b").turns > 0)
    assert state(a, "b").objects == 0
    admin(a).access.remove_peer("b")
    again = wire.AskPeer(name="b", url=b.url, invite=code(b, "read"), scopes=["bytes"], every_s=3600, data=True)
    admin(a).access.add_peer(again)
    until(lambda: state(a, "b").turns > 0)
    assert state(a, "b").why == ""
    here = admin(a).objects("bytes/train")
    for data in (large, member, folder):
        assert here.open(digests.file_digest(data)).read() == data


def test_a_peer_brings_no_more_than_its_quota_and_the_rest_goes_on(hubs: Two) -> None:
    a, b = hubs
    writer = Writer("much", seed=46)
    node = writer.execution("much/train", 1)
    found = [bytes([n]) * 20_000 for n in range(3)] + [b"x" * 400_000]
    for data in found:
        _output(writer, node, "much/train", digests.file_digest(data), len(data))
    writer.seal()
    pushed(writer, b)
    there = admin(b).objects("much/train")
    for data in found:
        there.put(digests.file_digest(data), data)
    asked = wire.AskPeer(name="b", url=b.url, invite=code(b, "read"), scopes=["much"], every_s=3600, data=True)
    admin(a).access.add_peer(asked)
    until(lambda: state(a, "b").turns > 0)
    peer = max((one for one in admin(a).access.quotas() if one.name == "peer b"), key=lambda one: int(one.whom))
    assert peer.streams == 1
    assert peer.bytes > sum(map(len, found)), "what it brought counts for it"
    admin(a).access.remove_peer("b")
    writer.execution("more/train", 2)
    node = writer.execution("more/test", 3)
    for data in found:
        _output(writer, node, "more/test", digests.file_digest(data), len(data))
    writer.seal()
    pushed(writer, b)
    for data in found:
        admin(b).objects("more/test").put(digests.file_digest(data), data)
    again = wire.AskPeer(name="b", url=b.url, invite=code(b, "read"), scopes=["more"], every_s=3600, data=True)
    admin(a).access.set_quota(wire.AskQuota(kind="scope", whom="more", bytes_max=50_000))
    admin(a).access.add_peer(again)
    until(lambda: state(a, "b").turns > 0)
    went = state(a, "b")
    assert (went.why, went.objects) == ("", 2)
    assert any("The scope more has" in warning for warning in went.warnings)
    assert {stream["scope"] for stream in held(a, "more").streams()} == {"more/train", "more/test"}
    admin(a).access.clear_quota(wire.QuotaOf(kind="scope", whom="more"))
    went = synced(a, "b")
    assert (went.warnings, went.objects) == ([], 4)


def test_a_large_file_whose_fetch_from_a_peer_was_cut_goes_on_where_it_was(hubs: Two) -> None:
    a, b = hubs
    proxy = Proxy(16 << 10, target=b.port)
    writer = Writer("cut", seed=46)
    node = writer.execution("cut/train", 1)
    large = os.urandom(12 << 20)
    _output(writer, node, "cut/train", digests.file_digest(large), len(large))
    writer.seal()
    pushed(writer, b)
    admin(b).objects("cut/train").put(digests.file_digest(large), large)
    proxy.cut(8 << 20)
    asked = wire.AskPeer(name="b", url=proxy.url, invite=code(b, "read"), scopes=["cut"], every_s=3600, data=True)
    admin(a).access.add_peer(asked)
    until(lambda: state(a, "b").turns > 0)
    assert state(a, "b").why
    proxy.arm(0, None)
    assert synced(a, "b").objects == 1
    assert proxy.bytes < 6 << 20
    assert admin(a).objects("cut/train").open(digests.file_digest(large)).read() == large
    assert not [*(a.folder / "objects" / "tmp").iterdir()]
    proxy.close()


def _output(writer: Writer, node: str, scope: str, digest: str, size: int) -> None:
    """Record that an execution made some bytes."""
    id_ = node.rpartition(":")[2]
    writer.add(scope, model.Artifact(digest=digest))
    made = model.Event(execution=id_, direction="output", artifact=digest, path=digest, name="x", size=size, t=9)
    writer.add(scope, made)


def test_a_turn_costs_what_differs_and_not_what_the_hubs_hold(hubs: Two) -> None:
    a, b = hubs
    proxy = Proxy(target=b.port)
    writer = Writer("many", seed=42)
    for number in range(300):
        writer.execution(f"many/stage{number}", number)
    writer.seal()
    pushed(writer, b)
    asked = wire.AskPeer(
        name="b", url=proxy.url, invite=code(b, "peer"), scopes=["many"], direction="both", every_s=3600
    )
    admin(a).access.add_peer(asked)
    until(lambda: state(a, "b").turns > 0)
    assert (state(a, "b").differed, state(a, "b").why) == (300, "")

    def cost() -> tuple[int, int]:
        """Return how many requests a turn makes, and how many bytes go by."""
        before = requests(b)
        proxy.arm(0, None)
        synced(a, "b")
        return requests(b) - before, proxy.bytes

    made, moved = cost()
    assert state(a, "b").differed == 0
    assert made <= 5
    assert moved <= 6_000
    writer.execution("many/stage7", 1_000)
    writer.seal()
    pushed(writer, b)
    made_more, moved_more = cost()
    found = state(a, "b")
    assert [(one.scope, one.here, one.there) for one in found.differences] == [("many/stage7", 1, 2)]
    assert made_more <= made + 8
    assert moved_more <= moved + 12_000
    proxy.close()


def metrics(hub: HubProcess) -> list[str]:
    with admin(hub).request("GET", "/metrics", None) as response:
        return response.read().decode().splitlines()


def requests(hub: HubProcess) -> int:
    """Return how many requests of another hub's a hub has answered."""
    counted = [line for line in metrics(hub) if line.startswith("cmf_hub_requests_total") and "/metrics" not in line]
    return sum(int(float(line.split()[-1])) for line in counted)


def test_a_hub_that_comes_back_from_an_old_backup_is_healed(hubs: Two, tmp_path: Path) -> None:
    _, b = hubs
    old, new = Writer("old", seed=43), Writer("new", seed=44)
    chain(old, "backup/old", 3)
    chain(new, "backup/new", 3)
    c = HubProcess(tmp_path / "c", tmp_path / "sc")
    pushed(old, c)
    asked = wire.AskPeer(name="b", url=b.url, invite=code(b, "peer"), scopes=["backup"], direction="both", every_s=3600)
    admin(c).access.add_peer(asked)
    until(lambda: state(c, "b").turns > 0)
    c.stop()
    shutil.copytree(tmp_path / "c", tmp_path / "copy")
    c = HubProcess(tmp_path / "c", tmp_path / "sc")
    pushed(new, c)
    assert synced(c, "b").pushed > state(c, "b").pulled
    c.stop()
    c = HubProcess(tmp_path / "copy", tmp_path / "sc")
    try:
        assert held(c, "backup").counts()["execution"] == 3
        assert synced(c, "b").differed == 3
        assert held(c, "backup").dump() == held(b, "backup").dump()
        assert synced(c, "b").differed == 0
    finally:
        c.stop()


def test_a_peer_is_leased_to_one_worker_at_a_time_and_a_wrong_clock_holds_nothing_up() -> None:
    clock = [10**15]
    dialect = Sqlite(None)
    Auth(dialect)
    peers = Peers(dialect, lambda: clock[0])
    peers.add(console(), wire.AskPeer(name="b", url="http://b", every_s=60))
    mine = peers.lease()
    assert mine is not None
    assert peers.lease() is None
    clock[0] += LEASE_US + 1
    other = peers.lease()
    assert other is not None
    with pytest.raises(ConflictError):
        peers.renew(mine)
    peers.done(mine, wire.PeerState(turns=7), due_us=clock[0])
    assert peers.one("b").state.turns == 0
    peers.done(other, wire.PeerState(turns=1), due_us=clock[0] + 60 * 10**6)
    assert peers.lease() is None
    clock[0] += 60 * 10**6
    held_too_far_ahead = peers.lease()
    assert held_too_far_ahead is not None
    clock[0] -= 10**14
    assert peers.lease() is not None


def test_failures_in_a_row_double_the_wait_up_to_a_bound() -> None:
    assert [federation.delay(10, failures) for failures in (0, 1, 2, 3)] == [10, 20, 40, 80]
    assert federation.delay(10, 50) == federation.BACKOFF_S_MAX
    assert federation.delay(7200, 3) == 7200
