import pytest

from cmf.errors import NotFoundError, UsageError
from cmf.model import digest as digests
from cmf.model import records as model
from tests.unit.store.book import Book, artifact


@pytest.fixture
def book() -> Book:
    return Book()


def test_a_name_is_its_newest_output_in_its_pipeline(book: Book) -> None:
    first, second, other = book.run("p/train", 1), book.run("p/tune", 2), book.run("q/train", 3)
    book.made(second, "new", name="detector", t=20)
    book.made(first, "old", name="detector", t=10)
    book.used(second, "input", name="detector", t=30)
    target = book.index.resolve("detector")
    assert (target.node, target.execution, target.name) == (artifact("new"), second, "detector")
    book.made(other, "else", name="detector", t=40)
    with pytest.raises(UsageError) as caught:
        book.index.resolve("detector")
    assert caught.value.kind == "ambiguous"
    assert "p:detector" in caught.value.hint
    assert "q:detector" in caught.value.hint
    assert book.index.resolve("p:detector").node == artifact("new")
    assert book.index.resolve("q:detector").node == artifact("else")
    with pytest.raises(NotFoundError):
        book.index.resolve("r:detector")


def test_of_outputs_at_one_time_the_greatest_record_id_has_the_name(book: Book) -> None:
    made = {book.made(book.run(f"p/s{n}", n), f"data{n}", name="m", t=5): artifact(f"data{n}") for n in range(6)}
    assert book.index.resolve("m").node == made[max(made)]


def test_a_busy_pipeline_does_not_hide_a_name_in_another(book: Book) -> None:
    quiet, busy = book.run("quiet/a", 1), book.run("busy/a", 2)
    book.made(quiet, "wanted", name="m", t=1)
    for n in range(300):
        book.made(busy, f"data{n}", name="m", t=10 + n)
    assert book.index.resolve("quiet:m").node == artifact("wanted")


def test_a_label_moves_and_can_be_taken_away(book: Book) -> None:
    train = book.run("p/train", 1)
    for content in ("one", "two"):
        book.made(train, content, name="detector")

    def label(content: str | None, scope: str = "p/train") -> bytes:
        digest = artifact(content).removeprefix("artifact:") if content else ""
        return book.say(
            "scope", "label/detector@best", {"artifact": digest, "name": "detector"} if content else None, scope=scope
        )

    label("one")
    assert book.index.resolve("detector@best").node == artifact("one")
    moved = label("two")
    target = book.index.resolve("detector@best")
    assert (target.node, target.execution, target.name) == (artifact("two"), train, "detector")
    assert book.index.resolve("p:detector@best") == target
    book.say(f"record:{moved.hex()}", "retracted", True, scope="p/train")
    assert book.index.resolve("detector@best").node == artifact("one")
    label("two", scope="p/evaluate")  # another stage of the pipeline moved it on
    assert book.index.resolve("detector@best").node == artifact("two")
    label("one", scope="q/train")
    with pytest.raises(UsageError, match="any of 2"):
        book.index.resolve("detector@best")
    assert book.index.resolve("q:detector@best").node == artifact("one")
    label(None, scope="q/train")
    assert book.index.resolve("detector@best").node == artifact("two")
    with pytest.raises(NotFoundError):
        book.index.resolve("detector@worst")


def test_a_label_said_of_anything_but_a_scope_names_nothing(book: Book) -> None:
    train = book.run("p/train", 1)
    book.made(train, "one", name="detector")
    value = {"artifact": artifact("one").removeprefix("artifact:"), "name": "detector"}
    book.say(train, "label/detector@best", value)
    for odd in (3, {"artifact": 3}, {"artifact": "x"}, {"artifact": value["artifact"], "name": 3}):
        book.say("scope", "label/detector@best", odd, scope="p/train")
        with pytest.raises(NotFoundError):
            book.index.resolve("detector@best")


def test_executions_are_found_by_name_id_and_short_id(book: Book) -> None:
    node = book.run("p/a", 0xABCDE, name="busy-otter")
    whole = node.rpartition(":")[2]
    for text in (node, whole, whole[24:], "0000000a", whole[:9], "busy-otter", "0000000abcde"[:9]):
        assert book.index.resolve(text).node == node, text
    for text in ("000", "busy", "0000000B", "fffff", "%", "' OR 1=1", "", "x" * 5000):
        with pytest.raises(NotFoundError):
            book.index.resolve(text)


