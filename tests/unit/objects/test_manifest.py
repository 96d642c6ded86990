import random
import tracemalloc
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmf.errors import CorruptError, UnsupportedError, UsageError
from cmf.model.digest import file_digest
from cmf.objects import manifest
from cmf.objects.local import LocalObjects
from cmf.objects.manifest import HEADER, Entry

A, B, C = (file_digest(data) for data in (b"a", b"b", b"c"))
ENTRIES = [
    Entry("README", A, 1),
    Entry("a-b", B, 2),
    Entry("a/b", C, 3, executable=True),
    Entry("é", A, 2**53),
    Entry('line\nfeed \\ and "quotes"', B, 0),
    Entry("𝄞", B, 0),
    Entry(b"\xff\xfe", C, 7),
]
BYTES = (
    '{"cmf":"manifest","v":1}\n'
    f'["README","{A}",1,0]\n'
    f'["a-b","{B}",2,0]\n'
    f'["a/b","{C}",3,1]\n'
    f'["line\\nfeed \\\\ and \\"quotes\\"","{B}",0,0]\n'
    f'["é","{A}",9007199254740992,0]\n'
    f'["𝄞","{B}",0,0]\n'
    f'[{{"$b":"//4="}},"{C}",7,0]\n'
).encode()


def line(path: str, *, digest: str = A, size: str = "1", executable: str = "0") -> bytes:
    return f'["{path}","{digest}",{size},{executable}]\n'.encode()


def test_a_manifest_has_these_bytes_in_whatever_order_its_files_come() -> None:
    entries = list(ENTRIES)
    for seed in range(10):
        random.Random(seed).shuffle(entries)
        assert manifest.encode(entries) == BYTES
    assert manifest.decode(BYTES) == sorted(ENTRIES, key=lambda entry: manifest.raw_path(entry.path))


def test_a_folder_is_named_by_the_hash_of_its_manifest() -> None:
    assert manifest.tree_digest(BYTES) == "tree:" + file_digest(BYTES)


def test_a_folder_without_files_has_a_manifest() -> None:
    assert manifest.encode([]) == HEADER
    assert manifest.decode(HEADER) == []
    empty = "tree:sha256:7137d3884571eb894c66c05c1f7f7787ddf308742e386275cdf0b806c7ad63c6"
    assert manifest.tree_digest(HEADER) == empty


HOSTILE_PATHS = {
    "empty": "",
    "absolute": "/etc/passwd",
    "root": "/",
    "double slash": "a//b",
    "trailing slash": "a/",
    "dot": ".",
    "inner dot": "a/./b",
    "parent": "..",
    "parent first": "../x",
    "parent inside": "a/../../x",
    "parent last": "a/..",
    "nul": "a\\u0000b",
    "drive": "C:/x",
    "drive relative": "C:x",
    "backslash parent": "..\\\\x",
    "backslash parent inside": "a\\\\..\\\\..\\\\x",
    "mixed parent": "a/..\\\\x",
    "backslash absolute": "\\\\x",
    "network": "\\\\\\\\host\\\\share",
    "git folder": ".git/hooks/post-checkout",
    "git file": "data/.git",
    "git in capitals": "a/.GIT/config",
    "git by backslash": "a\\\\.git\\\\config",
    "own folder": ".cmf/keys/secret",
    "not NFC": "e\u0301",
    "too long": "x" * 4097,
}


@pytest.mark.parametrize("path", HOSTILE_PATHS.values(), ids=HOSTILE_PATHS.keys())
def test_a_path_that_could_lead_out_is_refused(path: str) -> None:
    with pytest.raises(CorruptError) as caught:
        manifest.decode(HEADER + line(path))
    assert caught.value.kind == "manifest"
    assert len(caught.value.message) < 500


