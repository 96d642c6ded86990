"""Many small objects in one request: what is taken, refused, granted and given back, over HTTP and without it."""

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import urllib3

import cmf
from cmf import collect, sync
from cmf.errors import CmfError, CorruptError, DeniedError, NotFoundError, UnreachableError, UsageError
from cmf.hub import serve as serving
from cmf.hub.auth import Caller
from cmf.hub.service import Hub
from cmf.model import digest as digests
from cmf.model import wire
from cmf.model.exchange import View
from cmf.objects import RemoteStore, manifest, read
from cmf.objects.local import LocalObjects
from cmf.remote import HubClient
from cmf.transfer import LocalPeer, transfer
from tests.histories import Writer
from tests.hubs import HubProcess

pytestmark = pytest.mark.xdist_group("hub-bulk")

ADMIN = Caller(principal=1, name="admin", roles=(wire.Role("", "admin"),))
LARGE = bytes(wire.SMALL_BYTES + 1)


def small(data: bytes, *, folder: bool = False) -> wire.Small:
    return wire.Small(digests.file_digest(data), data, folder)


def listing(*files: bytes) -> bytes:
    return manifest.encode([manifest.Entry(f"f{n}", digests.file_digest(d), len(d)) for n, d in enumerate(files)])


def framed(*objects: wire.Small) -> bytes:
    return b"".join(wire.frame(wire.OBJECT, wire.from_small(found)) for found in objects)


def sent(store: RemoteStore, *objects: wire.Small) -> list[CmfError | None]:
    return [refused for _, refused in store.put_all(objects)]


def pages(store: RemoteStore, *asked: bytes) -> list[list[wire.Small]]:
    return [list(page) for page in store.get_all([digests.file_digest(data) for data in asked])]


def joined(hub: HubProcess, folder: Path, name: str, seed: int) -> HubClient:
    code = serving.invite(hub.folder, scope=name, role="write", expires_s=600, name=name)
    client = HubClient(hub.url, state_home=folder / "no-state", keys=folder / name)
    client.enrol(code, Writer(name, seed=seed).key, name)
    return client


def post(hub: HubProcess, path: str, body: bytes) -> tuple[int, Any]:
    with urllib3.PoolManager(retries=False) as pool:
        answer = pool.request("POST", hub.url + path, body=body, headers={"authorization": f"Bearer {hub.token}"})
        return answer.status, json.loads(answer.data)


# ---- what is sent --------------------------------------------------------------------------------------------------


def test_objects_sent_together_are_granted_and_come_back_as_they_were(hub: HubProcess, tmp_path: Path) -> None:
    store = hub.client(tmp_path).objects("bulk/together")
    found = [small(b""), *(small(b"%d" % n * n) for n in range(1, 40)), small(bytes(wire.SMALL_BYTES))]
    assert sent(store, *found) == [None] * 41
    assert store.absent([one.digest for one in found]) == []
    assert pages(store, *(one.data for one in found)) == [found]
    assert sent(store, *found[:3]) == [None] * 3, "sending again changes nothing"


def test_other_bytes_are_refused_by_name_and_the_rest_is_taken(hub: HubProcess, tmp_path: Path) -> None:
    store = hub.client(tmp_path).objects("bulk/wrong")
    good, bad = small(b"as it should be"), wire.Small(digests.file_digest(b"as it was"), b"as it is")
    first, refused, last = sent(store, good, bad, small(b"the last"))
    assert first is None
    assert last is None
    assert isinstance(refused, CorruptError)
    assert bad.digest in refused.message
    assert store.absent([good.digest, bad.digest]) == [bad.digest]
    assert pages(store, b"as it was", b"as it is") == [[]]


def test_what_another_scope_has_is_granted_only_to_who_sends_its_bytes(hub: HubProcess, tmp_path: Path) -> None:
    mine, theirs = joined(hub, tmp_path, "mine", 61), joined(hub, tmp_path, "theirs", 62)
    secret = small(b"what one team knows")
    assert sent(mine.objects("mine/a"), secret) == [None]
    (refused,) = sent(theirs.objects("theirs/a"), wire.Small(secret.digest, b""))
    assert isinstance(refused, CorruptError)
    assert pages(theirs.objects("theirs/a"), secret.data) == [[]]
    assert sent(theirs.objects("theirs/a"), secret) == [None]
    assert pages(theirs.objects("theirs/a"), secret.data) == [[secret]]


