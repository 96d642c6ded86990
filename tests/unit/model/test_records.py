from typing import Any

import pytest

from cmf.errors import CorruptError, UsageError
from cmf.model import digest as digests
from cmf.model import encoding, records, series
from cmf.model.records import Stats

ID = "01970000-0000-7000-8000-00000000abcd"
FILE = digests.file_digest(b"a file")
FOLDER = "tree:" + FILE
SALT = "0123456789abcdef" * 2
NODE = records.execution_node("penguins/train", ID)

GOOD: dict[str, dict[str, Any]] = {
    "execution": {"kind": "execution", "id": ID, "started": 5, "salt": SALT},
    "artifact": {"kind": "artifact", "digest": FILE},
    "event": {"kind": "event", "execution": ID, "direction": "input", "artifact": FILE, "t": 5, "salt": SALT},
    "link": {"kind": "link", "from": NODE, "rel": "via", "to": f"artifact:{FOLDER}", "salt": SALT},
    "property": {"kind": "property", "subject": "scope", "key": "title", "value": "x", "t": 5, "salt": SALT},
    "series": {
        "kind": "series",
        "execution": ID,
        "names": ["acc", "loss"],
        "attempt": "1-0badcafe",
        "rank": 0,
        "first": 0,
        "rows": 2,
        "steps": [0, 1],
        "times": [4, 5],
        "object": FILE,
        "size": 100,
        "stats": [[1.0, 1.0, 1.0, 2.0, 2], [{"$f": "nan"}, None, None, None, 0]],
        "salt": SALT,
    },
}


def changed(kind: str, **fields: Any) -> bytes:
    """Return a good record of a kind with some fields changed, or left out where they are ``...``."""
    made = {**GOOD[kind], **{name.rstrip("_"): value for name, value in fields.items()}}
    return encoding.encode({name: value for name, value in made.items() if value is not ...})


@pytest.mark.parametrize("kind", sorted(records.KINDS))
def test_a_record_of_each_kind_is_read_and_spelled_in_the_same_way(kind: str) -> None:
    data = changed(kind)
    record = records.read(data)
    assert record is not None
    assert record.kind == kind
    assert records.encode(record) == data
    assert records.trusted(data) == record
    assert records.draft(data) == record
    assert records.time_of(record) == (None if kind in ("artifact", "link") else 5)


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("execution", {"id": ID.upper()}),
    ("execution", {"id": "x"}),
    ("execution", {"id": ...}),
    ("execution", {"started": -1}),
    ("execution", {"started": "5"}),
    ("execution", {"started": ...}),
    ("execution", {"started": 5.5}),
    ("execution", {"parent": ID}),
    ("execution", {"parent": "artifact:" + FILE}),
    ("execution", {"params": []}),
    ("execution", {"params": {"a": {"$object": "sha256:x"}}}),
    ("execution", {"command": "python"}),
    ("execution", {"salt": ...}),
    ("execution", {"salt": ""}),
    ("execution", {"salt": SALT.upper()}),
    ("execution", {"salt": SALT + "0"}),
    ("execution", {"salt": SALT + "\n"}),
    ("artifact", {"digest": "sha256:x"}),
    ("artifact", {"digest": FILE.upper()}),
    ("artifact", {"digest": "md5:" + "0" * 32}),
    ("artifact", {"digest": FILE + "\n"}),
    ("artifact", {"digest": ...}),
    ("artifact", {"digest": None}),
    ("event", {"direction": "sideways"}),
    ("event", {"artifact": "x"}),
    ("event", {"execution": NODE}),
    ("event", {"t": -1}),
    ("event", {"t": None}),
    ("event", {"t": 1.5}),
    ("event", {"path": {"$c": "x"}}),
    ("event", {"path": {"$b": "/w==", "more": "x"}}),
    ("event", {"path": None}),
    ("event", {"attributes": {"a": [{"$object": "x"}]}}),
    ("event", {"pointer": {"commit": "x"}}),
    ("event", {"salt": ...}),
    ("link", {"from_": "nobody"}),
    ("link", {"to": "execution:penguins:" + ID}),
    ("link", {"to": "execution:penguins/train:x"}),
    ("link", {"to": "record:abc"}),
    ("link", {"to": "scope:penguins/train"}),
    ("link", {"rel": ""}),
    ("link", {"salt": ...}),
    ("property", {"subject": "site:A B"}),
    ("property", {"subject": ""}),
    ("property", {"key": ""}),
    ("property", {"key": "x" * (records.TEXT_CHARS_MAX + 1)}),
    ("property", {"t": -1}),
    ("property", {"t": ...}),
    ("property", {"value": {"$object": "x"}}),
    ("property", {"salt": ...}),
    ("series", {"names": ["loss", "acc"]}),
    ("series", {"names": ["acc", "acc"]}),
    ("series", {"names": [], "stats": []}),
    ("series", {"stats": []}),
    ("series", {"rows": 0}),
    ("series", {"first": -1}),
    ("series", {"rank": -1}),
    ("series", {"steps": [1]}),
    ("series", {"steps": [0, 0.5]}),
    ("series", {"times": [-5, -4]}),
    ("series", {"object": "x"}),
    ("series", {"salt": ...}),
]


