"""How much may be kept at a hub: what is refused, for whom, and that no count is ever off."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cmf.errors import (
    CmfError,
    ConflictError,
    DeniedError,
    NotFoundError,
    UsageError,
    exit_code,
    from_http,
    http_status,
)
from cmf.hub import accounts, parts
from cmf.hub.access import console
from cmf.hub.auth import Caller
from cmf.hub.service import Hub
from cmf.model import digest as digests
from cmf.model import segment as segments
from cmf.model import wire
from cmf.model.exchange import Admission, View
from cmf.store.dialect import Dialect
from tests import databases
from tests.histories import Writer

pytestmark = pytest.mark.xdist_group("postgres")


@pytest.fixture(params=["sqlite", "postgres"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hub]:
    database = databases.another(request.getfixturevalue("database")) if request.param == "postgres" else ""
    made = Hub(tmp_path / "hub", database)
    yield made
    made.close()


def joined(hub: Hub, writer: Writer, *, scope: str = "", role: str = "write") -> Caller:
    """Return who a writer is at a hub that it joined."""
    asked = wire.AskInvite(name=writer.name, role=wire.Role(scope, role))
    code = hub.access.invite(console(), asked).secret
    return hub.auth.enrol(code, writer.key.public, writer.name, now=hub.now())[1]


def limited(hub: Hub, kind: Any, whom: str = "", **most: int) -> None:
    hub.quotas.set(console(), wire.AskQuota(kind=kind, whom=whom, **most))


def pushed(hub: Hub, caller: Caller, writer: Writer) -> list[Admission]:
    """Push what the hub does not hold of a writer."""
    held = hub.store.have(writer.store.samples(View(own=True)))
    found = writer.store.segments(View(own=True), held)
    return list(hub.pushing.end(caller).admit(list(found)))


def truth(hub: Hub) -> dict[tuple[str, str], tuple[int, int]]:
    """Return what each scope prefix holds: (bytes, streams), counted from the segments and the grants themselves."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    sql: Dialect = hub._dialect

    def add(scope: str, size: int, streams: int = 0) -> None:
        for whose in accounts.places(scope):
            had = found.get(whose, (0, 0))
            found[whose] = (had[0] + size, had[1] + streams)

    for scope, _, data in hub.store.stored():
        segment = segments.from_wire(data)
        add(scope, len(segment.header) + len(segment.signature) + len(segment.body), int(segment.n == 0))
    for scope, digest in sql.fetch("SELECT scope, digest FROM hub_grant"):
        add(scope, hub.objects.size(digest))
    return found


def counted(hub: Hub) -> dict[tuple[str, str], tuple[int, int]]:
    """Return what the hub says of each scope prefix that holds anything."""
    rows = hub._dialect.fetch("SELECT whom, bytes, streams FROM hub_usage WHERE kind = 'scope'")
    return {("scope", whom): (size, streams) for whom, size, streams in rows if (size, streams) != (0, 0)}


def used(hub: Hub, caller: Caller) -> tuple[int, int]:
    rows = hub._dialect.fetch(
        "SELECT bytes, streams FROM hub_usage WHERE kind = 'principal' AND whom = ?", (str(caller.principal),)
    )
    return (rows[0][0], rows[0][1]) if rows else (0, 0)


def put(hub: Hub, caller: Caller, scope: str, data: bytes) -> str:
    digest = digests.file_digest(data)
    with hub.grants.begin(caller, scope, digest) as incoming:
        incoming.write(data)
        hub.grants.put(caller, scope, digest, incoming, folder=False)
    return digest


def refused(act: Callable[[], object]) -> ConflictError:
    with pytest.raises(ConflictError) as error:
        act()
    assert (error.value.kind, http_status(error.value)) == ("quota", 507)
    return error.value


def test_a_full_quota_is_a_conflict_with_a_status_of_its_own_and_comes_back_as_one() -> None:
    error = from_http(507, "full", kind="quota")
    assert (type(error), exit_code(error), http_status(error)) == (ConflictError, 4, 507)