def test_nothing_is_taken_under_a_scope_that_the_caller_may_not_write(hub: HubProcess, tmp_path: Path) -> None:
    outsider = joined(hub, tmp_path, "outside", 63)
    found = small(b"put where it does not belong")
    with pytest.raises(DeniedError):
        sent(outsider.objects("inside/a"), found)
    assert hub.client(tmp_path).objects("inside/a").absent([found.digest]) == [found.digest]


def test_a_manifest_is_taken_behind_its_files_and_not_before_them(hub: HubProcess, tmp_path: Path) -> None:
    store = hub.client(tmp_path).objects("bulk/folder")
    files = [small(b"one file"), small(b"another file")]
    folder = small(listing(*(file.data for file in files)), folder=True)
    assert [getattr(why, "kind", "") for why in sent(store, folder, *files[:1])] == ["members", ""]
    assert store.absent([folder.digest]) == [folder.digest]
    assert sent(store, files[1], folder) == [None, None]
    assert store.absent([folder.digest]) == []


def test_a_file_that_was_refused_does_not_open_its_folder(hub: HubProcess, tmp_path: Path) -> None:
    store = hub.client(tmp_path).objects("bulk/refused-member")
    folder = small(listing(b"never sent"), folder=True)
    bad, why = sent(store, wire.Small(digests.file_digest(b"never sent"), b"guessed"), folder)
    assert isinstance(bad, CorruptError)
    assert isinstance(why, UsageError)
    assert folder.digest in why.message


def test_what_is_no_manifest_is_refused_as_one(hub: HubProcess, tmp_path: Path) -> None:
    store = hub.client(tmp_path).objects("bulk/no-manifest")
    newer = b'{"cmf":"manifest","v":2}\n'
    refused = sent(store, small(b"no manifest", folder=True), small(newer, folder=True), small(b"a file"))
    assert [why is None for why in refused] == [False, False, True]
    assert store.absent([digests.file_digest(newer)]) == [digests.file_digest(newer)]


def test_large_sets_go_in_several_requests(hub: HubProcess, tmp_path: Path) -> None:
    store = hub.client(tmp_path).objects("bulk/many")
    found = [small(b"%d" % n + bytes(250_000)) for n in range(37)]
    assert sent(store, *found) == [None] * 37
    answered = pages(store, *(one.data for one in found[:20]), b"nobody has this", *(one.data for one in found[20:]))
    assert [one for page in answered for one in page] == found
    assert len(answered) == 2
    assert all(sum(len(one.data) for one in page) <= wire.PULL_BYTES for page in answered)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (bytes(wire.BULK_BYTES_MAX + 1), 413),
        (framed(*[small(b"x")] * (wire.BULK_MAX + 1)), 413),
        (framed(small(b"x"))[:-1], 422),
        (wire.frame(wire.OBJECT, b"\0short"), 422),
        (wire.frame(wire.OBJECT, b"\x80" + bytes(33)), 422),
        (framed(small(b"x")) + wire.frame(wire.SEGMENT, b"x"), 400),
        (b"\x04\xff\xff\xff\xff", 413),
    ],
    ids=["bytes", "number", "cut", "short", "flag", "tag", "frame"],
)
def test_a_body_that_cannot_be_taken_leaves_nothing(hub: HubProcess, tmp_path: Path, body: bytes, status: int) -> None:
    found, problem = post(hub, "/v1/objects?scope=bulk/bad", body)
    assert found == status, problem
    assert problem["message"]
    assert list(hub.client(tmp_path).objects("bulk/bad").list()) == []


def test_an_object_too_large_for_a_set_is_refused_by_name(hub: HubProcess) -> None:
    status, answer = post(hub, "/v1/objects?scope=bulk/large", framed(small(b"fits"), small(LARGE)))
    assert (status, answer["count"]) == (200, 1)
    ((digest, kind),) = [(why["digest"], why["kind"]) for why in answer["refused"]]
    assert (digest, kind) == (digests.file_digest(LARGE), "limit")