@pytest.mark.parametrize(("kind", "fields"), WRONG, ids=[f"{kind} {fields}"[:60] for kind, fields in WRONG])
def test_a_known_kind_with_a_wrong_field_is_refused(kind: str, fields: dict[str, Any]) -> None:
    with pytest.raises(CorruptError):
        records.read(changed(kind, **fields))


@pytest.mark.parametrize(("kind", "fields"), WRONG, ids=[f"{kind} {fields}"[:60] for kind, fields in WRONG])
def test_a_draft_with_a_wrong_field_is_not_completed(kind: str, fields: dict[str, Any]) -> None:
    if "salt" in fields:
        records.read(records.completed(records.draft(changed(kind, **fields)), b"secret")[1])
        return
    with pytest.raises(CorruptError):
        records.completed(records.draft(changed(kind, **fields)), b"secret")


def test_a_draft_beyond_the_profile_is_not_completed() -> None:
    deep: Any = 1
    for _ in range(encoding.DEPTH_MAX):
        deep = [deep]
    for value in (deep, 2**53 + 1, [[-(2**60)]]):
        draft = records.draft(encoding.encode({**GOOD["property"], "value": value}))
        with pytest.raises(CorruptError):
            records.completed(draft, b"secret")


@pytest.mark.parametrize("kind", sorted(records.KINDS))
def test_a_completed_draft_is_what_every_reader_takes(kind: str) -> None:
    draft = records.draft(changed(kind, **({} if kind == "artifact" else {"salt": ...})))
    id_, data = records.completed(draft, b"secret")
    assert records.read(data) == draft
    assert digests.sha256(data) == id_


@pytest.mark.parametrize("kind", [None, "", 5, [], {}, True])
def test_a_record_without_a_kind_is_refused(kind: Any) -> None:
    with pytest.raises(CorruptError, match="no kind"):
        records.read(encoding.encode({"kind": kind}))
    with pytest.raises(CorruptError, match="no kind"):
        records.read(b"{}")


def test_an_unknown_kind_is_kept_but_only_inside_the_profile() -> None:
    data = b'{"any":[{"$later":1E5}],"kind":"greeting","t":-5}'
    assert records.read(data) is None
    assert records.trusted(data) is None
    assert records.time_of(None) is None
    assert records.objects_of(None) == records.sent_with(None) == []
    for bad in (data.replace(b"1E5", b"NaN"), data.replace(b":-5", b": -5"), data.replace(b'"any"', b'"u"')):
        with pytest.raises(CorruptError):
            records.read(bad)


@pytest.mark.parametrize("kind", sorted(records.KINDS))
def test_an_unknown_field_of_a_known_kind_is_passed_over(kind: str) -> None:
    plain = records.read(changed(kind))
    assert records.read(changed(kind, zz_later={"a": [1, {"$new": 2}]}, AAA=None)) == plain