def test_streams_over_a_quota_are_refused_with_whose_it_is_and_what_to_do_and_the_rest_goes_on(hub: Hub) -> None:
    writer = Writer("ada")
    ada = joined(hub, writer)
    limited(hub, "each", streams_max=2)
    for n in range(3):
        writer.execution(f"lab/s{n}", n)
    writer.seal()
    said = pushed(hub, ada, writer)
    assert [(a.outcome, a.kind, a.status) for a in said if a.scope == said[-1].scope] == [
        ("refused", "quota", 507),
        ("refused", "gap", 409),
    ]
    (why,) = [a.detail for a in said if a.kind == "quota"]
    assert "ada has 2 of at most 2 streams" in why
    assert f"cmf hub quota set {ada.principal} --streams" in why
    assert [a.outcome for a in said].count("new") == 4
    assert used(hub, ada)[1] == 2
    writer.execution(next(a.scope for a in said if a.outcome == "new"), 9)
    writer.seal()
    assert "new" in {a.outcome for a in pushed(hub, ada, writer)}, "no stream begins with that"
    limited(hub, "principal", str(ada.principal), streams_max=3)
    assert {a.outcome for a in pushed(hub, ada, writer)} == {"new"}


def test_each_writer_may_begin_so_many_streams_and_who_brings_what_others_made_any_number(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "DEFAULT", accounts.Limit(None, 1))
    ada, bob, carrier = Writer("ada", seed=1), Writer("bob", seed=2), Writer("carrier", seed=3)
    callers = [joined(hub, ada), joined(hub, bob), joined(hub, carrier, role="peer")]
    for writer in (ada, bob):
        for n in range(2):
            writer.execution(f"lab/{writer.name}{n}", n)
        writer.seal()
    assert [a.kind for a in pushed(hub, callers[0], ada) if a.status == 507] == ["quota"]
    assert {a.outcome for a in pushed(hub, callers[2], bob)} == {"new"}
    assert (used(hub, callers[2])[1], used(hub, callers[1])[1]) == (2, 0), "it counts for who brings it"
    limited(hub, "principal", str(callers[2].principal), streams_max=2)
    assert [a.kind for a in pushed(hub, callers[2], ada) if a.status == 507] == ["quota"], (
        "unless it has one of its own"
    )


def test_bytes_are_counted_for_the_scope_and_all_above_it(hub: Hub) -> None:
    writer = Writer("ada")
    ada = joined(hub, writer)
    writer.execution("lab/train", 1)
    writer.seal()
    assert {a.outcome for a in pushed(hub, ada, writer)} == {"new"}
    put(hub, ada, "lab/train", b"x" * 5_000)
    held = counted(hub)
    assert set(held) == {("scope", ""), ("scope", "lab"), ("scope", "lab/train")}
    assert held == truth(hub)
    for whom in ("", "lab", "lab/train"):
        limited(hub, "scope", whom, bytes_max=held["scope", whom][0] + 3_000)
        error = refused(lambda: put(hub, ada, "lab/train", b"y" * 3_001))
        assert ("This hub" if not whom else f"The scope {whom}") in error.message
        assert f"{held['scope', whom][0]:,} of at most" in error.message
        hub.quotas.clear(console(), wire.QuotaOf(kind="scope", whom=whom))
    limited(hub, "scope", "lab", bytes_max=held["scope", "lab"][0] + 3_000)
    put(hub, ada, "other/train", b"y" * 3_001)
    put(hub, ada, "lab/train", b"y" * 3_000)
    writer.execution("lab/train", 2)
    writer.seal()
    (said,) = pushed(hub, ada, writer)
    assert (said.outcome, said.kind, said.status) == ("refused", "quota", 507)
    assert counted(hub) == truth(hub)


def test_what_is_refused_of_many_small_objects_is_named_and_leaves_no_bytes(hub: Hub) -> None:
    ada = joined(hub, Writer("ada"))
    limited(hub, "principal", str(ada.principal), bytes_max=2_500)
    found = [bytes([n]) * 1_000 for n in range(4)]
    names = [digests.file_digest(data) for data in found]
    small = [wire.Small(name, data) for name, data in zip(names, found, strict=True)]
    taken = hub.grants.take(ada, "lab/train", small)
    assert (taken.count, [(one.digest, one.kind, one.status) for one in taken.refused]) == (
        2,
        [(name, "quota", 507) for name in names[2:]],
    )
    assert [digest for digest, _ in hub.objects.list()] == sorted(names[:2])
    again = hub.grants.take(ada, "lab/train", small[:2])
    assert (again.count, again.refused) == (2, []), "what was sent may come again"
    assert used(hub, ada) == (2_000, 0)


