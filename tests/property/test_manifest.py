import unicodedata

from hypothesis import assume, given
from hypothesis import strategies as st

from cmf.errors import CorruptError, UnsupportedError
from cmf.model.digest import file_digest
from cmf.objects import manifest
from cmf.objects.manifest import Entry

PARTS = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8)
TEXTS = st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: unicodedata.normalize("NFC", "/".join(parts)))
RAW = st.binary(min_size=1, max_size=8).map(manifest.path_of)
PATHS = st.one_of(TEXTS, RAW).filter(manifest.is_path)
ENTRIES = st.lists(
    st.builds(
        Entry, PATHS, st.binary(max_size=4).map(file_digest), st.integers(0, manifest.SIZE_BYTES_MAX), st.booleans()
    ),
    max_size=8,
    unique_by=lambda entry: manifest.raw_path(entry.path),
)


def has_no_file_above_another(entries: list[Entry]) -> bool:
    raw = [manifest.raw_path(entry.path) for entry in entries]
    return not any(other.startswith(path + b"/") for path in raw for other in raw)


@given(ENTRIES.filter(has_no_file_above_another))
def test_reading_what_was_written_gives_the_same_files_sorted(entries: list[Entry]) -> None:
    data = manifest.encode(entries)
    found = manifest.decode(data)
    assert found == sorted(entries, key=lambda entry: manifest.raw_path(entry.path))
    assert manifest.encode(reversed(found)) == data


@given(ENTRIES.filter(has_no_file_above_another), st.data())
def test_changed_bytes_are_refused_or_are_another_manifest_spelled_as_its_own(
    entries: list[Entry], data: st.DataObject
) -> None:
    good = manifest.encode(entries)
    at = data.draw(st.integers(0, len(good) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "insert", "drop"]))
    if how == "flip":
        bad = good[:at] + bytes([good[at] ^ (1 << data.draw(st.integers(0, 7)))]) + good[at + 1 :]
    elif how == "insert":
        bad = good[:at] + data.draw(st.binary(min_size=1, max_size=3)) + good[at:]
    else:
        bad = good[:at] if how == "cut" else good[:at] + good[at + 1 :]
    assume(bad != good)
    try:
        found = manifest.decode(bad)
    except (CorruptError, UnsupportedError):
        return
    assert manifest.encode(found) == bad
