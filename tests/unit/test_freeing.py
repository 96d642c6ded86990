"""What a clean-up frees and what it keeps: whatever anything refers to stays, or is held elsewhere."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf import freeing, series
from cmf.errors import ConflictError, CorruptError
from cmf.model import encoding
from cmf.model import records as model
from cmf.model.digest import file_digest, object_of
from cmf.objects import read
from cmf.remote.data import DataRemote
from cmf.worktree import filesystem, pointer
from tests.objects import flip
from tests.sites import SECRET, Site

LARGE = bytes(range(256)) * 2000
DAY = 86_400.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "lab")
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path: Path) -> DataRemote:
    return DataRemote(str(tmp_path / "disk"), {})


@pytest.fixture
def other(tmp_path: Path) -> DataRemote:
    return DataRemote(str(tmp_path / "other"), {})


def held(site: Site) -> set[str]:
    return {digest for digest, _ in site.objects.list()}


def test_what_no_record_names_goes_and_the_rest_stays(site: Site) -> None:
    garbage = {site.put(b"nobody's"), site.put(LARGE)}
    kept = {site.record(site.put(b"somebody's")), site.record(site.put(LARGE + b"!"))}
    freed = site.free(force=False)
    assert (freed.unreferenced, freed.done) == (freeing.Count(2, len(LARGE) + 8), False)
    assert held(site) == garbage | kept
    freed = site.free()
    assert (freed.unreferenced, freed.done) == (freeing.Count(2, len(LARGE) + 8), True)
    assert held(site) == kept
    assert site.free().bytes == 0


@pytest.mark.parametrize("sealed", [True, False])
def test_whatever_kind_of_record_names_an_object_it_stays(site: Site, sealed: bool) -> None:
    names = [site.put(bytes([n]) * 10) for n in range(9)]
    id_ = site.execution()
    node = model.execution_node("lab/train", id_)
    site.tell(
        model.Execution(id=id_, started=1, params={"a": {"$object": names[0]}}),
        model.Artifact(digest=names[1]),
        model.Event(execution=id_, direction="input", artifact=names[2], attributes={"x": {"$object": names[3]}}, t=1),
        model.Link(source=node, rel="same_as", to=f"artifact:{names[4]}"),
        model.Property(subject=node, key="code", value={"diff": {"$object": names[5]}}, t=1),
        model.Series(
            execution=id_,
            names=["loss"],
            attempt="1-00000000",
            rank=0,
            first=0,
            rows=1,
            steps=(0, 0),
            times=(1, 1),
            object=names[6],
            size=1,
            stats=[model.Stats(1, 1, 1, 1, 1)],
        ),
    )
    unknown = encoding.encode({"kind": "of-the-future", "about": {"deep": [f"see artifact:{names[7]}"]}})
    site.store.add([("lab/train", hashlib.sha256(unknown).digest(), unknown)])
    event = model.Event(execution=id_, direction="output", artifact=names[8], t=1)
    record = model.salted(event, SECRET)[0].hex()
    site.tell(event, model.Property(subject=f"record:{record}", key="retracted", value=True, t=2))
    if sealed:
        site.seal()
    assert site.free().unreferenced.count == 0
    assert held(site) == set(names)


def test_a_folder_that_is_named_keeps_its_files(site: Site) -> None:
    tree = site.put_folder({"a": b"one", "b/c": LARGE})
    gone = site.put_folder({"a": b"one", "d": b"four"})
    site.record(tree)
    assert site.free().unreferenced.count == 2
    assert held(site) == {object_of(tree), file_digest(b"one"), file_digest(LARGE)}
    assert object_of(gone) not in held(site)


def test_a_folder_by_name_alone_whose_bytes_are_none_hinders_nobody(site: Site) -> None:
    digest = site.put(b"not a manifest at all")
    site.record(f"tree:{digest}")
    site.record("tree:sha256:" + "0" * 64)
    site.put(b"nobody's")
    assert site.free().unreferenced.count == 1
    assert held(site) == {digest}


def test_a_damaged_manifest_stops_everything_since_its_files_are_not_known(site: Site) -> None:
    tree = site.put_folder({f"{n}": b"%d" % n for n in range(40)})
    site.record(tree)
    site.objects.close()
    before = held(site)
    flip(site.folder / "objects", object_of(tree), 30)
    site.reopen()
    with pytest.raises(CorruptError) as caught:
        site.free()
    assert "verify --repair" in caught.value.hint
    assert held(site) == before


def test_what_is_young_stays(site: Site) -> None:
    site.put(b"nobody's, yet")
    freed = site.free(older_than=DAY)
    assert (freed.unreferenced.count, freed.young) == (0, freeing.Count(1, 13))
    assert len(held(site)) == 1


def test_what_is_younger_than_a_process_that_still_records_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put(b"about to be named")
    script = "import cmf, time; cmf.run('lab/a').__enter__(); print('ready', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script], cwd=site.root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            assert site.free().young.count >= 1
            assert file_digest(b"about to be named") in held(site)
            monkeypatch.setattr(filesystem, "is_shared", lambda _: True)
            assert site.free(force=False).young.count >= 1
            with pytest.raises(ConflictError) as caught:
                site.free()
            assert caught.value.kind == "busy"
        finally:
            process.kill()
            process.wait()
    assert site.free().unreferenced.count >= 1
    assert file_digest(b"about to be named") not in held(site)


def test_a_journal_that_cannot_be_read_stops_everything(site: Site) -> None:
    site.put(b"nobody's")
    (site.folder / "journal" / "strange.j").write_bytes(b"this is no journal")
    with pytest.raises(ConflictError) as caught:
        site.free()
    assert caught.value.kind == "journals"
    assert len(held(site)) == 1


def test_what_a_pointer_file_names_stays_even_if_no_record_does(site: Site) -> None:
    tree = site.put_folder({"a": b"one"})
    (site.root / "deep").mkdir()
    pointer.write(str(site.root / "deep" / "images.cmf"), pointer.Pointer(digest=tree, size=3))
    broken = site.put(b"of a merge that is not done")
    (site.root / "broken.cmf").write_text(f"<<<<<<< HEAD\n{broken}\n=======\n")
    assert site.free().unreferenced.count == 0
    (site.root / "deep" / "images.cmf").unlink()
    (site.root / "broken.cmf").unlink()
    assert site.free().unreferenced.count == 3


def git(site: Site, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *who, *arguments], cwd=site.root, check=True, capture_output=True)


def test_what_a_pointer_file_of_any_commit_names_stays(site: Site) -> None:
    git(site, "init", "-q", "-b", "main")
    (site.root / "src").mkdir()
    place = site.root / "src" / "data.cmf"
    names = []
    for n, branch in enumerate(("main", "aside", "merged")):
        if n:
            git(site, "checkout", "-q", "-b", branch)
        names.append(site.put(b"version %d" % n))
        pointer.write(str(place), pointer.Pointer(digest=names[-1], size=9))
        (site.root / "src" / "code.py").write_text(f"print({n})")
        git(site, "add", ".")
        git(site, "commit", "-q", "-m", "data")
    # A merge that took one side's file as it is leaves no trace of the other's in a simplified history.
    git(site, "checkout", "-q", "main")
    git(site, "merge", "-q", "-s", "ours", "--no-ff", "-m", "no", "merged")
    git(site, "branch", "-q", "-D", "merged")
    names.append(site.put(b"staged"))
    pointer.write(str(place), pointer.Pointer(digest=names[-1], size=6))
    git(site, "add", ".")
    place.unlink()
    site.put(b"nobody's")
    assert site.free().unreferenced.count == 1
    assert held(site) == set(names)


def test_a_repository_without_a_commit_names_what_is_staged(site: Site) -> None:
    git(site, "init", "-q")
    site.put(b"nobody's")
    assert site.free().unreferenced.count == 1
    digest = site.put(b"staged")
    pointer.write(str(site.root / "data.cmf"), pointer.Pointer(digest=digest, size=6))
    git(site, "add", ".")
    (site.root / "data.cmf").unlink()
    assert site.free().unreferenced.count == 0


def test_if_git_does_not_tell_its_commits_nothing_is_freed(site: Site) -> None:
    git(site, "init", "-q")
    (site.root / ".git" / "refs" / "heads").mkdir(parents=True, exist_ok=True)
    (site.root / ".git" / "HEAD").write_text("nonsense")
    site.put(b"nobody's")
    with pytest.raises(ConflictError) as caught:
        site.free()
    assert caught.value.kind == "git"
    assert len(held(site)) == 1


def test_caches_and_leftovers_go_too(site: Site) -> None:
    thinned = site.folder / series.THINNED / "ab" / "cdef"
    thinned.parent.mkdir(parents=True)
    thinned.write_bytes(b"x" * 10)
    left = site.folder / "objects" / "tmp" / f"1-{'0' * 16}"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"y" * 20)
    os.utime(left, (1, 1))
    freed = site.free(force=False)
    assert (freed.thinned, freed.leftovers, freed.bytes) == (freeing.Count(1, 10), freeing.Count(1, 20), 30)
    assert thinned.exists()
    assert left.exists()
    assert site.free().bytes == 30
    assert not thinned.exists()
    assert not left.exists()


# ---- held elsewhere ------------------------------------------------------------------------------------------------


def test_what_enough_remotes_hold_goes_and_comes_back(site: Site, disk: DataRemote) -> None:
    digest, alone = site.record(site.put(LARGE)), site.record(site.put(b"only here"))
    site.send(disk.objects(), digest)
    assert site.free(disk, copies=1, older_than=DAY).young.count == 2
    freed = site.free(disk, copies=1, force=False)
    assert (freed.elsewhere, freed.alone) == (freeing.Count(1, len(LARGE)), freeing.Count(1, 9))
    assert held(site) == {digest, alone}
    assert site.free(disk, copies=1).elsewhere.count == 1
    assert held(site) == {alone}
    site.fetch(disk.objects(), digest)
    assert read(site.objects, digest, len(LARGE)) == LARGE


def test_two_copies_are_two_places(site: Site, disk: DataRemote, other: DataRemote, tmp_path: Path) -> None:
    digest = site.record(site.put(LARGE))
    site.send(disk.objects(), digest)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    same = DataRemote(str(tmp_path / "link"), {})
    assert site.free(disk, same, copies=2).alone.count == 1
    assert held(site) == {digest}
    site.send(other.objects(), digest)
    assert site.free(disk, same, other, copies=2).elsewhere.count == 1
    assert held(site) == set()


def test_a_remote_is_asked_anew_and_one_that_is_away_holds_nothing(
    site: Site, disk: DataRemote, tmp_path: Path
) -> None:
    digest = site.record(site.put(LARGE))
    site.send(disk.objects(), digest)
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    assert site.free(disk, copies=1).alone.count == 1
    away = DataRemote(str(tmp_path / "not" / "mounted"), {})
    freed = site.free(away, copies=1)
    assert freed.alone.count == 1
    assert "not/mounted" in freed.silent[away.url]
    assert held(site) == {digest}


def test_manifests_and_evidence_stay_here(site: Site, disk: DataRemote) -> None:
    tree = site.put_folder({"a": b"one", "b": LARGE})
    evidence = site.put(b"the diff of the code")
    site.record(tree, diff={"$object": evidence})
    site.send(disk.objects(), tree, evidence)
    assert site.free(disk, copies=1).elsewhere.count == 2
    assert held(site) == {object_of(tree), evidence}


def test_what_is_named_while_it_is_being_freed_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, garbage = site.put(b"pulled records name it"), site.put(b"nobody's")
    second = Site(site.root)
    really = site.store.still

    def still() -> object:
        second.record(digest)
        return really()

    monkeypatch.setattr(site.store, "still", still)
    assert site.free().unreferenced.count == 1
    assert held(site) == {digest}
    assert garbage not in held(site)
    second.close()


def test_a_clean_up_of_very_many_is_quick(site: Site) -> None:
    for n in range(3000):
        site.objects.put(file_digest(b"%d" % n), b"%d" % n, durable=False)
    site.objects.close()
    synced = 0
    really = os.fsync

    def fsync(handle: int) -> None:
        nonlocal synced
        synced += 1
        really(handle)

    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert site.free().unreferenced.count == 3000
    assert synced < 20, time.monotonic() - began