def test_an_object_counts_once_in_each_scope_until_its_grant_is_taken_back(hub: Hub) -> None:
    ada = joined(hub, Writer("ada"))
    data = b"z" * 1_000
    digest = put(hub, ada, "lab/a", data)
    for scope in ("lab/b", "lab/a"):
        put(hub, ada, scope, data)
    assert counted(hub)["scope", "lab"] == (2_000, 0)
    assert used(hub, ada) == (2_000, 0)
    for _ in range(2):
        hub.grants.revoke(console(), "lab/a", digest)
    assert counted(hub)["scope", "lab"] == (1_000, 0)
    assert used(hub, ada) == (1_000, 0)
    assert counted(hub) == truth(hub)


def test_a_hub_that_did_not_count_counts_what_it_holds(hub: Hub) -> None:
    writer = Writer("ada")
    ada = joined(hub, writer)
    for n in range(2):
        writer.execution(f"lab/s{n}", n)
    writer.seal()
    pushed(hub, ada, writer)
    put(hub, ada, "lab/s0", b"x" * 100)
    before, hers = counted(hub), used(hub, ada)
    with hub._dialect.write() as connection:
        for table in ("hub_usage", "hub_sent"):
            connection.execute(f"DELETE FROM {table}")
    hub.quotas.begin(hub.objects)
    hub.quotas.begin(hub.objects)
    assert counted(hub) == before == truth(hub)
    assert used(hub, ada) == (hers[0] - 100, hers[1]), "segments are their signer's; nobody knows who sent an object"


def test_no_count_is_off_and_no_quota_is_passed_by_many_at_once(hub: Hub, tmp_path: Path) -> None:
    hubs = [hub]
    if hub._dialect.__class__.__name__ == "Postgres":  # another worker of the same hub
        hubs.append(Hub(hub.folder, str(hub._dialect._pool.conninfo)))  # type: ignore[attr-defined]
    writers = [Writer(f"w{n}", seed=n + 1) for n in range(6)]
    callers = [joined(hub, writer) for writer in writers]
    limited(hub, "scope", "lab", bytes_max=30_000, streams_max=9)
    limited(hub, "each", bytes_max=12_000, streams_max=3)
    errors: list[BaseException] = []

    def work(n: int) -> None:
        at = hubs[n % len(hubs)]
        try:
            for turn in range(4):
                writers[n].execution(f"lab/s{n}-{turn}", turn)
                writers[n].seal()
                pushed(at, callers[n], writers[n])
                with contextlib.suppress(ConflictError):
                    digest = put(at, callers[n], f"lab/s{n}-0", bytes([n, turn]) * 1_000)
                    if turn == 2:
                        at.grants.revoke(console(), f"lab/s{n}-0", digest)
        except BaseException as error:  # noqa: BLE001  # told by the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(writers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for other in hubs[1:]:
        other.close()
    assert errors == []
    assert counted(hub) == truth(hub)
    held, streams = counted(hub)["scope", "lab"]
    assert held <= 30_000
    assert streams == 9, "as many as there may be"
    mine = [used(hub, caller) for caller in callers]
    assert (sum(size for size, _ in mine), sum(count for _, count in mine)) == (held, streams)
    assert all(size <= 12_000 and count <= 3 for size, count in mine)


def test_bytes_on_their_way_are_counted_before_they_are_kept(hub: Hub) -> None:
    ada = joined(hub, Writer("ada"))
    limited(hub, "scope", "lab", bytes_max=1_000)
    with hub.quotas.flight(ada.principal, "lab/train") as one, hub.quotas.flight(ada.principal, "lab/other") as two:
        one.take(600)
        assert "600 of at most 1,000" in refused(lambda: two.take(401)).message
        two.take(400)
    data = b"x" * 1_000
    with hub.quotas.flight(ada.principal, "lab/train") as one:
        one.take(1)
        refused(lambda: put(hub, ada, "lab/train", data))
        assert list(hub.objects.list()) == []
    put(hub, ada, "lab/train", data)


def test_what_is_left_of_cut_uploads_takes_no_more_than_a_quota_leaves(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "RESUMED_BYTES_MIN", 100)
    ada = joined(hub, Writer("ada"))
    limited(hub, "principal", str(ada.principal), bytes_max=1_000)

    def cut(data: bytes, start: int = 0) -> str:
        digest = digests.file_digest(data + b"and more")
        with hub.grants.begin(ada, "lab/train", digest, start) as incoming:
            incoming.write(data)
        return digest

    def left() -> int:
        return sum(path.stat().st_size for path in (hub.folder / "objects").rglob("*.part"))

    first = cut(b"a" * 600)
    assert left() == 600
    cut(b"b" * 400)
    assert left() == 1_000
    cut(b"c" * 400)
    assert left() <= 1_000 + 400, "those before it were let go when it began"
    refused(lambda: cut(b"d" * 1_001))
    hub.grants.put_all(ada, "lab/train", wire.frame(wire.OBJECT, wire.from_small(small(b"e" * 900))))
    with contextlib.suppress(ConflictError):
        cut(b"f" * 50)
    assert left() <= 100
    held = hub.grants.part(ada, "lab/train", first)
    assert isinstance(held, wire.Part)
    assert held.size == 0


