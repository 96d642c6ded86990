"""Who gives and takes access at a hub, over HTTP, against a real process; on both databases."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from cmf.graph import filter as filters
from cmf.model import enrolment
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model.exchange import View
from cmf.remote import HubClient
from cmf.signing import Key
from cmf.transfer import LocalPeer, transfer
from tests import databases
from tests.histories import Writer, chain
from tests.hubs import HubProcess, joined, running

pytestmark = pytest.mark.xdist_group("postgres")
DAY_S = 86_400


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def hub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    database = databases.another(request.getfixturevalue("database")) if request.param == "postgres" else ""
    with running(folder / "hub", folder / "state", database=database) as process:
        yield process


class Asking:
    """Requests with a token, made by hand."""

    def __init__(self, hub: HubProcess, token: str = "") -> None:
        self._url = hub.url
        self._headers = {"authorization": f"Bearer {token or hub.token}"}

    def __call__(self, method: str, path: str, message: Any = None) -> tuple[int, Any]:
        body = None if message is None else json.dumps(message).encode()
        with urllib3.PoolManager(retries=False) as pool:
            answer = pool.request(method, self._url + path, body=body, headers=self._headers)
        return answer.status, json.loads(answer.data) if answer.data else None


def role(name: str, prefix: str) -> dict[str, str]:
    return {"role": name, "prefix": prefix}


def enrolling(hub: HubProcess, code: str, key: Key, name: str) -> dict[str, str]:
    """Return what presents an invite with a key."""
    said = enrolment.payload(code, key.public.hex(), Asking(hub)("GET", "/v1/hub")[1]["hub"])
    return {"invite": code, "key": key.public.hex(), "name": name, "signature": key.sign(said).hex()}


def who(hub: HubProcess, name: str) -> dict[str, Any]:
    """Return the newest principal whose name begins so."""
    return dict([found for found in Asking(hub)("GET", "/v1/principals")[1] if found["name"].startswith(name)][-1])


def pushed(client: HubClient, writer: Writer, pipeline: str) -> list[str]:
    """Record and push an execution; return what became of each segment of it."""
    chain(writer, pipeline, 1)
    return [done.kind or done.outcome for done in transfer(LocalPeer(writer.store), client.peer, View(own=True))]


def test_a_token_is_listed_without_its_secret_and_ends_when_it_is_revoked(hub: HubProcess) -> None:
    admin = Asking(hub)
    status, issued = admin("POST", "/v1/tokens", {"expires_s": DAY_S})
    assert status == 200
    mine = Asking(hub, issued["secret"])
    assert mine("GET", "/v1/hub")[1]["principal"] == "local"
    listed = admin("GET", "/v1/principals")[1]
    assert issued["id"] in [token["id"] for found in listed for token in found["tokens"]]
    assert issued["secret"] not in json.dumps(listed)
    assert admin("DELETE", f"/v1/tokens/{issued['id']}") == (204, None)
    assert mine("GET", "/v1/hub")[0] == 401
    assert admin("DELETE", f"/v1/tokens/{issued['id']}")[0] == 404


def test_a_narrowed_token_may_less_and_makes_no_wider_and_no_longer_one(hub: HubProcess, tmp_path: Path) -> None:
    writer = Writer("narrow", seed=31)
    client = joined(hub, tmp_path, writer, scope="narrow", role="write")
    issued = Asking(hub, client.token())(
        "POST", "/v1/tokens", {"roles": [role("read", "narrow/train")], "expires_s": DAY_S}
    )[1]
    narrow = Asking(hub, issued["secret"])
    about = narrow("GET", "/v1/hub")[1]
    assert about["roles"] == [role("read", "narrow/train")]
    assert narrow("POST", "/v1/objects/missing", {"scope": "narrow/train", "digests": []})[0] == 403
    wider = narrow("POST", "/v1/tokens", {"roles": [role("write", "narrow")]})
    assert (wider[0], wider[1]["kind"]) == (403, "scope")
    again = narrow("POST", "/v1/tokens", {"expires_s": 30 * DAY_S})[1]
    assert again["expires_us"] == issued["expires_us"]
    assert Asking(hub, again["secret"])("GET", "/v1/hub")[1]["roles"] == about["roles"]
    assert narrow("DELETE", f"/v1/tokens/{issued['id']}")[0] == 404


def test_a_token_narrowed_to_reading_brings_nothing_even_under_its_own_key(hub: HubProcess, tmp_path: Path) -> None:
    writer = Writer("narrow-push", seed=32)
    client = joined(hub, tmp_path, writer, scope="narrowed", role="write")
    issued = Asking(hub, client.token())("POST", "/v1/tokens", {"roles": [role("read", "narrowed")]})[1]
    client._token = issued["secret"]
    assert set(pushed(client, writer, "narrowed")) == {"scope", "gap"}


def test_an_admin_of_a_prefix_gives_and_takes_roles_there_and_nowhere_else(hub: HubProcess, tmp_path: Path) -> None:
    writer = Writer("lead", seed=33)
    lead = Asking(hub, joined(hub, tmp_path, writer, scope="vision", role="admin").token())
    member = joined(hub, tmp_path, Writer("member", seed=34), scope="vision/eval", role="read")
    principal = who(hub, "member")["id"]
    given = {"principal": principal, "role": role("write", "vision/train")}
    assert lead("POST", "/v1/roles", given) == (204, None)
    assert [held.role for held in member.hub().roles] == ["read", "write"]
    assert lead("POST", "/v1/roles/take", given) == (204, None)
    assert [held.role for held in member.hub().roles] == ["read"]
    assert lead("POST", "/v1/roles/take", given)[0] == 404
    for prefix in ("", "speech", "visionary"):
        assert lead("POST", "/v1/roles", {"principal": principal, "role": role("write", prefix)})[0] == 403
        assert lead("POST", "/v1/invites", {"name": "eve", "role": role("read", prefix)})[0] == 403
    assert lead("POST", "/v1/roles", {"principal": 10**6, "role": role("read", "vision")})[0] == 404
    assert lead("GET", "/v1/audit")[0] == 403
    assert [found["name"] for found in lead("GET", "/v1/principals")[1]] == [lead("GET", "/v1/hub")[1]["principal"]]


def test_who_lost_every_role_reads_nothing(hub: HubProcess, tmp_path: Path) -> None:
    writer = Writer("gone", seed=35)
    client = joined(hub, tmp_path, writer, scope="gone", role="write")
    assert pushed(client, writer, "gone") == ["new", "new"]
    taken = {"principal": who(hub, "gone")["id"], "role": role("write", "gone")}
    assert Asking(hub)("POST", "/v1/roles/take", taken)[0] == 204
    assert list(client.peer.streams(View())) == []
    assert client.index.select(filters.Query()).executions == ()


def test_an_invite_over_http_joins_once_and_can_be_taken_back(hub: HubProcess, tmp_path: Path) -> None:
    admin = Asking(hub)
    asked = {"name": "bob", "role": role("read", "shared")}
    first, second = (admin("POST", "/v1/invites", asked)[1] for _ in range(2))
    waiting = admin("GET", "/v1/invites")[1]
    assert {first["id"], second["id"]} <= {found["id"] for found in waiting}
    assert first["secret"] not in json.dumps(waiting)
    assert admin("DELETE", f"/v1/invites/{second['id']}") == (204, None)
    late, right = (enrolling(hub, found["secret"], Key(b"b" * 32), "bob") for found in (second, first))
    assert admin("POST", "/v1/enrol", late)[0] == 403
    assert admin("POST", "/v1/enrol", right)[1]["roles"] == [role("read", "shared")]
    assert admin("POST", "/v1/enrol", right)[0] == 403
    for name in ("local", "", "x" * 101, "a\nb"):
        assert admin("POST", "/v1/invites", {**asked, "name": name})[0] == 400


def test_what_a_revoked_key_signed_stays_and_nothing_new_of_it_is_taken(hub: HubProcess, tmp_path: Path) -> None:
    writer = Writer("stolen", seed=36)
    client = joined(hub, tmp_path, writer, scope="stolen", role="write")
    assert pushed(client, writer, "stolen") == ["new", "new"]
    held = len(list(client.peer.streams(View())))
    assert held == 1
    key = writer.key.public.hex()
    other = joined(hub, tmp_path, Writer("envious", seed=35), scope="stolen", role="write")
    narrow = Asking(hub, client.token())("POST", "/v1/tokens", {"roles": [role("write", "stolen")], "expires_s": DAY_S})
    for token in (other.token(), narrow[1]["secret"]):
        assert Asking(hub, token)("DELETE", f"/v1/keys/{key}")[0] == 403
    assert Asking(hub, client.token())("DELETE", f"/v1/keys/{key}") == (204, None)
    assert pushed(client, writer, "stolen") == ["revoked"]
    assert pushed(hub.client(tmp_path / "own"), writer, "stolen") == ["revoked", "revoked"]
    assert len(list(client.peer.streams(View()))) == held
    (found,) = who(hub, "stolen")["keys"]
    assert found["revoked_us"] > 0
    code = Asking(hub)("POST", "/v1/invites", {"name": "thief", "role": role("write", "stolen")})[1]["secret"]
    assert Asking(hub)("POST", "/v1/enrol", enrolling(hub, code, writer.key, "thief"))[1]["kind"] == "revoked"


def test_every_act_is_in_the_audit_log_with_who_did_it_and_no_secret(hub: HubProcess, tmp_path: Path) -> None:
    admin = Asking(hub)
    client = joined(hub, tmp_path, Writer("audited", seed=37), scope="audited", role="read")
    principal = who(hub, "audited")["id"]
    admin("POST", "/v1/roles", {"principal": principal, "role": role("write", "audited")})
    issued = admin("POST", "/v1/tokens", {"principal": principal})[1]
    admin("DELETE", f"/v1/tokens/{issued['id']}")
    acts = admin("GET", "/v1/audit")[1]
    said = [(act["actor"], act["action"], act["scope"]) for act in acts[:5]]
    assert said == [
        ("local", "revoked a token", ""),
        ("local", "made a token", ""),
        ("local", "gave write", "audited"),
        ("audited", "joined as read", "audited"),
        ("console", "invited as read", "audited"),
    ]
    assert issued["secret"] not in json.dumps(acts)
    assert client.token() not in json.dumps(acts)
    older = admin("GET", f"/v1/audit?before={acts[2]['n']}")[1]
    assert older[0] == acts[3]


def sent(client: HubClient, writer: Writer) -> list[str]:
    writer.seal()
    return [done.kind or done.outcome for done in transfer(LocalPeer(writer.store), client.peer, View(own=True))]


def test_a_redaction_is_taken_only_from_who_holds_that_role_in_its_scope(hub: HubProcess, tmp_path: Path) -> None:
    victim, mallory = Writer("victim", seed=41), Writer("mallory", seed=42)
    scope = "victim/train"
    theirs = joined(hub, tmp_path, victim, scope="victim", role="write")
    client = joined(hub, tmp_path, mallory, scope="victim", role="write")
    record = victim.add(scope, model.Property(subject="scope", key="title", value="a secret of ours", t=1))
    assert sent(theirs, victim) == ["new", "new"]
    wire = list(theirs.peer.segments(View(scopes=(scope,)), {}))
    redaction = model.Property(subject=f"record:{record.hex()}", key="redacted", value=True, t=2)
    mallory.add(scope, redaction)
    assert sent(client, mallory) == ["new", "scope"]
    admin, principal = Asking(hub), who(hub, "mallory")["id"]
    # The role in another scope lets a redaction in there, which says nothing of this one.
    for prefix in ("elsewhere/train", "victim/train/deep"):
        for name in ("write", "redact"):
            assert admin("POST", "/v1/roles", {"principal": principal, "role": role(name, prefix)})[0] == 204
        mallory.add(prefix, redaction)
    assert sorted(sent(client, mallory)) == ["new"] * 4 + ["scope"]
    assert list(theirs.peer.segments(View(scopes=("victim/train",)), {}))[: len(wire)] == wire
    # With the role here, what was refused is taken; and the bytes are gone for who asks next.
    assert admin("POST", "/v1/roles", {"principal": principal, "role": role("redact", "victim")})[0] == 204
    assert sent(client, mallory) == ["new"]
    held = b"".join(
        data for found in client.peer.segments(View(), {}) for _, data in segments.records_of(segments.from_wire(found))
    )
    assert b"a secret of ours" not in held
    assert record.hex().encode() in held
    assert sent(theirs, victim) == []


def test_nobody_joins_with_a_key_that_they_do_not_hold(hub: HubProcess, tmp_path: Path) -> None:
    """A public key stands in the header of every stream; who could join with it would be its owner at the hub."""
    admin, owner, thief = Asking(hub), Writer("owner", seed=47), Writer("thief", seed=48)
    joined(hub, tmp_path, owner, scope="owner", role="write")
    code = admin("POST", "/v1/invites", {"name": "thief", "role": role("read", "shared")})[1]["secret"]
    hub_key, theirs = admin("GET", "/v1/hub")[1]["hub"], owner.key.public.hex()
    said = {
        "by another key": thief.key.sign(enrolment.payload(code, theirs, hub_key)),
        "for another invite": owner.key.sign(enrolment.payload("another", theirs, hub_key)),
        "for another hub": owner.key.sign(enrolment.payload(code, theirs, "ab" * 32)),
        "nothing": bytes(64),
    }
    for what, signature in said.items():
        asked = {"invite": code, "key": theirs, "name": "thief", "signature": signature.hex()}
        assert admin("POST", "/v1/enrol", asked)[0] == 403, what
    assert admin("POST", "/v1/enrol", {"invite": code, "key": theirs, "name": "thief", "signature": "00"})[0] == 422
    assert who(hub, "owner")["roles"] == [role("write", "owner")]
    client = HubClient(hub.url, state_home=tmp_path, keys=tmp_path / "thief")
    assert client.enrol(code, thief.key, "thief").principal == "thief"  # the invite is still good