def test_the_kind_is_the_same_wherever_other_fields_sort() -> None:
    data = changed("artifact", zzz=1, aaa=2)
    assert data.startswith(b'{"aaa":2,"digest"')
    assert isinstance(records.read(data), records.Artifact)


@pytest.mark.parametrize("kind", sorted(records.KINDS - {"artifact"}))
def test_a_salt_depends_on_the_content_and_the_secret_and_on_nothing_else(kind: str) -> None:
    def salted(secret: bytes, **fields: Any) -> tuple[bytes, bytes]:
        return records.salted(records.draft(changed(kind, **fields)), secret)

    id_, data = salted(b"secret", salt=...)
    assert id_ == digests.sha256(data)
    assert salted(b"secret", salt=...) == (id_, data)
    assert salted(b"secret", salt=SALT) == (id_, data), "an older salt is replaced, not hashed"
    again = records.read(data)
    assert again is not None
    assert records.salted(again, b"secret") == (id_, data)
    assert salted(b"another", salt=...)[0] != id_
    name = {"execution": "author", "event": "role", "link": "rel", "property": "key", "series": "attempt"}[kind]
    other_id, other = salted(b"secret", **{name: "other"})
    assert other_id != id_
    assert encoding.decode(other)["salt"] != encoding.decode(data)["salt"]


def test_the_same_bytes_are_the_same_record_at_two_sites() -> None:
    made = {records.salted(records.Artifact(digest=FILE), secret) for secret in (b"one", b"two")}
    assert len(made) == 1
    ((_, data),) = made
    assert data == b'{"digest":"%b","kind":"artifact"}' % FILE.encode()


def test_births_that_differ_only_in_salt_have_equal_content() -> None:
    births = [records.Execution(id=ID, started=5, name="x", salt=salt) for salt in ("", SALT, SALT[::-1])]
    assert len({records.content(birth) for birth in births}) == 1
    assert [birth.salt for birth in births] == ["", SALT, SALT[::-1]]
    assert records.content(records.Execution(id=ID, started=5, name="y")) != records.content(births[0])


def test_a_draft_lacks_a_salt_and_nothing_else() -> None:
    assert records.draft(changed("property", salt=...)) == records.Property(
        subject="scope", key="title", value="x", t=5
    )
    for data in (b"", b"{", b"{}", b'{"kind":"greeting"}', changed("property", t=...), b"\xff", b"[" * 60_000):
        with pytest.raises(CorruptError):
            records.draft(data)


def test_a_draft_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(CorruptError):
        records.draft(changed("property").replace(b"title", b"t\xfftle"))


def test_a_record_over_the_limit_is_refused_when_it_is_made() -> None:
    frame = len(records.encode(records.Property(subject="scope", key="k", value="", t=5, salt=SALT)))
    room = encoding.RECORD_BYTES_MAX - frame
    largest = records.encode(records.Property(subject="scope", key="k", value="x" * room, t=5, salt=SALT))
    assert records.read(largest) is not None
    with pytest.raises(UsageError) as caught:
        records.encode(records.Property(subject="scope", key="k", value="x" * (room + 1), t=5, salt=SALT))
    assert caught.value.kind == "limit"


def test_a_draft_that_was_taken_still_fits_when_it_is_salted() -> None:
    frame = len(records.encode(records.Property(subject="scope", key="k", value="", t=5)))
    taken = 0
    for room in range(encoding.RECORD_BYTES_MAX - frame - 60, encoding.RECORD_BYTES_MAX - frame + 2):
        draft = records.Property(subject="scope", key="k", value="x" * room, t=5)
        try:
            records.encode(draft)
        except UsageError:
            continue
        taken += 1
        id_, data = records.salted(draft, b"secret")
        assert records.read(data) is not None
        assert id_ == digests.sha256(data)
    assert taken > 0


