"""DVC's small files, for names of any kind: what is written is what is read, and what is read fast is never other."""

import json

from hypothesis import example, given
from hypothesis import strategies as st

from cmf.bridges.dvc import files
from cmf.bridges.dvc.files import Hash, Item
from cmf.errors import UsageError
from cmf.objects import manifest

MD5 = st.text("0123456789abcdef", min_size=32, max_size=32)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=120).filter(
    lambda name: manifest.path_of(name.encode()) == name and manifest.is_path(name)
)


@given(name=NAMES, md5=MD5, size=st.integers(0, 2**50), executable=st.booleans())
@example(name="\x85", md5="0" * 32, size=0, executable=False)
def test_a_pointer_file_says_what_was_written_into_it(name: str, md5: str, size: int, executable: bool) -> None:
    try:
        data = files.write_pointer(name, md5, size=size, files=None, executable=executable)
    except UsageError:
        assert not name.isprintable()
        return
    expected = Item(name, Hash("md5", md5), size)
    assert files.read_pointer(data, f"{name}.dvc").outs == (expected,)
    assert files.read_statements(data) in ([expected], [])


@given(found=st.dictionaries(NAMES, MD5, max_size=8))
def test_a_list_of_files_says_what_was_written_into_it(found: dict[str, str]) -> None:
    data = files.write_folder(found.items())
    assert data == json.dumps(json.loads(data), sort_keys=True).encode()
    read = files.read_folder(data, Hash("md5", "0" * 32 + ".dir"))
    assert read == sorted((name, Hash("md5", md5)) for name, md5 in found.items())


@given(data=st.binary(max_size=300) | st.text(" -:'\"\\amd5sizepthoutx0\n", max_size=300).map(str.encode))
def test_bytes_of_any_kind_are_read_fast_without_an_error(data: bytes) -> None:
    for item in files.read_statements(data):
        assert item.path
        assert item.hash is not None
