from typing import Any

import pytest

from cmf.errors import UsageError
from cmf.graph.filter import parse
from cmf.graph.views import Page
from cmf.model import segment as segments
from cmf.store import index
from tests.property.store_histories import accepted
from tests.unit.store.book import Book, execution_id


@pytest.fixture(scope="module")
def book() -> Book:
    """Forty executions, four at each time, every third id born in two scopes."""
    book = Book()
    for n in range(40):
        params = {"n": n, "half": n / 2, "kind": "even" if n % 2 == 0 else "odd", "big": n > 30}
        scope = ("p/train", "p/test", "q/train")[n % 3]
        node = book.run(scope, n, started=n // 4, name=f"run{n}", author="ada", params=params)
        if n % 3 == 0:
            book.run("p/test", n, started=n // 4)
        book.say(node, "metric/f1", n / 40)
        book.say(node, "status/1-a/0", {"status": "finished" if n % 5 else "failed", "ended": (n // 4) + 1_000_000 * n})
        book.say(node, "process/1-a/0", {"site": {"name": f"site{n % 2}"}, "user": "bob"})
    return book


def pages(book: Book, text: str, limit: int, **more: Any) -> list[Page]:
    found = [book.index.select(parse(text, limit=limit, **more))]
    while found[-1].cursor:
        found.append(book.index.select(parse(text, limit=limit, cursor=found[-1].cursor, **more)))
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("text", ["", "params.n >= 0", "started >= 0", "stage = test"])
def test_pages_give_every_execution_once_newest_first(book: Book, limit: int, text: str) -> None:
    found = pages(book, text, limit)
    nodes = [execution.node for page in found for execution in page.executions]
    assert len(nodes) == len(set(nodes)) == {"": 54, "params.n >= 0": 40, "started >= 0": 54, "stage = test": 27}[text]
    order = [(e.started, e.id, e.scope) for page in found for e in page.executions]
    assert order == sorted(order, reverse=True)
    assert all(page.complete and len(page.executions) == limit for page in found[:-1])


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("params.n = 7", [7]),
        ("params.n != 7 and params.n < 9", [0, 1, 2, 3, 4, 5, 6, 8]),
        ("params.half > 19", [39]),
        ("params.kind = even and params.n < 4", [0, 2]),
        ("params.kind != even and params.n <= 3", [1, 3]),
        ("params.big = true and params.n < 33", [31, 32]),
        ("metrics.f1 >= 0.95 and status = finished", [38, 39]),
        ("status = failed and pipeline = q and started > 2", [20, 35]),
        ("site = site1 and duration <= 3", [1, 3]),
        ("scope = p/train and params.n < 7", [0, 3, 6]),
        ("scope != p/train and stage = train and params.n < 9", [2, 5, 8]),
        ("name = run12 and author = ada", [12]),
        (f"id = {execution_id(5)}", [5]),
        ("params.kind > 3", []),
        ("params.missing = 3", []),
        ("metrics.n = 3", []),
    ],
)
def test_filters_choose_as_they_say(book: Book, text: str, numbers: list[int]) -> None:
    found = [int(e.id.replace("-", "")[-12:], 16) for page in pages(book, text, 3) for e in page.executions]
    assert found == numbers[::-1]


def test_scopes_narrow_a_page(book: Book) -> None:
    found = pages(book, "", 5, scopes=("p/*",))
    assert {e.scope for page in found for e in page.executions} == {"p/train", "p/test"}
    assert sum(len(page.executions) for page in found) == 41


def test_a_spent_budget_gives_a_partial_page_that_says_so(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SCAN_ROWS", 6)
    found = pages(book, "stage = train", 4)
    assert not all(page.complete for page in found)
    assert found[-1].complete
    assert sorted(e.id for page in found for e in page.executions) == [execution_id(n) for n in range(40) if n % 3 != 1]
    assert all(page.complete for page in pages(book, "", 4))


def test_a_condition_that_many_satisfy_is_walked_instead_of_listed(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = pages(book, "params.n > 3 and metrics.f1 < 0.5", 5)
    monkeypatch.setattr(index, "POSTINGS_MAX", 2)
    assert pages(book, "params.n > 3 and metrics.f1 < 0.5", 5) == expected


@pytest.mark.parametrize(
    "cursor", ["x", "1", "1.", ".a.b", "-1.a.b", "²." + execution_id(1) + ".p/a", "1e9.a.b", "9" * 30 + ".a.b"]
)
def test_a_cursor_that_no_page_gave_is_refused(book: Book, cursor: str) -> None:
    with pytest.raises(UsageError, match="cursor"):
        book.index.select(parse("", cursor=cursor))


def test_a_foreign_scope_changes_no_filter(book: Book) -> None:
    other = Book("other")
    node = other.run("p/train", 1, params={"n": 1})
    other.say(node, "param/n", 99, scope="q/train")
    assert pages(other, "params.n = 99", 5)[0].executions == ()
    assert len(pages(other, "params.n = 1", 5)[0].executions) == 1


def test_a_retracted_execution_is_in_no_list(book: Book) -> None:
    other = Book("other")
    node = other.run("p/a", 1)
    assert len(pages(other, "", 5)[0].executions) == 1
    other.say(node, "retracted", True)
    assert pages(other, "", 5)[0].executions == ()


def test_lists_do_not_depend_on_the_order_of_arrival(book: Book) -> None:
    book.seal()
    chains: dict[bytes, list[bytes]] = {}
    for _, _, wire in book.store.stored():
        chains.setdefault(segments.from_wire(wire).stream, []).append(wire)
    other = Book("other")
    for wires in reversed(chains.values()):
        accepted(other.peer.admit(wires))
    for text in ("", "params.kind = odd", "stage = train and metrics.f1 > 0.1"):
        assert pages(other, text, 7) == pages(book, text, 7)
