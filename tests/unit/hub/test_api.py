"""What the hub refuses, and whom it lets do what: over HTTP, against a real process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from cmf.errors import ConflictError, DeniedError, NotFoundError, UsageError
from cmf.graph import filter as filters
from cmf.hub import serve as serving
from cmf.hub.access import Access, console
from cmf.hub.service import Hub, open_database
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.model import wire
from cmf.model.exchange import View
from cmf.objects import manifest
from cmf.remote import HubClient
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer, transfer
from tests import databases
from tests.histories import Writer, chain
from tests.hubs import HubProcess, Raw, joined, running

pytestmark = pytest.mark.xdist_group("postgres")


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def hub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    database = databases.another(request.getfixturevalue("database")) if request.param == "postgres" else ""
    with running(folder / "hub", folder / "state", database=database) as process:
        yield process


def test_anybody_may_ask_who_the_hub_is_and_nothing_else(hub: HubProcess) -> None:
    status, about = Raw(hub, token="")("GET", "/v1/hub")
    assert status == 200
    assert (about["principal"], about["roles"], len(about["hub"])) == ("", [], 64)
    for method, path in (
        ("POST", "/v1/have"),
        ("POST", "/v1/streams"),
        ("POST", "/v1/push"),
        ("POST", "/v1/pull"),
        ("POST", "/v1/get"),
        ("POST", "/v1/lineage"),
        ("POST", "/v1/query"),
        ("POST", "/v1/objects/missing"),
        ("POST", "/v1/objects/get"),
        ("POST", "/v1/objects?scope=a/b"),
        ("GET", "/v1/objects/sha256:" + "0" * 64),
        ("PUT", "/v1/objects/sha256:" + "0" * 64 + "?scope=a/b"),
    ):
        body = b'{"root":"x","hashes":[],"scope":"a/b","digests":[]}' if method == "POST" else None
        status, problem = Raw(hub, token="")(method, path, body)
        assert (status, problem["kind"]) == (401, "token"), path
        status, problem = Raw(hub, token="wrong")(method, path, body)
        assert status == 401, path


def test_the_hubs_own_user_is_admin(hub: HubProcess, tmp_path: Path) -> None:
    about = hub.client(tmp_path).hub()
    assert about.principal == "local"
    assert [(role.prefix, role.role) for role in about.roles] == [("", "admin")]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "hub:80", ""])
def test_a_foreign_host_is_refused_on_loopback(hub: HubProcess, host: str) -> None:
    status, problem = Raw(hub)("GET", "/v1/hub", headers={"host": host})
    assert status in (400, 403)
    assert "principal" not in problem


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example:80"])
def test_a_page_of_another_origin_is_refused_on_loopback(hub: HubProcess, origin: str) -> None:
    status, problem = Raw(hub)("GET", "/v1/hub", headers={"origin": origin})
    assert (status, problem["kind"]) == (403, "origin")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/have", b"not json", 400),
        ("/v1/have", b'{"streams":{"zz":[]}}', 422),
        ("/v1/have", b'{"streams":[]}', 400),
        ("/v1/have", b"[" * 5000, 400),
        ("/v1/pull", b'{"have":{"00":[[1,"aa"]]}}', 422),
        ("/v1/get", b'{"hashes":["nothing"]}', 422),
        ("/v1/lineage", b'{"root":"nothing like it"}', 404),
        ("/v1/query", b'{"resolve":"nothing like it"}', 404),
        ("/v1/query", b'{"select":{"cursor":"bad"}}', 400),
        ("/v1/objects/missing", b'{"scope":"a/b","digests":["md5:0"]}', 422),
        ("/v1/push", b"\x01\xff\xff\xff\xff", 413),
        ("/v1/push", b"\x01\x10\x00\x00\x00abc", 422),
        ("/v1/push", b"\x09\x01\x00\x00\x00a", 400),
        ("/nowhere", b"{}", 404),
    ],
)
def test_what_cannot_be_understood_is_refused_with_the_right_code(
    hub: HubProcess, path: str, body: bytes, status: int
) -> None:
    found, problem = Raw(hub)("POST", path, body)
    assert found == status, problem
    assert problem["message"]
    assert "Traceback" not in str(problem)


def test_a_body_over_the_limit_is_refused_before_it_is_held(hub: HubProcess) -> None:
    status, _ = Raw(hub)("POST", "/v1/push", b"\0" * (wire.PUSH_BYTES_MAX + 1))
    assert status == 413


def test_too_many_streams_at_once_are_refused(hub: HubProcess) -> None:
    streams: dict[str, list[object]] = {f"{n:064x}": [] for n in range(wire.STREAMS_MAX + 1)}
    status, _ = Raw(hub)("POST", "/v1/have", json.dumps({"streams": streams}).encode())
    assert status == 413


def test_an_invite_joins_once(hub: HubProcess, tmp_path: Path) -> None:
    writer = Writer("once", seed=31)
    code = serving.invite(hub.folder, database=hub.database, scope="once", role="write", expires_s=600, name="once")
    client = HubClient(hub.url, state_home=tmp_path, keys=tmp_path / "keys")
    enrolled = client.enrol(code, writer.key, "laptop")
    assert enrolled.principal == "once (laptop)"
    (kept,) = (tmp_path / "keys" / "tokens").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    with pytest.raises(DeniedError, match="used already"):
        client.enrol(code, Writer("twice", seed=32).key, "thief")


def test_an_invite_expires(hub: HubProcess, tmp_path: Path) -> None:
    dialect = open_database(hub.folder, hub.database)
    asked = wire.AskInvite(name="late", role=wire.Role("", "write"), expires_s=60)
    code = Access(dialect, lambda: Hub.now() - 61_000_000).invite(console(), asked).secret
    dialect.close()
    client = HubClient(hub.url, state_home=tmp_path, keys=tmp_path)
    with pytest.raises(DeniedError):
        client.enrol(code, Writer("late", seed=33).key, "late")


def test_invites_are_for_known_roles_and_scopes_at_a_hub_that_exists(hub: HubProcess, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        serving.invite(hub.folder, database=hub.database, scope="", role="king", expires_s=60, name="x")
    with pytest.raises(UsageError):
        serving.invite(hub.folder, database=hub.database, scope="../x", role="read", expires_s=60, name="x")
    with pytest.raises(ConflictError, match="no hub"):
        serving.invite(tmp_path, scope="", role="read", expires_s=60, name="x")


def test_a_team_writes_only_where_it_may(hub: HubProcess, tmp_path: Path) -> None:
    red = Writer("red", seed=41)
    client = joined(hub, tmp_path, red, scope="red", role="write")
    chain(red, "red", 3)
    chain(red, "blue", 3)
    found = list(transfer(LocalPeer(red.store), client.peer, View(own=True)))
    assert {a.scope.partition("/")[0] for a in found if a.outcome == "new"} == {"red"}
    refused = [a for a in found if a.outcome == "refused" and a.kind == "scope"]
    assert {a.scope.partition("/")[0] for a in refused} == {"blue"}
    assert all(a.status == 403 for a in refused)
    local = SqlStore(Sqlite(None))
    list(transfer(hub.client(tmp_path).peer, LocalPeer(local), View(scopes=("blue/*",))))
    assert local.counts()["stream"] == 0


def test_a_team_sees_only_what_it_may_read(hub: HubProcess, tmp_path: Path) -> None:
    green, grey = Writer("green", seed=42), Writer("grey", seed=43)
    hers = joined(hub, tmp_path, green, scope="green", role="write")
    his = joined(hub, tmp_path, grey, scope="grey", role="write")
    made = green.execution("green/make", 1, writes=("shared-file",))
    used = grey.execution("grey/use", 2, reads=("shared-file", "found-file"), writes=("result",))
    green.execution("green/claim", 3, writes=("found-file",))
    grey.store.fold_pending()
    [view] = grey.store.index.executions(list(grey.store.index.nodes([used]).values())).values()
    [event] = [use.event for use in view.inputs if use.name == "shared-file"]
    grey.add("grey/use", model.Link(source=f"record:{event}", rel="via", to=made))
    for writer, client in ((green, hers), (grey, his)):
        writer.seal()
        assert {a.outcome for a in transfer(LocalPeer(writer.store), client.peer, View(own=True))} == {"new"}
    assert his.index.nodes([made, used]) == {used: used}
    with pytest.raises(NotFoundError):
        his.index.resolve(made)
    found = his.lineage(used)
    assert list(found.lineage.executions) == [used]
    assert (found.hidden, found.lineage.claims) == (1, ())  # what others claim to have made is not counted
    assert made not in str(found)
    everything = hub.client(tmp_path).lineage(used)
    assert (everything.hidden, [step.how for step in everything.lineage.claims]) == (0, ["claimed"])
    local = SqlStore(Sqlite(None))
    list(transfer(his.peer, LocalPeer(local), View()))
    assert {stream["scope"] for stream in local.streams()} == {"grey/use"}
    hashes = [segment.hash.hex() for segment in _segments(green)]
    assert list(his.get(hashes)) == []


def _segments(writer: Writer) -> list[Any]:
    from cmf.model import segment as segments

    return [segments.from_wire(data) for data in writer.store.segments(View(own=True), {})]


def test_what_a_scope_above_says_is_shown_only_to_who_may_read_it(hub: HubProcess, tmp_path: Path) -> None:
    writer = Writer("above", seed=44)
    node = writer.execution("above/team/stage", 1)
    writer.add("above/team", model.Property(subject=node, key="review", value="not good enough", t=9_000))
    writer.seal()
    list(transfer(LocalPeer(writer.store), hub.client(tmp_path).peer, View(own=True)))

    def review(client: HubClient) -> list[Any]:
        index = client.index
        listed = index.select(filters.parse("", scopes=("above/*",))).executions
        viewed = index.executions(list(index.nodes([node]).values())).values()
        return [view.properties.get("review") for view in (*listed, *viewed)]

    assert review(hub.client(tmp_path)) == ["not good enough"] * 2
    assert review(joined(hub, tmp_path, Writer("below", seed=45), scope="above/team/stage", role="read")) == [None] * 2


def test_nobody_pushes_under_anothers_key_without_relay(hub: HubProcess, tmp_path: Path) -> None:
    owner, thief = Writer("owner", seed=44), Writer("thief", seed=45)
    joined(hub, tmp_path, owner, scope="owned", role="write")
    client = joined(hub, tmp_path, thief, scope="owned", role="write")
    chain(owner, "owned", 1)
    (genesis, *_) = transfer(LocalPeer(owner.store), client.peer, View(own=True))
    assert (genesis.outcome, genesis.kind) == ("refused", "relay")
    relay = joined(hub, tmp_path, Writer("carrier", seed=46), scope="owned", role="relay")
    assert {a.outcome for a in transfer(LocalPeer(owner.store), relay.peer, View(own=True))} == {"new"}


def test_objects_are_granted_only_to_the_scope_they_were_sent_under(hub: HubProcess, tmp_path: Path) -> None:
    one = joined(hub, tmp_path, Writer("one", seed=51), scope="one", role="write")
    two = joined(hub, tmp_path, Writer("two", seed=52), scope="two", role="write")
    data = b"a secret of team one"
    digest = digests.file_digest(data)
    one.objects("one/stage").put(digest, data)
    with pytest.raises(NotFoundError) as known:
        two.objects("two/stage").open(digest)
    with pytest.raises(NotFoundError) as absent:
        two.objects("two/stage").open(digests.file_digest(b"not there at all"))
    assert str(known.value).partition("sha256")[0] == str(absent.value).partition("sha256")[0]
    assert two.objects("two/stage").absent([digest]) == [digest], "nothing tells that another scope holds it"
    with pytest.raises(DeniedError):
        two.objects("one/stage").put(digest, data)
    with pytest.raises(DeniedError):
        two.objects("one/stage").absent([digest])
    two.objects("two/stage").put(digest, data)
    with two.objects("two/stage").open(digest) as source:
        assert source.read() == data


def test_a_folder_is_granted_only_after_all_its_files_were_sent(hub: HubProcess, tmp_path: Path) -> None:
    objects = hub.client(tmp_path).objects("folders/stage")
    files = [b"first file", b"second file"]
    entries = [manifest.Entry(f"f{n}", digests.file_digest(data), len(data)) for n, data in enumerate(files)]
    text = manifest.encode(entries)
    name = digests.file_digest(text)
    objects.put(entries[0].digest, files[0])
    with pytest.raises(UsageError, match="1 files that were not sent"):
        objects.put(name, text, folder=True)
    assert objects.absent([name]) == [name]
    objects.put(entries[1].digest, files[1])
    objects.put(name, text, folder=True)
    assert objects.absent([name]) == []


def test_the_token_on_disk_is_the_users_alone_and_goes_with_the_hub(tmp_path: Path) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as process:
        note = process.state_home / "hubs" / f"{process.port}.json"
        assert note.stat().st_mode & 0o777 == 0o600
        assert note.parent.stat().st_mode & 0o777 == 0o700
        content = json.loads(note.read_bytes())
        note.write_text(json.dumps({**content, "pid": 1}))
        assert process.client(tmp_path).token() == "", "another process does not own the port"
        note.write_text(json.dumps({**content, "start": content["start"] + 1}))
        assert process.client(tmp_path).token() == "", "a process that was there before is not this one"
        note.write_text(json.dumps(content))
        assert process.client(tmp_path).token() == content["token"]
    assert not note.exists()


def test_a_hub_beyond_this_machine_wants_tls_or_to_be_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without TLS"):
        serving.serve(tmp_path / "hub", host="0.0.0.0", port=0, state_home=tmp_path, ready=print)
    assert not (tmp_path / "hub").exists()


def test_a_port_in_use_is_said_to_be(hub: HubProcess, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match=f"Port {hub.port}"):
        serving.serve(tmp_path / "hub", port=hub.port, state_home=tmp_path, ready=print)


def test_the_api_describes_itself_as_it_did_when_it_was_released(hub: HubProcess) -> None:
    status, found = Raw(hub, token="")("GET", "/v1/openapi.json")
    assert status == 200
    golden = Path(__file__).parents[2] / "golden" / "openapi.json"
    assert found == json.loads(golden.read_text()), "the API changed: is it still v1? then write the golden copy anew"


def test_anybody_may_ask_whether_the_hub_is_alive_and_ready(hub: HubProcess) -> None:
    ask = Raw(hub, token="")
    assert ask("GET", "/v1/health") == (200, {"status": "alive"})
    assert ask("GET", "/v1/ready") == (200, {"status": "ready"})


def test_metrics_are_for_the_admin_and_name_routes_not_paths(hub: HubProcess, tmp_path: Path) -> None:
    assert Raw(hub, token="")("GET", "/metrics")[0] == 401
    reader = joined(hub, tmp_path, Writer("reads-metrics", seed=9), scope="metrics", role="read")
    assert Raw(hub, token=reader.token())("GET", "/metrics")[0] == 403
    digest = "sha256:" + "ab" * 32
    assert Raw(hub)("GET", f"/v1/objects/{digest}")[0] == 404
    status, page = Raw(hub)("GET", "/metrics")
    assert status == 200
    text = page.decode()
    assert 'cmf_hub_requests_total{method="GET",route="/v1/objects/{digest}",status="404"}' in text
    assert digest not in text
    assert "cmf_hub_log_size " in text
    assert "cmf_hub_segments " in text


def test_every_answer_has_the_id_that_its_request_brought_if_it_is_one(hub: HubProcess) -> None:
    pool = urllib3.PoolManager(retries=False)
    for given, kept in (("trace-7", True), ("x" * 65, False), ("a b", False), ("", False)):
        answer = pool.request("GET", hub.url + "/v1/health", headers={"x-request-id": given} if given else {})
        assert (answer.headers["x-request-id"] == given) is kept
        assert answer.headers["x-request-id"]
    pool.clear()


def test_a_log_has_a_line_of_json_for_each_request_and_no_secret(tmp_path: Path) -> None:
    hub = HubProcess(tmp_path / "hub", tmp_path / "state", options=("--log",))
    Raw(hub)("GET", "/v1/hub", headers={"x-request-id": "trace-8"})
    token = hub.token
    hub.stop()
    (line,) = [json.loads(line) for line in hub.said.splitlines() if '"trace-8"' in line]
    assert (line["method"], line["route"], line["status"]) == ("GET", "/v1/hub", 200)
    assert token not in hub.said
