"""A line to a remote of data is cut at any byte, for a moment or for good: what came is right, and a rerun ends it."""

import contextlib
import fcntl
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cmf import moving
from cmf.errors import CorruptError, UnreachableError
from cmf.model.digest import file_digest
from cmf.objects import bucket, cloud, read
from cmf.objects.cloud import CloudBucket
from cmf.objects.local import LocalObjects
from cmf.objects.remote import RemoteObjects
from cmf.objects.ssh import SshBucket, line
from tests import buckets
from tests.proxy import Proxy
from tests.sshd import Sshd

pytestmark = pytest.mark.xdist_group("s3")
CUTS = 5
PART_BYTES = 5 << 20  # S3 takes no smaller ones
DATA = [os.urandom(size) for size in (10, 3_000, 300_000, 6 << 20)]
DIGESTS = [file_digest(data) for data in DATA]
LARGE = os.urandom(8 << 20)
LARGE_DIGEST = file_digest(LARGE)
FETCH = """
import sys
from pathlib import Path
from cmf.objects import bucket
from cmf.objects.local import LocalObjects
from cmf.objects.remote import RemoteObjects
from cmf.objects.ssh import SshBucket
bucket.WINDOW_BYTES = 256 << 10
remote = RemoteObjects(SshBucket(sys.argv[1]))
LocalObjects(Path(sys.argv[2])).bring(sys.argv[3], lambda offset: remote.open(sys.argv[3], offset))
"""
Opening = Callable[[str], RemoteObjects]


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(16 << 10) as found:
        yield found


