"""What every object store must do. A store's test gives the class a fixture `store`."""

import io
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from cmf.errors import CorruptError, NotFoundError, UsageError
from cmf.model.digest import EMPTY, file_digest
from cmf.objects import ObjectStore, read

HELLO = b"hello, objects\n"
HELLO_DIGEST = file_digest(HELLO)
LARGE = bytes(range(256)) * 12_345  # over three chunks, and no multiple of one
NO_NAMES = [
    "",
    "sha256:",
    "sha256:../../../etc/passwd",
    "sha256:" + "0" * 63,
    "sha256:" + "0" * 65,
    "sha256:" + "A" * 64,
    "sha256:" + "0" * 62 + "/.",
    "sha256:" + "0" * 64 + "\n",
    "md5:" + "0" * 64,
    "0" * 64,
]


class Failing(io.RawIOBase):
    """A source that breaks after its first chunk."""

    def __init__(self) -> None:
        self.left = 1

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self.left:
            raise ConnectionResetError("the other end is gone")
        self.left -= 1
        return LARGE[:1000]


class ObjectStoreSuite:
    def test_an_empty_store_holds_nothing(self, store: ObjectStore) -> None:
        assert list(store.list()) == []
        assert store.absent([HELLO_DIGEST, EMPTY]) == [HELLO_DIGEST, EMPTY]
        with pytest.raises(NotFoundError, match=HELLO_DIGEST):
            store.open(HELLO_DIGEST)

    @pytest.mark.parametrize("data", [HELLO, b"", b"\0", LARGE], ids=["text", "empty", "nul", "large"])
    @pytest.mark.parametrize("streamed", [False, True])
    def test_what_was_put_is_read_again(self, store: ObjectStore, data: bytes, *, streamed: bool) -> None:
        digest = file_digest(data)
        assert store.put(digest, io.BytesIO(data) if streamed else data) == len(data)
        assert read(store, digest) == data
        assert store.absent([digest]) == []
        assert list(store.list()) == [(digest, len(data))]

    def test_reading_starts_at_an_offset(self, store: ObjectStore) -> None:
        digest = file_digest(LARGE)
        store.put(digest, LARGE)
        for offset in (0, 1, 1 << 20, len(LARGE) - 1, len(LARGE), len(LARGE) + 7):
            with store.open(digest, offset) as source:
                found = b"".join(iter(lambda source=source: source.read(1 << 20), b""))  # type: ignore[misc]
            assert found == LARGE[offset:]

    def test_absent_keeps_the_order_and_repeats(self, store: ObjectStore) -> None:
        store.put(HELLO_DIGEST, HELLO)
        others = [file_digest(bytes([n])) for n in range(5)]
        assert store.absent([others[3], HELLO_DIGEST, others[0], others[3]]) == [others[3], others[0], others[3]]

    def test_the_list_is_sorted_by_digest(self, store: ObjectStore) -> None:
        made = {file_digest(data): len(data) for data in (os.urandom(n) for n in range(1, 40))}
        for n in range(1, 40):
            data = bytes([n]) * n
            made[file_digest(data)] = len(data)
            store.put(file_digest(data), data)
        listed = list(store.list())
        assert listed == sorted(listed)
        assert len(listed) == 39
        assert all(made[digest] == size for digest, size in listed)

    def test_putting_again_changes_nothing(self, store: ObjectStore) -> None:
        for source in (HELLO, io.BytesIO(HELLO), HELLO):
            assert store.put(HELLO_DIGEST, source) == len(HELLO)
        assert list(store.list()) == [(HELLO_DIGEST, len(HELLO))]

    @pytest.mark.parametrize("held", [False, True])
    @pytest.mark.parametrize("wrong", [b"", HELLO[:-1], HELLO + b"!", b"H" + HELLO[1:], LARGE])
    @pytest.mark.parametrize("streamed", [False, True])
    def test_other_bytes_are_refused_by_name_even_if_the_object_is_held(
        self, store: ObjectStore, wrong: bytes, *, streamed: bool, held: bool
    ) -> None:
        if held:
            store.put(HELLO_DIGEST, HELLO)
        with pytest.raises(CorruptError, match=HELLO_DIGEST):
            store.put(HELLO_DIGEST, io.BytesIO(wrong) if streamed else wrong)
        assert list(store.list()) == ([(HELLO_DIGEST, len(HELLO))] if held else [])
        assert store.absent([HELLO_DIGEST]) == ([] if held else [HELLO_DIGEST])

    def test_a_source_that_breaks_leaves_nothing(self, store: ObjectStore) -> None:
        with pytest.raises(OSError, match="the other end"):
            store.put(file_digest(LARGE), Failing())  # type: ignore[arg-type]
        assert list(store.list()) == []
        assert store.absent([file_digest(LARGE)]) == [file_digest(LARGE)]

    def test_putting_at_once_makes_one_object(self, store: ObjectStore) -> None:
        digest = file_digest(LARGE)
        with ThreadPoolExecutor(8) as pool:
            sizes = list(pool.map(lambda _: store.put(digest, io.BytesIO(LARGE)), range(16)))
        assert sizes == [len(LARGE)] * 16
        assert list(store.list()) == [(digest, len(LARGE))]
        assert read(store, digest) == LARGE

    @pytest.mark.parametrize("size", [1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, (1 << 20) - 1, (1 << 20) + 1])
    @pytest.mark.parametrize("streamed", [False, True])
    def test_an_object_of_any_size_comes_back_from_any_offset(
        self, store: ObjectStore, size: int, *, streamed: bool
    ) -> None:
        data = LARGE[:size]
        digest = file_digest(data)
        assert store.put(digest, io.BytesIO(data) if streamed else data) == size
        assert list(store.list()) == [(digest, size)]
        for offset in (0, size // 2, size - 1, size):
            with store.open(digest, offset) as source:
                found = b"".join(iter(lambda source=source: source.read(1 << 20), b""))  # type: ignore[misc]
            assert found == data[offset:]

    def test_removing_some_of_many_leaves_the_others(self, store: ObjectStore) -> None:
        made = {file_digest(data): data for data in (b"one of many" + bytes([n]) * n for n in range(60))}
        for digest, data in made.items():
            store.put(digest, data)
        gone = set(list(made)[::2])
        assert store.remove(gone) == len(gone)
        assert store.absent(made) == [digest for digest in made if digest in gone]
        assert [digest for digest, _ in store.list()] == sorted(made.keys() - gone)
        for digest in made.keys() - gone:
            assert read(store, digest) == made[digest]
        for digest in gone:
            with pytest.raises(NotFoundError):
                store.open(digest)

    def test_different_objects_are_put_at_once(self, store: ObjectStore) -> None:
        made = {file_digest(data): data for data in (bytes([n]) * (n * 1000 + 1) for n in range(40))}
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda item: store.put(*item), made.items()))
        assert dict(store.list()) == {digest: len(data) for digest, data in made.items()}
        assert all(read(store, digest) == data for digest, data in made.items())

    def test_removing_counts_what_was_there(self, store: ObjectStore) -> None:
        store.put(HELLO_DIGEST, HELLO)
        store.put(EMPTY, b"")
        assert store.remove([HELLO_DIGEST, file_digest(b"never"), EMPTY]) == 2
        assert store.remove([HELLO_DIGEST, EMPTY]) == 0
        assert list(store.list()) == []
        store.put(HELLO_DIGEST, HELLO)
        assert read(store, HELLO_DIGEST) == HELLO

    @pytest.mark.parametrize("name", NO_NAMES)
    def test_what_is_no_digest_is_refused(self, store: ObjectStore, name: str) -> None:
        for attempt in (
            lambda: store.put(name, HELLO),
            lambda: store.put(name, io.BytesIO(HELLO)),
            lambda: store.open(name),
            lambda: store.absent([name]),
            lambda: store.remove([name]),
        ):
            with pytest.raises(CorruptError):
                attempt()
        assert list(store.list()) == []

    def test_a_folder_is_no_object(self, store: ObjectStore) -> None:
        for attempt in (
            lambda: store.put("tree:" + HELLO_DIGEST, HELLO),
            lambda: store.open("tree:" + HELLO_DIGEST),
            lambda: store.absent(["tree:" + HELLO_DIGEST]),
            lambda: store.remove(["tree:" + HELLO_DIGEST]),
        ):
            with pytest.raises(UsageError, match="folder"):
                attempt()

    def test_reading_stops_at_the_limit(self, store: ObjectStore) -> None:
        digest = file_digest(LARGE)
        store.put(digest, LARGE)
        assert read(store, digest, len(LARGE)) == LARGE
        with pytest.raises(UsageError, match=digest) as caught:
            read(store, digest, len(LARGE) - 1)
        assert caught.value.kind == "limit"