def small(data: bytes) -> wire.Small:
    return wire.Small(digests.file_digest(data), data)


def test_an_upload_past_the_hub_counts_until_it_is_settled_or_too_old(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = joined(hub, Writer("ada"))
    limited(hub, "scope", "lab", bytes_max=1_000)
    hub.quotas.lend("ticket-1", ada.principal, "lab/train", 700)
    refused(lambda: hub.quotas.lend("ticket-2", ada.principal, "lab/train", 301))
    refused(lambda: put(hub, ada, "lab/train", b"x" * 301))
    with hub._dialect.write() as connection:
        hub.quotas.grant(connection, ada.principal, "lab/train", {"sha256:" + "0" * 64: 700}, "ticket-1")
    refused(lambda: hub.quotas.lend("ticket-2", ada.principal, "lab/train", 301))
    hub.quotas.lend("ticket-3", ada.principal, "lab/train", 300)
    later = hub.now() + 26 * 3_600 * 10**6
    monkeypatch.setattr(hub.quotas, "_now", lambda: later)
    hub.quotas.lend("ticket-4", ada.principal, "lab/train", 300)


def test_who_is_removed_leaves_no_debt_to_whoever_gets_their_number(hub: Hub) -> None:
    asked = wire.AskPeer(name="paris", url="https://paris.example")
    hub.peers.add(console(), asked)
    paris = hub.peers.one("paris").principal
    limited(hub, "principal", str(paris), bytes_max=1_000)
    digest = put(hub, hub.auth.principal(paris), "lab/train", b"x" * 900)
    hub.peers.remove(console(), "paris")
    hub.peers.add(console(), asked)
    again = hub.auth.principal(hub.peers.one("paris").principal)
    put(hub, again, "lab/train", b"y" * 1_100)
    hub.grants.revoke(console(), "lab/train", digest)
    assert used(hub, again) == (1_100, 0)
    assert counted(hub) == truth(hub)


def test_only_an_admin_sets_quotas_and_who_is_none_sees_what_binds_them(hub: Hub) -> None:
    ada, bob = joined(hub, Writer("ada", seed=1), scope="lab"), joined(hub, Writer("bob", seed=2), scope="attic")
    limited(hub, "scope", "lab", bytes_max=5)
    limited(hub, "scope", "attic/deep", streams_max=7)
    limited(hub, "principal", str(bob.principal), streams_max=1)
    for act in (hub.quotas.set, hub.quotas.clear):
        with pytest.raises(DeniedError):
            act(ada, wire.AskQuota(kind="each"))
    shown: dict[str, list[Any]] = {
        name: [(one.kind, one.whom or one.name, one.bytes_max, one.streams_max) for one in hub.quotas.shown(caller)]
        for name, caller in (("ada", ada), ("bob", bob), ("admin", console()))
    }
    each = ("each", "", None, accounts.STREAMS_OF_EACH)
    assert shown["ada"] == [("scope", "lab", 5, None), each, ("principal", str(ada.principal), None, None)]
    assert shown["bob"] == [("scope", "attic/deep", None, 7), each, ("principal", str(bob.principal), None, 1)]
    assert [one[1] for one in shown["admin"]] == ["", "attic/deep", "lab", "", str(ada.principal), str(bob.principal)]
    acts = [(act.action, act.subject) for act in hub.access.acts(console(), 0)]
    assert ("set the quota to any number of bytes, 1 streams", bob.name) in acts
    wrong: list[tuple[Any, str, type[CmfError]]] = [
        ("scope", "../x", UsageError), ("principal", "99", NotFoundError), ("principal", "ada", NotFoundError),
        ("principal", "-1", NotFoundError), ("principal", "9" * 40, NotFoundError),
    ]  # fmt: skip
    for kind, whom, error in wrong:
        with pytest.raises(error):
            limited(hub, kind, whom, bytes_max=1)
    with pytest.raises(NotFoundError):
        hub.quotas.clear(console(), wire.QuotaOf(kind="scope", whom="lab/train"))