# ---- what is asked for ---------------------------------------------------------------------------------------------


def test_what_may_not_be_read_is_as_what_is_not_there(hub: HubProcess, tmp_path: Path) -> None:
    keeper, asker = joined(hub, tmp_path, "keeper", 64), joined(hub, tmp_path, "asker", 65)
    sent(keeper.objects("keeper/a"), small(b"kept for us"))
    keeper.objects("keeper/a").put(digests.file_digest(LARGE + b"kept"), LARGE + b"kept")
    shared = small(b"for all of us")
    sent(asker.objects("asker/a"), shared)
    asked = (b"kept for us", LARGE + b"kept", b"not there at all", shared.data)
    assert pages(asker.objects("asker/a"), *asked) == [[shared]]
    assert [len(page) for page in pages(keeper.objects("keeper/a"), *asked)] == [2]


def test_a_large_object_is_named_without_its_bytes(hub: HubProcess, tmp_path: Path) -> None:
    store = hub.client(tmp_path).objects("bulk/large")
    digest = digests.file_digest(LARGE)
    store.put(digest, LARGE)
    assert pages(store, LARGE) == [[wire.Small(digest, b"", large=True)]]


def test_questions_that_are_no_digests_or_too_many_are_refused(hub: HubProcess) -> None:
    one = "sha256:" + "0" * 64
    for asked, status in ((["md5:0"], 422), (["tree:" + one], 400), ([one] * (wire.MISSING_MAX + 1), 413)):
        found, problem = post(hub, "/v1/objects/get", json.dumps({"digests": asked}).encode())
        assert found == status, problem


def test_what_a_hub_wants_goes_on_behind_the_last_one(hub: HubProcess, tmp_path: Path) -> None:
    writer = Writer("wanting", seed=66)
    writer.execution("wanting/b", 1, writes=("one", "two", "three"))
    writer.execution("wanting/a", 2, writes=("four",))
    writer.seal()
    client = hub.client(tmp_path)
    peer = client.peer
    assert {a.outcome for a in transfer(LocalPeer(writer.store), peer, View(own=True))} == {"new"}
    streams = [sample.stream for sample in writer.store.samples(View(own=True))]
    everything = client.wanted(streams)
    assert (len(everything.wanted), everything.more) == (4, False)
    assert peer.wanted is not None
    assert sorted(peer.wanted.wanted) == sorted(everything.wanted), "the push was told the same"
    for n, last in enumerate(everything.wanted):
        assert client.wanted(streams, last).wanted == everything.wanted[n + 1 :]


def test_a_push_in_several_batches_asks_for_what_is_wanted_afterwards(
    hub: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "PUSH_BYTES", 1)
    writer = Writer("batches", seed=67)
    writer.execution("batches/a", 1, writes=("one",))
    writer.seal()
    peer = hub.client(tmp_path).peer
    assert len(list(transfer(LocalPeer(writer.store), peer, View(own=True)))) > 1
    assert peer.wanted is None


def test_a_push_that_is_refused_is_told_nothing_of_the_scope(hub: HubProcess, tmp_path: Path) -> None:
    writer = Writer("refused", seed=68)
    client = joined(hub, tmp_path, "refused", 68)
    writer.execution("elsewhere/a", 1, writes=("one",))
    writer.seal()
    peer = client.peer
    assert {a.outcome for a in transfer(LocalPeer(writer.store), peer, View(own=True))} == {"refused"}
    assert peer.wanted == wire.Held()


# ---- durability ----------------------------------------------------------------------------------------------------


def test_nothing_is_granted_before_it_is_durable_and_a_rerun_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(tmp_path / "hub")
    found = [small(b"%d" % n) for n in range(100)]
    names = [one.digest for one in found]

    def failing(_: int) -> None:
        raise OSError(errno.EIO, "the disk fails")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(UnreachableError):
            hub.grants.put_all(ADMIN, "a/b", framed(*found))
    assert hub.grants.missing(ADMIN, wire.Missing(scope="a/b", digests=names)) == names
    assert hub.grants.put_all(ADMIN, "a/b", framed(*found)) == wire.Taken(count=100)
    assert hub.grants.missing(ADMIN, wire.Missing(scope="a/b", digests=names)) == []
    hub.close()