HOSTILE_BYTES = {
    "nothing": b"",
    "no header": line("a"),
    "half a header": HEADER[:-1],
    "other file": b'{"cmf":"journal","v":1}\n',
    "spaced header": b'{"cmf": "manifest", "v": 1}\n',
    "header with more": b'{"cmf":"manifest","v":1,"x":2}\n',
    "older version": b'{"cmf":"manifest","v":0}\n',
    "unsorted": HEADER + line("b") + line("a"),
    "duplicate": HEADER + line("a") + line("a", digest=B),
    "file and folder of one name": HEADER + line("a") + line("a.b") + line("a/b/c"),
    "no line feed at the end": HEADER + line("a")[:-1],
    "blank line": HEADER + line("a") + b"\n",
    "carriage return": HEADER + line("a").replace(b"\n", b"\r\n"),
    "white space": HEADER + line("a").replace(b",", b", "),
    "other escapes": HEADER + line("\\u0061"),
    "folder's digest": HEADER + line("a", digest="tree:" + A),
    "short digest": HEADER + line("a", digest=A[:-1]),
    "capital digest": HEADER + line("a", digest="sha256:" + "A" * 64),
    "negative size": HEADER + line("a", size="-1"),
    "huge size": HEADER + line("a", size=str(2**53 + 1)),
    "float size": HEADER + line("a", size="1.0"),
    "text size": HEADER + line("a", size='"1"'),
    "executable 2": HEADER + line("a", executable="2"),
    "executable true": HEADER + line("a", executable="true"),
    "missing field": HEADER + f'["a","{A}",1]\n'.encode(),
    "more fields": HEADER + f'["a","{A}",1,0,0]\n'.encode(),
    "an object": HEADER + b'{"path":"a"}\n',
    "deep": HEADER + b"[" * 100_000,
    "not UTF-8": HEADER + line("a").replace(b'"a"', b'"\xff"'),
    "lone surrogate": HEADER + line("\\ud800"),
    "tagged text": HEADER + line("a").replace(b'"a"', b'{"$b":"YQ=="}'),
    "tagged NFD text": HEADER + line("a").replace(b'"a"', b'{"$b":"ZcyB"}'),
    "tagged nothing": HEADER + line("a").replace(b'"a"', b"{}"),
    "tagged twice": HEADER + line("a").replace(b'"a"', b'{"$b":"/w==","$c":""}'),
    "tagged with no base64": HEADER + line("a").replace(b'"a"', b'{"$b":"*"}'),
    "tagged with letters beyond ASCII": HEADER + line("a").replace(b'"a"', '{"$b":"\x80gA=="}'.encode()),
    "tagged with loose base64": HEADER + line("a").replace(b'"a"', b'{"$b":"/x=="}'),
    "tagged parent": HEADER + line("a").replace(b'"a"', b'{"$b":"Li4v/w=="}'),
    "tagged absolute": HEADER + line("a").replace(b'"a"', b'{"$b":"L/8="}'),
    "tagged nul": HEADER + line("a").replace(b'"a"', b'{"$b":"/wA="}'),
}


@pytest.mark.parametrize("data", HOSTILE_BYTES.values(), ids=HOSTILE_BYTES.keys())
def test_anything_outside_the_format_is_refused(data: bytes, tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path / "objects")
    objects.put(file_digest(data), data)
    with pytest.raises(CorruptError):
        list(manifest.Differences(objects, file_digest(data), manifest.encode([])))
    with pytest.raises(CorruptError) as caught:
        manifest.decode(data)
    assert caught.value.kind == "manifest"


def test_a_newer_manifest_is_said_to_be_newer() -> None:
    with pytest.raises(UnsupportedError, match="version 2") as caught:
        manifest.decode(b'{"cmf":"manifest","v":2}\n["of another shape"]\n')
    assert caught.value.kind == "newer-format"


def test_a_manifest_over_the_limit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MANIFEST_BYTES_MAX", len(BYTES) - 1)
    with pytest.raises(CorruptError) as refused:
        manifest.decode(BYTES)
    assert refused.value.kind == "limit"
    with pytest.raises(UsageError) as caught:
        manifest.encode(ENTRIES)
    assert caught.value.kind == "limit"