def test_a_short_id_that_fits_two_executions_is_ambiguous_and_names_both(book: Book) -> None:
    first, second = book.run("p/a", 0xAAAA1), book.run("p/a", 0xAAAA2)
    with pytest.raises(UsageError) as caught:
        book.index.resolve("0000000aaaa")
    assert all(node.rpartition(":")[2] in caught.value.hint for node in (first, second))
    assert book.index.resolve("0000000aaaa2").node == second


def test_a_retracted_execution_gives_up_its_name_but_not_its_id(book: Book) -> None:
    bad, good = book.run("p/a", 1, name="twin"), book.run("p/a", 2, name="twin")
    book.say(bad, "retracted", True)
    assert book.index.resolve("twin").node == good
    assert book.index.resolve(bad.rpartition(":")[2]).node == bad


def test_digests_are_found_by_prefix_of_any_length_from_four_digits(book: Book) -> None:
    run = book.run("p/a", 1)
    book.made(run, "data")
    tree = "tree:" + digests.file_digest(b"manifest")
    book.made(run, tree)
    for digest in (digests.file_digest(b"data"), tree):
        start = digest.rpartition(":")[0] + ":"
        raw = digest[-64:]
        for length in (4, 5, 6, 7, 33, 63, 64):
            assert book.index.resolve(start + raw[:length]).node == f"artifact:{digest}"
    for text in ("sha256:", f"sha256:{tree[-64:-61]}", f"sha256:{tree[-64:]}", f"{tree[:-1]}g"):
        with pytest.raises(NotFoundError):
            book.index.resolve(text)


def test_a_path_is_its_newest_output_before_any_input(book: Book) -> None:
    make, use = book.run("p/a", 1), book.run("p/b", 2)
    book.used(use, "read", path="data.csv", t=90)
    target = book.index.resolve("data.csv")
    assert (target.node, target.execution) == (artifact("read"), "")
    book.made(make, "first", path="data.csv", t=10)
    book.made(make, "last", path="data.csv", t=20, name="table")
    target = book.index.resolve("data.csv")
    assert (target.node, target.execution, target.name) == (artifact("last"), make, "table")


def test_a_path_in_two_pipelines_is_ambiguous_unless_both_read_the_same(book: Book) -> None:
    make, use, other = book.run("p/a", 1), book.run("q/b", 2), book.run("q/c", 3)
    book.made(make, "data", path="a:b.csv", t=10)
    book.used(use, "data", path="a:b.csv", t=90)
    target = book.index.resolve("a:b.csv")
    assert (target.node, target.execution) == (artifact("data"), make)
    book.made(other, "data", path="a:b.csv", t=95)
    with pytest.raises(UsageError) as caught:
        book.index.resolve("a:b.csv")
    assert "p:a:b.csv" in caught.value.hint
    assert "q:a:b.csv" in caught.value.hint
    assert [book.index.resolve(f"{where}:a:b.csv").execution for where in ("p", "q")] == [make, other]
    with pytest.raises(NotFoundError):
        book.index.resolve("r:a:b.csv")


def test_a_label_leads_to_no_execution_of_another_pipeline(book: Book) -> None:
    train, stranger = book.run("p/train", 1), book.run("q/train", 2)
    value = {"artifact": artifact("one").removeprefix("artifact:"), "name": "detector"}
    book.say("scope", "label/detector@best", value, scope="p/evaluate")
    book.made(stranger, "one", name="detector", t=90)
    assert book.index.resolve("p:detector@best").execution == ""
    book.made(train, "one", name="other", t=10)
    assert book.index.resolve("p:detector@best").execution == train


def test_one_id_that_two_scopes_birth_is_told_apart_by_the_whole_node(book: Book) -> None:
    ours, theirs = book.run("p/a", 1), book.run("q/a", 1)
    with pytest.raises(UsageError) as caught:
        book.index.resolve(ours.rpartition(":")[2])
    assert all(node in caught.value.hint for node in (ours, theirs))
    assert book.index.resolve(ours).node == ours


def test_what_is_not_here_is_not_found_with_a_hint(book: Book) -> None:
    missing = model.execution_node("p/a", "00000000-0000-7000-8000-000000000000")
    for text in (missing, "artifact:" + digests.EMPTY, "nothing", "a:b:c@d"):
        with pytest.raises(NotFoundError) as caught:
            book.index.resolve(text)
        assert "cmf log" in caught.value.hint
    assert book.index.nodes([missing]) == {}
