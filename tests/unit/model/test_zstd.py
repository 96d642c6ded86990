import tracemalloc

import pytest

from cmf.errors import CorruptError
from cmf.model.zstd import compress, decompress

DATA = bytes(range(256)) * 20


@pytest.mark.parametrize("data", [b"", b"x", DATA, bytes(1 << 20)], ids=["empty", "one", "mixed", "zeros"])
@pytest.mark.parametrize("spare", [0, 1, 1000])
def test_what_was_compressed_comes_back_whole_up_to_its_exact_size(data: bytes, spare: int) -> None:
    assert decompress(compress(data), len(data) + spare) == data


@pytest.mark.parametrize("data", [b"x", DATA, bytes(1 << 20)], ids=["one", "mixed", "zeros"])
def test_one_byte_more_than_announced_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptError) as caught:
        decompress(compress(data), len(data) - 1)
    assert caught.value.kind == "limit"


def test_a_bomb_is_refused_before_it_takes_memory() -> None:
    bomb = compress(bytes(256 << 20), level=1)
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(CorruptError) as caught:
            decompress(bomb, 64 << 10)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.kind == "limit"
    assert most < 8 << 20


def test_a_frame_cut_at_any_byte_is_refused() -> None:
    packed = compress(DATA)
    for end in range(len(packed)):
        with pytest.raises(CorruptError):
            decompress(packed[:end], len(DATA))


@pytest.mark.parametrize("more", [b"\0", b"more", compress(b"another frame")], ids=["zero", "text", "frame"])
def test_bytes_after_the_frame_are_refused(more: bytes) -> None:
    with pytest.raises(CorruptError):
        decompress(compress(DATA) + more, 1 << 20)


def test_what_is_no_zstd_is_refused() -> None:
    for data in (b"plain text", bytes(100), b"\xff" * 100):
        with pytest.raises(CorruptError):
            decompress(data, 1 << 20)