@pytest.mark.parametrize(
    "entries",
    [
        [Entry("a", A, 1), Entry("a", B, 1)],
        [Entry("a", A, 1), Entry("a/b", B, 1)],
        [Entry("../a", A, 1)],
        [Entry("a", "tree:" + A, 1)],
        [Entry("a", A, -1)],
        [Entry(b"utf-8", A, 1)],
        [Entry("\udcff", A, 1)],
        [Entry(unicodedata.normalize("NFD", "é"), A, 1)],
    ],
)
def test_what_a_reader_would_refuse_is_never_written(entries: list[Entry]) -> None:
    with pytest.raises(UsageError):
        manifest.encode(entries)


def test_the_path_of_raw_bytes_is_text_in_one_form() -> None:
    assert manifest.path_of(b"plain") == "plain"
    assert manifest.path_of("e\u0301".encode()) == "é"
    assert manifest.path_of(b"\xff") == b"\xff"
    assert manifest.is_path("a/b")
    assert not manifest.is_path("a/../b")
    assert not manifest.is_path("\udcff")


NAMES = st.sampled_from(["a", "b", "a-b", "a.b", "é", "line\nfeed", "a b", "-"]) | st.just(b"\xff")
VERSIONS = st.dictionaries(NAMES, st.tuples(st.sampled_from([A, B]), st.booleans()))


def kept(objects: LocalObjects, entries: list[Entry]) -> str:
    data = manifest.encode(entries)
    objects.put(file_digest(data), data)
    return file_digest(data)


@given(VERSIONS, VERSIONS)
def test_what_differs_between_two_manifests_is_what_differs_between_their_files(
    tmp_path_factory: pytest.TempPathFactory,
    first: dict[str | bytes, tuple[str, bool]],
    second: dict[str | bytes, tuple[str, bool]],
) -> None:
    objects = LocalObjects(tmp_path_factory.mktemp("store") / "objects")
    before, after = (
        {path: Entry(path, digest, 1, executable=mode) for path, (digest, mode) in version.items()}
        for version in (first, second)
    )
    one, other = kept(objects, list(before.values())), kept(objects, list(after.values()))
    every = manifest.Differences(objects, one, manifest.encode([]))
    assert [entry for entry, _ in every] == manifest.decode(manifest.encode(before.values()))
    found = manifest.Differences(objects, one, other)
    expected = [
        (before.get(path), after.get(path))
        for path in sorted({*before, *after}, key=manifest.raw_path)
        if before.get(path) != after.get(path)
    ]
    assert list(found) == expected
    assert found.same == len({*before.items()} & {*after.items()})


def test_a_damaged_manifest_is_not_compared_as_if_it_were_whole(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path / "objects")
    first = kept(objects, [Entry(f"{number:04}", A, 1) for number in range(12_000)])
    second = kept(objects, [Entry(f"{number:04}", B, 1) for number in range(12_000)])
    (path,) = (tmp_path / "objects" / second[7:9]).iterdir()
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(B.encode(), A.encode(), 1))
    with pytest.raises(CorruptError, match=second):
        list(manifest.Differences(objects, first, second))
    for damaged in (path.read_bytes(), b"no manifest", HEADER + b"[]\n", HEADER + b"x" * 100_000):
        path.write_bytes(damaged)
        with pytest.raises(CorruptError, match=second):  # not that it is outside the format: it can be had again
            list(manifest.pages(objects, second))


def test_comparing_large_manifests_takes_memory_for_a_part_of_them_only(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path / "objects")
    entries = [Entry(f"{number // 1000:03}/{number:06}", A, 1) for number in range(50_000)]
    first = kept(objects, entries)
    second = kept(objects, [*entries[:-1], Entry(entries[-1].path, B, 1)])
    tracemalloc.start()
    try:
        found = list(manifest.Differences(objects, first, second))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [(entries[-1], Entry(entries[-1].path, B, 1))]
    assert peak < 12 << 20  # each is read 1 MiB at a time, and split into lines; its files would be over 30 MiB
