"""A site's key is followed by another: what a hub believes, over HTTP, against a real process; on both databases."""

from pathlib import Path

import pytest

from cmf import signing
from cmf.model import rotation
from cmf.model import segment as segments
from cmf.model.exchange import View
from cmf.remote import HubClient
from cmf.transfer import LocalPeer, transfer
from tests.histories import Writer, chain
from tests.hubs import HubProcess, joined
from tests.unit.hub.test_access import Asking, hub, role, who

__all__ = ["hub"]
pytestmark = pytest.mark.xdist_group("postgres")


def rotated(writer: Writer, seed: int) -> None:
    """Give a writer the key of a seed, for which its present one vouches."""
    new = signing.Key(bytes([seed]) * 32)
    said = rotation.vouch(writer.key, new.public, at=seed)
    writer.key = signing.Key(bytes([seed]) * 32, (*writer.key.vouched, said))


def pushed(client: HubClient, writer: Writer, number: int) -> list[str]:
    """Record and push an execution; return what became of each segment that was sent."""
    writer.execution(f"{writer.name}/train", number)
    writer.seal()
    return [done.kind or done.outcome for done in transfer(LocalPeer(writer.store), client.peer, View(own=True))]


def test_a_key_that_a_trusted_one_vouched_for_needs_no_admin(hub: HubProcess, tmp_path: Path) -> None:
    writer = Writer("rotates", seed=61)
    client = joined(hub, tmp_path, writer, scope="rotates", role="write")
    assert pushed(client, writer, 1) == ["new", "new"]
    first = writer.key.public.hex()
    rotated(writer, 62)
    second = writer.key.public.hex()
    rotated(writer, 63)  # the hub never saw the one between
    assert pushed(client, writer, 2) == ["new", "new"]
    keys = {key["key"]: key.get("follows", "") for key in who(hub, "rotates")["keys"]}
    assert keys == {first: "", second: first, writer.key.public.hex(): second}
    acts = [act for act in Asking(hub)("GET", "/v1/audit")[1] if act["action"] == "rotated a key"]
    assert [act["subject"] for act in acts][:2] == [f"{second} {writer.key.public.hex()}", f"{first} {second}"]
    assert pushed(client, writer, 3) == ["new"]


def test_after_its_revocation_a_key_vouches_for_nobody(hub: HubProcess, tmp_path: Path) -> None:
    writer = Writer("robbed", seed=64)
    client = joined(hub, tmp_path, writer, scope="robbed", role="write")
    assert pushed(client, writer, 1) == ["new", "new"]
    Asking(hub, client.token())("DELETE", f"/v1/keys/{writer.key.public.hex()}")
    rotated(writer, 65)
    assert pushed(client, writer, 2) == ["revoked", "gap"]
    assert pushed(hub.client(tmp_path / "own"), writer, 3)[0] == "revoked"  # whoever brings it
    rotated(writer, 66)
    assert "new" not in pushed(client, writer, 4)
    assert len(who(hub, "robbed")["keys"]) == 1


def test_a_key_that_was_revoked_before_it_came_is_not_enrolled_by_what_vouches_for_it(
    hub: HubProcess, tmp_path: Path
) -> None:
    writer = Writer("early", seed=75)
    client = joined(hub, tmp_path, writer, scope="early", role="write")
    assert pushed(client, writer, 1) == ["new", "new"]
    rotated(writer, 76)
    assert Asking(hub)("DELETE", f"/v1/keys/{writer.key.public.hex()}")[0] == 204
    assert pushed(client, writer, 2)[0] == "revoked"
    assert writer.key.public.hex() not in {key["key"] for key in who(hub, "early")["keys"]}


def test_of_two_keys_that_follow_one_the_second_is_refused_and_said(hub: HubProcess, tmp_path: Path) -> None:
    owner, thief = Writer("raced", seed=67), Writer("raced", seed=67)
    client = joined(hub, tmp_path, owner, scope="raced", role="write")
    rotated(thief, 68)
    assert pushed(client, thief, 1) == ["new", "new"]  # with the owner's token, too
    rotated(owner, 69)
    assert pushed(client, owner, 2) == ["rotated", "gap"]
    for key in who(hub, "raced")["keys"]:
        assert Asking(hub, client.token())("DELETE", f"/v1/keys/{key['key']}")[0] == 204
    assert pushed(client, thief, 3) == ["revoked"]
    code = Asking(hub)("POST", "/v1/invites", {"name": "raced", "role": role("write", "raced")})[1]["secret"]
    again = hub.client(tmp_path / "again")
    again.enrol(code, owner.key, "owner")
    assert set(pushed(again, owner, 4)) == {"new"}


def test_a_rotation_gives_no_right_that_the_old_key_had_not(hub: HubProcess, tmp_path: Path) -> None:
    writer = Writer("reader", seed=70)
    client = joined(hub, tmp_path, writer, scope="reader", role="read")
    rotated(writer, 71)
    assert pushed(client, writer, 1) == ["scope", "gap"]
    stranger = joined(hub, tmp_path, Writer("stranger", seed=72), scope="reader", role="write")
    assert pushed(stranger, writer, 2)[0] == "scope"
    assert len(who(hub, "reader")["keys"]) == 1


def test_a_relay_or_a_peer_may_bring_the_new_key_first(hub: HubProcess, tmp_path: Path) -> None:
    for number, name in enumerate(("relay", "peer")):
        writer = Writer(f"by{name}", seed=80 + 4 * number)
        client = joined(hub, tmp_path, writer, scope=writer.name, role="write")
        first = writer.key.public.hex()
        rotated(writer, 81 + 4 * number)
        bringer = joined(hub, tmp_path, Writer(f"{name}s", seed=82 + 4 * number), scope=writer.name, role=name)
        assert pushed(bringer, writer, 1) == ["new", "new"]
        assert pushed(client, writer, 2) == ["new"]
        assert {key.get("follows", "") for key in who(hub, writer.name)["keys"]} == {"", first}


def test_a_forged_vouch_is_refused_and_enrols_nothing(hub: HubProcess, tmp_path: Path) -> None:
    victim = Writer("victim", seed=90)
    client = joined(hub, tmp_path, victim, scope="victim", role="write")
    thief = signing.Key(b"t" * 32)
    said = rotation.vouch(thief, thief.public, at=1)
    forged = rotation.Vouch(at=1, key=victim.key.public.hex(), signature=said.signature)
    key = signing.Key(b"t" * 32, (forged,))
    genesis = segments.start("victim/train", "site-v", key, created=1, nonce=bytes(16))
    (found,) = client.peer.admit([segments.to_wire(genesis)])
    assert (found.outcome, found.kind, found.status) == ("refused", "signature", 422)
    assert len(who(hub, "victim")["keys"]) == 1
    assert not [one for one in client.peer.streams(View()) if one.stream == genesis.stream]


def test_what_the_old_key_sealed_and_did_not_push_is_taken_while_it_is_trusted(hub: HubProcess, tmp_path: Path) -> None:
    writer = Writer("late", seed=94)
    client = joined(hub, tmp_path, writer, scope="late", role="write")
    chain(writer, "late", 1)
    rotated(writer, 95)
    assert pushed(client, writer, 2) == ["new"] * 4
