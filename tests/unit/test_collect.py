"""Journals into the store: nothing recorded is lost, nothing is taken in twice, the dead are told from the living."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import cmf
from cmf import collect, journal
from cmf.errors import CmfError
from cmf.graph import filter as filters
from cmf.model import records as model
from cmf.model import series
from cmf.model.exchange import View
from cmf.model.process import Process
from cmf.objects.local import LocalObjects
from cmf.store.sql import SqlStore
from cmf.worktree import machine
from tests.commands import script

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
SCOPE = "detector/train"
NODE = model.execution_node(SCOPE, ID)


class Place:
    """A store in a folder, with a clock that is set by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "journal").mkdir(parents=True)
        self.store = collect.open_store(folder)
        self.objects = LocalObjects(folder / "objects")
        self.monotonic_s = 1000.0

    def collect(self, *, cut: bool = False) -> collect.Collected:
        clock = collect.Clock(10**15, self.monotonic_s)
        return collect.collect(self.folder, self.store, self.objects, clock, cut=cut)

    def journals(self) -> list[Path]:
        return sorted((self.folder / "journal").glob("*.j"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / ".cmf")


def started(writer: journal.JournalWriter) -> None:
    writer.record(SCOPE, model.Execution(id=ID, name="calm-fern", started=5))
    writer.record(SCOPE, model.Property(subject=NODE, key="status/1-aaaaaaaa/0", value={"status": "running"}, t=6))


def status(store: SqlStore) -> str:
    (view,) = store.index.select(filters.parse("")).executions
    return view.status


def other_host() -> Process:
    return Process(host="elsewhere", boot="b", pid=1, start=1, uid=0)


def test_what_a_living_process_has_recorded_is_read_again_and_again(place: Place) -> None:
    writer = journal.JournalWriter(place.folder / "journal", machine.process())
    started(writer)
    assert place.collect().records == 2
    assert place.collect().records == 0
    writer.record(SCOPE, model.Property(subject=NODE, key="metric/f1", value=0.5, t=7))
    assert place.collect().records == 1
    assert status(place.store) == "running"
    writer.close()
    place.collect()
    assert place.journals() == []
    assert place.store.journals() == {}


def test_a_journal_taken_in_twice_changes_nothing(place: Place) -> None:
    writer = journal.JournalWriter(place.folder / "journal", machine.process())
    started(writer)
    writer.close()
    (path,) = place.journals()
    copy = path.with_name("copy.j")
    shutil.copy(path, copy)
    place.collect()
    assert place.store.counts()["pending"] == 3, "the birth, that it ran, and that it was lost"
    assert place.journals() == []


def test_a_run_whose_process_is_gone_is_lost_and_its_journal_cleared(place: Place) -> None:
    text = f"""
from pathlib import Path
from cmf import journal
from cmf.model import records as model
from cmf.worktree import machine
import os, signal
writer = journal.JournalWriter(Path({str(place.folder / "journal")!r}), machine.process())
writer.record({SCOPE!r}, model.Execution(id={ID!r}, started=5))
value = {{"status": "running"}}
writer.record({SCOPE!r}, model.Property(subject={NODE!r}, key="status/1-aaaaaaaa/0", value=value, t=6))
os.kill(os.getpid(), signal.SIGKILL)
"""
    script(place.folder, text, code=-signal.SIGKILL)
    done = place.collect()
    assert done.lost == 1
    assert status(place.store) == "lost"
    assert place.journals() == []


def test_another_hosts_run_is_lost_only_after_ten_silent_minutes(place: Place) -> None:
    writer = journal.JournalWriter(place.folder / "journal", other_host())
    started(writer)
    place.collect()
    place.monotonic_s += 599
    place.collect()
    assert status(place.store) == "running"
    writer.heartbeat(8)
    place.collect()
    place.monotonic_s += 599
    place.collect()
    assert status(place.store) == "running"
    place.monotonic_s += 2
    place.collect()
    assert status(place.store) == "lost"
    assert len(place.journals()) == 1, "a journal of another host is never deleted before it is closed"
    writer.record(
        SCOPE, model.Property(subject=NODE, key="status/1-aaaaaaaa/0", value={"status": "finished", "exit": 0}, t=9)
    )
    writer.close()
    place.collect()
    assert status(place.store) == "finished", "what ended by its own account beats what an observer thought"


def test_a_run_that_was_killed_before_it_could_say_that_it_runs_is_lost(place: Place) -> None:
    gone = msgspec.structs.replace(machine.process(), pid=4_194_305)  # more than any Linux counts to
    writer = journal.JournalWriter(place.folder / "journal", gone)
    writer.record(SCOPE, model.Execution(id=ID, name="calm-fern", started=5))
    writer.abandon()
    assert place.collect().lost == 1
    assert status(place.store) == "lost"


def test_a_journal_whose_writer_died_before_its_first_word_goes_once_it_is_old(place: Place) -> None:
    here = machine.process()
    names = [f"{journal.host_in_name(here.host)}-{pid}-{here.start}-0badcafe.j" for pid in (here.pid, 4_194_305)]
    names += [f"elsewhere-4194305-{here.start}-0badcafe.j", "odd.j"]
    for name in names:
        (place.folder / "journal" / name).write_bytes(b"cmf")
    place.collect()
    assert len(place.journals()) == 4
    for path in place.journals():
        os.utime(path, (0, 0))
    assert place.collect().problems == []
    assert sorted(path.name for path in place.journals()) == sorted({*names} - {names[1]})


@pytest.mark.parametrize(("code", "expected"), [(0, "finished"), (3, "failed")])
def test_a_process_that_leaves_ends_its_open_runs_with_its_exit_code(place: Place, code: int, expected: str) -> None:
    writer = journal.JournalWriter(place.folder / "journal", machine.process())
    started(writer)
    handle = writer.leave(9)
    place.collect()
    assert status(place.store) == "running", "it has not left yet"
    os.write(handle, bytes((code,)))
    os.close(handle)
    assert place.collect().lost == 0
    (view,) = place.store.index.select(filters.parse("")).executions
    assert (view.status, view.exit, view.ended) == (expected, code, 9)
    assert place.journals() == []


def test_a_torn_tail_loses_only_itself(place: Place) -> None:
    writer = journal.JournalWriter(place.folder / "journal", other_host())
    started(writer)
    whole = writer.path.stat().st_size
    writer.record(SCOPE, model.Property(subject=NODE, key="title", value="torn", t=7))
    writer.abandon()
    os.truncate(writer.path, writer.path.stat().st_size - 3)
    assert place.collect().records == 2
    assert os.stat(writer.path).st_size > whole, "a journal of another host is never truncated"


def test_a_journal_that_is_none_holds_nobody_up(place: Place) -> None:
    (place.folder / "journal" / "bad.j").write_bytes(b"not a journal at all")
    (place.folder / "journal" / "new.j").write_bytes(b"cmf-jrn\x09" + b"x" * 20)
    writer = journal.JournalWriter(place.folder / "journal", machine.process())
    started(writer)
    done = place.collect()
    assert done.records == 2
    assert len(done.problems) == 2
    assert (place.folder / "journal" / "bad.j").exists()
    writer.abandon()


def test_what_could_not_be_recorded_is_counted_for_ever(place: Place) -> None:
    writer = journal.JournalWriter(place.folder / "journal", machine.process())
    writer.dropped(3, "the disk was full")
    place.collect()
    writer.dropped(1, "again")
    writer.close()
    place.collect()
    place.collect()
    assert collect.dropped(place.store) == (4, "the disk was full")


def test_an_input_gets_a_link_to_the_run_that_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.bin").write_bytes(b"d" * 100)
    with cmf.run("p/make") as make:
        make.output("data.bin", name="data")
    with cmf.run("p/use") as use:
        use.input("data.bin")
    with cmf.open() as repo:
        found = repo.lineage(use.id)
        assert [(step.producer, step.how) for step in found.steps] == [(make.node, "via")]


def test_points_are_cut_at_exactly_65536_rows_and_the_rest_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = series.CHUNK_ROWS + 1000
    run = cmf.run("p/train")
    for step in range(rows):
        run.log({"loss": step * 0.5}, step=step)
    run.flush()
    with cmf.open() as repo:
        (live,) = repo.executions()
        assert live.status == "running"
        points = repo.series(live, "loss")
        assert len(points) == rows, "points not yet cut are served from the journal"
        assert [ref.rows for ref in repo.store.index.series(run.node, "loss")] == [series.CHUNK_ROWS]
        run.finish()
        assert len(repo.series(live, "loss")) == rows
        assert [ref.rows for ref in repo.store.index.series(run.node, "loss")] == [series.CHUNK_ROWS, 1000]
        assert repo.series(live, "loss")[-1][::2] == (rows - 1, (rows - 1) * 0.5)
        assert repo.executions()[0].metrics == {"loss": (rows - 1) * 0.5}


def test_points_cut_early_for_a_push_are_superseded_by_the_longer_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = cmf.run("p/train")
    with cmf.open() as repo:
        for step in range(10):
            run.log({"loss": float(step)}, step=step)
        run.flush()
        repo.collect(cut=True)
        assert [ref.rows for ref in repo.store.index.series(run.node, "loss")] == [10]
        repo.collect(cut=True)
        before = repo.store.counts()["pending"]
        repo.collect(cut=True)
        assert repo.store.counts()["pending"] == before, "nothing new is cut twice"
        run.log({"loss": 99.0}, step=10)
        run.finish()
        repo.collect()
        assert [ref.rows for ref in repo.store.index.series(run.node, "loss")] == [11]
        assert len(repo.series(run.id, "loss")) == 11


def test_a_copied_store_gets_a_new_identity_and_a_moved_one_keeps_its_own(place: Place) -> None:
    writer = journal.JournalWriter(place.folder / "journal", machine.process())
    started(writer)
    writer.close()
    place.collect()
    original = collect.site(place.folder)
    place.store.close()
    moved = place.folder.rename(place.folder.with_name("moved"))
    assert collect.site(moved) == original
    copied = moved.with_name("copied")
    shutil.copytree(moved, copied)
    changed = collect.site(copied)
    assert changed.id != original.id
    assert changed.secret == original.secret
    assert collect.site(copied) == changed
    assert collect.writer_key(copied, 1).public != collect.writer_key(moved, 1).public


def test_many_processes_that_make_one_store_at_once_agree_on_its_identity(place: Place) -> None:
    place.store.close()
    text = f"from pathlib import Path; from cmf import collect; print(collect.site(Path({str(place.folder)!r})).id)"
    children = [subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) for _ in range(8)]
    assert len({child.communicate()[0] for child in children}) == 1
    assert all(child.returncode == 0 for child in children)


