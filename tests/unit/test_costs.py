"""What the objects of a store cost, by kind, scope and name."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf import costs
from cmf.model import records as model
from cmf.model.digest import file_digest
from tests.sites import Site

LARGE = bytes(range(256)) * 2000


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "lab")
    yield made
    made.close()


def named(found: list[costs.Cost]) -> dict[str, tuple[int, int, int]]:
    return {cost.name: (cost.objects, cost.bytes, cost.own) for cost in found}


def test_each_object_is_of_one_kind_and_of_every_scope_that_names_it(site: Site) -> None:
    model_file = site.record(site.put(LARGE), type="model", scope="lab/train")
    site.record(model_file, type="model", scope="lab/test")
    site.record(site.put_folder({"a": b"one", "b": b"three"}), type="dataset", scope="lab/prepare")
    site.put(b"nobody's")
    diff, chunk = site.put(b"the code"), site.put(b"some points")
    id_ = site.execution()
    node = model.execution_node("lab/train", id_)
    site.tell(
        model.Execution(id=id_, started=1),
        model.Property(subject=node, key="code", value={"diff": {"$object": diff}}, t=1),
        model.Series(
            execution=id_,
            names=["loss"],
            attempt="1-00000000",
            rank=0,
            first=0,
            rows=1,
            steps=(0, 0),
            times=(1, 1),
            object=chunk,
            size=11,
            stats=[model.Stats(1, 1, 1, 1, 1)],
        ),
    )
    found = costs.count(site.folder, site.store, site.objects)
    kinds = named(found.kinds)
    assert {name: count for name, (count, _, _) in kinds.items()} == {
        "model": 1,
        "dataset": 3,
        costs.SERIES: 1,
        costs.EVIDENCE: 1,
        costs.UNREFERENCED: 1,
    }
    assert (found.kinds[0].name, found.objects) == ("model", 7)
    assert sum(cost.bytes for cost in found.kinds) == found.bytes
    assert kinds[costs.SERIES] == (1, 11, 11)
    scopes = named(found.scopes)
    assert scopes["lab/test"] == (1, len(LARGE), 0)
    assert scopes["lab/train"] == (3, len(LARGE) + 19, 19)
    assert scopes["lab/prepare"][0] == 3
    assert found.disk > found.packs > 0
    assert found.records > 0


def test_versions_of_one_name_are_told_together_and_what_they_share_once(site: Site) -> None:
    for files in ({"a": b"same", "b": b"first"}, {"a": b"same", "b": b"second"}):
        digest = site.put_folder(files)
        id_ = site.execution()
        site.tell(
            model.Execution(id=id_, started=1),
            model.Event(execution=id_, direction="output", artifact=digest, name="images", t=1),
        )
    found = costs.count(site.folder, site.store, site.objects)
    assert named(found.names)["images"][0] == 5
    assert [cost.name for cost in found.kinds] == [costs.UNTYPED]


def test_what_was_removed_from_packs_is_told_until_they_are_merged(site: Site) -> None:
    names = [site.record(site.put(bytes([n]) * 1000)) for n in range(10)]
    site.objects.close()
    assert costs.count(site.folder, site.store, site.objects).removed < 10
    site.objects.remove([names[0]])
    found = costs.count(site.folder, site.store, site.objects)
    assert 1000 <= found.removed < 2000
    assert file_digest(bytes(1000)) == names[0]