@pytest.fixture(params=["ssh", "s3"])
def opening(
    request: pytest.FixtureRequest, proxy: Proxy, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Opening:
    """Return what opens a named remote by way of the proxy."""
    if request.param == "ssh":
        sshd: Sshd = request.getfixturevalue("sshd")
        sshd.introduce(home)
        proxy.target = sshd.port
        monkeypatch.setattr(line, "PAUSES_SECONDS", (0.01, 0.02, 0.04))
        return lambda name: RemoteObjects(SshBucket(sshd.url(tmp_path / name, proxy.port)))
    url: str = request.getfixturevalue("s3")
    proxy.target = int(url.rpartition(":")[2])
    monkeypatch.setattr(cloud, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr(cloud, "RETRIES", 2)
    return lambda name: RemoteObjects(
        CloudBucket(f"s3://{buckets.NAME}/{tmp_path.name}/{name}", buckets.options(proxy.url))
    )


@contextlib.contextmanager
def opened(opening: Opening, name: str) -> Iterator[RemoteObjects]:
    found = opening(name)
    try:
        yield found
    finally:
        found.close()


def site(folder: Path) -> LocalObjects:
    objects = LocalObjects(folder)
    for digest, data in zip(DIGESTS, DATA, strict=True):
        objects.put(digest, data)
    return objects


def pushed(opening: Opening, name: str, objects: LocalObjects) -> int:
    """Send all objects; return how many went."""
    moved = moving.Moved(refused=[], scopes=[], warnings=[])
    with opened(opening, name) as remote:
        moving.send(remote, objects, DIGESTS, moved, moving.nothing)
    return moved.objects


def fetched(opening: Opening, name: str, objects: LocalObjects) -> int:
    """Fetch all objects; return how many came."""
    moved = moving.Moved(refused=[], scopes=[], warnings=[])
    with opened(opening, name) as remote:
        moving.fetch(remote, objects, DIGESTS, moved, moving.nothing)
    return moved.objects


def assert_right(opening: Opening, name: str, *, whole: bool) -> None:
    """Every object that the remote says it holds has the bytes of its name."""
    with opened(opening, name) as remote:
        listed = [digest for digest, _ in remote.list()]
        assert set(listed) <= set(DIGESTS)
        assert all(read(remote, digest) == DATA[DIGESTS.index(digest)] for digest in listed)
        assert not whole or sorted(listed) == sorted(DIGESTS)


def assert_whole(objects: LocalObjects) -> None:
    assert not objects.absent(DIGESTS)
    for digest in DIGESTS:
        objects.check(digest)


@pytest.mark.parametrize("for_good", [False, True], ids=["for a moment", "for good"])
def test_a_push_that_is_cut_at_any_byte_leaves_nothing_wrong_and_is_ended_by_a_rerun(
    opening: Opening, proxy: Proxy, tmp_path: Path, *, for_good: bool
) -> None:
    lab = site(tmp_path / "lab")
    proxy.arm(0, None)
    assert pushed(opening, "first", lab) == len(DATA)
    size, cuts = proxy.bytes, 0
    for number in range(CUTS):
        name = f"push{number}"
        (proxy.die if for_good else proxy.cut)(1 + number * size // CUTS)
        try:
            pushed(opening, name, lab)
        except UnreachableError:
            cuts += 1
        proxy.arm(0, None)
        proxy.mend()
        assert_right(opening, name, whole=False)
        pushed(opening, name, lab)
        assert pushed(opening, name, lab) == 0
        assert_right(opening, name, whole=True)
    assert cuts > CUTS // 2 if for_good else cuts == 0


@pytest.mark.parametrize("for_good", [False, True], ids=["for a moment", "for good"])
def test_a_fetch_that_is_cut_at_any_byte_leaves_nothing_wrong_and_is_ended_by_a_rerun(
    opening: Opening, proxy: Proxy, tmp_path: Path, *, for_good: bool
) -> None:
    proxy.arm(0, None)
    pushed(opening, "all", site(tmp_path / "lab"))
    proxy.arm(0, None)
    fetched(opening, "all", LocalObjects(tmp_path / "first"))
    size, cuts = proxy.bytes, 0
    for number in range(CUTS):
        edge = LocalObjects(tmp_path / f"edge{number}")
        (proxy.die if for_good else proxy.cut)(1 + number * size // CUTS)
        try:
            fetched(opening, "all", edge)
        except UnreachableError:
            cuts += 1
        proxy.arm(0, None)
        proxy.mend()
        for digest, _ in edge.list():
            edge.check(digest)
        fetched(opening, "all", edge)
        assert fetched(opening, "all", edge) == 0
        assert_whole(edge)
    assert cuts > CUTS // 2 if for_good else cuts == 0


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in small windows, so that little is on its way when the line is cut."""
    monkeypatch.setattr(bucket, "WINDOW_BYTES", 256 << 10)


@pytest.mark.usefixtures("narrow")
def test_a_large_object_whose_fetch_was_cut_goes_on_where_it_was(
    opening: Opening, proxy: Proxy, tmp_path: Path
) -> None:
    with opened(opening, "all") as remote:
        remote.put(LARGE_DIGEST, LARGE)
    edge = LocalObjects(tmp_path / "edge")
    proxy.die(6 << 20)
    with opened(opening, "all") as remote, pytest.raises(UnreachableError):
        edge.bring(LARGE_DIGEST, lambda offset: remote.open(LARGE_DIGEST, offset))
    assert edge.absent([LARGE_DIGEST])
    proxy.arm(0, None)
    proxy.mend()
    with opened(opening, "all") as remote:
        edge.bring(LARGE_DIGEST, lambda offset: remote.open(LARGE_DIGEST, offset))
    assert proxy.bytes < 5 << 20
    edge.check(LARGE_DIGEST)


def test_a_large_object_whose_fetch_was_killed_goes_on_where_it_was(
    sshd: Sshd, proxy: Proxy, home: Path, tmp_path: Path
) -> None:
    sshd.introduce(home)
    proxy.target = sshd.port
    url, folder = sshd.url(tmp_path / "all", proxy.port), tmp_path / "edge"
    remote = RemoteObjects(SshBucket(sshd.url(tmp_path / "all")))
    remote.put(LARGE_DIGEST, LARGE)
    remote.close()
    command = [sys.executable, "-c", FETCH, url, str(folder), LARGE_DIGEST]
    with subprocess.Popen(command) as process:
        proxy.arm(6 << 20, process.kill)
        assert process.wait() < 0
    assert LocalObjects(folder).absent([LARGE_DIGEST])
    proxy.arm(0, None)
    subprocess.run(command, check=True)
    assert proxy.bytes < 5 << 20
    LocalObjects(folder).check(LARGE_DIGEST)


SEND = """
import sys
from cmf.objects.remote import RemoteObjects
from cmf.objects.ssh import SshBucket
with open(sys.argv[2], "rb") as source:
    RemoteObjects(SshBucket(sys.argv[1])).put(sys.argv[3], source)
"""


@pytest.fixture
def large(tmp_path: Path) -> Path:
    (tmp_path / "large").write_bytes(LARGE)
    return tmp_path / "large"


@pytest.fixture
def line_of(sshd: Sshd, proxy: Proxy, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of a remote by way of the proxy."""
    sshd.introduce(home)
    proxy.target = sshd.port
    monkeypatch.setattr(line, "PAUSES_SECONDS", (0.01, 0.02, 0.04))
    return sshd.url(tmp_path / "all", proxy.port)


def sent(url: str, large: Path) -> int:
    """Send the large object, and return how much of it was there."""
    told: list[int] = []
    remote = RemoteObjects(SshBucket(url))
    try:
        with large.open("rb") as source:
            assert remote.put(LARGE_DIGEST, source, resumed=told.append) == len(LARGE)
    finally:
        remote.close()
    return sum(told)


def assert_arrived(tmp_path: Path) -> None:
    (there,) = (tmp_path / "all/files").glob("??/*")
    assert there.read_bytes() == LARGE
    assert not [*(tmp_path / "all/tmp").iterdir()]


@pytest.mark.parametrize("after", [1, 3, 5, 7])
def test_a_large_object_whose_sending_was_cut_or_killed_goes_on_where_it_was(
    line_of: str, proxy: Proxy, large: Path, tmp_path: Path, after: int
) -> None:
    command = [sys.executable, "-c", SEND, line_of, str(large), LARGE_DIGEST]
    with subprocess.Popen(command) as process:
        proxy.arm(after << 20, process.kill)
        assert process.wait() < 0
    assert not [*(tmp_path / "all").glob("files/??/*")]
    proxy.arm(0, None)
    there = sent(line_of, large)
    assert there >= max(0, after - 3) << 20  # what the server had not taken from its line yet is lost
    assert proxy.bytes < len(LARGE) - there + (1 << 20)
    assert_arrived(tmp_path)


@pytest.mark.parametrize("wrong", [LARGE[: 3 << 20] + b"!" + LARGE[(3 << 20) + 1 : 5 << 20], b"of another", LARGE * 2])
def test_what_is_damaged_there_or_of_another_file_is_sent_anew(
    line_of: str, proxy: Proxy, large: Path, tmp_path: Path, wrong: bytes
) -> None:
    proxy.die(4 << 20)
    with pytest.raises(UnreachableError):
        sent(line_of, large)
    (part,) = (tmp_path / "all/tmp").iterdir()
    part.write_bytes(wrong)
    proxy.arm(0, None)
    proxy.mend()
    assert sent(line_of, large) == 0
    assert_arrived(tmp_path)


def test_a_machine_that_runs_no_command_is_asked_for_what_it_has(
    line_of: str, proxy: Proxy, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.die(6 << 20)
    with pytest.raises(UnreachableError):
        sent(line_of, large)
    proxy.arm(0, None)
    proxy.mend()
    monkeypatch.setattr(line.Line, "output", lambda *_: b"")
    assert sent(line_of, large) >= 3 << 20
    assert_arrived(tmp_path)


def test_two_that_send_the_same_file_at_once_do_not_write_to_one(line_of: str, large: Path, tmp_path: Path) -> None:
    with large.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert sent(line_of, large) == 0
    assert_arrived(tmp_path)


# ---- a large object to a bucket, in parts ---------------------------------------------------------------------------

PARTS = os.urandom(4 * PART_BYTES - 4321)
PARTS_DIGEST = file_digest(PARTS)
PUT = """
import os, resource, sys
from cmf.model.digest import file_digest
from cmf.objects import cloud
from tests import buckets
cloud.PART_BYTES = 5 << 20
where = cloud.CloudBucket(f"s3://{buckets.NAME}/{sys.argv[2]}", buckets.options(sys.argv[1]))
with open(sys.argv[3], "rb") as source:
    where.write("files/small", file_digest(b"small"), b"small")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    where.write("files/large", sys.argv[4], source)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.fixture
def place(s3: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CloudBucket:
    proxy.target = int(s3.rpartition(":")[2])
    monkeypatch.setattr(cloud, "PART_BYTES", PART_BYTES)
    return CloudBucket(f"s3://{buckets.NAME}/{tmp_path.name}", buckets.options(proxy.url))


def held(place: CloudBucket, name: str) -> bytes:
    with place.open(name, place.sizes([name])[name], 0) as source:
        return source.read()


def test_a_line_that_is_cut_costs_a_bucket_a_part_and_not_the_whole(place: CloudBucket, proxy: Proxy) -> None:
    proxy.arm(0, None)
    assert place.write("files/whole", PARTS_DIGEST, io.BytesIO(PARTS)) == len(PARTS)
    size = proxy.bytes
    assert size < len(PARTS) + (64 << 10)
    for number, after in enumerate((1, 300, size // 3, size // 2, size - (1 << 20), size - 1500, size - 600, size - 1)):
        proxy.cut(after)
        assert place.write(f"files/{number}", PARTS_DIGEST, io.BytesIO(PARTS)) == len(PARTS)
        assert proxy.bytes < len(PARTS) + 2 * PART_BYTES, after
        proxy.arm(0, None)
        assert held(place, f"files/{number}") == PARTS


def test_a_large_object_that_a_bucket_has_is_read_and_not_sent(place: CloudBucket, proxy: Proxy) -> None:
    place.write("files/one", PARTS_DIGEST, io.BytesIO(PARTS))
    proxy.arm(0, None)
    assert place.write("files/one", PARTS_DIGEST, io.BytesIO(PARTS)) == len(PARTS)
    assert proxy.bytes < 64 << 10
    with pytest.raises(CorruptError):
        place.write("files/one", PARTS_DIGEST, io.BytesIO(PARTS[:-1] + b"!"))
    assert held(place, "files/one") == PARTS


@pytest.mark.parametrize("wrong", [PARTS[:-1], PARTS + b"!", b"!" + PARTS[1:]], ids=["fewer", "more", "other"])
def test_other_bytes_in_parts_make_no_object(place: CloudBucket, wrong: bytes) -> None:
    with pytest.raises(CorruptError):
        place.write("files/one", PARTS_DIGEST, io.BytesIO(wrong))
    assert place.sizes(["files/one"]) == {}


def test_two_that_send_a_large_object_to_a_bucket_at_once_both_succeed(place: CloudBucket) -> None:
    with ThreadPoolExecutor(3) as pool:
        sent = [pool.submit(place.write, "files/one", PARTS_DIGEST, io.BytesIO(PARTS)) for _ in range(3)]
    assert {each.result() for each in sent} == {len(PARTS)}
    assert held(place, "files/one") == PARTS


def test_the_memory_that_a_large_object_takes_on_its_way_to_a_bucket_is_bounded(s3: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    data = os.urandom(1 << 20) * 160
    path.write_bytes(data)
    command = [sys.executable, "-c", PUT, s3, tmp_path.name, str(path), file_digest(data)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."})
    assert int(said.stdout) < 80 << 10, "KiB"