def test_no_record_leaves_here_that_others_would_refuse() -> None:
    count = series.NAMES_MAX
    column = Stats(last=0.1234567890123, least=0.1234567890123, greatest=0.9876543210987, total=1234.567890123, count=9)
    wide = records.draft(
        changed("series", names=[f"layer-{k:03}/weight" for k in range(count)], stats=[column] * count)
    )
    try:
        _, data = records.salted(wide, b"secret")
    except UsageError as error:
        caught = error
    else:
        assert records.read(data) is not None
        return
    assert caught.kind == "limit"


def test_evidence_is_what_a_record_names_as_objects() -> None:
    other = digests.file_digest(b"another")
    evidence = {"a": [{"$object": FILE}], "b": {"$object": other}}
    birth = records.Execution(id=ID, started=5, params=evidence)
    event = records.Event(execution=ID, direction="input", artifact=FOLDER, attributes=evidence, t=5)
    value = records.Property(subject="scope", key="k", value=evidence, t=5)
    chunk = records.read(changed("series"))
    assert records.objects_of(birth) == records.objects_of(event) == records.objects_of(value) == [FILE, other]
    assert records.objects_of(chunk) == records.sent_with(chunk) == [FILE]
    assert records.objects_of(records.Artifact(digest=FILE)) == []


@pytest.mark.parametrize(("size", "sent"), [(None, []), (0, [FILE]), (1 << 20, [FILE]), ((1 << 20) + 1, [])])
def test_only_a_small_artifact_is_sent_with_its_event(size: int | None, sent: list[str]) -> None:
    event = records.Event(execution=ID, direction="output", artifact=FILE, size=size, t=5)
    assert records.sent_with(event) == sent


SCOPES = ["a/b", "penguins/train", "a/b/c/d/e/f", "A.b_c-d/0", "a" + "-" * 63 + "/b", "1/2"]
NO_SCOPES = {
    "train": "train/main",
    "": "pipeline/stage",
    "/": "pipeline/stage",
    "a/b/c/d/e/f/g": "a/b/c/d/e/f",
    "a//b": "a/b",
    "/a/b": "a/b",
    "a/b/": "a/b",
    "a b/c d": "a-b/c-d",
    ".hidden/x": "hidden/x",
    "-a/_b": "a/b",
    "../../etc": "etc/main",
    "été/x": "t/x",
    "a/" + "b" * 65: "a/" + "b" * 64,
    "a/b\n": "a/b",
    "a\\b/c": "a-b/c",
    "a:b/c": "a-b/c",
    "a/Ⅷ": "a/main",
}


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_is_taken_as_it_is(scope: str) -> None:
    assert records.is_scope(scope)
    assert records.check_scope(scope) == scope


@pytest.mark.parametrize(("text", "suggestion"), NO_SCOPES.items())
def test_what_is_no_scope_is_refused_with_one_that_is(text: str, suggestion: str) -> None:
    assert not records.is_scope(text)
    with pytest.raises(UsageError) as caught:
        records.check_scope(text)
    assert caught.value.kind == "scope"
    assert caught.value.hint == f"Try '{suggestion}'."
    assert records.is_scope(suggestion)


def test_a_scope_covers_itself_and_what_lies_below_by_whole_parts() -> None:
    assert records.covers("", "a/b")
    assert records.covers("a", "a/b")
    assert records.covers("a/b", "a/b")
    assert not records.covers("a/b", "a")
    assert not records.covers("a", "ab/c")
    assert not records.covers("a/b", "a/bc")


def test_nodes_are_told_from_other_text() -> None:
    good = [NODE, f"artifact:{FILE}", f"artifact:{FOLDER}", "record:" + "0" * 64, "site:lab-7", "scope"]
    assert all(map(records.is_node, good))
    bad = ["", "execution", NODE + "x", "artifact:", "record:" + "A" * 64, "site:", "site:" + "a" * 65, "scopes", FILE]
    assert not any(map(records.is_node, [*bad, *(node + "\n" for node in good)]))
    assert records.split_execution(NODE) == ("penguins/train", ID)
    assert records.split_execution("scope") is None
