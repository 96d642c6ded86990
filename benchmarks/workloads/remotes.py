"""W9: the bytes of a large file and of a folder of small ones to a remote of data and back, beside what must be done.

The remotes are a folder of the same disk, and a bucket of a real S3 server on the loopback. Beside them, in turns with
them: `cp` with a sync, and the same bytes put with obstore alone, small ones packed, a few requests at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import processes, work
from benchmarks.workloads import data
from tests import buckets

MODULE = "benchmarks.workloads.remotes"
PACK_BYTES = 12 << 20
IN_FLIGHT = 4


def measure(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W9."""
    found: dict[str, list[float]] = {}
    with buckets.running() as server:
        for name in ("large", "many"):
            with processes.empty_folder() as folder:
                processes.repository(folder)
                told = {"name": name, "server": server}
                processes.part(MODULE, "record", folder, tiny=tiny, told={"name": name})
                for repeat in range(work.sizes(tiny=tiny).repeats):
                    more = processes.part(MODULE, "move", folder, tiny=tiny, told={**told, "repeat": str(repeat)})
                    for key, values in more.items():
                        found.setdefault(key, []).extend(values)
    return found


@contextlib.contextmanager
def bucket() -> Iterator[dict[str, str]]:
    """Run an S3 server for the length of a block; lend what a peer is told of it."""
    with buckets.running() as server:
        yield {"server": server, "key": buckets.KEY, "secret": buckets.SECRET}


def beside(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W9 as they are compared with those of others, in seconds, once."""
    found = {}
    for name in ("many", "large"):
        with buckets.running() as server, processes.empty_folder() as folder:
            processes.repository(folder)
            told = {"name": name, "server": server, "repeat": "-beside"}
            processes.part(MODULE, "record", folder, tiny=tiny, told={"name": name})
            measured = processes.part(MODULE, "move", folder, tiny=tiny, told=told)
            found[f"push_{name}_folder"] = measured[f"{name}_to_folder"]
            found[f"push_{name}_bucket"] = [measured[f"{name}_to_bucket"][0] * measured[f"{name}_to_bucket_raw"][0]]
            found[f"pull_{name}_folder"] = measured[f"{name}_from_folder"]
    return found


def record(*, tiny: bool, name: str) -> dict[str, int]:
    """Version what is going to be moved."""
    import cmf

    path = data.made(name, tiny=tiny)
    with cmf.run("bench/data") as run:
        run.output(path, name="data")
    return {}


def move(*, tiny: bool, name: str, server: str, repeat: str) -> dict[str, list[float]]:
    """Push to a folder and to a bucket, each new, and pull from the folder; the raw ways take turns with ours."""
    import cmf

    os.environ |= buckets.environment(server)
    path = data.made(name, tiny=tiny)
    _put_raw(path, server, f"warm-{name}{repeat}")  # the server makes room when it is first asked to
    place, bucket = Path("there").absolute(), f"s3://{buckets.NAME}/{name}{repeat}"
    with cmf.open() as repo:
        repo.collect()
        repo.remotes.set("place", str(place))
        copied = _timed(lambda: _copy(path))
        folder = _timed(lambda: repo.push("place"))
        raw = _timed(lambda: _put_raw(path, server, f"raw-{name}{repeat}"))
        cloud = _timed(lambda: repo.push(bucket))
        if repo.push(bucket).objects:
            raise RuntimeError("Not everything was sent.")
        repo.pack("records.cmfb")
    other = Path("other")
    other.mkdir()
    with cmf.init(other) as repo:
        repo.unpack("records.cmfb")
        repo.remotes.set("place", str(place))
    shutil.rmtree(other / ".cmf" / "objects")  # small files came along
    with cmf.open(other) as repo:
        started = time.perf_counter()
        moved = repo.pull("place", data=True)
        pulled = time.perf_counter() - started
    if moved.objects < (work.sizes(tiny=tiny).many if name == "many" else 1):
        raise RuntimeError(f"Not everything was pulled: {moved}")
    for folder_made in (other, place):
        shutil.rmtree(folder_made)
    Path("records.cmfb").unlink()
    return {
        f"{name}_to_folder": [folder],
        f"{name}_to_folder_copy": [copied],
        f"{name}_to_bucket": [cloud / raw],
        f"{name}_to_bucket_raw": [raw],
        f"{name}_from_folder": [pulled],
    }


def _timed(work_of: Callable[[], object]) -> float:
    started = time.perf_counter()
    work_of()
    return time.perf_counter() - started


def _copy(path: Path) -> None:
    target = Path("copied")
    subprocess.run(("cp", "-r", path, target), check=True)
    os.sync()
    subprocess.run(("rm", "-r", target), check=True)


def _put_raw(path: Path, server: str, prefix: str) -> None:
    """Put the bytes of a file, or of files in packs, with obstore alone, as fast as it goes."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        buckets.NAME,
        prefix=prefix,
        config=buckets.options(server),  # type: ignore[arg-type]
        client_options={"allow_http": True},
    )
    if path.is_file():
        obstore.put(store, "large", path, chunk_size=16 << 20, max_concurrency=IN_FLIGHT)
        return
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        sent = [pool.submit(obstore.put, store, f"pack{n}", pack) for n, pack in enumerate(_packs(path))]
        for one in sent:
            one.result()


def _packs(top: Path) -> Iterator[bytes]:
    pack = bytearray()
    for file in sorted(top.rglob("*.bin")):
        pack += file.read_bytes()
        if len(pack) >= PACK_BYTES:
            yield bytes(pack)
            pack.clear()
    yield bytes(pack)


if __name__ == "__main__":
    processes.serve_parts(sys.argv, {"record": record, "move": move})