def test_a_flush_waits_for_the_one_that_took_its_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalObjects(tmp_path / "objects")
    data = b"put by one, flushed by two"
    store.put(digests.file_digest(data), data, durable=False)
    reached, released = threading.Event(), threading.Event()
    sync_file = os.fsync

    def slow(handle: int) -> None:
        reached.set()
        assert released.wait(30)
        sync_file(handle)

    monkeypatch.setattr(os, "fsync", slow)
    first, second = threading.Thread(target=store.flush), threading.Thread(target=store.flush)
    first.start()
    assert reached.wait(30)
    second.start()
    second.join(0.2)
    assert second.is_alive(), "it returned while its object was not durable yet"
    released.set()
    first.join(30)
    second.join(30)
    assert not second.is_alive()


# ---- push and pull -------------------------------------------------------------------------------------------------


def test_a_push_and_a_pull_move_small_and_large_ones_and_folders(
    hub: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "folder").mkdir(parents=True)
    monkeypatch.chdir(site)
    made = {f"file{n}": b"small %d" % n for n in range(30)} | {"large": LARGE, "empty": b""}
    made |= {"folder/a": b"a member", "folder/b": LARGE + b"a large member"}
    with cmf.init(site) as repo:
        for name, data in made.items():
            (site / name).write_bytes(data)
        with cmf.run("moves/make") as run:
            for name in made:
                if "/" not in name:
                    run.output(name)
            run.output("folder")
        client = hub.client(tmp_path)
        moved = sync.push(repo.folder, repo.store, repo.objects, client, collect.Clock.now())
        assert (moved.stayed, moved.refused) == (0, [])
        again = sync.push(repo.folder, repo.store, repo.objects, client, collect.Clock.now())
        assert (again.segments, again.objects, again.stayed) == (0, 0, 0)
    (tmp_path / "other").mkdir()
    with cmf.init(tmp_path / "other") as other:
        pulled = sync.pull(other.store, other.objects, client, views=(View(scopes=("moves/*",)),), data=True)
        assert pulled.stayed == 0
        for data in made.values():
            assert read(other.objects, digests.file_digest(data)) == data
        assert sync.pull(other.store, other.objects, client, views=(View(scopes=("moves/*",)),), data=True).objects == 0


def test_a_folder_whose_file_is_lost_stays_and_holds_nothing_else_up(
    hub: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "folder").mkdir(parents=True)
    monkeypatch.chdir(site)
    (site / "folder" / "a").write_bytes(b"soon lost")
    (site / "other").write_bytes(b"still here")
    with cmf.init(site) as repo:
        with cmf.run("lost/make") as run:
            run.output("folder")
            run.output("other")
        repo.collect()
        repo.objects.remove([digests.file_digest(b"soon lost")])
        client = hub.client(tmp_path)
        moved = sync.push(repo.folder, repo.store, repo.objects, client, collect.Clock.now())
        assert (moved.stayed, moved.refused) == (2, [])
        assert client.objects("lost/make").absent([digests.file_digest(b"still here")]) == []
        repo.objects.put(digests.file_digest(b"soon lost"), b"soon lost")
        moved = sync.push(repo.folder, repo.store, repo.objects, client, collect.Clock.now())
        assert (moved.objects, moved.stayed) == (2, 0)
        with pytest.raises(NotFoundError):
            client.objects("lost/make").open(digests.file_digest(b"never was"))


def test_a_page_of_segments_is_never_a_start_of_a_stream_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer("lab")
    writer.execution("p/a", 1)
    writer.seal()
    hub = Hub(tmp_path)
    held = list(LocalPeer(writer.store).segments(View(), {}))
    assert [one.outcome for one in hub.pushing.end(ADMIN).admit(held)] == ["new", "new"]
    asked = [hash_.hex() for _, n, hash_, _ in writer.store.chained() if n == 1]
    monkeypatch.setattr(wire, "PULL_BYTES", 1)
    page = hub.get(ADMIN, wire.Hashes(hashes=asked))
    assert [data for tag, data in wire.frames(page) if tag == wire.SEGMENT] == held
    hub.close()