def test_collectors_at_once_take_each_record_in_once(tmp_path: Path) -> None:
    record = "import cmf\nfor i in range(20):\n    with cmf.run('p/many') as run:\n        run.metrics({'i': i})\n"
    ask = "import cmf\nfor _ in range(20):\n    with cmf.open() as repo:\n        repo.executions()\n"
    cmf.init(tmp_path).close()
    children = [
        subprocess.Popen([sys.executable, "-c", text], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for text in (record, record, ask, ask)
    ]
    for child in children:
        _, said = child.communicate(timeout=100)
        assert child.returncode == 0, said
    with cmf.open(tmp_path) as repo:
        found = repo.executions()
        assert len(found) == 40
        assert {view.status for view in found} == {"finished"}
        assert sorted(view.metrics["i"] for view in found) == sorted([*range(20)] * 2)


def test_nothing_is_sealed_twice_and_artifacts_once_a_stream(place: Place, tmp_path: Path) -> None:
    from cmf import sync

    writer = journal.JournalWriter(place.folder / "journal", machine.process())
    started(writer)
    artifact = model.Artifact(digest="sha256:" + "a" * 64)
    writer.record(SCOPE, artifact)
    place.collect()
    clock = collect.Clock(10**15, 0.0)
    assert sync.seal(place.folder, place.store, clock) == 1
    writer.record(SCOPE, artifact)
    place.collect()
    assert sync.seal(place.folder, place.store, clock) == 0
    assert len(list(place.store.segments(View(own=True), {}))) == 2, "a genesis and one segment"
    writer.abandon()


def test_a_resumed_run_must_be_known_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CmfError, match="to resume"):
        cmf.run("p/train", resume="0123456789")
    with cmf.run("p/train", params={"lr": 1}) as first:
        first.metrics({"f1": 0.1})
    with cmf.run(resume=first.id[24:32]) as second:
        second.metrics({"f1": 0.2})
    assert (second.id, second.scope) == (first.id, "p/train")
    assert second.attempt.startswith("2-")
    with cmf.open() as repo:
        (view,) = repo.executions()
        assert view.metrics == {"f1": 0.2}
        assert view.params == {"lr": 1}
        assert len(view.attempts) == 2
