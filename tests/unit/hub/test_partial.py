"""Stores that hold a part of what a hub holds: chosen by filter, and what they remember of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf import moving, sync
from cmf.errors import UnsupportedError
from cmf.graph.index import Node
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.model.exchange import View
from cmf.model.wire import Role
from cmf.objects.local import LocalObjects
from cmf.remote import HubClient
from cmf.transfer import LocalPeer, transfer
from tests.histories import Writer, execution_id, execution_nodes
from tests.hubs import HubProcess, running


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    with running(folder / "hub", folder / "state") as found:
        yield found


@pytest.fixture
def hub(process: HubProcess, tmp_path: Path) -> HubClient:
    return process.client(tmp_path / "keys")


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Writer:
    """Return a writer with scopes of its own, named after the test."""
    return Writer(request.node.name[5:40].replace("_", "-"), seed=1 + len(request.node.name) % 200)


class Reader:
    """A store that pulls."""

    def __init__(self, folder: Path, hub: HubClient) -> None:
        self.writer = Writer("reader")
        self.store = self.writer.store
        self.objects = LocalObjects(folder / "objects")
        self.hub = hub

    def pull(self, view: View) -> moving.Moved:
        return sync.pull(self.store, self.objects, self.hub, views=(view,))

    def executions(self) -> list[str]:
        return sorted(view.name for view in self.store.index.executions(self._nodes()).values())

    def _nodes(self) -> list[Node]:
        return list(self.store.index.nodes(execution_nodes(self.store)).values())


@pytest.fixture
def reader(tmp_path: Path, hub: HubClient) -> Reader:
    return Reader(tmp_path, hub)


def send(writer: Writer, hub: HubClient) -> None:
    writer.seal()
    assert {one.outcome for one in transfer(LocalPeer(writer.store), hub.peer, View(own=True))} <= {"new", "known"}


def recorded(writer: Writer, hub: HubClient, count: int = 5) -> list[str]:
    """Record some executions, each in a segment of its own, and send them."""
    made = []
    for number in range(1, count + 1):
        made.append(writer.execution(f"{writer.name}/train", number))
        writer.seal()
    send(writer, hub)
    return made


def test_only_what_a_filter_finds_comes(lab: Writer, hub: HubClient, reader: Reader) -> None:
    recorded(lab, hub)
    view = View(scopes=(f"{lab.name}/*",), where="metrics.f1 >= 0.4")
    moved = reader.pull(view)
    assert reader.executions() == ["run-4", "run-5"]
    assert moved.segments == 3  # the start of the stream, and two
    again = reader.pull(view)
    assert (again.segments, again.known) == (0, 0)


def test_an_execution_that_a_filter_finds_only_later_comes_with_the_next_pull(
    lab: Writer, hub: HubClient, reader: Reader
) -> None:
    made = recorded(lab, hub)
    view = View(scopes=(f"{lab.name}/*",), where="metrics.f1 >= 0.4")
    reader.pull(view)
    lab.add(f"{lab.name}/train", model.Property(subject=made[0], key="metric/f1", value=0.9, t=10_000))
    send(lab, hub)
    reader.pull(view)
    assert reader.executions() == ["run-1", "run-4", "run-5"]


def test_executions_of_a_time_come(lab: Writer, hub: HubClient, reader: Reader) -> None:
    recorded(lab, hub)
    reader.pull(View(scopes=(f"{lab.name}/*",), where="started >= 1002 and started < 1004"))
    assert reader.executions() == ["run-2", "run-3"]


def test_what_came_by_filter_is_not_offered_as_held_and_becomes_whole(
    lab: Writer, hub: HubClient, reader: Reader
) -> None:
    recorded(lab, hub)
    reader.pull(View(scopes=(f"{lab.name}/*",), where="params.number = 3"))
    assert [sample.points[0].n for sample in reader.store.samples(View(scopes=(f"{lab.name}/*",)))] == [0]
    reader.pull(View(scopes=(f"{lab.name}/*",)))
    assert [sample.points[0].n for sample in reader.store.samples(View(scopes=(f"{lab.name}/*",)))] == [5]
    assert reader.store.dump() == lab.store.dump()


def test_a_site_that_says_its_name_only_later_comes_whole(lab: Writer, hub: HubClient, reader: Reader) -> None:
    made = recorded(lab, hub)
    view = View(sites=(f"{lab.name}-lab",))
    assert reader.pull(view).segments == 0
    lab.called(made[-1], f"{lab.name}-lab")
    send(lab, hub)
    assert reader.pull(view).refused == []
    assert reader.store.dump() == lab.store.dump()
    lab.execution(f"{lab.name}/train", 50)
    send(lab, hub)
    more = reader.pull(view)
    assert (more.segments, more.known) == (1, 0)


def test_a_filter_and_a_site_are_both_asked_for(lab: Writer, hub: HubClient, reader: Reader) -> None:
    lab.called(lab.execution(f"{lab.name}/train", 1), f"{lab.name}-lab")
    lab.seal()
    lab.execution(f"{lab.name}/train", 2)
    send(lab, hub)
    reader.pull(View(scopes=(f"{lab.name}/*",), sites=(f"{lab.name}-lab",), where="status = finished"))
    assert reader.executions() == ["run-1"]


def test_what_came_of_a_thing_comes(lab: Writer, hub: HubClient, reader: Reader) -> None:
    for number in range(1, 5):
        lab.execution(
            f"{lab.name}/train", number, reads=(f"{lab.name}-{number}",), writes=(f"{lab.name}-{number + 1}",)
        )
        lab.seal()
    send(lab, hub)
    sync.pull_lineage(reader.store, reader.objects, hub, f"{lab.name}-4", "down")
    assert {"run-3", "run-4"} <= set(reader.executions())
    assert "run-1" not in reader.executions()
    assert sync.pull_lineage(reader.store, reader.objects, hub, f"{lab.name}-4", "down").known == 0


def test_a_hub_that_knows_no_filters_is_named(lab: Writer, process: HubProcess, tmp_path: Path) -> None:
    class Old(HubClient):
        def ask(self, method: str, path: str, *rest: object, **more: object) -> object:  # type: ignore[override]
            return super().ask(method, "/v1/nothing" if path == "/v1/matching" else path, *rest, **more)  # type: ignore[arg-type]

    client = Old(process.url, state_home=process.state_home, keys=tmp_path / "keys")
    with pytest.raises(UnsupportedError, match="older than filters"):
        list(client.matching(View(where="status = finished")))


def test_access_that_is_granted_later_brings_what_could_not_be_read_before(
    lab: Writer, hub: HubClient, process: HubProcess, tmp_path: Path
) -> None:
    lab.execution(f"{lab.name}/open", 1)
    lab.seal()
    lab.execution(f"{lab.name}/closed", 2)
    send(lab, hub)
    invite = hub.access.invite(lab.name, Role(f"{lab.name}/open", "read"), expires_s=3600)
    guest = HubClient(process.url, state_home=tmp_path / "nobody", keys=tmp_path / "guest")
    reader = Reader(tmp_path, guest)
    guest.enrol(invite.secret, reader.writer.key, lab.name)
    views = (View(), View(sites=(f"site-{lab.name}",)), View(where="status = finished"))

    def pull() -> moving.Moved:
        return sync.pull(reader.store, reader.objects, guest, views=views)

    pull()
    assert reader.executions() == ["run-1"]
    assert pull().segments == 0
    (principal,) = (each.id for each in hub.access.principals() if each.name == lab.name)
    hub.access.give(principal, Role(f"{lab.name}/closed", "read"))
    assert pull().segments == 2
    assert reader.executions() == ["run-1", "run-2"]
    assert reader.store.dump() == lab.store.dump()


def test_an_execution_that_is_named_and_is_not_here_is_known_to_lack_and_comes_when_asked_for(
    lab: Writer, hub: HubClient, reader: Reader
) -> None:
    scope = f"{lab.name}/train"
    parent = lab.execution(scope, 1)
    lab.seal()
    maker = lab.execution(f"{lab.name}/make", 2, writes=(f"{lab.name}-data",))
    lab.seal()
    child = lab.execution(scope, 3, parent=parent)
    event = model.Event(
        execution=child.rpartition(":")[2],
        direction="input",
        artifact=digests.file_digest(f"{lab.name}-data".encode()),
        path="data",
        size=1000,
        t=2_003,
    )
    lab.add(scope, model.Link(source=f"record:{lab.add(scope, event).hex()}", rel="via", to=maker))
    send(lab, hub)
    reader.pull(View(scopes=(f"{lab.name}/*",), where="params.number = 3"))
    assert reader.executions() == ["run-3"]
    assert reader.store.index.referred() == sorted([maker, parent])
    sync.pull_promised(reader.store, [hub])
    assert reader.executions() == ["run-1", "run-2", "run-3"]
    assert reader.store.index.referred() == []
    assert sync.pull_promised(reader.store, [hub]).segments == 0


def test_what_is_promised_is_asked_of_one_hub_after_the_other(
    hub: HubClient, reader: Reader, lab: Writer, tmp_path: Path
) -> None:
    scope, other = f"{lab.name}/train", Writer("other", seed=77)
    near = [lab.execution(f"{lab.name}/near", n) for n in range(1, 4)]
    far = [other.execution(f"{lab.name}/far", n) for n in range(4, 7)]
    nowhere = model.execution_node(f"{lab.name}/nowhere", execution_id(7))
    child = Writer("child", seed=78)
    for n, parent in enumerate([*near, *far, nowhere]):
        child.execution(scope, 10 + n, parent=parent)
    with running(tmp_path / "far", tmp_path / "state") as process:
        there = process.client(tmp_path / "far-keys")
        send(lab, hub)
        send(child, hub)
        send(other, there)
        reader.pull(View(scopes=(scope,)))
        assert len(reader.store.index.referred()) == 7
        gone = HubClient("http://127.0.0.1:9", state_home=tmp_path, keys=tmp_path)
        moved = sync.pull_promised(reader.store, [gone, hub, there])
    assert reader.store.index.referred() == [nowhere]
    away, left = moved.warnings
    assert gone.url in away
    assert left == f"Nobody who was asked gave 1 execution that is named here: {nowhere[10:].replace(':', ' ')}."
    assert {*near, *far} <= {*execution_nodes(reader.store)}


def test_what_may_not_be_read_is_not_told_to_who_asks_for_it_by_its_node(
    process: HubProcess, hub: HubClient, reader: Reader, lab: Writer, tmp_path: Path
) -> None:
    node = lab.execution(f"{lab.name}/secret", 1)
    send(lab, hub)
    code = hub.access.invite("guest", Role("elsewhere", "read"), expires_s=60).secret
    guest = HubClient(process.url, state_home=tmp_path / "none", keys=tmp_path / "guest")
    guest.enrol(code, Writer("guest", seed=79).key, "guest")
    assert list(hub.about([node]))
    assert list(guest.about([node, "artifact:" + digests.EMPTY, "nonsense"])) == []


def test_one_thing_comes_by_its_name_without_what_it_came_from(hub: HubClient, reader: Reader, lab: Writer) -> None:
    for number in (1, 2, 3):
        lab.execution(
            f"{lab.name}/stage{number}", number, reads=(f"{lab.name}-{number}",), writes=(f"{lab.name}-{number + 1}",)
        )
        lab.seal()
    send(lab, hub)
    sync.pull_lineage(reader.store, reader.objects, hub, f"{lab.name}-3", "up", depth_max=0)
    assert reader.executions() == ["run-2"]
    sync.pull_lineage(reader.store, reader.objects, hub, f"{lab.name}-3", "up")
    assert reader.executions() == ["run-1", "run-2"]
